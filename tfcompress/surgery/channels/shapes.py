"""Operators that move indices: concatenating, splitting, flattening, reshaping, transposing."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler, named
from tfcompress.surgery.channels.atoms import Axis, Kept
from tfcompress.surgery.channels.elementwise import broadcast
from tfcompress.surgery.channels.linear import channel_axis, from_config, give_channels, only

Shape = Sequence[int | None]


def _concatenate(call: Call, found: Analysis) -> None:
    (result,), values = call.results, call.inputs
    if len(keras.tree.flatten((call.args, call.kwargs))) != len(values):
        raise Barrier("it joins tensors with constants")
    rank = len(result.shape)
    axis = call.operation.axis % rank
    axes: list[Axis] = []
    for number in range(rank):
        here = [found.axes(value)[number] for value in values]
        if number != axis:
            (one,) = broadcast(found, [((v.shape[number],), (a,)) for v, a in
                                       zip(values, here, strict=True)], 1)  # fmt: skip
            axes.append(one)
        elif all(one is None for one in here):
            axes.append(None)
        else:
            joined = [
                np.zeros(value.shape[axis] or 0, np.int64) if one is None else one
                for value, one in zip(values, here, strict=True)
            ]
            axes.append(np.concatenate(joined))
    found.give(result, axes)


def _blocks(before: Shape, after: Shape) -> list[tuple[range, range]]:
    """Which axes before and after a reshape hold the same elements, in the smallest parts."""
    found, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        start = (i, j)
        left = right = 1
        while True:
            if left == right and (i, j) != start and left != 1:
                break
            if left <= right and i < len(before):
                left *= before[i] or 0
                i += 1
            elif j < len(after):
                right *= after[j] or 0
                j += 1
            elif i < len(before):
                left *= before[i] or 0
                i += 1
            else:
                break
        found.append((range(start[0], i), range(start[1], j)))
    return found


def reshaped(found: Analysis, before: Shape, axes: Sequence[Axis], after: Shape) -> list[Axis]:
    """The axes of a reshaped tensor, without the batch axis.

    Raises:
        Barrier: sizes are not known.
    """
    if all(axis is None for axis in axes):
        return [None] * len(after)
    if None in before or None in after:
        raise Barrier("it reshapes sizes that are not known")
    result: list[Axis] = [None] * len(after)
    for old, new in _blocks(before, after):
        carrying = [(n, axes[n]) for n in old if axes[n] is not None]
        if not carrying:
            continue
        # One axis carries on; the others stay.
        number, atoms = max(carrying, key=lambda one: len(one[1]))  # type: ignore[arg-type]
        for other, axis in carrying:
            if other != number:
                found.atoms.pin(axis)
        shape = [len(axes[n]) if n == number else 1 for n in old]  # type: ignore[arg-type]
        whole = np.broadcast_to(np.reshape(atoms, shape), [before[n] for n in old])  # type: ignore[arg-type, misc]
        whole = whole.reshape([after[n] for n in new])
        if not len(new):
            found.atoms.pin(atoms)
            continue
        for place in sorted(range(len(new)), key=lambda p: -whole.shape[p]):
            rows = np.moveaxis(whole, place, 0).reshape(whole.shape[place], -1)
            if (rows == rows[:, :1]).all():
                result[new[place]] = rows[:, 0]
                break
        else:
            # It becomes several axes: whole slices along one of them go.
            place = max(range(len(new)), key=lambda p: (whole.shape[p], -p))
            if found.whole_heads:
                place = next(p for p in range(len(new)) if whole.shape[p] > 1)
            rows = np.moveaxis(whole, place, 0).reshape(whole.shape[place], -1)
            found.atoms.unite(rows[:, :1], rows)
            result[new[place]] = rows[:, 0]
    return result


def _reshapes_batch(before: Shape, after: Shape) -> bool:
    """Whether other elements are an example's own than before, as far as sizes are known."""
    if before[0] != after[0]:
        return True
    sizes, new = before[1:], after[1:]
    return None not in sizes and None not in new and np.prod(sizes) != np.prod(new)  # type: ignore[arg-type]


def _give_reshaped(call: Call, found: Analysis) -> list[Axis]:
    value, (result,) = call.inputs[0], call.results
    axes = found.axes(value)
    if any(axis is not None for axis in axes) and _reshapes_batch(value.shape, result.shape):
        if any(axis is not None for axis in axes[:-1]) or value.shape[-1] != result.shape[-1]:
            raise Barrier("it reshapes the batch")
        # Windows, or images of a film, as rows of the batch: each with the same channels.
        rows: list[Axis] = [*[None] * (len(result.shape) - 1), axes[-1]]
        found.give(result, rows)
        return rows
    found.atoms.pin(axes[0])
    given = [None, *reshaped(found, value.shape[1:], axes[1:], result.shape[1:])]
    found.give(result, given)
    return given


def _target(kept: Kept, value: Value, axes: Sequence[Axis]) -> list[int]:
    """The sizes behind the batch axis; -1 where one is not known."""
    sizes = [kept.size(axis, size) for axis, size in zip(axes, value.shape, strict=True)]
    return [-1 if size is None else size for size in sizes[1:]]


