"""`Regions`: parts of a model's graph that can be cut out, and the tensors at their ends."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import keras

from tfcompress.graph.calls import functional, is_graph
from tfcompress.graph.distributed import holds_graph


class Regions:
    """The graph of one Functional or Sequential model, nested models counted as one layer.

    Args:
        model: the model.
        prefix: the names of the models that hold it, each with a "/" behind it.

    Attributes:
        model: likewise.
        prefix: likewise.
        nodes: its calls, in order.
    """

    def __init__(self, model: Any, prefix: str = "") -> None:
        graph = functional(model)
        self.model, self.prefix = model, prefix
        self.nodes = [
            node
            for depth in sorted(graph._nodes_by_depth, reverse=True)
            for node in graph._nodes_by_depth[depth]
            if not node.is_input and node.operation is not None
        ]
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._makers = {id(tensor): node for node in self.nodes for tensor in node.outputs}
        self._readers: dict[int, list[Any]] = {}
        for node in self.nodes:
            for tensor in distinct(node.input_tensors):
                self._readers.setdefault(id(tensor), []).append(node)

    def path(self, node: Any) -> str:
        """The path of what a node calls."""
        return f"{self.prefix}{node.operation.name}"

    def of(self, operation: Any) -> list[Any]:
        """The calls of a layer or operation."""
        return [node for node in self.nodes if node.operation is operation]

    def maker(self, tensor: Any) -> Any:
        """The node that makes a tensor; None for an input."""
        return self._makers.get(id(tensor))

    def readers(self, tensor: Any) -> list[Any]:
        """The nodes that read a tensor."""
        return self._readers.get(id(tensor), [])

    def is_output(self, tensor: Any) -> bool:
        """Whether a tensor is an output of the model."""
        return id(tensor) in self._outputs

    def behind(self, tensor: Any) -> list[Any]:
        """All nodes that depend on a tensor, in order."""
        reached = {id(tensor)}
        found = []
        for node in self.nodes:
            if reached.intersection(map(id, node.input_tensors)):
                reached.update(map(id, node.outputs))
                found.append(node)
        return found

    def before(self, tensor: Any) -> list[Any]:
        """All nodes that a tensor depends on, in order."""
        wanted = {id(tensor)}
        found = []
        for node in reversed(self.nodes):
            if wanted.intersection(map(id, node.outputs)):
                wanted.update(map(id, node.input_tensors))
                found.append(node)
        return found[::-1]

    def between(self, entry: Any, exit: Any) -> list[Any]:
        """The nodes by which one tensor depends on another."""
        inside = {id(node) for node in self.before(exit)}
        return [node for node in self.behind(entry) if id(node) in inside]

    def parts(self, chosen: Collection[int]) -> list[list[Any]]:
        """The nodes of these operations (by `id`), those that feed each other together."""
        nodes = [node for node in self.nodes if id(node.operation) in chosen]
        group = {id(node): number for number, node in enumerate(nodes)}
        for node in nodes:
            for tensor in node.input_tensors:
                maker = self.maker(tensor)
                if maker is not None and id(maker) in group:
                    old, new = group[id(maker)], group[id(node)]
                    group = {key: new if one == old else one for key, one in group.items()}
        found: dict[int, list[Any]] = {}
        for node in nodes:
            found.setdefault(group[id(node)], []).append(node)
        return list(found.values())

    def entries(self, part: Iterable[Any]) -> list[Any]:
        """The tensors that nodes read from outside."""
        part = list(part)
        inside = {id(tensor) for node in part for tensor in node.outputs}
        tensors = [tensor for node in part for tensor in node.input_tensors]
        return [tensor for tensor in distinct(tensors) if id(tensor) not in inside]

    def exits(self, part: Iterable[Any]) -> list[Any]:
        """The tensors of nodes that are read from outside."""
        part = list(part)
        inside = {id(node) for node in part}
        return [
            tensor
            for node in part
            for tensor in node.outputs
            if self.is_output(tensor)
            or any(id(reader) not in inside for reader in self.readers(tensor))
        ]


def distinct(tensors: Iterable[Any]) -> list[Any]:
    """Each tensor once, in order."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def all_regions(model: Any) -> list[Regions]:
    """The graphs of a model and of those nested in it, each once."""
    found: list[Regions] = []
    seen: set[int] = set()

    def visit(one: Any, prefix: str) -> None:
        seen.add(id(one))
        regions = Regions(one, prefix)
        found.append(regions)
        for node in regions.nodes:
            nested, path = node.operation, f"{prefix}{node.operation.name}/"
            while holds_graph(nested):
                nested = nested.layer
                path += f"{nested.name}/"
            if is_graph(nested) and id(nested) not in seen:
                visit(nested, path)

    visit(model, "")
    return found


def agree(one: keras.KerasTensor, other: keras.KerasTensor) -> bool:
    """Whether a tensor can stand for another: shape and dtype."""
    return tuple(one.shape) == tuple(other.shape) and one.dtype == other.dtype
