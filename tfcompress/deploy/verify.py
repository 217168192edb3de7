"""`tfc.verify`: whether a file computes what the model computes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.deploy.fidelity import FidelityReport, compare_outputs, output_grids
from tfcompress.errors import CompressError, ConfigError, DataError, VerificationError
from tfcompress.onnx.model import OnnxModel
from tfcompress.report import CompressionReport
from tfcompress.runtime.model import TFLiteModel, input_infos

if TYPE_CHECKING:
    import keras

LAYER_EXAMPLES = 64
BATCH = 64

# What `tfc.convert(verify=...)` asks of each precision: least agreement. A quantize-aware model's
# file has to be identical; with layers in float in it, ties decide now and then.
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int16x8": 0.98}
OTHERWISE = 0.95
WITH_FLOAT_LAYERS = 0.995


def verify(
    model: keras.Model,
    tflite: TFLiteModel | OnnxModel | str | os.PathLike[str] | bytes,
    data: Any,
    *,
    layers: bool = True,
    backend: str = "xnnpack",
    threads: int = 1,
) -> FidelityReport:
    """Compares a file with the model that it was made of, output by output and layer by layer.

    Args:
        model: a built Keras 3 model.
        tflite: the file, its bytes or a TFLiteModel; or an OnnxModel.
        data: inputs as `tfc.convert` takes representative data; all of them are compared.
        layers: compare each layer of a quantize-aware model too, on the first 64 examples: the
            layer gets the values that the file has at its inputs, so a difference is its own.
        backend: `"xnnpack"` or `"reference"`; of a `.tflite`.
        threads: threads of the runtime; of a `.tflite`.

    Returns:
        The report; printed, it names the first layer that is off and the likely cause.

    Raises:
        ModelTypeError: no built Keras 3 model.
        DataError: data that fits neither.
        ConfigError: the file's inputs or outputs are not the model's.

    Example:
        >>> report = tfc.verify(qmodel, tfc.convert(qmodel, "int8"), x_test)
        >>> report.identical
        1.0
    """
    from tfcompress.conversion import calibration, export

    file = tflite if isinstance(tflite, (TFLiteModel, OnnxModel)) else TFLiteModel(tflite)
    export.check_model(model)
    interface = export.read_interface(model)
    names = [spec.name for spec in interface.specs]
    inputs = file.inputs if isinstance(file, OnnxModel) else input_infos(file.parsed)
    infos = {info.name: info for info in inputs}
    if set(infos) != set(names):
        raise ConfigError(
            f"The file must have the model's inputs {sorted(names)}. Received: {sorted(infos)}. "
            "Is it a file of this model?"
        )
    examples = calibration.gather(data, interface.specs, sys.maxsize)
    for name in names:
        sizes = zip(examples[name].shape[1:], infos[name].shape[1:], strict=True)
        if any(given != own for given, own in sizes if own or isinstance(file, TFLiteModel)):
            raise DataError(
                f"The file's input {name!r} takes examples of shape {infos[name].shape[1:]}. "
                f"Received: {examples[name].shape[1:]}"
            )
    ours = run_model(model, interface, examples)
    given = examples if len(names) > 1 else examples[names[0]]
    if isinstance(file, OnnxModel):
        theirs = file.predict(given)
    else:
        theirs = file.predict(given, backend=backend, threads=threads)
    if not isinstance(theirs, dict):
        theirs = {next(iter(ours)) if len(ours) == 1 else "output": theirs}
    if set(theirs) != set(ours):
        raise ConfigError(
            f"The file must have the model's outputs {sorted(ours)}. Received: {sorted(theirs)}. "
            "Is it a file of this model?"
        )
    grids = file.output_grids if isinstance(file, OnnxModel) else output_grids(file)
    report = compare_outputs(grids, ours, theirs)
    if layers:
        _add_layers(report, model, file, interface, examples, names)
    return report


def run_model(model: Any, interface: Any, examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's outputs by name, of inputs by name."""
    import keras
    import tensorflow as tf

    from tfcompress.conversion import export

    names = [spec.name for spec in interface.specs]

    @tf.function(autograph=False)
    def infer(parts: list[Any]) -> Any:
        nest = keras.tree.map_structure(lambda index: parts[index], interface.structure)
        outputs = model(**nest) if interface.separate else model(nest, training=False)
        return export.name_outputs(model, outputs)

    count = len(examples[names[0]])
    found: list[dict[str, Any]] = []
    for start in range(0, count, BATCH):
        parts = [tf.constant(examples[name][start : start + BATCH]) for name in names]
        found.append({name: np.asarray(value) for name, value in infer(parts).items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _add_layers(
    report: FidelityReport,
    model: Any,
    file: TFLiteModel | OnnxModel,
    interface: Any,
    examples: Any,
    names: Any,
) -> None:
    import keras

    from tfcompress.conversion.convert import is_quantize_aware

    if not is_quantize_aware(model):
        report.notes.append("Layers are compared for models of tfc.quantize_aware only.")
        return
    from tfcompress.onnx import layers as in_onnx
    from tfcompress.quantization import layerwise as in_tflite

    few = {name: examples[name][:LAYER_EXAMPLES] for name in names}
    report.layer_examples = len(few[names[0]])
    nest = keras.tree.map_structure(lambda index: few[names[index]], interface.structure)
    try:
        if isinstance(file, OnnxModel):
            report.layers, notes = in_onnx.compare_layers(model, file, few, nest)
        else:
            report.layers, notes = in_tflite.compare_layers(model, file, few, nest)
    except CompressError as error:
        notes = [f"Layers could not be compared: {error}"]
    report.notes += notes


def report_fidelity(report: CompressionReport, model: Any, tflite: TFLiteModel, data: Any) -> None:
    """Says in a conversion's report whether the file computes what its quantize-aware model does.

    Args:
        report: is added to.
        model: the quantize-aware model.
        tflite: the file made of it.
        data: inputs.
    """
    found = verify(model, tflite, data, layers=False)
    report.settings["identical"] = found.identical
    if found.identical < 1:
        found = verify(model, tflite, data)
        report.notes.append(
            "The file does not compute exactly what the model does. " + " ".join(found.summary())
        )


def require(
    model: Any, tflite: TFLiteModel, data: Any, precision: str, trained: bool
) -> FidelityReport:
    """Refuses a file that does not hold.

    Args:
        model: the model.
        tflite: the file made of it.
        data: inputs.
        precision: the file's.
        trained: the model is a quantize-aware one.

    Raises:
        VerificationError: a quantize-aware model's file that is not identical (with layers in
            float: 99.5 % of the answers), or another one below its precision's agreement.
    """
    report = verify(model, tflite, data)
    floats = bool(tflite.float_tensors)
    least = LEAST_AGREEMENT.get(precision, OTHERWISE)
    if trained:
        least = WITH_FLOAT_LAYERS if floats else 1.0
    holds = report.agreement >= least and (not trained or floats or report.identical == 1)
    if not holds:
        asked = "every value identical" if trained and not floats else f"{least:.1%} same answers"
        raise VerificationError(
            f"The file must compute what the model does ({asked} with precision {precision!r}). "
            f"Received:\n{report}\nLook at the layer named, if one is; of few examples one "
            "near-tie is a large share, so verify on more. Without `verify` (in a recipe "
            "`verify: false`) the file is made all the same."
        )
    return report
