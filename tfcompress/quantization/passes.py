"""Passes over nodes: BatchNorm into kernels, activations into operators, one grid for joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcompress.graph.flow import Value
from tfcompress.quantization.nodes import Kept, Linear, Node, Operator
from tfcompress.quantization.primitives import PRIMITIVES
from tfcompress.transforms.sharing import shares_values


class Graph:
    """Nodes, and who makes and reads each tensor.

    Args:
        nodes: in an order in which they can be run.
        outputs: the tensors that the model returns.
    """

    def __init__(self, nodes: list[Node], outputs: list[Value]) -> None:
        self.nodes = nodes
        self.outputs = outputs
        self._same: dict[int, Value] = {}

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
        _take_paths(first, second)
        self.nodes.remove(second)

    def standing_for(self, value: Value) -> Value:
        """The tensor that holds this one's values now."""
        return self._same.get(id(value), value)

    def same(self, first: Operator, second: Operator) -> None:
        """The first node's output takes the place of the second's, which computes the same."""
        old, new = second.output, first.output
        self._same[id(old)] = new
        for node in self.nodes:
            node.inputs = [new if value is old else value for value in node.inputs]
        self.outputs[:] = [new if value is old else value for value in self.outputs]
        _take_paths(first, second)
        self.nodes.remove(second)

    def remove_dead(self) -> None:
        """Drops nodes that nothing reads."""
        readers = self.readers()
        for node in reversed(list(self.nodes)):
            if not any(readers.get(id(value)) for value in node.outputs):
                self.nodes.remove(node)
                for value in node.inputs:
                    readers[id(value)].remove(node)


def fold(graph: Graph, preserve: Sequence[str] = ()) -> None:
    """Takes a factor and a shift for each channel into the kernel before or behind them.

    But no factors into a kernel of shared values that are to stay shared (`preserve`) and that
    different factors for its inputs would multiply.

    The layers' own weights stay what they were, at their own size: a learning rate means what it
    meant in the float model.
    """
    for node in list(graph.nodes):
        if isinstance(node, Linear) and node in graph.nodes:
            _fold_batchnorm(graph, node)
    for node in list(graph.nodes):
        if isinstance(node, Linear) and node.affine is not None:
            _fold_ahead(graph, node, "clusters" in preserve)


def _fold_batchnorm(graph: Graph, node: Linear) -> None:
    steps, after = None, _only_reader(graph, node)
    if _makes_steps(after):
        assert after is not None
        steps, after = after, _only_reader(graph, after)
    if (
        isinstance(after, Linear)
        and after.affine is not None
        and after.norm is not None
        and after.activation is None
        and node.activation is None
        and node.norm is None
        and node.channels == after.channels
    ):
        node.norm = after.norm
        if node.affine is not None:
            scale, shift = node.affine.scale, node.affine.shift
            node.affine.scale = scale * after.affine.scale
            node.affine.shift = shift * after.affine.scale + after.affine.shift
        if steps is None:
            graph.merge(node, after)
        else:
            _take_paths(node, after)
            steps.outputs = after.outputs
            graph.nodes.remove(after)


def _fold_ahead(graph: Graph, node: Linear, keeps_shared: bool) -> None:
    """Where a layer sees no padding, or the shift is 0, what is done before it is linear too."""
    after = _only_reader(graph, node)
    if node.activation is not None or not isinstance(after, Linear) or after.kind == "transpose":
        return
    assert node.affine is not None
    padded = after.options.get("padding", "VALID") == "SAME" and after.kernel.shape[:2] != (1, 1)
    scale, shift = node.affine.scale, node.affine.shift
    if after.kernel.shape[2] != len(scale) or (padded and shift.any()):
        return
    varied = after.kind == "conv" and bool((scale != scale[0]).any())
    if keeps_shared and varied and shares_values(after.kernel, after.channel_axes):
        return
    kernel = after.kernel.astype(np.float64)
    if after.input_factor is not None:
        kernel = kernel * after.input_factor[:, None]
    if shift.any():
        added = (kernel * shift[:, None]).sum((0, 1))
        added = added.reshape(-1) if after.kind == "depthwise" else added.sum(0)
        after.added = added if after.added is None else after.added + added
    factor = scale if after.input_factor is None else after.input_factor * scale
    after.input_factor = factor.astype(np.float32)
    if after.affine is not None:
        after.affine.shift = after.affine.shift + after.affine.scale * shift
        after.affine.scale = after.affine.scale * scale
    after.inputs = node.inputs
    after.paths = [*node.paths, *after.paths]
    graph.nodes.remove(node)


def _only_reader(graph: Graph, node: Node) -> Node | None:
    readers = graph.readers().get(id(node.output), [])
    return readers[0] if len(readers) == 1 else None


def share_work(graph: Graph) -> None:
    """One node for operators that compute the same of the same, as the converter makes one."""
    seen: dict[Any, Operator] = {}
    for node in list(graph.nodes):
        if isinstance(node, Operator):
            constants = [(i, np.asarray(c).tobytes()) for i, c in sorted(node.constants.items())]
            options = (repr(sorted(node.arguments.items())), repr(constants))
            first = seen.setdefault((node.kind, *options, *map(id, node.inputs)), node)
            if first is not node:
                graph.same(first, node)


def fuse_activations(graph: Graph) -> None:
    """Takes ReLU and ReLU6 into the operator before them, where nothing else reads that.

    As the converter does: it looks through transpositions, and it gives a pool, whose output has
    its input's grid, the activation as a clip on that grid. What makes steps of rows is no matter
    either: it stands behind the operator in the emitted model.
    """
    makers, readers = graph.makers(), graph.readers()
    for node in list(graph.nodes):
        if not isinstance(node, Operator) or node.kind not in ("relu", "relu6"):
            continue
        last = before = makers.get(id(node.inputs[0]))
        alone = len(readers[id(node.inputs[0])]) == 1
        while alone and (_transposes(before) or _makes_steps(before)):
            assert before is not None
            alone = len(readers[id(before.inputs[0])]) == 1
            before = makers.get(id(before.inputs[0]))
        if before is None or last is None or not alone:
            continue
        if isinstance(before, Linear) and before.activation is None:
            before.activation = node.kind
        elif isinstance(before, Operator) and PRIMITIVES[before.kind].fuses:
            if before.arguments.get("activation"):
                continue
            before.arguments["activation"] = node.kind
        elif before is last and _pools(before):
            node.kind, node.arguments = "pool_activation", {"activation": node.kind}
            continue
        else:
            continue
        if before is last:
            graph.merge(last, node)
        else:
            _take_paths(before, node)
            last.outputs = node.outputs
            graph.nodes.remove(node)
        makers[id(last.output)] = last


def _take_paths(node: Node, other: Node) -> None:
    """The first does the work of the other's layers too."""
    node.paths += [path for path in other.paths if path not in node.paths]


def _makes_steps(node: Node | None) -> bool:
    """Whether it stands behind what a TimeDistributed holds; channels stay last."""
    return isinstance(node, Kept) and node.call.added is not None


def _transposes(node: Node | None) -> bool:
    if not isinstance(node, Kept):
        return False
    return type(node.operation).__name__ in ("Permute", "Transpose", "Swapaxes", "Moveaxis")


def _pools(node: Node) -> bool:
    if isinstance(node, Operator):
        return node.kind == "average_pool"
    return isinstance(node, Kept) and type(node.operation).__name__ in ("MaxPooling2D", "MaxPool")
