"""Which tensor lies on which grid."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tfcompress.graph.flow import Value
from tfcompress.quantization.nodes import Kept, Linear, Node, Operator, Table
from tfcompress.quantization.passes import Graph
from tfcompress.quantization.primitives import PRIMITIVES

_FLOATS = ("float", "bfloat")


@dataclass(eq=False)
class GridPlan:
    """A grid: that of a set of nodes' ranges, or a fixed one. Compare by `find`."""

    owners: list[Node] = field(default_factory=list)
    fixed: Any = None
    symmetric: bool = False
    merged: GridPlan | None = None

    def find(self) -> GridPlan:
        """The plan that this one has become part of."""
        return self if self.merged is None else self.merged.find()


class Plan:
    """Puts tensors on grids, and adds the nodes that this takes.

    Args:
        graph: folded and fused; nodes are added to it.
        inputs: the model's inputs.
        real_outputs: mark where the model's outputs leave their grids, as in a model whose
            outputs float operators read.
        bits: of activations, 8 or 16.
        symmetric: all grids have zero point 0; operators whose own grid has another stay float.
        kinds: the kinds of operators that are computed in integers; None for all that can be.

    Attributes:
        grids: `id` of each tensor that lies on a grid to its plan; others are float.
        outputs: `id` of each of the model's outputs to what stands for it now.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: list[Value],
        *,
        real_outputs: bool = False,
        bits: int = 8,
        symmetric: bool = False,
        kinds: Collection[str] | None = None,
    ) -> None:
        self.graph = graph
        self.bits = bits
        self.kinds = kinds
        self.symmetric = symmetric
        self.grids: dict[int, GridPlan] = {}
        self._on_grid: dict[int, Value] = {}
        self._real_values: dict[int, Value] = {}
        self._entered: dict[int, Value] = {}
        self._new: list[Node] = []
        readers = graph.readers()
        for value in inputs:
            found = [node for node in readers.get(id(value), []) if node is not None]
            if value.dtype.startswith(_FLOATS) and any(not _is_float(node) for node in found):
                self._entered[id(value)] = self._quantized(value, found[0])
        for node in graph.nodes:
            self._visit(node)
            self._new.append(node)
        makers = {id(value): node for node in self._new for value in node.outputs}
        self.outputs = {
            id(value): self._real(value, makers[id(value)])
            if real_outputs and id(value) in makers
            else value
            for value in graph.outputs
        }
        graph.nodes[:] = self._new
        graph.outputs[:] = list(self.outputs.values())

    def grid(self, value: Value) -> GridPlan | None:
        """The grid of a tensor, or None."""
        plan = self.grids.get(id(value))
        return plan and plan.find()

    def _visit(self, node: Node) -> None:
        if _is_float(node):
            node.inputs = [self._real(v, node) for v in node.inputs]
            return
        node.inputs = [self._entered.get(id(v), v) for v in node.inputs]
        if isinstance(node, Linear):
            node.inputs = [self._quantized(v, node) for v in node.inputs]
            self.grids[id(node.output)] = self._own_grid(node)
        elif isinstance(node, Table):
            self.grids[id(node.output)] = self._own_grid(node)
        elif isinstance(node, Operator):
            self._operator(node)
        elif isinstance(node, Kept) and node.moves:
            plan = self.grid(node.inputs[0])
            if plan is not None:
                for value in node.outputs:
                    self.grids[id(value)] = plan
        elif isinstance(node, Kept) and node.joins:
            self._join(node)

    def _operator(self, node: Operator) -> None:
        row = PRIMITIVES[node.kind]
        if row.integers(self.bits) is None or not self.computes(node.kind):
            node.inputs = [self._real(v, node) for v in node.inputs]
            return
        if row.takes == "anything":
            node.inputs = [self._quantized(v, node) for v in node.inputs]
        floats = row.takes == "floats" or (self.symmetric and off_centre(row.output))
        if floats or any(self.grid(v) is None for v in node.inputs):
            node.inputs = [self._real(v, node) for v in node.inputs]
            return
        if row.symmetric is not None:
            self._make_symmetric(node, row.symmetric)
        if row.fuses:
            self._tell_apart(node)
        output = row.output
        if output == "own":
            self.grids[id(node.output)] = self._own_grid(node)
        elif output == "same":
            self.grids[id(node.output)] = self.grids[id(node.inputs[0])]
        else:
            self.grids[id(node.output)] = GridPlan(fixed=output)

    def _tell_apart(self, node: Operator) -> None:
        """Two operands on one grid, as of a shared layer, that may both come from reshapes.

        The converter puts one reshape behind the operator in place of the two, and gives it its
        operands' grid, which it then refuses. A step between two equal grids keeps it from that.
        """
        if len(node.inputs) != 2 or self.grid(node.inputs[0]) is not self.grid(node.inputs[1]):
            return
        makers = {id(value): made for made in self._new for value in made.outputs}
        value = node.inputs[1]
        maker = makers.get(id(value))
        if isinstance(maker, Linear) and "tail" not in maker.options:
            return
        out = Value(value.shape, "float32")
        self._new.append(Operator(node.call, [value], [out], [], "requantize"))
        self.grids[id(out)] = self.grids[id(value)]
        node.inputs = [node.inputs[0], out]

    def computes(self, kind: str) -> bool:
        """Whether operators of that kind are to be computed in integers."""
        return self.kinds is None or kind in self.kinds

    def _own_grid(self, *owners: Node) -> GridPlan:
        """A grid that holds the ranges of these nodes."""
        return GridPlan(list(owners), symmetric=self.symmetric)

    def _make_symmetric(self, node: Operator, position: int) -> None:
        """Asks for zero point 0 where the grid can still have it: an own one of a layer."""
        plan = self.grid(node.inputs[position])
        assert plan is not None
        if plan.fixed is None:
            plan.symmetric = True

    def _real(self, value: Value, node: Node) -> Value:
        """The tensor as float, behind a boundary where it lies on a grid."""
        if self.grid(value) is None:
            return value
        if id(value) not in self._real_values:
            self._real_values[id(value)] = self._boundary(value, node)
        return self._real_values[id(value)]

    def _boundary(self, value: Value, node: Node) -> Value:
        """The tensor behind a mark between integers and float."""
        out = Value(value.shape, "float32")
        self._new.append(Operator(node.call, [value], [out], [], "dequantize"))
        return out

    def _quantized(self, value: Value, node: Node) -> Value:
        """The tensor on a grid: itself, or what a new node makes of it."""
        if self.grid(value) is not None:
            return value
        if id(value) not in self._on_grid:
            source, out = value, Value(value.shape, "float32")
            maker = self.graph.makers().get(id(value))
            if maker is not None and (self.bits == 16 or _carries(maker)):
                # The converter would put what made it on the grid too. In 16 bits it has no such
                # operators; in 8 bits their inputs would be rounded as well.
                source = self._boundary(value, node)
            added = Operator(node.call, [source], [out], [], "quantize")
            self._new.append(added)
            self.grids[id(out)] = self._own_grid(added)
            self._on_grid[id(value)] = out
        return self._on_grid[id(value)]

    def _join(self, node: Kept) -> None:
        """Inputs and output on one grid, by sharing it where that hurts nobody."""
        if any(self.grid(v) is None for v in node.inputs):
            node.inputs = [self._real(v, node) for v in node.inputs]
            return
        shared = self._own_grid()
        readers = self.graph.readers()
        moved: dict[int, Value] = {}
        for value in node.inputs:
            plan = self.grid(value)
            assert plan is not None
            if plan is shared.find() or id(value) in moved:
                continue
            if self._can_share(value, readers):
                _merge(shared.find(), plan)
                continue
            out = Value(value.shape, "float32")
            added = Operator(node.call, [value], [out], [], "requantize")
            self._new.append(added)
            self.grids[id(out)] = shared
            shared.find().owners.append(added)
            moved[id(value)] = out
        node.inputs = [moved.get(id(v), v) for v in node.inputs]
        for value in node.outputs:
            self.grids[id(value)] = shared

    def _can_share(self, value: Value, readers: dict[int, list[Any]]) -> bool:
        plan = self.grid(value)
        if plan is None or plan.fixed is not None:
            return False
        if any(isinstance(owner, Table) for owner in plan.owners):
            return False
        makers = self.graph.makers()
        maker = makers.get(id(value))
        if isinstance(maker, Kept) and maker.joins:
            return True
        tensors = [v for n in self.graph.nodes for v in n.outputs if self.grid(v) is plan]
        return all(
            isinstance(reader, Kept) and (reader.joins or reader.moves)
            for tensor in tensors
            for reader in readers.get(id(tensor), [])
        )


def _merge(shared: GridPlan, plan: GridPlan) -> None:
    shared.owners += [owner for owner in plan.owners if owner not in shared.owners]
    plan.merged = shared


def _is_float(node: Node) -> bool:
    return isinstance(node, Kept) and not (node.moves or node.joins)


def _carries(node: Node) -> bool:
    """Whether an operator's output has its input's grid, so that the converter moves one back."""
    return isinstance(node, Operator) and PRIMITIVES[node.kind].output == "same"


def off_centre(output: Any) -> bool:
    """Whether an operator's output has a fixed grid with a zero point other than 0."""
    return callable(output) and float(output().zero_point) != 0
