"""`Lowering`, and the register of what it knows of each layer and operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.graph.flow import Call, Flow, Value
from tfcompress.quantization.nodes import Affine, Kept, Linear, Node, Operator, Table


class Unsupported(Exception):
    """This call stays float; the text says why."""


class Lowering:
    """Turns calls into nodes.

    Args:
        flow: the model's calls.
        excluded: `id` of each layer that is to stay float, to the reason.
        bits: of activations, 8 or 16.

    Attributes:
        nodes: in order.
    """

    def __init__(self, flow: Flow, excluded: dict[int, str], bits: int = 8) -> None:
        self.bits = bits
        self.nodes: list[Node] = []
        self._now: dict[int, Value] = {}
        self._call: Any = None
        self._calls = flow.calls
        for call in flow.calls:
            self._lower(call, excluded)
        self.outputs = keras.tree.map_structure(self.now, flow.outputs)

    def now(self, value: Any) -> Any:
        """What stands for a tensor of the model in the nodes."""
        while isinstance(value, Value) and id(value) in self._now:
            value = self._now[id(value)]
        return value

    def _lower(self, call: Call, excluded: dict[int, str]) -> None:
        call.args = keras.tree.map_structure(self.now, call.args)
        call.kwargs = keras.tree.map_structure(self.now, call.kwargs)
        self._call = call
        before = len(self.nodes)
        reason = excluded.get(id(call.operation), "")
        if not reason:
            lower = find(call.operation)
            if lower is None:
                reason = f"no int8 form of {type(call.operation).__name__} is known"
            else:
                try:
                    result = lower(self, call)
                    if isinstance(result, Value) and result is not call.outputs:
                        self._now[id(call.outputs)] = result
                    return
                except Unsupported as why:
                    reason = str(why)
                    del self.nodes[before:]
        self.keep(reason=reason)

    def are_scores(self, value: Value) -> bool:
        """Whether a tensor is a product of two others, or such a product with something added."""
        maker = next((node for node in self.nodes if any(v is value for v in node.outputs)), None)
        if isinstance(maker, Operator):
            return maker.kind == "matmul"
        added = isinstance(maker, Kept) and type(maker.call.operation).__name__ == "Add"
        return maker is not None and added and any(map(self.are_scores, maker.inputs))

    def weighs(self, value: Value) -> bool:
        """Whether nothing but a softmax reads a tensor of the call that is lowered."""
        readers = [call for call in self._calls if any(v is value for v in call.inputs)]
        return bool(readers) and all(
            type(call.operation).__name__ == "Softmax"
            or getattr(call.operation, "activation", None) is keras.activations.softmax
            for call in readers
        )

    # -- what the functions below make nodes with

    def keep(self, *, moves: bool = False, joins: bool = False, reason: str = "") -> Value:
        """The call as it is."""
        call = self._call
        node = Kept(call, call.inputs, call.results, [call.path], moves, joins, reason)
        self.nodes.append(node)
        return call.outputs

    def linear(
        self,
        x: Value,
        kind: str,
        kernel: Any,
        bias: Any,
        shape: Sequence[int | None],
        **options: Any,
    ) -> Value:
        """A node with a kernel; `shape` is the output's, with the batch axis."""
        out = Value(tuple(shape), "float32")
        bias = None if bias is None else np.asarray(bias, np.float32)
        activation = options.pop("activation", None)
        affine = options.pop("affine", None)
        owner, norm = options.pop("owner", None), options.pop("norm", None)
        trainable = options.pop("trainable", True)
        kernel = np.asarray(kernel, np.float32)
        node = Linear(
            self._call, [x], [out], [self._call.path], kind, kernel, bias, options, activation,
            affine, owner, norm, trainable=trainable,
        )  # fmt: skip
        self.nodes.append(node)
        return out

    def op(
        self,
        kind: str,
        xs: Sequence[Value],
        shape: Sequence[int | None],
        constants: dict[int, Any] | None = None,
        **arguments: Any,
    ) -> Value:
        """A node without weights."""
        out = Value(tuple(shape), "float32")
        node = Operator(
            self._call, list(xs), [out], [self._call.path], kind, arguments, constants or {}
        )
        self.nodes.append(node)
        return out

    def kept(self, layer: Any, x: Value, reason: str = "", shape: Any = None) -> Value:
        """A layer within the one that is lowered, as it is: float, or (no reason) moving values."""
        shape = x.shape if shape is None else tuple(shape)
        call = Call(layer, (x,), {}, Value(shape, x.dtype), f"{self._call.path}/{layer.name}")
        paths = [call.path] if reason else []
        node = Kept(call, [x], [call.outputs], paths, moves=not reason, reason=reason)
        self.nodes.append(node)
        return call.outputs

    def table(self, x: Value, rows: Any, shape: Sequence[int | None], owner: Any) -> Value:
        """Rows of a table by their numbers."""
        out = Value(tuple(shape), "float32")
        self.nodes.append(Table(self._call, [x], [out], [self._call.path], rows, owner))
        return out

    def affine(self, x: Value, scale: Any, shift: Any, norm: Any = None) -> Value:
        """X * scale + shift on the last axis; `norm` where that is what a BatchNormalization does.

        A depthwise convolution of 1x1, whose channels have a scale each.
        """
        channels = x.shape[-1]
        if channels is None:
            raise Unsupported("its number of channels is not known")
        scale = np.broadcast_to(np.asarray(scale, np.float64).reshape(-1), (channels,))
        shift = np.broadcast_to(np.asarray(shift, np.float64).reshape(-1), (channels,))
        folded = Affine(scale, shift)
        options: dict[str, Any] = {} if len(x.shape) == 4 else {"tail": (channels,)}
        kernel = np.ones(channels) if norm is not None else scale
        bias = None if norm is not None or not shift.any() else shift
        return self.linear(
            x, "depthwise", kernel.reshape(1, 1, channels, 1), bias, x.shape, affine=folded,
            norm=norm, trainable=False, **options,
        )  # fmt: skip

    def activation(self, x: Value, function: Any) -> Value:
        """A Keras activation: a function, a layer, or None."""
        if function is None:
            return x
        if isinstance(function, keras.Layer):
            lower = find(function)
            if lower is None:
                return self.kept(function, x, f"no int8 form of {function.name!r} is known")
            call = self._call
            out = Value(x.shape, "float32")
            self._call = Call(function, (x,), {}, out, call.path)
            try:
                return lower(self, self._call)
            finally:
                self._call = call
        name = getattr(function, "__name__", "")
        if function is not getattr(keras.activations, name, None) or name not in ACTIVATIONS:
            layer = keras.layers.Activation(
                function, name=f"{self._call.operation.name}_activation"
            )
            return self.kept(layer, x, f"no int8 form of {name or function!r} is known")
        return ACTIVATIONS[name](self, x)


