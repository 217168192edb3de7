"""Operators that take some indices, or take them several times."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler, named
from tfcompress.surgery.channels.atoms import Axis, Kept
from tfcompress.surgery.channels.elementwise import broadcast


def _split(call: Call, found: Analysis) -> None:
    from keras.src.ops import numpy

    (value,) = call.inputs
    axis = call.operation.axis % len(value.shape)
    axes, size = found.axes(value), value.shape[axis]
    starts, parts = 0, []
    for result in call.results:
        end = starts + (result.shape[axis] or 0)
        mine = axes[axis]
        part = None if mine is None else mine[starts:end]
        parts.append(part)
        found.give(result, [part if n == axis else one for n, one in enumerate(axes)])
        starts = end
    if size is None or axes[axis] is None:
        return

    def rebuild(kept: Kept) -> Any:
        ends = np.cumsum([kept.count(part) for part in parts])[:-1]
        return numpy.Split([int(end) for end in ends], axis)

    found.record(call).rebuild = rebuild


def _get_item(call: Call, found: Analysis) -> None:
    value, (result,) = call.inputs[0], call.results
    key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
    keys = list(key) if isinstance(key, (tuple, list)) else [key]
    if any(isinstance(one, Value) for one in keep_flat(keys)):
        raise Barrier("it is indexed by a tensor")
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        real = sum(one is not None for one in keys) - 1
        keys[place : place + 1] = [slice(None)] * (len(value.shape) - real)
    keys += [slice(None)] * (len(value.shape) - sum(one is not None for one in keys))
    given: list[Axis] = []
    sliced: dict[int, tuple[Axis, slice]] = {}
    rest = iter(zip(value.shape, found.axes(value), strict=True))
    for place, one in enumerate(keys):
        if one is None:
            given.append(None)
            continue
        size, axis = next(rest)
        if isinstance(one, slice):
            if axis is not None and one != slice(None):
                if one.step not in (None, 1):
                    raise Barrier("it takes every second channel, or some such")
                first, last, _ = one.indices(size or 0)
                sliced[place] = (axis, slice(first, max(first, last)))
                axis = axis[first : max(first, last)]
            given.append(axis)
        else:
            found.atoms.pin(axis)
            if axis is not None:
                raise Barrier("it takes a single channel")
    found.give(result, given)
    if not sliced:
        return

    def rebuild(kept: Kept) -> Any:
        new: list[Any] = list(keys)
        for place, (axis, part) in sliced.items():
            assert axis is not None
            start = kept.count(axis[: part.start])
            new[place] = slice(start, start + kept.count(axis[part]))
        return lambda x, *_, **__: x[tuple(new)]

    found.record(call).rebuild = rebuild


def keep_flat(nest: Any) -> list[Any]:
    """The leaves of a nest, slices taken apart."""
    flat = keras.tree.flatten(nest)
    return [p for one in flat for p in
            ((one.start, one.stop, one.step) if isinstance(one, slice) else (one,))]  # fmt: skip


def _repeat(call: Call, found: Analysis) -> None:
    value, (result,) = call.inputs[0], call.results
    axis, times = call.operation.axis, call.operation.repeats
    axes = list(found.axes(value))
    if axis is None or not isinstance(times, int):
        raise Barrier("it repeats elements of all axes, or each as often as it likes")
    if axes[axis] is not None:
        axes[axis] = np.repeat(axes[axis], times)
    found.give(result, axes)


def _tile(call: Call, found: Analysis) -> None:
    value, (result,) = call.inputs[0], call.results
    repeats = call.operation.repeats
    times = [repeats] if isinstance(repeats, int) else list(repeats)
    rank = len(result.shape)
    times = [1] * (rank - len(times)) + times
    axes: list[Axis] = [*[None] * (rank - len(value.shape)), *found.axes(value)]
    tiled = zip(axes, times, strict=True)
    found.give(result, [None if axis is None else np.tile(axis, n) for axis, n in tiled])


def _glu(call: Call, found: Analysis) -> None:
    """The gate of each channel of the first half is in the second: they go together."""
    (value,), (result,) = call.inputs, call.results
    axes, number = list(found.axes(value)), call.operation.axis
    axis = axes[number]
    if axis is not None:
        half = len(axis) // 2
        found.atoms.unite(axis[:half], axis[half:])
        axes[number] = axis[:half]
    found.give(result, axes)


def _pad(call: Call, found: Analysis) -> None:
    value, (result,) = call.inputs[0], call.results
    if any(isinstance(one, Value) for one in call.inputs[1:]):
        raise Barrier("it pads with a tensor")
    axes = list(found.axes(value))
    for n, size in enumerate(value.shape):
        if axes[n] is not None and size != result.shape[n]:
            raise Barrier("it pads channels")
    found.give(result, axes)


def _numbers(axis: Any, rank: int) -> list[int]:
    """Axes that an operation names, counted from 0; all for None."""
    given = range(rank) if axis is None else axis if isinstance(axis, (tuple, list)) else [axis]
    return [number % rank for number in given]


def _flip(call: Call, found: Analysis) -> None:
    value, (result,) = call.inputs[0], call.results
    axes = list(found.axes(value))
    fixed = {"Fliplr": 1, "Flipud": 0}.get(type(call.operation).__name__)
    flipped = call.operation.axis if fixed is None else fixed
    for number in _numbers(flipped, len(axes)):
        axis = axes[number]
        axes[number] = None if axis is None else axis[::-1]
    found.give(result, axes)


def _roll(call: Call, found: Analysis) -> None:
    value, (result,) = call.inputs[0], call.results
    axes = found.axes(value)
    if any(axes[number] is not None for number in _numbers(call.operation.axis, len(axes))):
        raise Barrier("it moves channels by a fixed number of places")
    found.give(result, axes)


def _take(call: Call, found: Analysis) -> None:
    value, (result,) = call.inputs[0], call.results
    axes, number = list(found.axes(value)), call.operation.axis
    if len(call.inputs) > 1 or number is None:
        raise Barrier("which elements it takes is computed, or of all axes")
    number %= len(axes)
    if axes[number] is not None:
        raise Barrier("it takes single channels")
    more = len(result.shape) - len(value.shape) + 1
    found.give(result, [*axes[:number], *[None] * more, *axes[number + 1 :]])


def _stack(call: Call, found: Analysis) -> None:
    (result,), values = call.results, call.inputs
    if len(keras.tree.flatten((call.args, call.kwargs))) != len(values):
        raise Barrier("it joins tensors with constants")
    axes: list[Axis] = []
    for number, size in enumerate(values[0].shape):
        here = [((size,), (found.axes(value)[number],)) for value in values]
        axes += broadcast(found, here, 1)
    axes.insert(call.operation.axis % len(result.shape), None)
    found.give(result, axes)


def _unstack(call: Call, found: Analysis) -> None:
    axes = list(found.axes(call.inputs[0]))
    if axes.pop(call.operation.axis) is not None:
        raise Barrier("it takes single channels")
    for result in call.results:
        found.give(result, axes)


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    from keras.src.ops import core, nn, numpy

    moving: dict[str, Handler] = {
        "Split": _split, "GetItem": _get_item, "Repeat": _repeat, "Pad": _pad, "Tile": _tile,
        "Flip": _flip, "Fliplr": _flip, "Flipud": _flip, "Roll": _roll, "Take": _take,
        "Stack": _stack,
    }  # fmt: skip
    return named(numpy, moving) | named(nn, {"Glu": _glu}) | named(core, {"Unstack": _unstack})


# As in `shapes`.
MOVING: tuple[Handler, ...] = (
    _split, _get_item, _repeat, _tile, _pad, _flip, _roll, _take, _stack, _unstack,
)  # fmt: skip
