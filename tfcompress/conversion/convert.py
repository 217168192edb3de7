"""`tfc.convert`: a Keras 3 model to a `.tflite` that has been run before it is handed over."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.conversion.calibration import gather
from tfcompress.conversion.precisions import TRAINED, get_precision
from tfcompress.errors import CompressError, ConfigError, DataError, ModelTypeError
from tfcompress.files import check_writable
from tfcompress.report import CompressionReport
from tfcompress.runtime.model import TFLiteModel

if TYPE_CHECKING:
    import keras

COARSE = 1.0  # a step of a softmax's input at which its weights are off by e
CHECKED_RUNS = 32  # runs on representative data after the conversion


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
    calibration_samples: int = 300,
    verify: Any = None,
) -> TFLiteModel:
    """Converts a Keras 3 model to TFLite.

    The model is exported with static shapes, converted in a worker process, loaded by the runtime
    and run once on valid inputs; only then is it returned, and written to `path`.

    What `TimeDistributed` holds is in the file once, for all steps as one batch, where Keras calls
    it for each step. It is there as often as there are steps only where these have a mask, or
    where what it holds might look from one to another: layers of your own, Lambda.

    Args:
        model: a built Keras 3 model: Functional, Sequential or subclassed, with any number of
            inputs and outputs. It is left as it is. Of what `tfc.distill` returned, the student.
        precision: what is stored and computed.
            `"fp32"`: float32. `"fp16"`: weights stored as float16, half the size.
            `"dynamic"`: int8 weights, activations quantized on the fly (Dense, convolutions).
            `"int8"`: weights and activations int8, calibrated on `representative_data`.
            `"int16x8"`: int16 activations, int8 weights; more accurate, slow on XNNPACK.
            `"weight-int8"`, `"weight-int4"`: weights stored so, computed in float.
            `"dynamic-int4"`: as dynamic, with weights of 4 bits. `"dynamic-int4-blocks"`: with a
            scale for each 32 inputs of a Dense layer: closer, but only XNNPACK computes it rightly.
            All four store embeddings in 8 bits, a scale for each row.
            `"int8-matmul"`: products in int8, the rest float, for Transformers; calibrated by
            `tfc.quantize_aware`, whose model the file computes bit for bit.
        representative_data: 100 to 500 typical inputs, prepared as for training: an array
            (n, ...), a dict of arrays by input name, a `tf.data.Dataset` with or without labels,
            a generator, a function that returns one, or (x, y); batches of any size.
        io: how inputs and outputs are stored: `"float32"`, or `"int8"` / `"uint8"` with precision
            int8, `"int16"` with int16x8. Integer inputs (token ids) stay as they are.
        batch_size: the file's fixed batch size.
        sparse: store pruned weights in the sparse encoding, where that is safe on every
            processor; elsewhere they are stored dense and the report says why. It also has the
            sizes of both forms, and when to ship which.
        path: where to write the file as well.
        overwrite: allow `path` to exist.
        input_shapes: sizes that the model leaves open (`None`), without the batch axis.
        calibration_samples: at most so many examples of `representative_data` are used.
        verify: inputs, as `tfc.verify` takes them: a file that does not hold is refused. A
            quantize-aware model's file must be identical in every value (with layers in float,
            in 99.5 % of the answers); fp32 must give 99.9 % of the answers, fp16 99 %, int16x8
            98 %, others 95 %.

    Returns:
        The model; `.report` says what was done, `.predict` runs it, `.save` writes it.

    Raises:
        ModelTypeError: no Keras 3 model, or one that is not built.
        ConfigError: an argument out of its range; a path that exists or cannot be written.
        DataError: representative data that does not fit, or NaN in data or weights.
        VerificationError: `verify` is given, and the file does not compute what the model does.
        ConversionError: the converter failed (`.log` holds all it said), or the file does not run.

    Example:
        >>> tflite = tfc.convert(model, "int8", representative_data=x_train[:300])
        >>> tflite.save("model.tflite")

    Source: LiteRT's conversion and post-training quantization guides; int8 arithmetic as in
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference".
    """
    from tfcompress import registry

    model = _merged(registry.student_of(model))
    trained = _trained_ranges(model, precision)
    settings = get_precision(precision, io, trained=trained)
    for name, value in (("batch_size", batch_size), ("calibration_samples", calibration_samples)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"`{name}` must be a whole number >= 1. Received: {value!r}")
    if path is not None:
        check_writable(path, overwrite=overwrite)

    from tfcompress.conversion import checks, export, storage
    from tfcompress.conversion.converter import Converter, start_converter

    started = time.perf_counter()
    export.check_model(model)
    start_converter()
    interface = export.read_interface(model, input_shapes)
    if settings.calibrated and representative_data is None:
        raise DataError(
            f"Precision {precision!r} needs `representative_data`: 100 to 500 typical inputs, "
            "prepared as for training. Received: None"
        )
    original, made_by_us = model, bool(settings.scheme)
    if settings.scheme:
        model = _calibrated(model, settings.scheme, representative_data, calibration_samples)
    elif precision == "int16x8" and not trained and any("int" in s.dtype for s in interface.specs):
        # The converter cannot calibrate a graph that reads token ids.
        with suppress(CompressError):  # then it stays the converter's, which reports what it does
            model = _calibrated(model, precision, representative_data, calibration_samples)
            made_by_us = True
    if made_by_us:
        trained, settings = True, get_precision(precision, io, trained=True)
    examples = None
    if representative_data is not None:
        examples = gather(representative_data, interface.specs, calibration_samples)
    shapes = export.fix_shapes(interface, batch_size, examples)
    names = [spec.name for spec in interface.specs]
    batches = None if examples is None else _batches(examples, batch_size)
    if batches is not None:
        checked = {name: value[:CHECKED_RUNS] for name, value in batches.items()}

    def converted() -> tuple[TFLiteModel, bytes]:
        """The file of `model`, and the same stored dense."""
        report = CompressionReport(
            "convert", {"precision": precision, "io": io, "batch_size": batch_size}
        )
        with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
            with settings.exporting():
                exported = export.write_saved_model(
                    model, interface, shapes, f"{folder}/saved_model"
                )
            samples = None
            if settings.calibrated and batches is not None and examples is not None:
                samples = f"{folder}/samples.npz"
                np.savez(samples, *batches.values())
                report.settings["calibration_samples"] = len(next(iter(examples.values())))
            converter = Converter(f"{folder}/saved_model", folder, io, samples, names)
            content, dense = converter.convert(settings, report, sparse)
            result = TFLiteModel(content, report=report)
            result.name = model.name
            result.input_order = tuple(names)
            dtypes = {spec.name: spec.dtype for spec in interface.specs}
            found = checks.run_once(result, None if batches is None else checked, dtypes)
            if settings.float16:
                checks.report_clipping(result)
            if settings.all_integer:
                checks.report_floats(result)
                if batches is not None and not trained and not result.keeps_state:
                    layers = {
                        layer.name: bool(registry.kernels(layer))
                        for _, layer in registry.walk(model)
                    }
                    expected = exported.run(checked)
                    checks.report_noise(
                        result, found, expected, converter.float_twin, checked, layers
                    )
            if settings.all_integer:
                checks.report_shared(result, _sharing(model))
            if settings.stored_bits == 4:
                checks.report_wider(result)
        return result, dense

    result, dense = converted()
    if precision == "int8" and not trained and (step := checks.softmax_step(result)) > COARSE:
        # Masks of large negative numbers lie on the grid of the scores that they are added to.
        why = (
            f"The converter's own int8 gives a softmax its scores in steps of {step:.3g}, where a "
            "tenth is needed, as masks of large negative numbers lie on their grid"
        )
        before = model, settings
        try:
            model = _calibrated(model, "int8", representative_data, calibration_samples)
            settings, trained = get_precision(precision, io, trained=True), True
            result, dense = converted()
        except CompressError as error:  # a model that only the converter takes
            (model, settings), trained = before, False
            result.report.notes.append(f"{why}. Other ranges cannot be had: {error}")
        else:
            made_by_us = True
            result.report.notes.append(
                f"{why}. The ranges are those of tfc.quantize_aware instead, with which a masked "
                "softmax stays float. For Transformers, precision 'int8-matmul' is faster."
            )
    report = result.report
    if sparse:
        storage.report_sizes(result, dense)
    if trained:
        checks.report_placement(result)
    if trained and verify is None:
        _report_fidelity(result, model, interface, examples, batch_size)
    if verify is not None:
        from tfcompress.deploy.verify import require

        found_report = require(original, result, verify, precision, trained and not made_by_us)
        report.settings["agreement"] = found_report.agreement
        report.settings["identical"] = found_report.identical
    report.settings["seconds"] = round(time.perf_counter() - started, 2)
    if path is not None:
        result.save(path, overwrite=overwrite)
    return result


def _calibrated(model: Any, scheme: str, data: Any, samples: int) -> Any:
    """The quantize-aware model that a precision of ours converts, its ranges from the data.

    Raises:
        ModelTypeError: no layer of it is quantized.
    """
    from tfcompress.quantization.quantize_aware import quantize_aware

    made = quantize_aware(model, scheme, calibration_data=data, calibration_samples=samples)
    _trained_ranges(made, scheme)  # says why where nothing is quantized
    return made


def _merged(model: Any) -> Any:
    """The model, its low-rank adapters merged, or as it is where it has none."""
    from tfcompress.transforms.lora import holds_lora
    from tfcompress.transforms.low_rank import LowRank
    from tfcompress.transforms.strip import strip
    from tfcompress.transforms.wrapper import transforms_of

    if not hasattr(model, "_flatten_layers") or not getattr(model, "built", False):
        return model  # told of elsewhere
    return strip(model) if holds_lora(model) or transforms_of(model, LowRank) else model


def is_quantize_aware(model: Any) -> bool:
    """Whether the model holds layers of `tfc.quantize_aware`."""
    import sys

    if "tfcompress.quantization.model" not in sys.modules:
        return False  # No such model can have been made.
    from tfcompress.quantization.model import quantized_layers

    return hasattr(model, "_flatten_layers") and bool(quantized_layers(model))


def _trained_ranges(model: Any, precision: Any) -> bool:
    """Whether the model brings ranges of its own.

    Raises:
        ConfigError: it does, and cannot have that precision.
    """
    if not is_quantize_aware(model):
        report: Any = getattr(model, "compression_report", None)
        made = isinstance(report, CompressionReport) and report.verb == "quantize_aware"
        if made and precision in TRAINED:
            reasons = sorted({entry.reason for entry in report.left if entry.reason})
            raise ModelTypeError(
                f"No layer of the quantize-aware model {model.name!r} is int8, so there are no "
                f"trained ranges for precision {precision!r}: {'; '.join(reasons)}. Convert the "
                "model it was made of, with representative_data."
            )
        return False
    from tfcompress.quantization.model import activation_bits, products_alone

    bits = activation_bits(model)
    alone = products_alone(model)
    names = [
        name
        for name, row in TRAINED.items()
        if row.activation_bits == bits and (alone or name != "int8-matmul")
    ]
    if precision not in names:
        raise ConfigError(
            f"A quantize-aware model with activations of {bits} bits converts to one of {names}: "
            f"its ranges are trained for these integers. Received: {precision!r}. Convert the "
            "model it was made of for others."
        )
    return True


def _sharing(model: Any) -> set[str]:
    """Paths of the layers whose kernels are of few values that weights share."""
    from tfcompress import registry
    from tfcompress.transforms.centroids import Centroids
    from tfcompress.transforms.sharing import shares_values
    from tfcompress.transforms.wrapper import computed
    from tfcompress.variables import value_of

    found, changed = set(), computed(model)
    for path, layer in registry.walk(model):
        trained = any(isinstance(t, Centroids) for t in getattr(layer, "transforms", ()))
        for kernel in registry.kernels(layer):
            axes = [i for i, role in enumerate(registry.axes(layer, kernel)) if role == "o"]
            values = changed[id(kernel)] if id(kernel) in changed else value_of(kernel)
            trained = trained or shares_values(values, axes)
        if trained:
            found.add(path)
    return found


def _report_fidelity(
    result: TFLiteModel, model: Any, interface: Any, examples: Any, batch_size: int
) -> None:
    """Whether the file computes what the quantize-aware model does, on data or typical inputs."""
    from tfcompress.deploy.verify import report_fidelity
    from tfcompress.quantization.model import typical_inputs

    if examples is None:
        if any(None in spec.example_shape for spec in interface.specs):
            return
        examples = typical_inputs(model, interface.specs, 16 * batch_size)
    data = {name: array[: CHECKED_RUNS * batch_size] for name, array in examples.items()}
    report_fidelity(result.report, model, result, data)


def _batches(examples: dict[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
    """(n, ...) to (batches, batch, ...); the last batch is filled up with the first examples."""
    count = len(next(iter(examples.values())))
    order = np.arange(-(-count // batch) * batch) % count
    return {n: a[order].reshape(-1, batch, *a.shape[1:]) for n, a in examples.items()}
