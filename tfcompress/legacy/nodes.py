"""The graph of a tf_keras model: its calls in the order of computing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# Layers that hold a TensorFlow function which was called on the model's tensors.
FUNCTIONS = ("TFOpLambda", "SlicingOpLambda")


def nodes(model: Any) -> list[Any]:
    """The calls of a Functional or Sequential model: tf_keras nodes, inputs left out."""
    by_depth = model._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def is_graph(layer: Any) -> bool:
    """Whether it is a model whose graph is known."""
    return bool(getattr(layer, "_is_graph_network", False))


def is_function(layer: Any) -> bool:
    """Whether it is no layer but a TensorFlow function."""
    return type(layer).__name__ in FUNCTIONS


def walk(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, layer) of every layer in the graph, and of nested models and what they hold, once."""
    seen: set[int] = set()
    for path, layer in _walk(model, prefix):
        if id(layer) not in seen:
            seen.add(id(layer))
            yield path, layer


def _walk(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        yield prefix + layer.name, layer
        if is_graph(layer):
            yield from _walk(layer, f"{prefix}{layer.name}/")


def flat(structure: Any) -> list[Any]:
    """Leaves of lists, tuples and dicts, these by sorted keys, as both Keras versions have them."""
    if isinstance(structure, dict):
        return [leaf for key in sorted(structure) for leaf in flat(structure[key])]
    if isinstance(structure, (list, tuple)):
        return [leaf for part in structure for leaf in flat(part)]
    return [structure]


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """The structure as plain lists, tuples and dicts, with a function of each leaf."""
    if isinstance(structure, dict):
        return {key: mapped(function, value) for key, value in structure.items()}
    if isinstance(structure, tuple):
        return tuple(mapped(function, value) for value in structure)
    if isinstance(structure, list):
        return [mapped(function, value) for value in structure]
    return function(structure)
