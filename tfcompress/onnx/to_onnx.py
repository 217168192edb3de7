"""`tfc.to_onnx`: a Keras 3 model as ONNX, run in ONNX Runtime before it is handed over."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.errors import ConfigError, ConversionError, DeviceError
from tfcompress.files import check_writable
from tfcompress.onnx.model import OnnxModel
from tfcompress.report import CompressionReport

if TYPE_CHECKING:
    import keras

TARGETS = ("onnxruntime", "tensorrt")
TOLERANCE = 1e-4
"""The most that a float model's output may differ, as a part of its largest value."""

EXAMPLES = 16  # the check runs on, where no data is given
CHECKED = 64  # examples of the data at most


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    opset: int = 17,
    batch_size: int | None = 1,
    target: str = "onnxruntime",
    data: Any = None,
    input_shapes: Any = None,
) -> OnnxModel:
    """Exports a Keras 3 model as ONNX.

    A float model stays float. A quantize-aware one becomes a graph of Q/DQ pairs with its trained
    grids: kernels are int8 constants with a scale for each output channel, every quantized tensor
    passes a QuantizeLinear and a DequantizeLinear, what stays float is float. The model is run in
    ONNX Runtime beside Keras before it is returned, and written to `path`.

    Args:
        model: a built Keras 3 model: Functional, Sequential or subclassed. It is left as it is.
        path: where to write the file as well.
        overwrite: allow `path` to exist.
        opset: 13 to 18.
        batch_size: the graph's fixed batch size; None leaves it open.
        target: who is to run a quantize-aware model. `"onnxruntime"`: biases are int32.
            `"tensorrt"`: biases are float, as TensorRT takes no int32; the rules of its explicit
            quantization that the graph breaks are in `.violations`, and in the report.
        data: inputs to check the result with, as `tfc.convert` takes representative data; random
            ones where it is None (from the trained ranges, for a quantize-aware model).
        input_shapes: sizes that the model leaves open (`None`), without the batch axis.

    Returns:
        The model: `.predict` runs it, `.save` writes it, `.report` says how near it is. Float:
        the largest difference, as a part of the largest output, at most 1e-4 (1e-6 is usual).
        Quantize-aware: the share of identical outputs, the largest difference in steps, and the
        first layer that is off by more than one step on the same inputs.

    Raises:
        ModelTypeError: no built Keras 3 model.
        ConfigError: an argument out of its range; a path that exists; a model with activations of
            16 bits.
        DataError: data that does not fit.
        ConversionError: an operator has no ONNX form, or ONNX Runtime refuses the graph or
            computes something else.

    Example:
        >>> onnx_model = tfc.to_onnx(qmodel, "model.onnx")
        >>> onnx_model.predict(x_test[:10])

    Source: the ONNX operator set; tensorflow-onnx; NVIDIA TensorRT Documentation, "Explicit
    Quantization".
    """
    if opset not in (known := _opsets()) or isinstance(opset, bool):
        raise ConfigError(f"`opset` must be {known[0]} to {known[-1]}. Received: {opset!r}")
    if target not in TARGETS:
        raise ConfigError(f"`target` must be one of {list(TARGETS)}. Received: {target!r}")
    open_batch = batch_size is None
    if not open_batch and (isinstance(batch_size, bool) or not _is_count(batch_size)):
        raise ConfigError(
            f"`batch_size` must be a whole number >= 1, or None. Received: {batch_size!r}"
        )
    if path is not None:
        check_writable(path, overwrite=overwrite)
    _require_packages()

    from tfcompress.conversion import calibration, export
    from tfcompress.conversion.convert import is_quantize_aware
    from tfcompress.onnx.constants import settle
    from tfcompress.onnx.graph import to_graph
    from tfcompress.quantization import modes
    from tfcompress.quantization.model import activation_bits

    export.check_model(model)
    trained = is_quantize_aware(model)
    if trained and (bits := activation_bits(model)) != 8:
        raise ConfigError(
            "ONNX export takes quantize-aware models with activations of 8 bits: TensorRT has no "
            f"others. Received: {bits} bits. Train with QuantizationScheme(activation_bits=8)."
        )
    interface = export.read_interface(model, input_shapes)
    examples = None if data is None else calibration.gather(data, interface.specs, CHECKED)
    shapes: Any = export.fix_shapes(interface, batch_size or 1, examples)
    if open_batch:
        shapes = [(None, *shape[1:]) for shape in shapes]
    report = CompressionReport(
        "to_onnx", {"opset": opset, "batch_size": batch_size, "target": target}
    )
    with modes.exporting(onnx=True) if trained else contextlib.nullcontext():
        exported = export.trace(model, interface, shapes)
        proto = to_graph(exported, model.name, opset)
    if trained:
        settle(proto, integer_biases=target == "onnxruntime")
    result = OnnxModel(bytes(proto.SerializeToString()), report=report)
    result.input_order = tuple(spec.name for spec in interface.specs)
    if examples is None:
        examples = _examples(model, interface.specs, shapes, trained)
    try:
        (_check_trained if trained else _check_float)(model, result, interface, examples)
    except DeviceError as error:
        raise ConversionError(f"What was exported does not run: {error}") from error
    if target == "tensorrt":
        _report_rules(result)
    if path is not None:
        result.save(path, overwrite=overwrite)
    return result


