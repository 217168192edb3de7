"""`strip`: a tf_keras model without the wrappers of tensorflow-model-optimization."""

from __future__ import annotations

from typing import Any

from tfcompress.legacy.nodes import flat, mapped, nodes, walk
from tfcompress.legacy.packages import check_graph2, keras2, tfmot

_PRUNED = ("PruneLowMagnitude",)
_CLUSTERED = ("ClusterWeights", "ClusterWeightsRNN", "ClusterWeightsMHA")
_QUANTIZED = ("QuantizeWrapper", "QuantizeWrapperV2", "QuantizeLayer", "QuantizeAnnotate")


def wrapped_by(model: Any) -> list[str]:
    """What tensorflow-model-optimization has wrapped in a model, and what stripping makes of it."""
    kinds = {type(layer).__name__ for _, layer in walk(model)}
    found = []
    if kinds & set(_PRUNED):
        found.append("stripped of pruning: the zeros are in the weights, masks no longer hold them")
    if kinds & set(_CLUSTERED):
        found.append("stripped of clustering: the shared values are in the weights, and free")
    if kinds & set(_QUANTIZED):
        found.append(
            "stripped of quantization: the trained float weights stay, the trained ranges are "
            "lost; quantize_aware finds them anew"
        )
    return found


def strip(model: Any) -> Any:
    """A tf_keras model of plain layers, whichever wrappers of tfmot it held.

    Pruned and clustered models compute the same as before. A quantize-aware model becomes the
    float model that was trained inside it: its ranges are gone.

    Args:
        model: what `prune`, `cluster` or `quantize_aware` of this module or of tfmot returned.
            Models nested in it are stripped too.

    Returns:
        The model, not compiled. As tfmot's own `strip_pruning` does it, layers that are no longer
        wrapped belong to both models.

    Raises:
        ModelTypeError: no tf_keras model whose graph is known.

    Example:
        >>> plain = tfc.legacy.strip(pruned)

    Source: tensorflow-model-optimization's `strip_pruning` and `strip_clustering`.
    """
    check_graph2(model)
    tools = tfmot()
    kinds = {type(layer).__name__ for _, layer in walk(model)}
    if kinds & set(_PRUNED):
        model = tools.sparsity.keras.strip_pruning(model)
    if kinds & set(_CLUSTERED):
        model = tools.clustering.keras.strip_clustering(model)
    if kinds & set(_QUANTIZED):
        model = _without_quantization(model)
    return model


def _without_quantization(model: Any) -> Any:
    """The graph anew, with the layers that were wrapped, and without what quantized its inputs."""
    keras = keras2()
    plain: dict[int, Any] = {}
    for _, layer in walk(model):
        kind = type(layer).__name__
        if kind in _QUANTIZED and kind != "QuantizeLayer":
            plain[id(layer)] = _float_layer(layer)
    if isinstance(model, keras.Sequential):
        first = model.inputs[0]
        kept = [layer for layer in model.layers if type(layer).__name__ != "QuantizeLayer"]
        chain = [plain.get(id(layer), layer) for layer in kept]
        start = keras.Input(batch_size=first.shape[0], shape=first.shape[1:], dtype=first.dtype)
        result = keras.Sequential([start, *chain], name=model.name)
    else:
        result = _rewired(model, plain)
    for _, layer in walk(model):
        if id(layer) in plain:
            _give_weights(layer, plain[id(layer)])
    return result


def _rewired(model: Any, plain: dict[int, Any]) -> Any:
    keras = keras2()
    values: dict[int, Any] = {}
    for tensor in model.inputs:
        values[id(tensor)] = keras.Input(
            batch_size=tensor.shape[0],
            shape=tensor.shape[1:],
            dtype=tensor.dtype,
            name=tensor._keras_history.layer.name,
        )

    def leaf(value: Any) -> Any:
        return values[id(value)] if hasattr(value, "_keras_history") else value

    for node in nodes(model):
        args, kwargs = mapped(leaf, list(node.call_args)), mapped(leaf, dict(node.call_kwargs))
        if type(node.layer).__name__ == "QuantizeLayer":
            outputs = [args[0]]
        else:
            outputs = flat(plain.get(id(node.layer), node.layer)(*args, **kwargs))
        values.update(zip(map(id, flat(node.outputs)), outputs, strict=True))
    inputs, outputs = mapped(leaf, model._nested_inputs), mapped(leaf, model._nested_outputs)
    return keras.Model(inputs, outputs, name=model.name)


def _float_layer(wrapper: Any) -> Any:
    """The wrapped layer anew, with its own activation instead of the quantizing one."""
    activation = getattr(wrapper.layer, "activation", None)
    own = activation
    while hasattr(own, "quantizer") or type(own).__name__ == "NoOpActivation":
        own = getattr(own, "activation", keras2().activations.linear)
    if own is not activation:
        wrapper.layer.activation = own
    try:
        config = wrapper.layer.get_config()
    finally:
        if own is not activation:
            wrapper.layer.activation = activation
    return type(wrapper.layer).from_config(config)


def _give_weights(wrapper: Any, layer: Any) -> None:
    """The trained weights, as the quantizer keeps their zeros and shared values."""
    values = {weight.name.split("/")[-1]: weight for weight in wrapper.weights}
    for weight, _, kept in getattr(wrapper, "_weight_vars", ()):
        value = weight
        if "clst_impl" in kept:
            value = kept["clst_impl"].get_clustered_weight(
                kept["pulling_indices_tf"], kept["ori_weights_vars_tf"]
            )
        if "sparsity_mask" in kept:
            value = value * kept["sparsity_mask"]
        values[weight.name.split("/")[-1]] = value
    for weight in layer.weights:
        weight.assign(values[weight.name.split("/")[-1]])
    layer.trainable = wrapper.layer.trainable
