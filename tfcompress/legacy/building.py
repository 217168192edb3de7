"""A tf_keras graph built anew of Keras 3 layers: the layers, then their calls, then weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from tfcompress.legacy import layers
from tfcompress.legacy.always import AlwaysTraining
from tfcompress.legacy.layers import WithoutCounterpart, valid_name
from tfcompress.legacy.naming import Names
from tfcompress.legacy.nodes import flat, is_function, is_graph, mapped, nodes, walk
from tfcompress.legacy.operations import operation
from tfcompress.legacy.weights import transfer

# What computes nothing: losses and metrics of a graph, and where tfmot quantized a model's input.
_PASSED = ("AddLoss", "AddMetric")


@dataclass(frozen=True)
class Step:
    """One call, in both models.

    Attributes:
        path: the layer's name, with those of the models that hold it.
        node: the call in tf_keras.
        layer: what computes it in Keras 3: a layer, or a function of operations.
        outputs: the tensors that it gave when the Keras 3 model was built.
    """

    path: str
    node: Any
    layer: Callable[..., Any]
    outputs: list[Any]


@dataclass
class Built:
    """A model and how it came about.

    Attributes:
        model: the Keras 3 model.
        steps: its calls.
    """

    model: keras.Model
    steps: list[Step] = field(default_factory=list)


class Builder:
    """Makes Keras 3 models of tf_keras ones; what cannot be is collected, not raised.

    Args:
        custom_objects: Keras 3 classes and functions by the names of those of Keras 2.

    Attributes:
        problems: (path, kind, reason) of each layer that cannot be brought over.
        remarks: the same of what is not quite the same, and why.
        layers: by `id` of a tf_keras layer: it, and what it became.
        built: by `id` of a tf_keras model.
    """

    def __init__(self, custom_objects: Mapping[str, Any]) -> None:
        self._custom = custom_objects
        self.problems: list[tuple[str, str, str]] = []
        self.remarks: list[tuple[str, str, str]] = []
        self.layers: dict[int, tuple[Any, Any]] = {}
        self.built: dict[int, Built] = {}

    def build(self, model: Any) -> Built | None:
        """The model; None where there are problems."""
        for path, layer in walk(model):
            if not is_graph(layer):
                self._prepare(path, layer)
        if self.problems:
            return None
        self._wire(model, "")
        if not self.problems:
            self._weigh(model)
        return None if self.problems else self.built[id(model)]

    def _prepare(self, path: str, layer: Any) -> None:
        try:
            if is_function(layer):
                self.layers[id(layer)] = layer, operation(layer)
            elif type(layer).__name__ in _PASSED:
                self.layers[id(layer)] = layer, _first
                self.remarks.append(
                    (path, type(layer).__name__, "left out: losses and metrics of a graph")
                )
            else:
                self._layer(layer)
        except WithoutCounterpart as problem:
            self.problems.append((path, type(layer).__name__, str(problem)))
        except (TypeError, ValueError, NotImplementedError, KeyError, AttributeError) as error:
            reason = f"Keras 3 refuses its options: {_first_line(error)}"
            self.problems.append((path, type(layer).__name__, reason))

    def _layer(self, layer: Any) -> Any:
        """The counterpart of a layer, of one inside another too; each has one."""
        if id(layer) not in self.layers:
            if is_graph(layer):
                made: Any = self._inside(layer)
            else:
                made = layers.translated(layer, self._layer, self._custom)
            self.layers[id(layer)] = layer, made
            for old, new in layers.held(layer, made):
                self.layers[id(old)] = old, new
        return self.layers[id(layer)][1]

    def _inside(self, model: Any) -> keras.Model:
        """A model that a layer holds."""
        for path, layer in walk(model, f"{model.name}/"):
            if not is_graph(layer) and id(layer) not in self.layers:
                self._prepare(path, layer)
        if self.problems:
            raise WithoutCounterpart("the model inside it cannot be brought over")
        self._wire(model, f"{model.name}/")
        return self.built[id(model)].model

    def _wire(self, model: Any, prefix: str) -> None:
        """Calls the layers as tf_keras did."""
        values: dict[int, Any] = {}
        names = Names(model)
        for tensor in model.inputs:
            source = tensor._keras_history.layer
            try:
                values[id(tensor)] = names.own(_input(tensor, names.of(source)))
            except WithoutCounterpart as problem:
                self.problems.append((prefix + source.name, "InputLayer", str(problem)))
        steps: list[Step] = []
        for node in nodes(model):
            layer = node.layer
            if is_graph(layer) and id(layer) not in self.built:
                self._wire(layer, f"{prefix}{layer.name}/")
                if id(layer) in self.built:
                    self.layers[id(layer)] = layer, self.built[id(layer)].model
            made = self.layers.get(id(layer), (None, None))[1]
            if isinstance(made, keras.Layer):
                made.name = names.of(layer)
        if _is_sequential(model) and not self.problems:
            chain = [self.layers[id(node.layer)][1] for node in nodes(model)]
            if all(isinstance(layer, keras.Layer) for layer in chain):
                return self._chain(model, list(values.values()), chain, prefix)
        for node in nodes(model):
            layer, path = node.layer, prefix + node.layer.name
            try:
                made = self.layers[id(layer)][1]
                args, kwargs = arguments(node, made, values)
                called = self._in_its_mode(path, node, made, args, kwargs, names)
                outputs = flat(called(*args, **kwargs))
            except KeyError:
                continue  # what it reads has a problem, which is told
            except WithoutCounterpart as problem:
                self.problems.append((path, type(layer).__name__, str(problem)))
                continue
            except Exception as error:  # whatever Keras 3 says of this call
                reason = f"Keras 3 refuses the call: {_first_line(error)}"
                self.problems.append((path, type(layer).__name__, reason))
                continue
            if isinstance(made, keras.Layer):
                names.give(map(_mask, map(names.own, outputs)), f"{made.name}_mask")
            else:
                names.give(outputs, names.of(layer), layer)
            values.update(zip(map(id, flat(node.outputs)), outputs, strict=False))
            steps.append(Step(path, node, made, outputs))
        if not self.problems:
            self.built[id(model)] = Built(self._model(model, values), steps)

    def _in_its_mode(
        self, path: str, node: Any, made: Any, args: Any, kwargs: dict[str, Any], names: Names
    ) -> Any:
        """The layer, so that the mode of this call is kept, which Keras 3 would override."""
        mode, layer = kwargs.get("training"), node.layer
        if not isinstance(made, keras.Layer) or not isinstance(mode, bool):
            return made
        if mode and len(args) == 1 and set(kwargs) <= {"training", "mask"}:
            made(*args, **kwargs)  # builds it
            del kwargs["training"]
            return AlwaysTraining(made, name=names.once(layer))
        if mode or any(map(_has_modes, layer._flatten_layers())):
            told = f"is called with training={mode}, which Keras 3 does not keep in "
            self.remarks.append((path, type(layer).__name__, told + ("predict" if mode else "fit")))
        return made

    def _chain(self, model: Any, inputs: list[Any], chain: list[Any], prefix: str) -> None:
        """Sequential: Keras calls the layers itself, each once."""
        try:
            made = keras.Sequential([*inputs, *chain], name=valid_name(model.name))
        except Exception as error:  # whatever Keras 3 says of one of these calls
            reason = f"Keras 3 refuses a call in it: {_first_line(error)}"
            self.problems.append((prefix or model.name, type(model).__name__, reason))
            return
        steps = [
            Step(prefix + node.layer.name, node, layer, layer._inbound_nodes[-1].output_tensors)
            for node, layer in zip(nodes(model), chain, strict=True)
        ]
        self.built[id(model)] = Built(made, steps)

    def _model(self, model: Any, values: dict[int, Any]) -> keras.Model:
        inputs, outputs = (
            mapped(lambda tensor: values[id(tensor)], structure)
            for structure in (model._nested_inputs, model._nested_outputs)
        )
        with warnings.catch_warnings():
            # A dict of inputs may have other keys than they have names, here as in Keras 2.
            warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
            return keras.Model(inputs, outputs, name=valid_name(model.name))

    def _weigh(self, model: Any) -> None:
        """Weights and flags, from containers to what they hold."""
        done: set[int] = set()
        paths = {id(layer): path for path, layer in walk(model)}
        for old, new in list(self.layers.values()):
            if is_graph(old) or layers.holds(old) or not isinstance(new, keras.Layer):
                continue
            try:
                done |= {id(variable) for variable in transfer(old, new)}
            except WithoutCounterpart as problem:
                path = paths.get(id(old), old.name)
                self.problems.append((path, type(old).__name__, str(problem)))
        missed = [weight.name for weight in model.weights if id(weight) not in done]
        if missed and not self.problems:
            reason = f"weights that belong to no layer known here: {missed}"
            self.problems.append((model.name, type(model).__name__, reason))
        # From containers to what they hold: Keras 3 freezes all inside a layer that is frozen.
        found = [pair for pair in self.layers.values() if isinstance(pair[1], keras.Layer)]
        training = _training(model)
        for old, new in sorted(found, key=lambda pair: -len(pair[1]._flatten_layers())):
            if new.trainable != (id(old) in training):
                new.trainable = id(old) in training


def arguments(node: Any, made: Any, values: Mapping[int, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A call's arguments, with tensors by `id` of the tf_keras tensors they stand for."""

    def leaf(value: Any) -> Any:
        if hasattr(value, "_keras_history"):
            return values[id(value)]
        return value.numpy() if hasattr(value, "numpy") else value

    args, kwargs = list(mapped(leaf, list(node.call_args))), mapped(leaf, dict(node.call_kwargs))
    if isinstance(made, keras.Layer):
        kwargs = {k: v for k, v in kwargs.items() if not (k in ("training", "mask") and v is None)}
        if isinstance(made, (keras.layers.RNN, keras.layers.Bidirectional)) and args:
            if isinstance(args[0], (list, tuple)):  # the states to begin with, after the sequence
                args, kwargs["initial_state"] = [args[0][0]], list(args[0][1:])
            kwargs = {k: v for k, v in kwargs.items() if v is not None}
        kwargs = _masked_as_in_keras2(made, args, kwargs)
    return args, kwargs


