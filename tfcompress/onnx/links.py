"""Who makes and who reads each tensor of an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np

MOVING = frozenset(
    {
        "Concat",
        "Flatten",
        "Gather",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "Pad",
        "ReduceMax",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that take values from their input as they are, so that these stay on its grid."""

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class Links:
    """A graph's links, as they were when this was made.

    Args:
        graph: `onnx.GraphProto`; of its subgraphs (loops) only what they read is known.
    """

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.makers = {name: node for node in graph.node for name in node.output}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.readers: dict[str, list[Any]] = {}
        self.inner: set[str] = set()
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        _collect(graph, self.inner, False)
        self.outputs = {value.name for value in graph.output}

    def alone(self, name: str) -> Any:
        """The one node that reads a tensor; None where others do, or it is an output."""
        found = self.readers.get(name, [])
        if len(found) != 1 or name in self.outputs or name in self.inner:
            return None
        return found[0]

    def value(self, name: str) -> np.ndarray | None:
        """A constant's value; None for what is computed."""
        from onnx import numpy_helper

        if name in self.tensors:
            return np.asarray(numpy_helper.to_array(self.tensors[name]))
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            for attribute in maker.attribute:
                if attribute.name == "value":
                    return np.asarray(numpy_helper.to_array(attribute.t))
        return None

    def source(self, name: str) -> Any:
        """The node that makes a tensor's values: through operators that only move them."""
        maker = self.makers.get(name)
        while maker is not None and maker.op_type in MOVING and maker.input[0] in self.makers:
            maker = self.makers[maker.input[0]]
        return maker

    def grid(self, node: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Scale and zero point of a Quantize or Dequantize; None for what is computed."""
        scale = self.value(node.input[1])
        if len(node.input) < 3 or not node.input[2]:
            return scale, np.zeros((), np.int8)
        return scale, self.value(node.input[2])


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    from onnx import helper

    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def set_attribute(node: Any, name: str, value: Any) -> None:
    """Gives a node's attribute another value."""
    from onnx import helper

    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def output_axis(node: Any, index: int, rank: int) -> int | None:
    """Along which axis an operator's operand has its output channels; None for no kernel.

    Args:
        node: a node.
        index: of the operand.
        rank: of the operand.
    """
    if index != 1:
        return None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op_type)


def _collect(graph: Any, found: set[str], inner: bool) -> None:
    for node in graph.node:
        if inner:
            found.update(node.input)
        for item in node.attribute:
            if item.HasField("g"):
                _collect(item.g, found, True)
                found.update(value.name for value in item.g.output)
