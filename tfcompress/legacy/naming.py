"""Names of layers and operations in a Keras 3 model, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tfcompress.legacy.layers import valid_name
from tfcompress.legacy.nodes import nodes


class Names:
    """Names in a model, each once: of its layers, and of the operations between them.

    Keras counts the names of operations, and may find those of the model's own layers.

    Args:
        model: the tf_keras model.
    """

    def __init__(self, model: Any) -> None:
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()
        self._known: set[int] = set()
        self._calls = Counter(id(node.layer) for node in nodes(model))
        inputs = [tensor._keras_history.layer for tensor in model.inputs]
        # First those that stay as they are.
        for layer in sorted([*inputs, *model.layers], key=lambda layer: "/" in layer.name):
            if id(layer) not in self._names:
                self._names[id(layer)] = self._fresh(valid_name(layer.name))
        self._unused = dict(self._names)

    def of(self, layer: Any) -> str:
        """The name of a tf_keras layer in Keras 3."""
        return self._names.get(id(layer)) or valid_name(layer.name)

    def once(self, layer: Any) -> str:
        """The name of a layer for one call of it, apart from its other calls."""
        return self.of(layer) if self._calls[id(layer)] == 1 else self._fresh(self.of(layer))

    def own(self, tensor: Any) -> Any:
        """Notes that what made a tensor has its name; gives the tensor."""
        if hasattr(tensor, "_keras_history"):
            self._known.add(id(tensor._keras_history.operation))
        return tensor

    def give(self, tensors: Iterable[Any], name: str, layer: Any = None) -> None:
        """Names the operations that made tensors, back to those that have names.

        Args:
            tensors: what they made.
            name: for all of them; they are counted.
            layer: the tf_keras layer that they stand for, if any, whose name the last one gets.
        """
        waiting, own = list(tensors), self._unused.pop(id(layer), "")
        while waiting:
            tensor = waiting.pop(0)
            operation = getattr(tensor, "_keras_history", (None,))[0]
            if operation is None or id(operation) in self._known:
                continue
            self._known.add(id(operation))
            operation.name, own = own or self._fresh(name), ""
            for node in operation._inbound_nodes:
                waiting += node.input_tensors

    def _fresh(self, name: str) -> str:
        number, fresh = 1, name
        while fresh in self._taken:
            number += 1
            fresh = f"{name}_{number}"
        self._taken.add(fresh)
        return fresh
