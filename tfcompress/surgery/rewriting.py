"""Copies of Functional and Sequential models in which some layers are replaced by others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.errors import ModelTypeError
from tfcompress.keras3 import check_keras3
from tfcompress.report import CompressionReport


@dataclass(frozen=True)
class Replacement:
    """What takes a layer's place.

    Attributes:
        layers: new layers, called one after the other; none where the layer is dropped.
        weights: values for the last of them.
        why: what was done, for the report.
    """

    layers: Sequence[keras.Layer]
    weights: Sequence[np.ndarray] = ()
    why: str = ""


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


Planner = Callable[[Calls], Mapping[int, Replacement]]


@dataclass
class Rewriter:
    """Copies a model with what a planner replaces, nested models included.

    Layers are rebuilt from their configs and get the original's weights. One that cannot be rebuilt
    stays what it is, shared by both models, and the report says so.

    Attributes:
        planner: given a model's calls, returns replacements by the `id` of the layer.
        report: gets an entry for each layer that is replaced, or shared.
    """

    planner: Planner
    report: CompressionReport
    _made: dict[int, list[keras.Layer]] = field(default_factory=dict)

    def copy(self, model: keras.Model, prefix: str = "") -> keras.Model:
        """The copy.

        Raises:
            ModelTypeError: no Keras 3 model, or neither Functional nor Sequential, or not built.
        """
        check_keras3(model)
        if functional(model) is None:
            raise ModelTypeError(
                "A model can be rewritten where Keras knows its graph of layers: Functional, or "
                f"Sequential and built. Received: {model.name!r} of class {type(model).__name__}. "
                "Rewrite the Functional models inside it, or build it from keras.Input."
            )
        plan = dict(self.planner(Calls(model)))

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(operation, keras.Layer):
                return operation(*args, **kwargs)  # keras.ops have no state
            return self._call(operation, plan.get(id(operation)), prefix, args, kwargs)

        if not isinstance(model, keras.Sequential):
            with _uncompiled(model):
                return keras.models.clone_model(
                    model, clone_function=lambda layer: layer, call_function=call
                )
        (given,) = functional(model).inputs
        inputs = keras.Input(batch_shape=given.shape, dtype=given.dtype, name=given.name)
        x = inputs
        for layer in model.layers:
            x = call(layer, x)
        new = [made for layer in model.layers for made in self._made[id(layer)]]
        return keras.Sequential([inputs, *new], name=model.name, trainable=model.trainable)

    def _call(
        self,
        layer: keras.Layer,
        replacement: Replacement | None,
        prefix: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Calls what stands for a layer, which the first call makes."""
        path = f"{prefix}{layer.name}"
        first = id(layer) not in self._made
        if replacement is not None:
            result = args[0]
            for new in replacement.layers:
                result = new(result)
            if first:
                self._made[id(layer)] = list(replacement.layers)
                if replacement.weights:
                    replacement.layers[-1].set_weights(list(replacement.weights))
                self.report.add(path, type(layer).__name__, "rewritten", replacement.why)
            return result
        if not first:
            return self._made[id(layer)][0](*args, **kwargs)
        try:
            new = self._rebuilt(layer, path)
            result = new(*args, **kwargs)
            if not _is_model(layer):
                new.set_weights(layer.get_weights())
        except Exception as error:  # whatever a layer of the user's own raises
            why = f"it cannot be rebuilt from its config, so both models share it ({_line(error)})"
            self.report.add(path, type(layer).__name__, "left", why)
            new, result = layer, layer(*args, **kwargs)
        self._made[id(layer)] = [new]
        return result

    def _rebuilt(self, layer: keras.Layer, path: str) -> keras.Layer:
        if _is_model(layer):
            return self.copy(layer, f"{path}/")
        return type(layer).from_config(layer.get_config())


def _is_model(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.Model) and functional(layer) is not None


@contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Keeps `clone_model` from compiling the copy: custom losses may not allow it."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__
