"""Constants of a quantized graph: kernels in the layout of their operators, biases as integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.onnx.links import (
    DEQUANTIZE,
    QUANTIZE,
    Links,
    attribute,
    output_axis,
    set_attribute,
)

_LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze")
_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")


def settle(model: Any, *, integer_biases: bool) -> None:
    """Brings kernels and biases into the form that runtimes look for.

    A kernel is an int8 constant and a DequantizeLinear right before its operator, so what lies
    between the two is computed ahead; a dense layer is one Gemm where its input is a matrix.

    Args:
        model: `onnx.ModelProto`; it is changed.
        integer_biases: store the bias of an operator whose input and kernel lie on grids as int32
            with a DequantizeLinear (scale: the product of both); else they stay float.
    """
    _store_kernels(model.graph)
    while _lay_out_one(model.graph):
        pass
    _join_dense(model.graph)
    _shield_loops(model.graph)
    if integer_biases:
        _store_biases(model.graph)
    _drop_unread(model.graph)


def _store_kernels(graph: Any) -> None:
    """A constant and its Quantize become the integers."""
    links = Links(graph)
    for node in list(graph.node):
        values = links.value(node.input[0]) if node.op_type == QUANTIZE else None
        if values is None:
            continue
        scale, zero_point = links.grid(node)
        assert scale is not None and zero_point is not None  # Constants, as tf2onnx writes them.
        axis = attribute(node, "axis", 1) % max(values.ndim, 1)
        spread = [-1 if i == axis else 1 for i in range(values.ndim)] if scale.ndim else []
        whole = np.rint(values.astype(np.float64) / scale.reshape(spread))
        whole = np.clip(whole + zero_point.reshape(spread), -128, 127).astype(np.int8)
        name = _constant(graph, links, f"{node.input[0]}/integers", whole)
        for reader in links.readers[node.output[0]]:
            reader.input[0] = name
            if len(reader.input) > 2:
                # Its own: ONNX Runtime replaces a kernel's zero point in place, and once only.
                reader.input[2] = _constant(graph, links, f"{name}/zero", zero_point)
        graph.node.remove(node)


def _lay_out_one(graph: Any) -> bool:
    """Takes one operator behind a constant's DequantizeLinear into the constant."""
    links = Links(graph)
    for node in graph.node:
        if node.op_type != DEQUANTIZE:
            continue
        integers, (scale, _) = links.value(node.input[0]), links.grid(node)
        after = links.alone(node.output[0])
        if integers is None or scale is None or after is None or after.op_type not in _LAYOUT:
            continue
        moved = _moved(after, integers, links)
        if moved is None:
            continue
        if scale.ndim:
            axis = attribute(node, "axis", 1) % integers.ndim
            spread = scale.reshape([-1 if i == axis else 1 for i in range(integers.ndim)])
            numbers = np.broadcast_to(np.arange(len(scale)).reshape(spread.shape), integers.shape)
            found = _axis_of(_moved(after, numbers, links), len(scale))
            if found is None:
                continue
            set_attribute(node, "axis", found)
        node.input[0] = _constant(graph, links, f"{node.output[0]}/integers", moved)
        node.output[0] = after.output[0]
        graph.node.remove(after)
        return True
    return False


def _moved(node: Any, values: np.ndarray, links: Links) -> np.ndarray | None:
    """What the operator makes of a constant; None where that is not known ahead."""
    if node.op_type == "Transpose":
        return np.ascontiguousarray(np.transpose(values, attribute(node, "perm")))
    given = links.value(node.input[1]) if len(node.input) > 1 else None
    if node.op_type == "Reshape":
        if given is None or (given == 0).any():
            return None
        return np.reshape(values, [int(size) for size in given])
    if given is None:
        return None
    axes = tuple(int(axis) for axis in given.reshape(-1))
    return np.squeeze(values, axes) if node.op_type == "Squeeze" else np.expand_dims(values, axes)


def _axis_of(numbers: np.ndarray | None, count: int) -> int | None:
    """The axis along which the numbers 0 to count - 1 run, the same for all other indices."""
    if numbers is None:
        return None
    for axis, size in enumerate(numbers.shape):
        shape = [-1 if i == axis else 1 for i in range(numbers.ndim)]
        if size == count and (numbers == np.arange(count).reshape(shape)).all():
            return axis
    return None


