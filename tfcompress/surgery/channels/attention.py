"""Attention: whole heads go, and widths of queries, keys and values in all heads at once."""

from __future__ import annotations

import math

from keras import layers

from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler, Slot
from tfcompress.surgery.channels.atoms import Axis, Kept
from tfcompress.surgery.channels.linear import from_config


def _attended(call: Call) -> tuple[Value, Value, Value]:
    """Query, value and key of a call; its masks must carry nothing."""
    given = dict(zip(("query", "value", "key"), call.args, strict=False)) | call.kwargs
    query, value = given["query"], given["value"]
    key = given.get("key")
    return query, value, value if key is None else key


def _last(call: Call, found: Analysis) -> list[Axis]:
    """The atoms along the last axis of query, value and key; all else stays."""
    attended = _attended(call)
    for value in call.inputs:
        axes = found.axes(value)
        known = any(value is one for one in attended)
        for axis in axes[:-1] if known else axes:
            found.atoms.pin(axis)
    return [
        found.same(call, name, found.axes(value)[-1])
        for name, value in zip(("query", "value", "key"), attended, strict=True)
    ]


def _multi_head(call: Call, found: Analysis) -> None:
    layer = call.operation
    if len(call.results) > 1:
        raise Barrier("its scores are read")
    if layer.get_config()["output_shape"] is not None and len(call.results[0].shape) != len(
        _attended(call)[0].shape
    ):
        raise Barrier("its output has several axes of channels")
    if getattr(layer, "_use_gate", False):
        raise Barrier("its output is gated")
    query, value, key = _last(call, found)
    heads = found.make(call, "heads", layer.num_heads, rounded=False)
    width = found.make(call, "key width", layer.key_dim)
    depth = found.make(call, "value width", layer.value_dim)
    made = found.make(call, "channels", call.results[0].shape[-1] or 0)

    def scale(kept: Kept) -> float:
        # The layer divides scores by the root of its key width, which is smaller now.
        return math.sqrt(kept.count(width) / len(width))

    slots = []
    for dense, read, wide, factor in (
        (layer._query_dense, query, width, scale),
        (layer._key_dense, key, width, None),
        (layer._value_dense, value, depth, None),
    ):
        slots += [
            Slot(dense.kernel, (read, heads, wide), (1, 2), (0,), factor),
            Slot(dense.bias, (heads, wide), (), (), factor),
        ]
    output = layer._output_dense
    slots += [
        Slot(output.kernel, (heads, depth, made), (2,), (0, 1)),
        Slot(output.bias, (made,), (0,)),
    ]
    found.set_weights(call, *slots)
    inputs = list(map(id, call.inputs))
    found.reads(call, *(
        (inputs.index(id(one)), len(one.shape) - 1, atoms)
        for one, atoms in zip(_attended(call), (query, value, key), strict=True)
    ))  # fmt: skip
    found.record(call).rebuild = lambda kept: from_config(
        layer,
        num_heads=kept.count(heads),
        key_dim=kept.count(width),
        value_dim=kept.count(depth),
        output_shape=kept.count(made),
    )
    found.give(call.results[0], (*[None] * (len(call.results[0].shape) - 1), made))


def _grouped_query(call: Call, found: Analysis) -> None:
    """Its heads stay: queries share keys. What it reads and gives are channels all the same."""
    layer = call.operation
    if len(call.results) > 1:
        raise Barrier("its scores are read")
    if getattr(layer, "_gate_dense", None) is not None:
        raise Barrier("its output is gated")
    query, value, key = _last(call, found)
    slots = []
    for dense, read in (
        (layer._query_dense, query), (layer._key_dense, key), (layer._value_dense, value),
    ):  # fmt: skip
        slots += [
            Slot(dense.kernel, (read, None, None), reads=(0,)),
            Slot(dense.bias, (None,) * len(dense.bias.shape)) if dense.bias is not None else None,
        ]
    made: Axis = None
    if query is not None:  # it gives as many channels as its queries have
        made = found.make(call, "channels", len(query))
        found.atoms.unite(made, query)
    output = layer._output_dense
    slots += [Slot(output.kernel, (None, None, made), makes=(2,))]
    slots += [Slot(output.bias, (made,), makes=(0,))] if output.bias is not None else []
    found.set_weights(call, *(slot for slot in slots if slot is not None))
    found.give(call.results[0], (*[None] * (len(call.results[0].shape) - 1), made))


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    return {
        layers.MultiHeadAttention: _multi_head,
        layers.GroupQueryAttention: _grouped_query,
    }
