"""Subclassed models: their graph is not known, so each layer they hold is quantized on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfcompress import registry
from tfcompress.graph import attributes
from tfcompress.graph.calls import is_graph
from tfcompress.graph.copying import copy_model
from tfcompress.quantization.linear_layer import QuantizedLinear
from tfcompress.quantization.model import QuantizedModel
from tfcompress.report import CompressionReport
from tfcompress.transforms.model import driven

_ALONE = "it has no kernel of its own, or is called with several inputs"
QuantizeGraph = Callable[[keras.Model, str], QuantizedModel]


def quantize_layers(
    model: keras.Model,
    quantize_graph: QuantizeGraph,
    left: Mapping[str, str],
    report: CompressionReport,
) -> Any:
    """A copy of the model whose attributes hold quantized layers.

    A Functional or Sequential model that it holds is quantized as a whole; a layer with a kernel
    becomes a small model of its own, with its input and output on grids. What its `call` computes
    between them stays float.

    Args:
        model: a built subclassed model; it does not change.
        quantize_graph: makes a quantize-aware model of a graph under a name; it adds the entries
            of what the graph holds to the report.
        left: name of each layer that is to stay float, to the reason.
        report: gets an entry for each layer.

    Returns:
        The copy, which saves and loads with what was put in place.

    Raises:
        ModelTypeError: it cannot be rebuilt from its config.
    """
    copy = copy_model(model).model
    made: dict[int, Any] = {}
    for path, layer in attributes.layers(copy):
        if id(layer) not in made:
            made[id(layer)] = _quantized(layer, quantize_graph, left, report)
        if made[id(layer)] is not None:
            attributes.put(copy, path, made[id(layer)])
    report.notes.append(
        f"{model.name!r} is subclassed: its layers are quantized one by one. What its call does "
        "between them (activations, sums, pooling) stays float, with a QUANTIZE and a DEQUANTIZE "
        "around each layer. Built with the functional API it would be int8 throughout."
    )
    return driven(copy, report)


def _quantized(
    layer: Any, quantize_graph: QuantizeGraph, left: Mapping[str, str], report: CompressionReport
) -> QuantizedModel | None:
    kind = type(layer).__name__
    if layer.name in left:
        report.add(layer.name, kind, "left", left[layer.name])
        return None
    if is_graph(layer):
        return quantize_graph(layer, layer.name)
    graph = _as_graph(layer) if registry.kernels(layer) else None
    before = len(report.entries)
    result = None if graph is None else quantize_graph(graph, layer.name)
    if result is not None and any(isinstance(own, QuantizedLinear) for own in result.layers):
        return result
    reasons = [entry.reason for entry in report.entries[before:] if entry.action == "left"]
    del report.entries[before:]
    report.add(layer.name, kind, "left", (*reasons, _ALONE)[0])
    return None


def _as_graph(layer: Any) -> keras.Model | None:
    """The layer as a model of one call, where it was built for one input of known rank."""
    config = layer.get_build_config() if layer.built else None
    shape = (config or {}).get("input_shape")
    if not shape or not all(size is None or isinstance(size, int) for size in shape):
        return None
    inputs = keras.Input(batch_shape=(None, *shape[1:]))
    try:
        return keras.Model(inputs, layer(inputs))
    except Exception:
        # Whatever a user's own layer raises: it stays as it is.
        return None
