"""TimeDistributed in the verbs that replace layers: what stands for the layer inside is wrapped."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from keras import layers

from tfcompress.graph.copying import Replacement
from tfcompress.graph.distributed import around
from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.rewriting import fresh_name


def open_wrappers(calls: dict[int, list[Call]]) -> dict[int, Any]:
    """Adds the calls of the layers in TimeDistributed, one for each step.

    A layer that is called outside as well, or that several hold, is left out: one alone cannot be
    replaced.

    Args:
        calls: the calls of each layer by `id`; those of the layers inside are added.

    Returns:
        By `id` of a layer inside, the TimeDistributed that holds it.
    """
    holders: dict[int, Any] = {}
    shared = set(calls) | _held_twice(calls)
    for own in list(calls.values()):
        wrapper = own[0].operation
        if type(wrapper) is not layers.TimeDistributed:
            continue
        inner = wrapper.layer
        holders[id(inner)] = wrapper
        calls.setdefault(id(inner), []).extend(
            step for call in own for step in [step_of(call)] * (call.inputs[0].shape[1] or 1)
        )
    for key in shared & set(holders):
        del holders[key], calls[key]
    return holders


def _held_twice(calls: Mapping[int, list[Call]]) -> set[int]:
    """Layers that several others hold."""
    seen: set[int] = set()
    twice: set[int] = set()
    parents: dict[int, Any] = {}
    for own in calls.values():
        operation = own[0].operation
        if isinstance(operation, layers.Layer):
            parents |= {id(one): one for one in operation._flatten_layers()}
    for parent in parents.values():
        for held in parent._flatten_layers(include_self=False, recursive=False):
            (twice if id(held) in seen else seen).add(id(held))
    return twice


def inside(layer: Any) -> Any:
    """What a TimeDistributed holds; other layers are what they are."""
    return layer.layer if type(layer) is layers.TimeDistributed else layer


def operands(call: Call) -> list[Value]:
    """What a call computes with; a TimeDistributed reads masks too, which linear layers ignore."""
    wrapper = type(call.operation) is layers.TimeDistributed
    mask = call.kwargs.get("mask") if wrapper else None
    return [value for value in call.inputs if value is not mask]


def masked(call: Call) -> bool:
    """Whether what a call reads has a mask."""
    return call.kwargs.get("mask") is not None or any(value.masked for value in call.inputs)


def step_of(call: Call) -> Call:
    """A call of a TimeDistributed as one of the layer inside, which sees a step at a time."""
    (given, *_), (made, *_) = call.inputs, call.results
    one, other = (
        Value((value.shape[0], *value.shape[2:]), value.dtype, rows=value.rows)
        for value in (given, made)
    )
    inner = inside(call.operation)
    return Call(inner, (one,), call.kwargs, other, f"{call.path}/{inner.name}")


def wrapped(
    found: Mapping[int, Replacement], holders: Mapping[int, Any], names: Collection[str]
) -> dict[int, Replacement]:
    """The replacements, with those of layers in TimeDistributed as their wrappers'.

    Args:
        found: what takes the place of a layer, by its `id`.
        holders: of `open_wrappers`.
        names: of the model's layers, which new ones are not to have.
    """
    taken = set(names)
    made = dict(found)
    for key in [key for key in found if key in holders]:
        made[id(holders[key])] = _wrapped(made.pop(key), holders[key], taken)
    return made


def _wrapped(replacement: Replacement, wrapper: Any, taken: set[str]) -> Replacement:
    last = replacement.layers[-1]

    def wrap(layer: Any) -> Any:
        if layer is None:
            return None
        name = wrapper.name
        if layer is not last:
            name = fresh_name(name + layer.name.removeprefix(wrapper.layer.name), taken)
            taken.add(name)
        if isinstance(layer, layers.Concatenate):  # of a list, whose tensors have an axis more
            layer.axis += layer.axis > 0
            layer.name = name
            return layer
        if type(layer) is layers.Dense:  # alone it does all steps at once, in one operator
            layer.name, layer.trainable = name, layer.trainable and wrapper.trainable
            return layer
        return around(wrapper, layer, name)

    sides = [wrap(layer) for layer in replacement.sides]
    return replace(replacement, sides=sides, layers=[wrap(layer) for layer in replacement.layers])
