"""Keras's own attention layers as the products that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keras import layers
from keras.src.ops import numpy  # the classes of operations are not public

from tfcompress.graph.flow import Call, Flow, Value

_HIDDEN = 1e4


def laid_open(flow: Flow) -> Flow:
    """The same flow, with causal attention layers replaced by their projections and products."""
    calls: list[Call] = []
    for call in flow.calls:
        calls += _Attention(call).calls() if _is_open(call) else [call]
    return replace(flow, calls=calls)


def _is_open(call: Call) -> bool:
    """Whether it is attention of a sequence, over itself and under a causal mask alone."""
    layer, asked = call.operation, call.kwargs
    known = isinstance(layer, (layers.MultiHeadAttention, layers.GroupQueryAttention))
    others = [
        value for name, value in asked.items()
        if name not in ("query", "value", "key", "use_causal_mask", "training")
    ]  # fmt: skip
    return (
        known
        and type(layer).__module__.startswith("keras.")
        and len(call.results) == 1
        and bool(asked.get("use_causal_mask"))
        and not any(value is not None and value is not False for value in others)
        and len(call.args) <= 3
        and all(len(value.shape) == 3 for value in call.inputs)
        and not getattr(layer, "_use_gate", False)
        and getattr(layer, "_gate_dense", None) is None
    )


class _Attention:
    def __init__(self, call: Call) -> None:
        self.call, self.made = call, list[Call]()
        given = dict(zip(("query", "value", "key"), call.args, strict=False)) | call.kwargs
        self.query, self.value = given["query"], given["value"]
        self.key = self.value if given.get("key") is None else given["key"]

    def _emit(self, operation: Any, inputs: Sequence[Value], shape: Sequence[Any]) -> Value:
        out = Value(tuple(shape), "float32")
        name = getattr(operation, "name", type(operation).__name__)
        path = f"{self.call.path}/{name}"
        self.made.append(Call(operation, tuple(inputs), {}, out, path))
        return out

    def calls(self) -> list[Call]:
        layer = self.call.operation
        grouped = isinstance(layer, layers.GroupQueryAttention)
        heads = layer.num_query_heads if grouped else layer.num_heads
        size = layer.head_dim if grouped else layer.key_dim
        depth = layer.head_dim if grouped else layer.value_dim
        shared = layer.num_key_value_heads if grouped else heads
        batch, length = self.query.shape[:2]
        q = self._emit(layer._query_dense, [self.query], (batch, length, heads, size))
        q = self._emit(layers.Rescaling(size**-0.5), [q], q.shape)
        k = self._emit(layer._key_dense, [self.key], (batch, length, shared, size))
        v = self._emit(layer._value_dense, [self.value], (batch, length, shared, depth))
        if shared < heads:
            again = numpy.Repeat(heads // shared, axis=2)
            k = self._emit(again, [k], (batch, length, heads, size))
            v = self._emit(again, [v], (batch, length, heads, depth))
        q = self._emit(layers.Permute((2, 1, 3)), [q], (batch, heads, length, size))
        k = self._emit(layers.Permute((2, 3, 1)), [k], (batch, heads, size, length))
        v = self._emit(layers.Permute((2, 1, 3)), [v], (batch, heads, length, depth))
        scores = self._emit(numpy.Matmul(), [q, k], (batch, heads, length, length))
        scores = self._emit(numpy.Add(), [scores, self._mask(length)], scores.shape)
        weights = self._emit(layers.Softmax(), [scores], scores.shape)
        mixed = self._emit(numpy.Matmul(), [weights, v], (batch, heads, length, depth))
        mixed = self._emit(layers.Permute((2, 1, 3)), [mixed], (batch, length, heads, depth))
        last = Call(layer._output_dense, (mixed,), {}, self.call.outputs, self.call.path)
        return [*self.made, last]

    def _mask(self, length: int | None) -> Value:
        """(1, 1, length, length): 0 where a place is seen, a large negative number ahead of it."""
        one = self._emit(numpy.Max(axis=-1), [self.query], self.query.shape[:2])
        one = self._emit(numpy.OnesLike(), [one], one.shape)
        one = self._emit(numpy.Max(axis=0, keepdims=True), [one], (1, length))
        places = self._emit(numpy.Cumsum(axis=1), [one], (1, length))
        here = self._emit(layers.Reshape((1, -1, 1)), [places], (1, 1, length, 1))
        there = self._emit(layers.Reshape((1, 1, -1)), [places], (1, 1, 1, length))
        ahead = self._emit(numpy.Subtract(), [here, there], (1, 1, length, length))
        seen = self._emit(numpy.Clip(-1, 0), [ahead], ahead.shape)
        return self._emit(layers.Rescaling(_HIDDEN), [seen], seen.shape)
