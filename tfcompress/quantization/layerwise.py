"""Each layer of a quantize-aware model beside the tensor of the file that it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.deploy.fidelity import LayerFidelity
from tfcompress.graph.calls import functional
from tfcompress.quantization.layers import QuantizedLayer, known
from tfcompress.quantization.linear_layer import QuantizedLinear
from tfcompress.runtime.exposure import stored_values
from tfcompress.runtime.model import TFLiteModel, input_infos, quantize


@dataclass(frozen=True)
class _Match:
    """A layer's call and its tensor in the file."""

    node: Any
    tensor: int
    operator: str
    scale: float
    zero_point: float


def compare_layers(
    model: keras.Model, tflite: TFLiteModel, inputs: Mapping[str, np.ndarray], nest: Any
) -> tuple[list[LayerFidelity], list[str]]:
    """Runs both on the same inputs, layer by layer.

    Args:
        model: a quantize-aware model.
        tflite: a file made of it.
        inputs: real values by the file's input names, (examples, ...), as many as are to be run.
        nest: the same as the model takes them.

    Returns:
        A row for each quantized layer whose tensor is found in the file, in order, and notes.
    """
    if functional(model) is None:
        return [], ["Layers of a subclassed model are not compared: its graph is not known."]
    matches, lost = _matched(model, tflite)
    if not matches:
        return [], ["No layer of the model was found in the file by its name and grid."]
    stored = []
    for info in input_infos(tflite.parsed):
        batch = info.shape[0] if info.shape else 1
        count = len(inputs[info.name]) // batch * batch
        runs = inputs[info.name][:count].reshape(-1, batch, *inputs[info.name].shape[1:])
        stored.append(quantize(runs, info))
    values = stored_values(tflite, [m.tensor for m in matches], stored)
    found = []
    for match, array in zip(matches, values, strict=True):
        shape = (-1, *(int(s) for s in match.node.outputs[0].shape[1:]))
        steps = array.reshape(shape).astype(np.float32) - np.float32(match.zero_point)
        real = steps * np.float32(match.scale)
        found.append(LayerValues(match.node, match.operator, match.scale, real))
    causes = {id(match.node): match for match in matches}
    rows = compare_values(model, found, nest, lambda node: _cause(causes[id(node)], tflite))
    return rows, not_found(lost)


@dataclass(frozen=True)
class LayerValues:
    """What a file computes for one layer.

    Attributes:
        node: the layer's call in the Keras model.
        operator: what computes it in the file.
        scale: of its grid.
        values: real ones, (examples, ...).
    """

    node: Any
    operator: str
    scale: float
    values: np.ndarray


def compare_values(
    model: keras.Model, found: list[LayerValues], nest: Any, cause: Callable[[Any], str]
) -> list[LayerFidelity]:
    """Runs each layer of a model on the values that a file has at its inputs.

    Args:
        model: a quantize-aware model, Functional.
        found: what the file computes, in order.
        nest: inputs as the model takes them, as many examples or more.
        cause: of a layer's difference, in words, by its call.

    Returns:
        A row for each.
    """
    real = {id(item.node.outputs[0]): item.values for item in found}
    count = len(found[0].values)
    given = [np.asarray(v)[:count] for v in keras.tree.flatten(nest)]
    starts = {id(t): v for t, v in zip(functional(model).inputs, given, strict=True)}
    rows = []
    for item, alone in zip(found, run_to(model, [f.node for f in found], given), strict=True):
        ours = _on_same_inputs(item.node, {**starts, **real})
        off = np.abs(np.rint((item.values - ours) / item.scale)).astype(np.int64)
        rows.append(
            LayerFidelity(
                name=item.node.operation.name,
                operator=item.operator,
                identical=float((off == 0).mean()),
                max_lsb=int(off.max()),
                mean_lsb=float(off.mean()),
                identical_so_far=float((np.abs(item.values - alone) < item.scale / 2).mean()),
                cause=cause(item.node) if off.any() else "",
            )
        )
    return rows


def run_to(model: keras.Model, nodes: list[Any], given: list[np.ndarray]) -> list[np.ndarray]:
    """What a model's layers compute from its inputs, by their calls."""
    part = keras.Model(functional(model).inputs, [node.outputs[0] for node in nodes])
    return [np.asarray(value) for value in keras.tree.flatten(part(given, training=False))]


def not_found(lost: list[str]) -> list[str]:
    """A note on layers that were not compared."""
    if not lost:
        return []
    return [f"Not found in the file, so not compared on their own: {', '.join(lost)}."]


