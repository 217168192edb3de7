"""Passes over nodes: BatchNorm into kernels, activations into operators, one grid for joins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras.layers import BatchNormalization

from tfcompress.graph.flow import Value
from tfcompress.quantization.nodes import Kept, Linear, Node, Operator
from tfcompress.quantization.primitives import PRIMITIVES


class Graph:
    """Nodes, and who makes and reads each tensor.

    Args:
        nodes: in an order in which they can be run.
        outputs: the tensors that the model returns.
    """

    def __init__(self, nodes: list[Node], outputs: list[Value]) -> None:
        self.nodes = nodes
        self.outputs = outputs

    def makers(self) -> dict[int, Node]:
        """`id` of each tensor to the node that makes it."""
        return {id(value): node for node in self.nodes for value in node.outputs}

    def readers(self) -> dict[int, list[Any]]:
        """`id` of each tensor to the nodes that read it; None stands for the model's output."""
        found: dict[int, list[Any]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(id(value), []).append(node)
        for value in self.outputs:
            found.setdefault(id(value), []).append(None)
        return found

    def merge(self, first: Node, second: Node) -> None:
        """The first node does the second's work too, and makes its output."""
        first.outputs = second.outputs
        first.call = second.call
        first.paths += [path for path in second.paths if path not in first.paths]
        self.nodes.remove(second)

    def remove_dead(self) -> None:
        """Drops nodes that nothing reads."""
        readers = self.readers()
        for node in reversed(list(self.nodes)):
            if not any(readers.get(id(value)) for value in node.outputs):
                self.nodes.remove(node)
                for value in node.inputs:
                    readers[id(value)].remove(node)


def fold(graph: Graph, *, live: bool = False) -> None:
    """Takes a factor and a shift for each channel into the kernel before or behind them.

    Args:
        graph: is changed.
        live: a BatchNormalization behind a kernel goes on being trained.
    """
    _fold_back(graph, live)
    _fold_ahead(graph)


def _fold_back(graph: Graph, live: bool) -> None:
    for node in list(graph.nodes):
        if not isinstance(node, Linear) or node not in graph.nodes:
            continue
        while True:
            after = _only_reader(graph, node)
            if not (
                isinstance(after, Linear)
                and after.affine is not None
                and after.activation is None
                and node.activation is None
                and node.channels == after.channels
                and node.norm is None
            ):
                break
            if live and node.affine is None and isinstance(after.owner, BatchNormalization):
                node.norm = after.owner
                graph.merge(node, after)
                break
            node.fold(after.affine)
            if node.affine is not None:  # Two of a kind are one of it.
                scale, shift = node.affine.scale, node.affine.shift
                node.affine.scale = scale * after.affine.scale
                node.affine.shift = shift * after.affine.scale + after.affine.shift
            graph.merge(node, after)


def _fold_ahead(graph: Graph) -> None:
    """Where a layer sees no padding, or the shift is 0, what is done before it is linear too."""
    for node in list(graph.nodes):
        if not isinstance(node, Linear) or node.affine is None or node.activation is not None:
            continue
        after = _only_reader(graph, node)
        if not isinstance(after, Linear) or after.kind == "transpose":
            continue
        padded = after.options.get("padding", "VALID") == "SAME" and after.kernel.shape[:2] != (1, 1)
        scale, shift = node.affine.scale, node.affine.shift
        channels = after.kernel.shape[2]
        if channels != len(scale) or (padded and shift.any()):
            continue
        kernel = after.kernel.astype("float64")
        added = (kernel * shift[:, None]).sum((0, 1))
        added = added.reshape(-1) if after.kind == "depthwise" else added.sum(0)
        bias = 0.0 if after.bias is None else after.bias.astype("float64")
        if shift.any() or after.bias is not None:
            after.bias = (bias + added).astype("float32")
        after.kernel = (kernel * scale[:, None]).astype("float32")
        after.inputs = node.inputs
        after.paths = [*node.paths, *after.paths]
        graph.nodes.remove(node)


def _only_reader(graph: Graph, node: Node) -> Node | None:
    readers = graph.readers().get(id(node.output), [])
    return readers[0] if len(readers) == 1 else None


def fuse_activations(graph: Graph) -> None:
    """Takes ReLU and ReLU6 into the operator before them, where nothing else reads that."""
    makers, readers = graph.makers(), graph.readers()
    for node in list(graph.nodes):
        if not isinstance(node, Operator) or node.kind not in ("relu", "relu6"):
            continue
        before = makers.get(id(node.inputs[0]))
        if before is None or len(readers[id(node.inputs[0])]) != 1:
            continue
        if isinstance(before, Linear) and before.activation is None:
            before.activation = node.kind
        elif isinstance(before, Operator) and PRIMITIVES[before.kind].fuses:
            if before.arguments.get("activation"):
                continue
            before.arguments["activation"] = node.kind
        else:
            continue
        graph.merge(before, node)
        makers[id(before.output)] = before


def floats(nodes: Iterable[Node]) -> list[Kept]:
    """The nodes that stay float."""
    return [n for n in nodes if isinstance(n, Kept) and n.reason]