Lower = Callable[[Lowering, Any], Any]
_layers: dict[type, Lower] = {}
_operations: dict[str, Lower] = {}


def find(operation: Any) -> Lower | None:
    """What is registered for a layer or operation."""
    cls = type(operation)
    if not isinstance(operation, keras.Layer):
        own = cls.__module__.startswith("keras.src.ops.")
        return _operations.get(cls.__name__) if own else None
    if cls.__module__.startswith("keras.src.applications.") and cls.__name__ in _operations:
        return _operations[cls.__name__]
    for base in cls.__mro__:
        if base in _layers:
            # A subclass that computes something else is another layer.
            same = cls.call is base.call  # type: ignore[attr-defined]
            return _layers[base] if same else None
    return None


def for_layers(*classes: Any) -> Callable[[Lower], Lower]:
    """Registers a function for layer classes and for subclasses with the same `call`."""

    def register(function: Lower) -> Lower:
        _layers.update(dict.fromkeys(classes, function))
        return function

    return register


def for_operations(*names: str) -> Callable[[Lower], Lower]:
    """Registers a function for operations of `keras.ops`, by the names of their classes."""

    def register(function: Lower) -> Lower:
        _operations.update(dict.fromkeys(names, function))
        return function

    return register


def one_float(call: Call) -> Value:
    """The call's one input, a floating-point one."""
    values = call.inputs
    if len(values) != 1 or not values[0].dtype.startswith(("float", "bfloat")):
        raise Unsupported("it takes several inputs, or no floating-point one")
    return values[0]


def array(variable: Any) -> Any:
    """A variable as float32; None for none."""
    return None if variable is None else keras.ops.convert_to_numpy(variable).astype(np.float32)


def check_channels_last(layer: Any) -> None:
    """Refuses channels_first."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise Unsupported("data_format channels_first does not convert")


ACTIVATIONS: dict[str, Callable[[Lowering, Value], Value]] = {}
"""Name of a function in `keras.activations` -> what it becomes."""
