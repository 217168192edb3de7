"""`tfc.evaluate`: what a `.tflite` is worth on labelled data, on the runtime itself."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress import progress as bars
from tfcompress.conversion.calibration import InputSpec, labelled, parts
from tfcompress.deploy.metrics import Custom, Metrics
from tfcompress.deploy.prediction_workers import Arrays, Predictors, in_order
from tfcompress.errors import ConfigError, DataError
from tfcompress.files import write_bytes
from tfcompress.runtime import adapter, schema
from tfcompress.runtime.model import TFLiteModel, input_infos

CHUNK = 256  # examples that are handed to a worker, and kept for `resume`, together
CHUNK_BYTES = 16 << 20  # fewer where they are large

_DIGEST = "digest"  # of a kept part, beside its outputs, which are named "of ..."
_PASSED_ON = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "CAST")
_SQUASHED = ("LOGISTIC", "SOFTMAX")
_LINEAR = ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL", "ADD", "SUB", "MEAN")

_NO_EXAMPLE = (
    "Data must hold at least one example. Received: none. Note that a generator can be used only "
    "once: give a function that returns a new one."
)

Named = Sequence[str | Custom]


def evaluate(
    tflite: TFLiteModel | str | os.PathLike[str] | bytes,
    data: Any,
    *,
    metrics: str | Custom | Named | Mapping[str, Named] = ("accuracy",),
    workers: int = 1,
    batch: int | None = None,
    backend: str = "xnnpack",
    runtime: str = "auto",
    threshold: float | None = None,
    ignore_label: int | None = None,
    decode: Callable[[np.ndarray], str] | None = None,
    limit: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[float | None], None] = True,
) -> dict[str, float]:
    """Measures a file on labelled data.

    Args:
        tflite: the file, its bytes or a TFLiteModel.
        data: (x, y) with arrays, or dicts of arrays by the names of inputs and outputs; a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, a function that returns one,
            or any iterable of such pairs, in batches of any size or as single examples. x holds
            real values, prepared as for training. y holds class indices (n, ...) or one-hot rows
            (n, ..., classes), 0 or 1 for an output of one unit, values of the output's shape for
            errors, texts (or several references for each) or token ids for text metrics.
        metrics: of every output that has labels, or a dict of them by output name:
            `"accuracy"`; `"top_5"` (any K: the label is among the K highest scores, ties in favour
            of lower classes, so that `"top_1"` is the accuracy); `"f1"` (mean over classes),
            `"f1_weighted"`, `"f1_micro"`, `"f1_binary"`; `"cross_entropy"` (nats an answer, of
            logits or probabilities) and `"perplexity"`, its exponential, as of language models that
            give scores for every place (of files of tfc.convert_decoder, see tfc.perplexity);
            `"mae"`, `"mse"`, `"rmse"`; `"bleu"` (0 to 100) and `"rouge"` (F-measures `"rouge1"`,
            `"rouge2"`, `"rougeL"`, 0 to 1, without stemming); or your function
            `(y_true, y_pred) -> float` of all examples, in order.
        workers: processes that run the model side by side. The result is the same for any number.
        batch: examples per run; None takes the file's own.
        backend: `"xnnpack"` or `"reference"`.
        runtime: `"auto"`, `"ai-edge-litert"`, `"tflite-runtime"` or `"tensorflow"`.
        threshold: above it, an output of one unit means class 1. None takes 0.5 where the file
            ends in a sigmoid or softmax, 0 where it ends in a layer without activation (logits),
            and otherwise 0.5 if all values lie in 0..1, else 0.
        ignore_label: class index of what is not to be counted, such as padding.
        decode: token ids (length,) to text, for text metrics on ids.
        limit: at most so many examples, the first ones.
        resume: a folder that keeps all predictions while they are made. Run the same call again
            after it was killed, and it goes on there; other metrics of the same data cost no run
            at all. Each part is kept under the digest of the file, the settings and its inputs, so
            that predictions for another file or other data are never taken. Yours to delete.
        progress: show a bar where the terminal allows it; or a function that is called with the
            share done, 0 to 1 (None while the length of the data is not known).

    Returns:
        Figures by metric, behind the output's name and `_` where the file has several outputs,
        and `"examples"`, their number.

    Raises:
        DataError: data without labels, labels that do not fit the output, no example, NaN.
        ConfigError: an unknown metric or an argument out of its range; a model that keeps state
            from one run to the next.
        CorruptFileError: the file is not sound.
        DeviceError: a worker or the runtime failed.

    Example:
        >>> tfc.evaluate("model.tflite", (x_test, y_test), metrics=["accuracy", "top_5"], workers=4)
        {'accuracy': 0.911, 'top_5': 0.998, 'examples': 10000}

    Source: F1 is scikit-learn's, BLEU sacreBLEU's (Post 2018), ROUGE Google's (Lin 2004).
    """
    model = tflite if isinstance(tflite, TFLiteModel) else TFLiteModel(tflite)
    for name, value in (("workers", workers), ("batch", batch), ("limit", limit)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ConfigError(f"`{name}` must be a whole number >= 1. Received: {value!r}")
    adapter.check_setting(backend, 1)
    if model.keeps_state or any(t.is_variable for g in model.parsed.subgraphs for t in g.tensors):
        raise ConfigError(
            "This model keeps state from one run to the next, so its answers depend on how the "
            "examples are split. Run it with TFLiteModel.predict, sequence by sequence."
        )
    runtime = adapter.resolve_runtime(runtime)
    settings = {"backend": backend, "runtime": runtime, "batch_size": batch}
    options = {"threshold": threshold, "ignore_label": ignore_label, "decode": decode}
    scores = _Scores(model, metrics, options)
    specs = input_specs(model)
    ordered = model.input_order is not None
    pairs = labelled(data, specs, ordered=ordered)
    first = next(pairs, None)
    if first is None:
        raise DataError(_NO_EXAMPLE)
    number = parts(data, specs, ordered=ordered)
    total = limit if number is None else number * len(next(iter(first[0].values())))
    chunks = _chunks(itertools.chain([first], pairs), specs, limit)
    with ExitStack() as stack:
        if callable(progress):
            tell: Callable[[float | None], None] = progress
        else:
            bar = stack.enter_context(bars.shown(progress))
            bar.start(f"evaluating {model.name}"[:34])
            tell = bar.update
        predictors = stack.enter_context(Predictors(model, workers, settings))
        kept = _Kept(resume, model, settings) if resume is not None else None

        def work(chunk: _Chunk) -> Arrays:
            found = kept.read(chunk[0]) if kept is not None else None
            if found is None:
                found = predictors.predict(chunk[0])
                if kept is not None:
                    kept.write(chunk[0], found)
            return found

        count = 0
        for (inputs, labels), outputs in in_order(chunks, work, workers):
            count += len(next(iter(inputs.values())))
            scores.add(labels, outputs)
            tell(min(count / min(total, limit or total), 1.0) if total else None)
    if not count:
        raise DataError(_NO_EXAMPLE)
    return {**scores.results(), "examples": count}


_Chunk = tuple[Arrays, dict[str, list[Any]]]


def input_specs(model: TFLiteModel) -> list[InputSpec]:
    """A file's inputs, as data is brought into their form: what is quantized takes real values."""
    infos = {info.name: info for info in input_infos(model.parsed)}
    names = model.input_order or tuple(infos)
    kinds = {n: "string" if i.dtype.kind == "S" else i.dtype.name for n, i in infos.items()}
    return [
        InputSpec(name, infos[name].shape, "float32" if infos[name].scale else kinds[name])
        for name in names
    ]


