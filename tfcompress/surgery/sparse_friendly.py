"""`tfc.sparse_friendly`: a model rewritten for XNNPACK's sparse kernels, its outputs the same."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tfcompress import registry
from tfcompress.errors import CompressError, ModelTypeError, VerificationError
from tfcompress.report import CompressionReport
from tfcompress.runtime import sparse_rules

if TYPE_CHECKING:
    import keras

_TOLERANCE: Final = {"float32": 1e-4, "float64": 1e-4}
_LOW_PRECISION: Final = 5e-2
"""Of the largest output: far above rounding, far below what a wrong rewrite does."""


def sparse_friendly(
    model: keras.Model,
    *,
    report: CompressionReport | None = None,
    input_shapes: Any = None,
) -> keras.Model:
    """Rewrites a model for XNNPACK's sparse kernels, where that leaves every output as it is.

    - Depthwise and separable convolutions of stride 2 whose zeros are not the same on every side
      ("same" on images of even size, or ZeroPadding2D(((0, 1), (0, 1)))) get a 5x5 kernel with the
      3x3 one in its corner, and two zeros on every side. That costs 25/9 of their multiply-adds.
    - A 1x1 convolution behind GlobalAveragePooling2D(keepdims=True), or behind an average pooling
      over the whole image, becomes a Dense layer, and Flatten or Reshape behind it is dropped.
    - GlobalAveragePooling2D and Reshape((1, 1, channels)) become one layer with keepdims=True.

    The copy is then converted and its file judged; what keeps it from qualifying is left as it is,
    told in the report and in a warning. Most often that is the first convolution: one with stride
    2 and padding "same" on an image of even size cannot be rewritten. Its first output reads the
    image's rows 0, 1 and 2; the only first convolution that the kernels take reads one row of zeros
    and rows 0 and 1 there, whatever its weights, and no padding or cropping of the image moves that
    row of zeros. Train with ZeroPadding2D(1) and padding="valid", as
    `tfc.models.mobilenet(sparse_friendly=True)` has it; weights trained with "same" are a start.

    Args:
        model: a Functional or built Sequential model, nested ones included. It is left as it is.
        report: where to write what was rewritten and what was left, with reasons; a
            `CompressionReport("sparse_friendly")` of yours.
        input_shapes: sizes that the model leaves open (`None`), without the batch axis; needed
            to judge the result.

    Returns:
        A new model, not compiled, with the same inputs, outputs and trained values. Layers that
        cannot be rebuilt from their config are shared with the original, and the report says so.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.
        VerificationError: the copy gives other outputs, because the config of some layer does not
            say all about it.

    Example:
        >>> report = tfc.CompressionReport("sparse_friendly")
        >>> friendly = tfc.sparse_friendly(model, report=report)
        >>> print(report)

    Source: Elsen et al. 2020, "Fast Sparse ConvNets" (arXiv:1911.09723), for the form that the
    kernels take.
    """
    report = CompressionReport("sparse_friendly") if report is None else report
    rewritten = _rewritten(model, report)
    _check_outputs(model, rewritten)
    _judge(rewritten, report, input_shapes)
    return rewritten


def _rewritten(model: keras.Model, report: CompressionReport) -> keras.Model:
    """The copy, with all that can be replaced in the model and in those it nests."""
    from tfcompress.graph.calls import Calls, functional, is_graph
    from tfcompress.graph.copying import Replacement, copy_model
    from tfcompress.keras3 import check_keras3
    from tfcompress.surgery.exact_heads import head_replacements
    from tfcompress.surgery.exact_padding import padding_replacements

    check_keras3(model)
    if functional(model) is None:
        raise ModelTypeError(
            "A model can be rewritten where Keras knows its graph of layers: Functional, or "
            f"Sequential and built. Received: {model.name!r} of class {type(model).__name__}. "
            "Rewrite the Functional models inside it, or build it from keras.Input."
        )
    replacements: dict[int, Replacement] = {}
    for graph in filter(is_graph, model._flatten_layers()):
        calls = Calls(graph)
        replacements |= {**padding_replacements(calls), **head_replacements(calls)}
    copy = copy_model(model, replacements=replacements)
    shared = {id(layer): reason for layer, reason in copy.shared}
    for path, layer in registry.walk(model):
        if id(layer) in replacements:
            why = replacements[id(layer)].why
            report.add(path, type(layer).__name__, "rewritten", why)
        elif id(layer) in shared:
            reason = shared[id(layer)]
            why = f"it cannot be rebuilt from its config, so both models share it ({reason})"
            report.add(path, type(layer).__name__, "left", why)
    report.notes += copy.notes
    return copy.model


def _check_outputs(model: keras.Model, rewritten: keras.Model) -> None:
    """Compares both models on random data, where all inputs are floats of known size."""
    import keras

    generator = np.random.default_rng(0)
    types = {layer.compute_dtype for layer in model._flatten_layers()}
    tolerance = max(_TOLERANCE.get(name, _LOW_PRECISION) for name in types)
    inputs = []
    for tensor in model.inputs:
        sizes = [1 if tensor.shape[0] is None else tensor.shape[0], *tensor.shape[1:]]
        if None in sizes or not str(tensor.dtype).startswith(("float", "bfloat")):
            return
        inputs.append(generator.random(sizes, dtype=np.float32))
    pairs = (
        keras.tree.flatten(one(_packed(one, inputs), training=False)) for one in (model, rewritten)
    )
    for expected, found in zip(*pairs, strict=True):
        expected, found = (np.asarray(keras.ops.cast(v, "float32")) for v in (expected, found))
        error = float(np.abs(expected - found).max(initial=0))
        largest = float(np.abs(expected).max(initial=0))
        if not error <= tolerance * max(largest, 1e-6):
            raise VerificationError(
                "A rewritten model must give the same outputs. Received: outputs of "
                f"{model.name!r} that differ by {error:.3g} where they reach {largest:.3g}. The "
                "config of one of its own layers does not say all that the layer computes: "
                "complete its get_config."
            )


def _packed(model: keras.Model, flat: list[np.ndarray]) -> Any:
    import keras

    from tfcompress.graph.calls import functional

    return keras.tree.pack_sequence_as(functional(model)._inputs_struct, flat)


def _judge(model: keras.Model, report: CompressionReport, input_shapes: Any) -> None:
    """Reports what keeps the copy's file from qualifying."""
    from tfcompress.conversion.convert import convert

    try:
        parsed = convert(model, input_shapes=input_shapes).parsed
    except CompressError as error:
        report.notes.append(f"Whether the model qualifies could not be judged: {error}")
        return
    found = sparse_rules.violations(parsed, structural_only=True)
    report.settings["qualifies"] = not found
    if not found:
        report.notes.append(
            "The model qualifies for XNNPACK's sparse kernels, once its 1x1 convolutions "
            "(tfc.xnnpack_sparse_layers) are pruned to more than 2/3 zeros."
        )
        return
    for violation in found:
        for layer in violation.layers or ("model",):
            why = f"{violation.reason}. {violation.remedy_for(layer)}"
            report.add(layer, violation.rule, "left", why)
    names = ", ".join(f"{sparse_rules.listed(v.layers)} ({v.rule})" for v in found)
    warnings.warn(
        f"The model {model.name!r} does not qualify for XNNPACK's sparse kernels yet. What no "
        f"rewrite can change without changing outputs: {names}. Pass report= for the reasons and "
        'remedies, or see tfc.inspect(tfc.convert(model), target="xnnpack-sparse").',
        stacklevel=3,
    )
