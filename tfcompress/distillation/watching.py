"""`Watched`: a model's forward pass, with what its layers gave on the way and its logits."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from tfcompress import registry
from tfcompress.errors import ModelTypeError, ScopeError
from tfcompress.graph.calls import functional, is_graph, runs_its_graph
from tfcompress.graph.flow import Call, Flow, Value, read_flow

_NORMALIZING = {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}
# By class name, as Keras's own operations (keras.ops.softmax of a symbolic tensor) have no other.
_OPERATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True)
class Ending:
    """What an output ends in.

    Attributes:
        kind: "softmax" or "sigmoid", whose inputs are the logits; "linear", a layer's sums as they
            are; "" where it is not known.
        layer: path of the layer that it is part of.
        value: the logits, where they are a tensor of the graph; None where the activation is
            part of the layer.
    """

    kind: str
    layer: str = ""
    value: Value | None = None


@dataclass
class Seen:
    """What one forward pass gave.

    Attributes:
        outputs: the model's, in its own nest.
        features: `id` of a watched Value, to the tensor.
        scores: `id` of a watched attention's Call, to its attention matrices.
    """

    outputs: Any
    features: dict[int, Any] = field(default_factory=dict)
    scores: dict[int, Any] = field(default_factory=dict)


class Watched:
    """A model that is run with a look at tensors inside it.

    A Functional or Sequential model is computed call by call, models nested in it laid open; any
    other is called, and only its outputs are seen.

    Args:
        model: a built model; it does not change.

    Attributes:
        flow: its calls; None where they are not known.
        endings: for each output, flat, what it ends in.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.flow: Flow | None = None
        if runs_its_graph(model):  # TimeDistributed too is to run as Keras runs it
            self.flow = read_flow(model, opens=lambda _: False)
        self._features: dict[int, Value] = {}
        self._scores: dict[int, Call] = {}
        self._makers: dict[int, Call] = {}
        self.endings: list[Ending] | None = None
        if self.flow is not None:
            self._makers = {id(v): call for call in self.flow.calls for v in call.results}
            self.endings = [self._ending(value) for value in self.outputs]
            for ending in self.endings:
                if ending.value is not None:
                    self.watch(ending.value)

    @property
    def graph(self) -> Flow:
        """Its calls.

        Raises:
            ModelTypeError: they are not known.
        """
        if self.flow is None:
            raise ModelTypeError(
                "Distilling from layer to layer needs Functional or Sequential models, whose "
                f"layers can be watched. Received: {type(self.model).__name__} "
                f"{self.model.name!r}. Use method='logits'."
            )
        return self.flow

    @property
    def outputs(self) -> list[Value]:
        """The outputs of a model whose calls are known, flat."""
        return keras.tree.flatten(self.graph.outputs)

    def maker(self, value: Value) -> Call | None:
        """The call that makes a tensor; None for a model's input."""
        return self._makers.get(id(value))

    def watch(self, value: Value) -> None:
        """Asks for a tensor in every pass."""
        self._features[id(value)] = value

    def watch_scores(self, call: Call) -> None:
        """Asks for the attention matrices of a MultiHeadAttention's call in every pass."""
        self._scores[id(call)] = call

    def find(self, name: str, argument: str) -> Call:
        """The last call of the layer of that name or path.

        Raises:
            ScopeError: there is none.
        """
        calls = self.graph.calls
        for call in reversed(calls):
            if name in (call.path, call.operation.name):
                return call
        known = [call.path for call in calls]
        close = difflib.get_close_matches(name, known, n=3)
        raise ScopeError(
            f"`{argument}` must name layers of {self.model.name!r}. Received: {name!r}. "
            + (f"Did you mean {' or '.join(map(repr, close))}?" if close else f"It has: {known}")
        )

    def __call__(self, inputs: Any, training: bool) -> Seen:
        """Runs the model.

        Args:
            inputs: as the model takes them.
            training: as the model is called with.
        """
        if self.flow is None:
            return Seen(_called(self.model, inputs, training))
        flat = functional(self.model)._standardize_inputs(inputs)
        pairs = zip(self.flow.input_values, flat, strict=True)
        values = {id(value): tensor for value, tensor in pairs}
        seen = Seen(None)

        def given(item: Any) -> Any:
            return values[id(item)] if isinstance(item, Value) else item

        for call in self.flow.calls:
            args, kwargs = keras.tree.map_structure(given, (call.args, call.kwargs))
            # As Keras's own Functional does: what the model is called with holds for all layers.
            if getattr(call.operation, "_call_has_training_arg", False):
                kwargs["training"] = training
            if id(call) in self._scores:
                results, seen.scores[id(call)] = call.operation(
                    *args, **{**kwargs, "return_attention_scores": True}
                )
            else:
                results = call.operation(*args, **kwargs)
            for value, tensor in zip(call.results, keras.tree.flatten(results), strict=True):
                values[id(value)] = tensor
                if id(value) in self._features:
                    seen.features[id(value)] = tensor
        for key in self._features:
            seen.features.setdefault(key, values[key])  # an input of the model
        seen.outputs = keras.tree.map_structure(given, self.flow.outputs)
        return seen

    def logits(self, seen: Seen, number: int, kind: str, from_logits: bool) -> Any:
        """The float32 logits of one output.

        Args:
            seen: of a pass.
            number: which output, flat.
            kind: "softmax" or "sigmoid".
            from_logits: whether an output whose ending is not known is logits, and not
                probabilities.
        """
        output = keras.tree.flatten(seen.outputs)[number]
        ending = self.endings[number] if self.endings is not None else Ending("")
        found = None if ending.value is None else seen.features[id(ending.value)]
        if found is None and (ending.kind == kind or not ending.kind):
            # Keras's softmax and sigmoid leave their inputs on what they give.
            found = getattr(output, "_keras_logits", None)
        if found is None and (ending.kind == "linear" or (not ending.kind and from_logits)):
            found = output
        if found is None:
            found = recovered(keras.ops.cast(output, "float32"), kind)
        found = keras.ops.cast(found, "float32")
        mask = getattr(output, "_keras_mask", None)
        if mask is not None:
            found._keras_mask = mask
        return found

    def _ending(self, value: Value) -> Ending:
        call = self.maker(value)
        if call is None:
            return Ending("")
        operation = call.operation
        while isinstance(operation, keras.layers.TimeDistributed) or _see_through(operation):
            operation = operation.layer
        if is_graph(operation):  # in TimeDistributed, where its tensors cannot be watched
            one, *more = Watched(operation).endings or [Ending("")]
            return Ending("" if more else one.kind, call.path)
        kind = getattr(operation, "kind", "")  # of a quantized operator
        if kind in ("softmax", "sigmoid"):
            return Ending(kind, call.path, call.inputs[0])
        if kind == "dequantize":
            return self._ending(call.inputs[0])
        name = _OPERATIONS.get(type(operation).__name__, "")
        if name:
            last = getattr(operation, "axis", -1) in (-1, len(value.shape) - 1)
            return Ending(name, call.path, call.inputs[0]) if last else Ending("")
        activation = getattr(operation, "activation", None)
        if isinstance(operation, keras.layers.Activation):
            if activation is keras.activations.linear:
                return self._ending(call.inputs[0])
            if activation in _NORMALIZING:
                return Ending(_NORMALIZING[activation], call.path, call.inputs[0])
            return Ending("")
        if activation in _NORMALIZING and registry.kernels(operation):
            return Ending(_NORMALIZING[activation], call.path)
        linear = activation is None or activation is keras.activations.linear
        return Ending("linear" if linear else "", call.path)


def _see_through(operation: Any) -> bool:
    return type(operation) in registry._see_through


def _called(model: Any, inputs: Any, training: bool) -> Any:
    if getattr(model, "_call_has_training_arg", False):
        return model(inputs, training=training)
    return model(inputs)


def recovered(probabilities: Any, kind: str) -> Any:
    """Logits that give these probabilities: all that differ from the true ones by a constant."""
    ops = keras.ops
    # The smallest normal float32: less is 0 on most processors.
    tiny = 1.1754944e-38
    if kind == "softmax":
        return ops.log(ops.maximum(probabilities, tiny))
    p = ops.clip(probabilities, 1e-7, 1.0 - 1e-7)  # 1 - 6e-8 is the next below 1
    return ops.log(p) - ops.log(1.0 - p)


def names_of(model: Any, count: int) -> Sequence[str]:
    """Names of a model's outputs, flat."""
    names = getattr(model, "output_names", None)
    return names if names and len(names) == count else [f"output {i}" for i in range(count)]