def _chunks(
    pairs: Iterable[tuple[Arrays, Any]], specs: Sequence[InputSpec], limit: int | None
) -> Iterator[_Chunk]:
    """The same examples in parts of one size, which does not depend on how the data comes."""
    each = sum(
        math.prod(size or 1 for size in spec.shape[1:]) * np.dtype(spec.dtype).itemsize
        for spec in specs
        if spec.dtype != "string"
    )
    size = max(1, min(CHUNK, CHUNK_BYTES // max(each, 1)))
    waiting: list[Arrays] = []
    labels: dict[str, list[Any]] = {}
    held = taken = 0

    def chunk() -> _Chunk:
        inputs = {name: np.concatenate([p[name] for p in waiting]) for name in waiting[0]}
        done = inputs, {name: list(values) for name, values in labels.items()}
        waiting.clear()
        labels.clear()
        return done

    for inputs, raw in pairs:
        count = len(next(iter(inputs.values())))
        rows = _rows(raw, count)
        start = 0
        while start < count and (limit is None or taken < limit):
            end = min(count, start + size - held)
            if limit is not None:
                end = min(end, start + limit - taken)
            waiting.append({name: array[start:end] for name, array in inputs.items()})
            for name, values in rows.items():
                labels.setdefault(name, []).extend(values[start:end])
            held, taken, start = held + end - start, taken + end - start, end
            if held == size:
                yield chunk()
                held = 0
        if limit is not None and taken >= limit:
            break
    if held:
        yield chunk()


def _rows(labels: Any, count: int) -> dict[str, list[Any]]:
    """Labels by output name (`""` where they name none), one entry for each example."""
    named = labels if isinstance(labels, Mapping) else {"": labels}
    found = {}
    for name, values in named.items():
        try:
            rows = list(values)
        except TypeError:
            rows = []
        if len(rows) != count:
            raise DataError(
                f"There must be a label for each of the {count} examples. Received: "
                f"{len(rows)} labels{f' for {name!r}' if name else ''}"
            )
        found[str(name)] = rows
    return found


class _Scores:
    """The metrics of each output, and its labels found by name."""

    def __init__(self, model: TFLiteModel, metrics: Any, options: dict[str, Any]) -> None:
        single = isinstance(metrics, str) or callable(metrics)
        self._wanted: Any = metrics if isinstance(metrics, Mapping) else None
        self._common: Named = () if self._wanted is not None else [metrics] if single else metrics
        self._model, self._options = model, options
        self._metrics: dict[str, Metrics] = {}
        self._several = False
        for names in [self._common] if self._wanted is None else self._wanted.values() or [()]:
            listed = [names] if isinstance(names, str) or callable(names) else names
            Metrics(listed, **options)  # a check, before anything runs
            if not listed:
                raise ConfigError("`metrics` must name at least one. Received: none")

    def add(self, labels: dict[str, list[Any]], outputs: Arrays) -> None:
        self._several = len(outputs) > 1
        if not self._several:
            (predicted,) = outputs.values()
            if len(labels) > 1:
                raise DataError(f"The model has one output. Received labels: {sorted(labels)}")
            name = next(iter(self._wanted)) if self._wanted else next(iter(outputs))
            labels, outputs = {name: next(iter(labels.values()))}, {name: predicted}
        unknown = sorted(set(labels) - set(outputs))
        if unknown:
            raise DataError(
                f"The model has the outputs {sorted(outputs)}: give labels as a dict by these "
                f"names. Received: {unknown if unknown != [''] else 'labels without names'}"
            )
        missing = sorted(set(self._wanted or ()) - set(labels))
        if missing:
            raise DataError(f"The data must have labels for {missing}. Received: {sorted(labels)}")
        for name, rows in labels.items():
            if self._wanted is not None and name not in self._wanted:
                continue
            if name not in self._metrics:
                self._metrics[name] = self._make(name)
            self._metrics[name].add(rows, outputs[name])

    def _make(self, name: str) -> Metrics:
        metrics = self._common if self._wanted is None else self._wanted[name]
        if isinstance(metrics, str) or callable(metrics):
            metrics = [metrics]
        return Metrics(metrics, linear=_is_linear(self._model.parsed, name), **self._options)

    def results(self) -> dict[str, float]:
        return {
            f"{name}_{metric}" if self._several else metric: value
            for name, metrics in self._metrics.items()
            for metric, value in metrics.results().items()
        }


def _is_linear(parsed: schema.Model, output: str) -> bool | None:
    """Whether an output is logits (True) or probabilities (False), as far as the file tells."""
    graph = parsed.subgraphs[0]
    index = graph.outputs[0]
    if len(graph.outputs) > 1:
        named = parsed.signatures[0].outputs if len(parsed.signatures) == 1 else {}
        own = {graph.tensors[i].name: i for i in graph.outputs}
        index = named.get(output, own.get(output, index))
    makers = {i: operator for operator in graph.operators for i in operator.outputs}
    while index in makers:
        operator = makers[index]
        if operator.name in _SQUASHED:
            return False
        if operator.name in _LINEAR:
            return True if operator.options.get("fused_activation", "NONE") == "NONE" else None
        if operator.name not in _PASSED_ON:
            return None
        index = operator.inputs[0]
    return None


class _Kept:
    """Predictions on disk, each part under the digest of all that they depend on."""

    def __init__(
        self, folder: str | os.PathLike[str], model: TFLiteModel, settings: dict[str, Any]
    ) -> None:
        self._folder = Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"`resume` must be a folder, or one that can be made. Received: {str(folder)!r} "
                f"({error.strerror})"
            ) from error
        version = adapter.runtime_version(settings["runtime"])
        about = repr((sorted(settings.items()), version)).encode()
        self._base = hashlib.sha256(hashlib.sha256(model.content).digest() + about)

    def _path(self, inputs: Arrays) -> Path:
        return self._folder / f"{self._digest(inputs)}.npz"

    def _digest(self, *parts: Arrays) -> str:
        digest = self._base.copy()
        for part in parts:
            for name, array in sorted(part.items()):
                digest.update(repr((name, array.dtype.str, array.shape)).encode())
                digest.update(array.tobytes())
        return digest.hexdigest()

    def read(self, inputs: Arrays) -> Arrays | None:
        """The outputs that were written for these inputs, as they were; None without them."""
        try:
            with np.load(self._path(inputs), allow_pickle=False) as arrays:
                found = {name: np.asarray(arrays[name]) for name in arrays.files}
                digest = str(found.pop(_DIGEST))
        except Exception:  # no file, or a damaged one, on which zip and NumPy raise of all kinds
            return None
        outputs = {name.removeprefix("of "): array for name, array in found.items()}
        return outputs if digest == self._digest(inputs, outputs) else None

    def write(self, inputs: Arrays, outputs: Arrays) -> None:
        packed = io.BytesIO()
        kept: dict[str, Any] = {f"of {name}": array for name, array in outputs.items()}
        kept[_DIGEST] = np.array(self._digest(inputs, outputs))
        np.savez(packed, **kept)
        write_bytes(self._path(inputs), packed.getvalue())
