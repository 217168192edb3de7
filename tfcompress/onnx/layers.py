"""Each layer of a quantize-aware model beside the tensor of the ONNX graph that it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfcompress.deploy.fidelity import LayerFidelity
from tfcompress.graph.calls import functional
from tfcompress.onnx.links import QUANTIZE, Links
from tfcompress.onnx.model import OnnxModel
from tfcompress.quantization.layers import grid_name, known
from tfcompress.quantization.layerwise import (
    LayerValues,
    compare_values,
    not_found,
    quantized_calls,
    run_to,
)

_CAUSE = (
    "ONNX Runtime computes and rounds this operator in its own way (float sums, another order, or "
    "ties to even)."
)


def compare_layers(
    model: keras.Model, file: OnnxModel, inputs: Mapping[str, np.ndarray], nest: Any
) -> tuple[list[LayerFidelity], list[str]]:
    """Runs both on the same inputs, layer by layer.

    Args:
        model: a quantize-aware model.
        file: what `tfc.to_onnx` made of it.
        inputs: real values by input name.
        nest: the same as the model takes them.

    Returns:
        A row for each layer whose tensor is found in the graph, in order, and notes.
    """
    if functional(model) is None:
        return [], ["Layers of a subclassed model are not compared: its graph is not known."]
    links = Links(file.proto.graph)
    named = {node.name.split("/")[0]: node for node in links.graph.node if node.op_type == QUANTIZE}
    calls = [c for c in quantized_calls(model) if c.operation.output_source is not None]
    found = [c for c in calls if grid_name(c.operation.name) in named]
    lost = [c.operation.name for c in calls if c not in found]
    if not found:
        return [], not_found(lost)
    nodes = [named[grid_name(call.operation.name)] for call in found]
    names = [node.output[0] for node in nodes]
    values = file.run(names, dict(inputs), _exposed(file.proto, names))
    given = [np.asarray(value) for value in keras.tree.flatten(nest)]
    rows = []
    for call, node, array, ours in zip(
        found, nodes, values, run_to(model, found, given), strict=True
    ):
        grid = known(call.operation.output_source)
        scale = float(grid.scale)
        real = (array.astype(np.float32) - np.float32(grid.zero_point)) * np.float32(scale)
        before = links.makers.get(node.input[0])
        operator = "QuantizeLinear" if before is None else before.op_type
        rows.append(LayerValues(call, operator, scale, _as_keras(real, ours)))
    return compare_values(model, rows, nest, lambda call: _CAUSE), not_found(lost)


def _named(links: Links) -> dict[str, Any]:
    """The nodes that put layers' outputs on their grids, by `grid_name`.

    tf2onnx moves some of them through other operators, which leaves the name of the scale only.
    """
    nodes = [node for node in links.graph.node if node.op_type == QUANTIZE]
    found = {node.name.split("/")[0]: node for node in nodes}
    for node in nodes:
        scale = next((p for p in node.input[1].split("/") if p.startswith("grid.")), "")
        if not node.name.startswith("grid.") and scale:
            found.setdefault(scale, node)
    return found


def _exposed(proto: Any, names: list[str]) -> bytes:
    """The model with these int8 tensors as its outputs."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None) for name in names
    )
    return bytes(copy.SerializeToString())


def _as_keras(values: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Values in Keras's order of the axes: the graph has channels first in places.

    Where several orders fit the shape it is the one that is nearest: another one is far off.
    """
    wanted = ours
    if values.ndim != ours.ndim:  # A sequence is an image of one row in the graph.
        values, wanted = (
            array.reshape(len(array), *(size for size in array.shape[1:] if size > 1))
            for array in (values, ours)
        )
    orders = [(0, *order) for order in itertools.permutations(range(1, values.ndim))]
    fitting = [order for order in orders if np.transpose(values, order).shape == wanted.shape]
    if not fitting:
        return values.reshape(ours.shape)
    moved = [np.transpose(values, order) for order in fitting]
    nearest = min(moved, key=lambda item: float(np.abs(item - wanted).mean()))
    return nearest.reshape(ours.shape)
