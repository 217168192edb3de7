"""Attention: whole heads go, and widths of queries, keys and values in all heads at once.

Of grouped queries, the heads that share keys and values go together, and widths stay.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler, Slot, named
from tfcompress.surgery.channels.atoms import Axis, Kept
from tfcompress.surgery.channels.elementwise import broadcast
from tfcompress.surgery.channels.linear import from_config

# Of `ops.dot_product_attention`.
_ARGUMENTS = ("query", "key", "value", "bias", "mask", "scale")


def _attended(call: Call) -> tuple[Value, Value, Value]:
    """Query, value and key of a call; its masks must carry nothing."""
    given = dict(zip(("query", "value", "key"), call.args, strict=False)) | call.kwargs
    query, value = given["query"], given["value"]
    key = given.get("key")
    return query, value, value if key is None else key


def _pin_others(call: Call, found: Analysis, attended: tuple[Value, ...]) -> None:
    """Places stay, and masks: all but the last axes of query, value and key."""
    for value in call.inputs:
        axes = found.axes(value)
        for axis in axes[:-1] if any(value is one for one in attended) else axes:
            found.atoms.pin(axis)


def _last(call: Call, found: Analysis) -> list[Axis]:
    """The atoms along the last axis of query, value and key; all else stays."""
    attended = _attended(call)
    _pin_others(call, found, attended)
    return [
        found.same(call, name, found.axes(value)[-1])
        for name, value in zip(("query", "value", "key"), attended, strict=True)
    ]


def _say_reads(call: Call, found: Analysis, *atoms: Axis) -> None:
    """Says what the projections of query, value and key read."""
    inputs = list(map(id, call.inputs))
    pairs = zip(_attended(call), atoms, strict=True)
    found.reads(call, *((inputs.index(id(one)), len(one.shape) - 1, own) for one, own in pairs))


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
    _say_reads(call, found, query, value, key)
    found.record(call).rebuild = lambda kept: from_config(
        layer,
        num_heads=kept.count(heads),
        key_dim=kept.count(width),
        value_dim=kept.count(depth),
        output_shape=kept.count(made),
    )
    found.give(call.results[0], (*[None] * (len(call.results[0].shape) - 1), made))


def _grouped_query(call: Call, found: Analysis) -> None:
    """A head of keys and values goes with all the heads of queries that look at it."""
    layer = call.operation
    if len(call.results) > 1:
        raise Barrier("its scores are read")
    query, value, key = _last(call, found)
    groups = found.make(call, "key-value heads", layer.num_key_value_heads, rounded=False)
    each = layer.num_query_heads // layer.num_key_value_heads
    heads = np.repeat(groups, each)
    slots = []
    for dense, read, own in (
        (layer._query_dense, query, heads),
        (getattr(layer, "_gate_dense", None), query, heads),
        (layer._key_dense, key, groups),
        (layer._value_dense, value, groups),
    ):
        if dense is not None:
            slots += [
                Slot(dense.kernel, (read, own, None), (1,), (0,)),
                Slot(dense.bias, (own, None)),
            ]
    made: Axis = None
    if query is not None:  # it gives as many channels as its queries have
        made = found.make(call, "channels", len(query))
        found.atoms.unite(made, query)
    output = layer._output_dense
    slots += [
        Slot(output.kernel, (heads, None, made), (2,), (0,)),
        Slot(output.bias, (made,), (0,)),
    ]
    found.set_weights(call, *slots)
    _say_reads(call, found, query, value, key)
    found.record(call).rebuild = lambda kept: from_config(
        layer,
        num_query_heads=kept.count(groups) * each,
        num_key_value_heads=kept.count(groups),
    )
    found.give(call.results[0], (*[None] * (len(call.results[0].shape) - 1), made))


def looked_up(call: Call) -> tuple[Value, Value, Value]:
    """Query, value and key of a call of Attention, which come as a list."""
    given = call.args[0] if call.args else call.kwargs["inputs"]
    return given[0], given[1], given[2] if len(given) > 2 else given[1]


def single_head(call: Call, found: Analysis) -> None:
    """Attention and AdditiveAttention: queries and keys meet channel by channel."""
    if len(call.results) > 1:
        raise Barrier("its scores are read")
    query, value, key = looked_up(call)
    _pin_others(call, found, (query, value, key))
    last = [((one.shape[-1],), (found.axes(one)[-1],)) for one in (query, key)]
    (met,) = broadcast(found, last, 1)
    met = found.same(call, "met", met)
    layer = call.operation
    numbers = list(map(id, call.inputs))
    found.reads(call, *((numbers.index(id(one)), len(one.shape) - 1, met) for one in (query, key)))
    if isinstance(layer, layers.AdditiveAttention):
        found.set_weights(call, Slot(layer.scale, (met,)))
    (result,) = call.results
    found.give(result, (*[None] * (len(result.shape) - 1), found.axes(value)[-1]))


def arguments(call: Call) -> dict[str, Any]:
    """What a call of `ops.dot_product_attention` is given."""
    return dict(zip(_ARGUMENTS, call.args, strict=False)) | call.kwargs


def dot_product(call: Call, found: Analysis) -> None:
    """`ops.dot_product_attention`: whole heads, and the width of all of them at once."""
    given = arguments(call)
    attended = [given[name] for name in _ARGUMENTS[:3]]
    query, key, _ = attended
    if not all(isinstance(one, Value) for one in attended):
        raise Barrier("it attends to constants")
    heads, width = zip(*(found.axes(one)[2:] for one in attended), strict=True)
    numbers, count = list(map(id, call.inputs)), query.shape[2]
    for one in call.inputs:
        for axis in found.axes(one)[:2] if id(one) in map(id, attended) else found.axes(one):
            found.atoms.pin(axis)
    (met,) = broadcast(found, [((one.shape[3],), (own,)) for one, own in
                               zip(attended, width, strict=True)], 1)  # fmt: skip
    # A head of keys and values goes with all the heads of queries that look at it.
    each = count // key.shape[2]
    (looking,) = broadcast(found, [((count,), (heads[0],)), *(
        ((count,), (None if own is None else np.repeat(own, each),)) for own in heads[1:]
    )], 1)  # fmt: skip
    for name in ("bias", "mask"):
        other = given.get(name)
        if other is not None and [1, *other.shape][-3 if len(other.shape) > 2 else 0] != 1:
            found.atoms.pin(looking)
    found.reads(call, *((numbers.index(id(one)), 3, met) for one in (query, key)))
    # Scores are divided by the root of the width as it was.
    scale = 1 / math.sqrt(query.shape[3])

    def attend(query: Any, key: Any, value: Any, *others: Any, **named: Any) -> Any:
        if each > 1:  # Keras does not take one head of keys for several of queries
            key, value = (keras.ops.repeat(one, each, axis=2) for one in (key, value))
        named = dict(zip(_ARGUMENTS[3:], others, strict=False)) | named
        if named.get("scale") is None:
            named["scale"] = scale
        return call.operation(query, key, value, **named)

    found.record(call).rebuild = lambda kept: attend
    found.give(call.results[0], (None, None, looking, met))


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    from keras.src.ops import nn

    return {
        **named(nn, {"DotProductAttention": dot_product}),
        layers.MultiHeadAttention: _multi_head,
        layers.GroupQueryAttention: _grouped_query,
        layers.Attention: single_head,
        layers.AdditiveAttention: single_head,
    }
