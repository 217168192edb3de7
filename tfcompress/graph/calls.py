"""`Calls`: who makes and who reads each tensor of a model."""

from __future__ import annotations

from typing import Any

import keras


class Calls:
    """Who makes and who reads each tensor of a Functional or Sequential model.

    Args:
        model: the model; nested models count as one layer.
    """

    def __init__(self, model: keras.Model) -> None:
        graph = functional(model)
        nodes = [node for depth in graph._nodes_by_depth.values() for node in depth]
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._makers: dict[int, Any] = {}
        self._readers: dict[int, list[Any]] = {}
        self._by_layer: dict[int, list[Any]] = {}
        self.layers: list[keras.Layer] = []
        for node in nodes:
            if node.is_input:
                continue
            calls = self._by_layer.setdefault(id(node.operation), [])
            if not calls and isinstance(node.operation, keras.Layer):
                self.layers.append(node.operation)
            calls.append(node)
            for tensor in node.outputs:
                self._makers[id(tensor)] = node.operation
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(node.operation)

    def of(self, layer: keras.Layer) -> list[tuple[Any, Any]]:
        """(input, output) of each call of a layer that has one input and one output."""
        return [(node.input_tensors[0], node.outputs[0]) for node in self._by_layer[id(layer)]]

    def maker(self, tensor: Any) -> Any:
        """The layer or operation that makes a tensor; None for a model's input."""
        return self._makers.get(id(tensor))

    def only_reader(self, tensor: Any) -> Any:
        """What reads a tensor, where that is one layer in one call; else None."""
        readers = self._readers.get(id(tensor), [])
        if id(tensor) in self._outputs or len(readers) != 1:
            return None
        return readers[0] if len(self._by_layer[id(readers[0])]) == 1 else None


def functional(model: keras.Model) -> Any:
    """The graph of calls of a Functional or built Sequential model; None for any other."""
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_nodes_by_depth") else None


def is_graph(layer: Any) -> bool:
    """Whether it is a model whose layer calls are known."""
    if isinstance(layer, keras.Sequential):
        return getattr(layer, "_functional", None) is not None
    return isinstance(layer, keras.Model) and hasattr(layer, "_run_through_graph")


def inputs_among(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What a model is called on, without the masks, which Keras carries along with its inputs."""
    return args, {name: item for name, item in kwargs.items() if name != "mask"}


def runs_its_graph(model: Any) -> bool:
    """Whether calling it is running its graph: not where a class of its own overrides `call`."""
    owner = next(cls for cls in type(model).__mro__ if "call" in vars(cls))
    return is_graph(model) and owner.__module__.startswith("keras.")
