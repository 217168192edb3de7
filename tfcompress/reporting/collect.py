"""Everything that a report shows, measured."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.conversion.calibration import gather, labelled
from tfcompress.deploy.benchmark import benchmark
from tfcompress.deploy.evaluate import evaluate, input_specs
from tfcompress.deploy.inspection import inspect
from tfcompress.errors import CompressError, ConfigError, DataError
from tfcompress.reporting.findings import Findings, Model, Skipped
from tfcompress.reporting.layers import describe_layers
from tfcompress.runtime.isolation import JobError
from tfcompress.runtime.model import TFLiteModel, input_infos
from tfcompress.runtime.noise import EXACT_DB, trace_noise

NOISE_EXAMPLES = 16
SHARES = (0.2, 0.6, 0.2)  # of the progress: figures, latency, noise

_FLOATS = ("int32", "int64", "bool", "float32", "string")


def collect(
    models: Sequence[Any],
    data: Any,
    *,
    title: str,
    metrics: Any,
    workers: int,
    limit: int | None,
    runs: int,
    threads: int,
    backend: str,
    layer_times: bool,
    evaluation: Mapping[str, Any],
    progress: Callable[[float | None], None],
) -> Findings:
    """Measures models; see `tfc.html_report` for the arguments.

    Raises:
        ConfigError: no model, or none that can be read.
        DataError: data that can be read only once, or fits no model.
    """
    found = Findings(title)
    if data is not None and iter_once(data):
        raise DataError(
            "A report reads its data several times. Received: a generator. Give a function that "
            "returns a new one, or arrays."
        )
    files = _read(models, found)
    rows = [_describe(file, source) for file, source in files]
    for number, ((file, _), row) in enumerate(zip(files, rows, strict=True)):
        _add_figures(found, row, file, data, metrics, workers, limit, backend, evaluation)
        progress(SHARES[0] * (number + 1) / len(files))
    samples = [_samples(file, data) for file, _ in files]
    times = _add_latency(
        found, rows, [file for file, _ in files], runs, threads, backend, layer_times, progress
    )
    twin = next((i for i, (file, _) in enumerate(files) if _all_float(file)), None)
    for number, (file, _) in enumerate(files):
        noise = _noise(rows, files, number, twin, samples[number])
        rows[number].layers = describe_layers(inspect(file), noise, times[number])
        progress(sum(SHARES[:2]) + SHARES[2] * (number + 1) / len(files))
    found.models = rows
    found.settings |= {
        "latency": f"{runs} timed blocks, {threads} thread(s), {backend}",
        "noise": f"{NOISE_EXAMPLES} examples at most, kernels without XNNPACK",
    }
    found.versions |= _versions()
    return found


def iter_once(data: Any) -> bool:
    """Whether data can be gone through only once."""
    return hasattr(data, "__next__")


def _read(models: Sequence[Any], found: Findings) -> list[tuple[TFLiteModel, str]]:
    """The files, Keras models converted, under names of their own."""
    if not models:
        raise ConfigError("A report needs at least one model. Received: none")
    files: list[tuple[TFLiteModel, str]] = []
    for item in models:
        path = isinstance(item, (str, os.PathLike))
        source = os.fspath(item) if path else ""
        try:
            files.append((_load(item), source))
        except CompressError as error:
            if len(models) == 1:
                raise
            what = source or type(item).__name__
            found.skipped.append(Skipped(what, str(error), asked=True))
    if not files:
        reasons = "; ".join(f"{entry.what}: {entry.why}" for entry in found.skipped)
        raise ConfigError(f"No model could be read. Received: {reasons}")
    names = [file.name for file, _ in files]
    for number, (file, source) in enumerate(files):
        if names.count(file.name) > 1:
            file.name = source or f"{file.name} #{number + 1}"
    return files


def _load(item: Any) -> TFLiteModel:
    if isinstance(item, (TFLiteModel, bytes)):
        return TFLiteModel(item)
    name = None
    if isinstance(item, (str, os.PathLike)):
        path = Path(item)
        if path.suffix not in (".keras", ".h5", ".hdf5") and not path.is_dir():
            return TFLiteModel(path)
        from tfcompress.model_files import load_model
        from tfcompress.quiet import import_tensorflow

        import_tensorflow()
        name, item = path.stem, load_model(path)
    from tfcompress.conversion.convert import convert

    file = convert(item)
    file.name = f"{name or file.name} (converted to fp32)"
    return file


def _describe(file: TFLiteModel, source: str) -> Model:
    found = inspect(file)
    row = Model(
        name=file.name,
        source=source,
        nbytes=len(file.content),
        gzip=file.sizes.gzip,
        sha256=hashlib.sha256(file.content).hexdigest(),
        parameters=found.total_parameters,
        sparsity=found.sparsity,
        minimum_runtime=found.minimum_runtime,
    )
    for operator in found.left:
        what = f"{operator.name} #{operator.index}"
        what += f" ({operator.layer})" if operator.layer != what else ""
        row.skipped.append(Skipped(what, operator.reason, operator.remedy))
    if found.subgraphs > 1:
        row.notes.append(f"Layers are those of the main graph; there are {found.subgraphs} graphs.")
    if file.report is not None:  # of the conversion that made it, in this process
        for entry in file.report.left:
            row.skipped.append(Skipped(f"{entry.name} ({entry.kind})", entry.reason))
        row.notes += file.report.notes
    return row


def _add_figures(
    found: Findings,
    row: Model,
    file: TFLiteModel,
    data: Any,
    metrics: Any,
    workers: int,
    limit: int | None,
    backend: str,
    evaluation: Mapping[str, Any],
) -> None:
    if data is None:
        row.skipped.append(Skipped("accuracy", "no data was given", "Give labelled data."))
        return
    try:
        next(labelled(data, input_specs(file), ordered=file.input_order is not None), None)
    except DataError:
        try:
            gather(data, input_specs(file), 1)
        except DataError as error:
            why = f"the data does not fit: {error}"
            row.skipped.append(Skipped("accuracy", why, asked=True))
        else:
            row.skipped.append(Skipped("accuracy", "the data has no labels", "Give (x, y)."))
        return
    try:
        row.figures = evaluate(
            file,
            data,
            metrics=metrics,
            workers=workers,
            limit=limit,
            backend=backend,
            progress=False,
            **evaluation,
        )
        found.examples = int(row.figures.pop("examples"))
    except (CompressError, JobError) as error:
        if isinstance(error, ConfigError) and "metric" in str(error):
            raise
        row.skipped.append(Skipped("accuracy", str(error), asked=True))


def _samples(file: TFLiteModel, data: Any) -> dict[str, np.ndarray] | None:
    """A few examples by input name."""
    if data is None:
        return None
    try:
        return gather(data, input_specs(file), NOISE_EXAMPLES)
    except DataError:
        return None


def _add_latency(
    found: Findings,
    rows: Sequence[Model],
    files: Sequence[TFLiteModel],
    runs: int,
    threads: int,
    backend: str,
    layer_times: bool,
    progress: Callable[[float | None], None],
) -> list[dict[int, tuple[float, float]]]:
    """Fills in latencies, and returns the times of operators of each model."""
    times: list[dict[int, tuple[float, float]]] = [{} for _ in files]
    try:
        report = benchmark(
            list(files),
            backend=backend,
            threads=threads,
            runs=runs,
            per_operator=layer_times,
            progress=lambda share: progress(SHARES[0] + SHARES[1] * share),
        )
    except CompressError as error:
        if isinstance(error, ConfigError):
            raise
        for row in rows:
            row.skipped.append(Skipped("latency", str(error), asked=True))
        return times
    for number, (row, measured) in enumerate(zip(rows, report.rows, strict=True)):
        if measured.error:
            row.skipped.append(Skipped("latency", measured.error, asked=True))
            continue
        row.median_ms, row.p10_ms, row.p90_ms = (
            measured.median_ms,
            measured.p10_ms,
            measured.p90_ms,
        )
        row.init_ms, row.peak_mb = measured.init_ms, measured.peak_mb
        times[number] = {entry.index: (entry.ms, entry.error_ms) for entry in measured.operators}
        if not times[number]:
            why = "not asked for" if not layer_times else "the file's graph cannot be cut"
            row.skipped.append(Skipped("time of each layer", why))
    found.versions |= {key: str(value) for key, value in report.machine.items()}
    found.notes += report.notes
    return times


def _all_float(file: TFLiteModel) -> bool:
    tensors = file.parsed.subgraphs[0].tensors
    return all(t.dtype in _FLOATS and (t.quantization is None or not len(t.quantization.scales))
               for t in tensors)  # fmt: skip


def _noise(
    rows: Sequence[Model],
    files: Sequence[tuple[TFLiteModel, str]],
    number: int,
    twin: int | None,
    samples: Mapping[str, np.ndarray] | None,
) -> dict[int, float]:
    """Signal to noise in dB by operator, beside the first float32 model of the same inputs."""
    file, what = files[number][0], "quantization error of each layer"
    if number == twin or _all_float(file):
        return {}
    if twin is None or samples is None:
        why = "no float32 model to compare with" if twin is None else "no data that fits"
        remedy = "Give the float32 file or the Keras model too." if twin is None else ""
        rows[number].skipped.append(Skipped(what, why, remedy))
        return {}
    other = files[twin][0]
    mine = {info.name: info.shape for info in input_infos(file.parsed)}
    theirs = input_infos(other.parsed)
    if mine != {info.name: info.shape for info in theirs}:
        why = f"{other.name!r} has other inputs"
        rows[number].skipped.append(Skipped(what, why))
        return {}
    inputs = []
    for info in theirs:
        batch = info.shape[0] if info.shape else 1
        array = samples[info.name]
        order = np.arange(max(len(array) // batch, 1) * batch) % len(array)
        inputs.append(array[order].reshape(-1, *info.shape))
    try:
        entries = trace_noise(file.content, other.content, inputs)
    except (CompressError, JobError) as error:
        rows[number].skipped.append(Skipped(what, f"the files could not be run: {error}"))
        return {}
    if not entries:
        why = f"no tensor is one of {other.name!r}: they are not of one model"
        rows[number].skipped.append(Skipped(what, why))
        return {}
    rows[number].notes.append(f"Quantization error is measured against {other.name!r}.")
    return {e.index: float("inf") if e.snr_db >= EXACT_DB else e.snr_db for e in entries}


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in ("tfcompress", "numpy", "tensorflow", "keras"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