def _reshape_layer(call: Call, found: Analysis) -> None:
    given = _give_reshaped(call, found)
    if any(axis is not None for axis in given):
        found.same(call, "once", None if len(found.record(call).calls) == 1 else given[-1])
        if len(found.record(call).calls) > 1:
            raise Barrier("it is called several times")
        found.record(call).rebuild = lambda kept: from_config(
            call.operation, target_shape=_target(kept, call.results[0], given)
        )


def _reshape_operation(call: Call, found: Analysis) -> None:
    from keras.src.ops import numpy

    given = _give_reshaped(call, found)
    first = call.results[0].shape[0]
    found.record(call).rebuild = lambda kept: numpy.Reshape(
        (-1 if first is None else first, *_target(kept, call.results[0], given))
    )


def _flatten(call: Call, found: Analysis) -> None:
    if getattr(call.operation, "data_format", "") == "channels_first":
        # Keras moves channels to the end before it flattens.
        value = call.inputs[0]
        order = [0, *range(2, len(value.shape)), 1]
        moved = Value(tuple(value.shape[n] for n in order), value.dtype)
        found.give(moved, [found.axes(value)[n] for n in order])
        given = reshaped(found, moved.shape[1:], found.axes(moved)[1:], call.results[0].shape[1:])
        found.give(call.results[0], [None, *given])
    else:
        _give_reshaped(call, found)


def _permute(call: Call, found: Analysis) -> None:
    axes = found.axes(call.inputs[0])
    found.give(call.results[0], [axes[0], *(axes[n] for n in call.operation.dims)])


def _transpose(call: Call, found: Analysis) -> None:
    axes = found.axes(call.inputs[0])
    order = call.operation.axes or range(len(axes))[::-1]
    found.give(call.results[0], [axes[n] for n in order])


def _swapaxes(call: Call, found: Analysis) -> None:
    axes = list(found.axes(call.inputs[0]))
    one, two = call.operation.axis1, call.operation.axis2
    axes[one], axes[two] = axes[two], axes[one]
    found.give(call.results[0], axes)


def _moveaxis(call: Call, found: Analysis) -> None:
    axes, operation = found.axes(call.inputs[0]), call.operation
    # The axes of an array whose sizes tell them apart.
    marked: np.ndarray = np.broadcast_to(0, range(len(axes)))
    order = np.moveaxis(marked, operation.source, operation.destination).shape
    found.give(call.results[0], [axes[n] for n in order])


def _depth_to_space(call: Call, found: Analysis) -> None:
    """The channels of a block become places of one channel, and go together."""
    axis, times = _depth(call, found)
    given = found.axes(call.inputs[0])[axis]
    if given is not None:
        table = given.reshape(times, -1)
        found.atoms.unite(table[:1], table)
        given = table[0]
    give_channels(found, call, axis, given)


def _space_to_depth(call: Call, found: Analysis) -> None:
    """A channel becomes one for each place of a block."""
    axis, times = _depth(call, found)
    given = found.axes(call.inputs[0])[axis]
    give_channels(found, call, axis, None if given is None else np.tile(given, times))


def _depth(call: Call, found: Analysis) -> tuple[int, int]:
    """The axis of channels, and how many places a block has."""
    axis = channel_axis(call)
    only(found, call, axis)
    return axis, call.operation.block_size**2


def _repeat_vector(call: Call, found: Analysis) -> None:
    axes = found.axes(call.inputs[0])
    found.give(call.results[0], [axes[0], None, axes[1]])


def _expand(call: Call, found: Analysis) -> None:
    axes, rank = list(found.axes(call.inputs[0])), len(call.results[0].shape)
    places = call.operation.axis
    places = places if isinstance(places, (tuple, list)) else [places]
    for place in sorted(place % rank for place in places):
        axes.insert(place, None)
    found.give(call.results[0], axes)


def _squeeze(call: Call, found: Analysis) -> None:
    value = call.inputs[0]
    places = call.operation.axis
    if places is None:
        places = [n for n, size in enumerate(value.shape) if size == 1]
    places = places if isinstance(places, (tuple, list)) else [places]
    gone = {place % len(value.shape) for place in places}
    for place in gone:
        found.atoms.pin(found.axes(value)[place])
    kept = [axis for n, axis in enumerate(found.axes(value)) if n not in gone]
    found.give(call.results[0], kept)


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    from keras.src.ops import nn, numpy

    operations: dict[str, Handler] = {
        "Concatenate": _concatenate, "Reshape": _reshape_operation, "Transpose": _transpose,
        "Swapaxes": _swapaxes, "Moveaxis": _moveaxis, "ExpandDims": _expand, "Squeeze": _squeeze,
    }  # fmt: skip
    blocks = {"DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth}
    return (
        named(numpy, operations)
        | named(nn, blocks)
        | {
            layers.Concatenate: _concatenate,
            layers.Flatten: _flatten,
            layers.Reshape: _reshape_layer,
            layers.Permute: _permute,
            layers.RepeatVector: _repeat_vector,
        }
    )


# Handlers of what takes each channel's values along, and changes none.
MOVING: tuple[Handler, ...] = (
    _concatenate, _flatten, _reshape_layer, _reshape_operation, _permute, _transpose, _swapaxes,
    _moveaxis, _depth_to_space, _space_to_depth, _repeat_vector, _expand, _squeeze,
)  # fmt: skip