def _masked_as_in_keras2(made: Any, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options with the mask of the first argument, as Keras 2 fills it in.

    Keras 3 does so for layers that are called on one tensor only.
    """
    others = flat([args[1:], kwargs])
    if not made._call_has_mask_arg or kwargs.get("mask") is not None:
        return kwargs
    if not args or not any(hasattr(value, "shape") for value in others):
        return kwargs
    masks = mapped(_mask, args[0])
    return kwargs if all(mask is None for mask in flat(masks)) else {**kwargs, "mask": masks}


def _training(layer: Any) -> set[int]:
    """The `id` of each layer that trains as part of one, itself too.

    In Keras 2 nothing in a frozen layer trains, also where its own flag is set anew.
    """
    if not layer.trainable:
        return set()
    inside = layer._flatten_layers(recursive=False, include_self=False)
    return {id(layer)}.union(*map(_training, inside))


def _has_modes(layer: Any) -> bool:
    """Whether it computes other values in training."""
    return is_random(layer) or "BatchNormalization" in type(layer).__name__


def is_random(layer: Any) -> bool:
    """Whether a tf_keras layer draws numbers in training."""
    kind = type(layer).__name__
    if any(word in kind for word in ("Dropout", "Noise", "Random")):
        return bool(getattr(layer, "rate", 1.0))
    return any(getattr(layer, name, 0) for name in ("dropout", "recurrent_dropout"))


def _mask(tensor: Any) -> Any:
    """What both versions of Keras note at a tensor of either."""
    return getattr(tensor, "_keras_mask", None)


def _input(tensor: Any, name: str) -> Any:
    kind = type(tensor.type_spec).__name__
    if kind != "TensorSpec":
        raise WithoutCounterpart(f"its input {tensor.name!r} is a {kind}")
    return keras.Input(batch_shape=tuple(tensor.shape), dtype=tensor.dtype.name, name=name)


def _is_sequential(model: Any) -> bool:
    return any(cls.__name__ == "Sequential" for cls in type(model).__mro__)


def _first(inputs: Any, *args: Any, **kwargs: Any) -> Any:
    return inputs


def _first_line(error: BaseException) -> str:
    """The reason that Keras gives, without what it puts before it and colours."""
    text = re.sub(r"\x1b\[\d*m", "", str(error).rpartition("Exception encountered:")[2])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception encountered")] or lines
    return lines[0] if lines else type(error).__name__