def _opsets() -> range:
    from tfcompress.onnx.graph import OPSETS

    return OPSETS


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _require_packages() -> None:
    """Checks that what the export needs is installed.

    Raises:
        DeviceError: it is not.
    """
    import importlib.util

    missing = [
        name
        for name in ("onnx", "onnxruntime", "tf2onnx")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise DeviceError(
            f"ONNX needs packages that are not installed: {', '.join(missing)}. "
            "pip install 'tfcompress[onnx]'"
        )


def _examples(model: Any, specs: Any, shapes: Any, trained: bool) -> dict[str, np.ndarray]:
    """Random inputs by name, (EXAMPLES, ...)."""
    if trained:
        from dataclasses import replace

        from tfcompress.quantization.model import typical_inputs

        fixed = [replace(s, shape=(None, *t[1:])) for s, t in zip(specs, shapes, strict=True)]
        return typical_inputs(model, fixed, EXAMPLES)
    generator = np.random.default_rng(0)
    found = {}
    for spec, shape in zip(specs, shapes, strict=True):
        sizes = (EXAMPLES, *shape[1:])
        if spec.dtype.startswith(("float", "bfloat")):
            found[spec.name] = generator.standard_normal(sizes).astype(np.float32)
        else:
            found[spec.name] = generator.integers(0, 2, sizes).astype(spec.dtype)
    return found


def _check_float(model: Any, result: OnnxModel, interface: Any, examples: Any) -> None:
    """Outputs beside Keras's.

    Raises:
        ConversionError: they differ.
    """
    from tfcompress.deploy.verify import run_model

    ours = run_model(model, interface, examples)
    theirs = result.run(list(ours), examples)
    largest = 0.0
    for (name, mine), found in zip(ours.items(), theirs, strict=True):
        mine = mine.astype(np.float64)
        span = float(np.abs(mine).max(initial=0)) or 1.0
        off = float(np.abs(found.astype(np.float64) - mine).max(initial=0)) / span
        largest = max(largest, off)
        if not off <= TOLERANCE:  # NaN too
            raise ConversionError(
                f"ONNX Runtime must compute what Keras does, to {TOLERANCE:g} of the largest "
                f"output. Received: output {name!r} is off by {off:.2g}. Give typical inputs as "
                "`data` where random ones make no sense to the model."
            )
    report = result.report
    report.settings["largest_difference"] = largest
    report.notes.append(
        f"ONNX Runtime computes what Keras does on {len(next(iter(examples.values())))} examples: "
        f"the largest difference is {largest:.1g} of the largest output."
    )


def _check_trained(model: Any, result: OnnxModel, interface: Any, examples: Any) -> None:
    """Says how far ONNX Runtime computes what the quantize-aware model does."""
    from tfcompress.deploy.verify import verify

    found = verify(model, result, examples, layers=False)
    if found.identical < 1:
        found = verify(model, result, examples)
    report = result.report
    report.settings["identical"] = found.identical
    report.settings["agreement"] = found.agreement
    report.settings["max_steps"] = found.max_lsb
    far = next((layer for layer in found.layers if layer.max_lsb > 1), None)
    report.settings["first_beyond_one_step"] = far and far.name
    report.notes += found.summary()
    if far is not None:
        report.notes.append(
            f"The first layer that is off by more than one step: {far.name!r} ({far.operator}), "
            f"by up to {far.max_lsb} steps on the same inputs."
        )


def _report_rules(result: OnnxModel) -> None:
    report = result.report
    violations = result.violations
    refused = [item for item in violations if item.refused]
    report.settings["tensorrt_refuses"] = len(refused)
    for item in violations:
        action = "refused" if item.refused else "slower"
        report.add(item.layer, item.operator, action, f"{item.rule}: {item.found}; {item.remedy}")
    report.notes.append(
        f"TensorRT's rules of explicit quantization: {len(refused)} broken that it refuses, "
        f"{len(violations) - len(refused)} that cost speed. Checked on the graph; no engine was "
        "built."
    )
