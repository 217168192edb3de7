"""`tfc.convert`: a Keras 3 model to a `.tflite` that has been run before it is handed over."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.conversion.calibration import gather
from tfcompress.conversion.precisions import Precision, get_precision
from tfcompress.errors import (
    ConfigError,
    ConversionError,
    CorruptFileError,
    DataError,
    DeviceError,
)
from tfcompress.files import check_writable
from tfcompress.report import CompressionReport
from tfcompress.runtime import adapter, proof
from tfcompress.runtime.isolation import JobError, run_isolated
from tfcompress.runtime.model import TFLiteModel, input_infos, quantize

if TYPE_CHECKING:
    import keras

_JOB = "tfcompress.conversion.job"
_PRELOAD = ("tensorflow", _JOB)


def convert(
    model: keras.Model,
    precision: str = "fp32",
    *,
    representative_data: Any = None,
    io: str = "float32",
    batch_size: int = 1,
    sparse: bool = False,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    input_shapes: Any = None,
    calibration_samples: int = 512,
) -> TFLiteModel:
    """Converts a Keras 3 model to TFLite.

    The model is exported with static shapes, converted in a worker process, loaded by the runtime
    and run once on valid inputs; only then is it returned, and written to `path`.

    Args:
        model: a built Keras 3 model: Functional, Sequential or subclassed, with any number of
            inputs and outputs. It is left as it is.
        precision: what is stored and computed.
            `"fp32"`: float32. `"fp16"`: weights stored as float16, half the size.
            `"dynamic"`: int8 weights, activations quantized on the fly (Dense, convolutions).
            `"int8"`: weights and activations int8, calibrated on `representative_data`.
            `"int16x8"`: int16 activations, int8 weights; more accurate, slow on XNNPACK.
            `"weight-int8"`: weights stored int8, computed in float.
        representative_data: 100 to 500 typical inputs, prepared as for training: an array
            (n, ...), a dict of arrays by input name, a `tf.data.Dataset` with or without labels,
            a generator, a function that returns one, or (x, y); batches of any size.
        io: how inputs and outputs are stored: `"float32"`, or `"int8"` / `"uint8"` with precision
            int8, `"int16"` with int16x8. Integer inputs (token ids) stay as they are.
        batch_size: the file's fixed batch size.
        sparse: store pruned weights in the sparse encoding, where that is safe on every
            processor; elsewhere they are stored dense and the report says why.
        path: where to write the file as well.
        overwrite: allow `path` to exist.
        input_shapes: sizes that the model leaves open (`None`), without the batch axis.
        calibration_samples: at most so many examples of `representative_data` are used.

    Returns:
        The model; `.report` says what was done, `.predict` runs it, `.save` writes it.

    Raises:
        ModelTypeError: no Keras 3 model, or one that is not built.
        ConfigError: an argument out of its range; a path that exists or cannot be written.
        DataError: representative data that does not fit, or NaN in data or weights.
        ConversionError: the converter failed (`.log` holds all it said), or the file does not run.

    Example:
        >>> tflite = tfc.convert(model, "int8", representative_data=x_train[:300])
        >>> tflite.save("model.tflite")

    Source: LiteRT's conversion and post-training quantization guides; int8 arithmetic as in
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference".
    """
    settings = get_precision(precision, io)
    for name, value in (("batch_size", batch_size), ("calibration_samples", calibration_samples)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"`{name}` must be a whole number >= 1. Received: {value!r}")
    if path is not None:
        check_writable(path, overwrite=overwrite)

    from tfcompress.conversion import export

    started = time.perf_counter()
    export.check_model(model)
    interface = export.read_interface(model, input_shapes)
    if settings.calibrated and representative_data is None:
        raise DataError(
            f"Precision {precision!r} needs `representative_data`: 100 to 500 typical inputs, "
            "prepared as for training. Received: None"
        )
    examples = None
    if representative_data is not None:
        examples = gather(representative_data, interface.specs, calibration_samples)
    shapes = export.fix_shapes(interface, batch_size, examples)
    report = CompressionReport(
        "convert", {"precision": precision, "io": io, "batch_size": batch_size}
    )
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        saved_model = os.path.join(folder, "saved_model")
        names = [spec.name for spec in interface.specs]
        export.write_saved_model(model, interface, shapes, saved_model)
        samples = None
        if settings.calibrated and examples is not None:
            samples = os.path.join(folder, "samples.npz")
            np.savez(samples, *_batches(examples, batch_size))
            used = len(next(iter(examples.values())))
            report.settings["calibration_samples"] = used
        content = _run_converter(saved_model, folder, settings, io, samples, names, report)
        if sparse:
            content = _sparse(content, saved_model, folder, settings, io, samples, names, report)
    result = TFLiteModel(content, report=report)
    result.name = model.name
    _run_once(result, interface.specs, examples, batch_size)
    if settings.all_integer:
        _report_floats(result, report)
    report.settings["seconds"] = round(time.perf_counter() - started, 2)
    if path is not None:
        result.save(path, overwrite=overwrite)
    return result


def _batches(examples: dict[str, np.ndarray], batch: int) -> list[np.ndarray]:
    """(n, ...) to (batches, batch, ...); the last batch is filled up with the first examples."""
    count = len(next(iter(examples.values())))
    order = np.arange(-(-count // batch) * batch) % count
    return [a[order].reshape(-1, batch, *a.shape[1:]) for a in examples.values()]


def _run_converter(
    saved_model: str,
    folder: str,
    settings: Precision,
    io: str,
    samples: str | None,
    names: list[str],
    report: CompressionReport,
    sparse: bool = False,
) -> bytes:
    from tfcompress.conversion.export import SIGNATURE

    out = os.path.join(folder, "model.tflite")
    arguments = {
        "saved_model": saved_model,
        "out": out,
        "optimize": settings.optimize,
        "float16": settings.float16,
        "ops": list(settings.ops),
        "io": io,
        "sparse": sparse,
        "samples": samples,
        "names": names,
        "signature": SIGNATURE,
    }
    try:
        _job("run", arguments)
    except ConversionError as error:
        if not settings.fallback_ops:
            raise
        report.notes.append(_fall_back(error, arguments, settings))
    if settings.quantizer:
        float_file, out = out, os.path.join(folder, "quantized.tflite")
        _job(
            "quantize_weights",
            {"source": float_file, "out": out, "recipe": settings.quantizer},
            preload=(*_PRELOAD, "ai_edge_quantizer.quantizer", "ai_edge_quantizer.recipe"),
        )
    with open(out, "rb") as file:
        return file.read()


def _fall_back(error: ConversionError, arguments: dict[str, Any], settings: Precision) -> str:
    """Converts with less of the graph in integers, and says what that means."""
    why = _first_line(error)
    try:
        _job("run", {**arguments, "ops": list(settings.fallback_ops)})
        return f"The converter could not make every operator integer; the rest is float ({why})."
    except ConversionError:
        if arguments["io"] != "float32":
            raise error from None
    try:
        # Calibration runs the float graph, and that dies on some (loops of recurrent layers).
        _job("run", {**arguments, "ops": [], "samples": None})
    except ConversionError:
        raise error from None
    return (
        "The converter cannot calibrate this graph (loops, as of recurrent layers): weights are "
        f"int8 and activations float, as with precision 'dynamic' ({why})."
    )


def _job(name: str, arguments: dict[str, Any], preload: tuple[str, ...] = _PRELOAD) -> None:
    try:
        run_isolated(f"{_JOB}:{name}", arguments, preload=preload)
    except JobError as error:
        advice = {
            "died": "It died in native code.",
            "timeout": "It was stopped.",
            "memory": "Close other programs, or convert a smaller model.",
        }.get(error.reason, "")
        log = error.log.strip()
        shown = f"\n--- the converter's output ---\n{log}" if log else ""
        raise ConversionError(
            f"The TFLite converter failed: {error} {advice}".rstrip() + shown, log=error.log
        ) from None


def _first_line(error: ConversionError) -> str:
    lines = [line.strip() for line in error.log.splitlines() if "error:" in line.lower()]
    return (lines or [str(error).splitlines()[0]])[-1][:200]


def _sparse(
    content: bytes,
    saved_model: str,
    folder: str,
    settings: Precision,
    io: str,
    samples: str | None,
    names: list[str],
    report: CompressionReport,
) -> bytes:
    from tfcompress.runtime.sparse_rules import refusals

    reasons = refusals(proof.read_sound(content), settings.name)
    if reasons:
        report.settings["sparse"] = False
        report.notes.append(
            "Weights are stored dense although sparse=True: " + "; ".join(reasons) + "."
        )
        return content
    report.settings["sparse"] = True
    return _run_converter(saved_model, folder, settings, io, samples, names, report, sparse=True)


def _run_once(
    tflite: TFLiteModel, specs: Any, examples: dict[str, np.ndarray] | None, batch: int
) -> None:
    """Runs the file once in a child process, on representative data where there is some."""
    runtime = adapter.resolve_runtime()
    generator = np.random.default_rng(0)
    try:
        # The interpreter lists the inputs in the file's order; the signature names them.
        inputs = []
        by_name = {spec.name: spec for spec in specs}
        for info in input_infos(tflite.parsed):
            spec = by_name[info.name]
            if examples is not None:
                rows = np.arange(batch) % len(examples[spec.name])
                real = examples[spec.name][rows].reshape(info.shape)
            elif info.dtype.kind == "f" or info.scale:
                real = generator.standard_normal(info.shape).astype(np.float32)
            else:
                real = proof.idle_value(info)
            inputs.append(quantize(real, info))
        outputs = proof.trial(tflite.content, runtime=runtime, inputs=inputs)
    except (CorruptFileError, DeviceError) as error:
        raise ConversionError(f"The converted file does not run: {error}") from error
    if any(value.dtype.kind == "f" and not np.isfinite(value).all() for value in outputs):
        raise ConversionError(
            "The converted file gives NaN or infinity on valid inputs, while the weights are "
            "finite: some operator overflows. Look at the model's own outputs on the same data"
            + (
                ", or try precision 'fp32'."
                if tflite.report.settings["precision"] != "fp32"
                else "."
            )
        )


def _report_floats(tflite: TFLiteModel, report: CompressionReport) -> None:
    floats = tflite.float_tensors
    report.settings["float_tensors"] = len(floats)
    graph = tflite.parsed.subgraphs[0]
    outer = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        results = [graph.tensors[i] for i in operator.outputs if i not in outer]
        if any(t.dtype.startswith("float") for t in results) and operator.name != "DEQUANTIZE":
            report.add(
                results[0].name, operator.name, "left", "computed in float: no integer form of it"
            )
    if floats:
        report.notes.append(
            f"{len(floats)} tensors besides the inputs and outputs are float: "
            + ", ".join(floats[:5])
            + (", ..." if len(floats) > 5 else "")
        )