def _matched(model: keras.Model, tflite: TFLiteModel) -> tuple[list[_Match], list[str]]:
    graph = tflite.parsed.subgraphs[0]
    found, lost = [], []
    named: dict[str, list[Any]] = {}
    for op in graph.operators:
        for index in op.outputs:
            tensor = graph.tensors[index]
            if tensor.dtype not in ("int8", "int16") or tensor.quantization is None:
                continue
            for part in re.split("[;/]", tensor.name):
                for name in {part, re.sub(r"_\d+$", "", part)}:
                    named.setdefault(name, []).append((tensor, op.name, name != part))
    for node in quantized_calls(model):
        layer = node.operation
        if layer.output_source is None:
            continue
        grid = known(layer.output_source)
        scale, zero = float(grid.scale), float(grid.zero_point)
        sizes = [s or 1 for s in node.outputs[0].shape[1:]]
        size = int(np.prod(sizes))
        fitting = [
            (tensor, operator, numbered)
            for tensor, operator, numbered in named.get(layer.name, [])
            if len(tensor.quantization.scales) == 1
            and np.float32(tensor.quantization.scales[0]) == np.float32(scale)
            and int(tensor.quantization.zero_points[0]) == zero
            and int(np.prod(tensor.shape)) == size * max(int(tensor.shape[0]), 1)
        ]
        if not fitting:
            lost.append(layer.name)
            continue
        # The exporter numbers names, by which they may come to be those of other layers.
        likely = [
            (_without_ones(tensor.shape[1:]) == _without_ones(sizes), numbered, name != "RESHAPE")
            for tensor, name, numbered in fitting
        ]
        tensor, operator, _ = fitting[likely.index(max(likely))]
        found.append(_Match(node, tensor.index, operator, scale, zero))
    return found, lost


def _without_ones(shape: Any) -> list[int]:
    return [int(size) for size in shape if size != 1]


def quantized_calls(model: keras.Model) -> list[Any]:
    """The calls of a quantize-aware model's layers, in order."""
    graph = functional(model)
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if isinstance(node.operation, QuantizedLayer)
    ]


def _on_same_inputs(node: Any, values: dict[int, np.ndarray]) -> np.ndarray:
    """What the layer makes of the file's values: through layers that only move them."""
    sources: list[Any] = []
    seen: set[int] = set()

    def visit(tensor: Any) -> None:
        if id(tensor) in seen:
            return
        seen.add(id(tensor))
        if id(tensor) in values:
            sources.append(tensor)
            return
        maker = tensor._keras_history
        for before in maker.operation._inbound_nodes[maker.node_index].input_tensors:
            visit(before)

    for tensor in node.input_tensors:
        visit(tensor)
    part = keras.Model(sources, node.outputs[0])
    return np.asarray(part([values[id(t)] for t in sources], training=False))


def _cause(match: _Match, tflite: TFLiteModel) -> str:
    layer = match.node.operation
    if isinstance(layer, QuantizedLinear) and not _same_weights(layer, tflite):
        return "The file holds other weights: the model was trained on after the conversion."
    if any(tensor.dtype == "int4" for tensor in tflite.parsed.subgraphs[0].tensors):
        return (
            "Weights stored in 4 bits run in TFLite's own kernels, which round twice; the same "
            "weights in 8 bits (precision 'int8') run in XNNPACK's, exactly."
        )
    if match.operator == "QUANTIZE" and layer.kind == "quantize":
        return "Its input is float: a last bit of it decides where it is close to a tie."
    if _float_operator(match, tflite):
        return "The converter left this layer in float: it found no integer form of it."
    if match.operator in ("MUL", "MEAN", "SUM", "SOFTMAX"):
        return "Its kernel rounds in another way on this processor (see README, Limits)."
    return "This runtime rounds in another way than the one that the model follows."


def _float_operator(match: _Match, tflite: TFLiteModel) -> bool:
    """Whether the layer's result was float before it was rounded."""
    graph = tflite.parsed.subgraphs[0]
    made = [op for op in graph.operators if match.tensor in op.outputs]
    return any(
        graph.tensors[index].dtype == "float32"
        for op in made
        if op.name == "QUANTIZE"
        for index in op.inputs
    )


def _same_weights(layer: QuantizedLinear, tflite: TFLiteModel) -> bool:
    """Whether the file holds its kernel; the file's order of the axes is another.

    Kernels of 4 bits are stored packed, and taken as the same.
    """
    kernel = layer.integers(known(layer.input_sources[0]))[0].numpy()
    wanted = np.sort(kernel.astype(np.int8), axis=None)
    for tensor in tflite.parsed.subgraphs[0].tensors:
        if int(np.prod(tensor.shape)) != wanted.size:
            continue
        if tensor.dtype == "int4":
            return True
        if tensor.dtype != "int8":
            continue
        data = tflite.parsed.data(tensor)
        if data is not None and np.array_equal(np.sort(data, axis=None), wanted):
            return True
    return False