def _join_dense(graph: Any) -> None:
    """MatMul and the addition of a constant vector become a Gemm, where the input is a matrix."""
    from onnx import helper

    links = Links(graph)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in _values(graph)}
    for node in list(graph.node):
        if node.op_type != "MatMul":
            continue
        after, kernel = links.alone(node.output[0]), links.makers.get(node.input[1])
        if kernel is None or kernel.op_type != DEQUANTIZE or after is None:
            continue
        integers = links.value(kernel.input[0])
        others = [name for name in after.input if name != node.output[0]]
        bias = links.value(others[0]) if after.op_type == "Add" and len(others) == 1 else None
        if bias is None or bias.ndim != 1 or integers is None or integers.ndim != 2:
            continue
        if ranks.get(node.input[0], ranks.get(node.output[0])) != 2:
            continue
        joined = helper.make_node(
            "Gemm", [*node.input, others[0]], [after.output[0]], name=f"{node.name}/Gemm"
        )
        graph.node.insert(list(graph.node).index(after), joined)
        graph.node.remove(node)
        graph.node.remove(after)


def _values(graph: Any) -> list[Any]:
    return [*graph.input, *graph.value_info, *graph.output]


def _shield_loops(graph: Any) -> None:
    """A sum of one term before what a loop's body reads from a grid.

    ONNX Runtime (1.32) moves a DequantizeLinear towards its readers, takes a body's reading for
    one of the Loop's own inputs, and aborts the process.
    """
    from onnx import helper

    links = Links(graph)
    for name in sorted(links.inner):
        source = links.source(name)
        if source is None or source.op_type != DEQUANTIZE or links.value(name) is not None:
            continue
        maker = links.makers[name]
        bare = f"{name}/moved"
        place = list(graph.node).index(maker) + 1
        for index, output in enumerate(maker.output):
            if output == name:
                maker.output[index] = bare
        graph.node.insert(place, helper.make_node("Sum", [bare], [name], name=f"{name}/Sum"))


def _store_biases(graph: Any) -> None:
    from onnx import helper

    links = Links(graph)
    for node in list(graph.node):
        if node.op_type not in _WITH_BIAS or len(node.input) < 3:
            continue
        bias, step = links.value(node.input[2]), _step(node, links)
        if bias is None or step is None or bias.shape != step.shape:
            continue
        integers = np.rint(bias.astype(np.float64) / step)
        if np.abs(integers).max(initial=0) >= 2**31:
            continue
        base = f"{node.output[0]}/bias"
        names = [
            _constant(graph, links, f"{base}/integers", integers.astype(np.int32)),
            _constant(graph, links, f"{base}/scale", step.astype(np.float32)),
        ]
        added = helper.make_node(DEQUANTIZE, names, [base], name=base, axis=0)
        graph.node.insert(list(graph.node).index(node), added)
        node.input[2] = base


def _step(node: Any, links: Links) -> np.ndarray | None:
    """The step of an operator's sums, float64 (channels,); None where they are no integers."""
    scales = []
    for index in (0, 1):
        source = links.source(node.input[index])
        if source is None or source.op_type != DEQUANTIZE:
            return None
        scale, _ = links.grid(source)
        if scale is None:
            return None
        scales.append(scale.astype(np.float64))
    kernel = links.makers[node.input[1]]
    integers = links.value(kernel.input[0]) if kernel.op_type == DEQUANTIZE else None
    if integers is None or scales[0].ndim or scales[1].ndim != 1:
        return None
    axis = output_axis(node, 1, integers.ndim)
    if attribute(kernel, "axis", 1) % integers.ndim != axis:
        return None
    return np.asarray(scales[0] * scales[1])


def _constant(graph: Any, links: Links, name: str, value: np.ndarray) -> str:
    from onnx import numpy_helper

    base, count = name, 1
    while name in links.tensors or name in links.makers:
        name, count = f"{base}_{count}", count + 1
    tensor = numpy_helper.from_array(value, name)
    graph.initializer.append(tensor)
    links.tensors[name] = tensor
    return name


def _drop_unread(graph: Any) -> None:
    links = Links(graph)
    read = {*links.readers, *links.inner, *links.outputs}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
