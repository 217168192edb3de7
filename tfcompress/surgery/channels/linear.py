"""Convolutions of every kind, Dense, EinsumDense and Embedding: they read and make channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from tfcompress.graph.flow import Call
from tfcompress.graph.state import same_activations
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler, Slot
from tfcompress.surgery.channels.atoms import Axis, Kept
from tfcompress.surgery.channels.elementwise import check_activation
from tfcompress.surgery.rewriting import EXCLUDED, resizable_config


def channel_axis(call: Call) -> int:
    """The axis of channels of what a layer reads and gives."""
    rank = len(call.inputs[0].shape)
    return 1 if getattr(call.operation, "data_format", "") == "channels_first" else rank - 1


def from_config(layer: Any, **changed: Any) -> Any:
    """A layer of that config, some of it changed."""
    new = type(layer).from_config({**resizable_config(layer), **changed})
    same_activations(layer, new)
    return new


def only(found: Analysis, call: Call, kept_axis: int, which: int = 0) -> Axis:
    """The atoms along one axis of an input; what goes along its other axes is to stay."""
    axes = found.axes(call.inputs[which])
    for number, axis in enumerate(axes):
        if number != kept_axis:
            found.atoms.pin(axis)
    return axes[kept_axis]


def give_channels(found: Analysis, call: Call, axis: int, channels: Axis) -> None:
    """The output carries these channels, and nothing along its other axes."""
    (result,) = call.results
    given: list[Axis] = [None] * len(result.shape)
    given[axis] = channels
    found.give(result, given)


def _filters(call: Call, found: Analysis, size: int) -> Axis:
    """The channels that a layer makes, pinned where its activation looks across them."""
    made = found.make(call, "channels", size)
    try:
        check_activation(call.operation.activation)
    except Barrier as why:
        found.atoms.pin(made)
        found.record(call).barrier = f"its output channels stay: {why}"
    return made


def _convolution(call: Call, found: Analysis) -> None:
    layer, axis = call.operation, channel_axis(call)
    if layer.groups > 1:
        _grouped(call, found)
        return
    read = found.same(call, "read", only(found, call, axis))
    made = _filters(call, found, layer.filters)
    space = (None,) * (len(layer.kernel.shape) - 2)
    found.set_weights(
        call,
        Slot(layer.kernel, (*space, read, made), makes=(len(space) + 1,), reads=(len(space),)),
        Slot(layer.bias, (made,), makes=(0,)),
    )
    found.reads(call, (0, axis, read))
    found.record(call).rebuild = lambda kept: from_config(layer, filters=kept.count(made))
    give_channels(found, call, axis, made)


def _grouped(call: Call, found: Analysis) -> None:
    """Whole groups go, or the same places within all groups: whichever leaves more choice."""
    layer, axis, groups = call.operation, channel_axis(call), call.operation.groups
    read = only(found, call, axis)
    within, filters = layer.kernel.shape[-2], layer.filters // groups
    made: Any = _filters(call, found, layer.filters)
    space = (None,) * (len(layer.kernel.shape) - 2)
    by_group = groups >= within
    inside: Axis = None
    if read is None:
        if by_group:
            found.atoms.pin(made)  # groups of what stays
    elif by_group:
        table = read.reshape(groups, within)
        found.atoms.unite(table[:, :1], table)
        found.atoms.unite(table[:, :1], made.reshape(groups, filters))
        read = found.same(call, "read", read)
    else:
        found.atoms.unite(read.reshape(groups, within)[:1], read.reshape(groups, within))
        read = found.same(call, "read", read)
        inside = None if read is None else read[:within]
    if not by_group:
        table = made.reshape(groups, filters)
        found.atoms.unite(table[:1], table)
    found.set_weights(
        call,
        Slot(layer.kernel, (*space, inside, made), (len(space) + 1,), (len(space),)),
        Slot(layer.bias, (made,), (0,)),
    )
    found.reads(call, (0, axis, read))

    def rebuild(kept: Kept) -> Any:
        now = kept.count(made[::filters]) if by_group else groups
        return from_config(layer, filters=kept.count(made), groups=now)

    found.record(call).rebuild = rebuild
    give_channels(found, call, axis, made)


def _transposed(call: Call, found: Analysis) -> None:
    layer, axis = call.operation, channel_axis(call)
    read = found.same(call, "read", only(found, call, axis))
    made = _filters(call, found, layer.filters)
    space = (None,) * (len(layer.kernel.shape) - 2)
    found.set_weights(
        call,
        Slot(layer.kernel, (*space, made, read), makes=(len(space),), reads=(len(space) + 1,)),
        Slot(layer.bias, (made,), makes=(0,)),
    )
    found.reads(call, (0, axis, read))
    found.record(call).rebuild = lambda kept: from_config(layer, filters=kept.count(made))
    give_channels(found, call, axis, made)


def _repeated(axis: Axis, times: int) -> Axis:
    return None if axis is None else np.repeat(axis, times)


def _depthwise(call: Call, found: Analysis) -> None:
    """Each input channel has its outputs: they go with it."""
    layer, axis = call.operation, channel_axis(call)
    check_activation(layer.activation)
    read = found.same(call, "read", only(found, call, axis))
    given = _repeated(read, layer.depth_multiplier)
    if found.left(layer) == EXCLUDED:  # it makes none of its own that `include` could name
        found.atoms.pin(read)
    space = (None,) * (len(layer.kernel.shape) - 2)
    found.set_weights(call, Slot(layer.kernel, (*space, read, None)), Slot(layer.bias, (given,)))
    give_channels(found, call, axis, given)


def _separable(call: Call, found: Analysis) -> None:
    layer, axis = call.operation, channel_axis(call)
    read = found.same(call, "read", only(found, call, axis))
    made = _filters(call, found, layer.filters)
    middle = _repeated(read, layer.depth_multiplier)
    space = (None,) * (len(layer.depthwise_kernel.shape) - 2)
    last = len(space) + 1
    found.set_weights(
        call,
        Slot(layer.depthwise_kernel, (*space, read, None), reads=(last - 1,)),
        Slot(layer.pointwise_kernel, (*space, middle, made), makes=(last,), reads=(last - 1,)),
        Slot(layer.bias, (made,), makes=(0,)),
    )
    found.reads(call, (0, axis, read))
    found.record(call).rebuild = lambda kept: from_config(layer, filters=kept.count(made))
    give_channels(found, call, axis, made)


def _dense(call: Call, found: Analysis) -> None:
    layer, (value,), (result,) = call.operation, call.inputs, call.results
    axes = found.axes(value)
    read = found.same(call, "read", axes[-1])
    made = _filters(call, found, layer.units)
    found.set_weights(
        call,
        Slot(layer.kernel, (read, made), makes=(1,), reads=(0,)),
        Slot(layer.bias, (made,), makes=(0,)),
    )
    found.reads(call, (0, len(axes) - 1, read))
    found.record(call).rebuild = lambda kept: from_config(layer, units=kept.count(made))
    found.give(result, (*axes[:-1], made))


def embedding(call: Call, found: Analysis) -> None:
    """Embedding: it makes the channels of its rows."""
    layer, (result,) = call.operation, call.results
    found.pin_all(call)
    made = found.make(call, "channels", layer.output_dim)
    found.set_weights(call, Slot(layer.embeddings, (None, made), makes=(1,)))
    found.record(call).rebuild = lambda kept: from_config(layer, output_dim=kept.count(made))
    found.give(result, (*[None] * (len(result.shape) - 1), made))


def spelled(term: str, rank: int) -> list[str]:
    """A name for each axis of a term of an einsum; those under dots are counted from their end."""
    before, dots, after = term.partition("...")
    middle = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{middle - i}" for i in range(middle)), *after]


def _einsum_dense(call: Call, found: Analysis) -> None:
    layer, (value,), (result,) = call.operation, call.inputs, call.results
    operands, output = layer.equation.replace(" ", "").split("->")
    source, kernel = operands.split(",")
    if "." in kernel:
        raise Barrier("the equation has dots for its kernel")
    along: dict[str, Axis] = {}
    inputs, outputs = spelled(source, len(value.shape)), spelled(output, len(result.shape))
    for name, axis in zip(inputs, found.axes(value), strict=True):
        along[name] = found.same(call, name, axis) if name in kernel else axis
        if name not in kernel and name not in outputs:
            found.atoms.pin(axis)
    across = ""
    try:
        check_activation(layer.activation)
    except Barrier as why:
        across = f"its output channels stay: {why}"
    makes = [name for name in kernel if name not in inputs]
    for name, size in zip(kernel, layer.kernel.shape, strict=True):
        if name in makes:
            along[name] = found.make(call, f"axis {name}", size)
            if name not in outputs or across:
                found.atoms.pin(along[name])
                found.record(call).barrier = across
    axes = tuple(along[name] for name in kernel)
    slots = [
        Slot(
            layer.kernel, axes,
            tuple(n for n, name in enumerate(kernel) if name in makes),
            tuple(n for n, name in enumerate(kernel) if name in inputs and name not in outputs),
        )
    ]  # fmt: skip
    plain = output.replace("...", "")
    if layer.bias is not None:
        rank = len(layer.bias.shape)
        first = min(plain.index(name) for name in layer.bias_axes)
        named = plain[first : first + rank].ljust(rank)
        bias = [along[n] if n in layer.bias_axes else None for n in named]
        own = [n for n, a in enumerate(named) if a in makes and a in layer.bias_axes]
        slots.append(Slot(layer.bias, tuple(bias), tuple(own)))
    found.set_weights(call, *slots)
    found.reads(call, *((0, n, along[name]) for n, name in enumerate(inputs) if name in kernel))
    shape = layer.get_config()["output_shape"]
    sizes = list(shape) if isinstance(shape, (tuple, list)) else [shape]
    letters = plain[len(plain) - len(sizes) :]

    def rebuild(kept: Kept) -> Any:
        new = [
            n if n is None else kept.size(along[name], n)
            for n, name in zip(sizes, letters, strict=True)
        ]
        return from_config(layer, output_shape=tuple(new))

    found.record(call).rebuild = rebuild
    found.give(result, [along[name] for name in outputs])


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    return {
        layers.Dense: _dense,
        layers.EinsumDense: _einsum_dense,
        layers.Embedding: embedding,
        layers.Conv1D: _convolution,
        layers.Conv2D: _convolution,
        layers.Conv3D: _convolution,
        layers.Conv1DTranspose: _transposed,
        layers.Conv2DTranspose: _transposed,
        layers.Conv3DTranspose: _transposed,
        layers.DepthwiseConv1D: _depthwise,
        layers.DepthwiseConv2D: _depthwise,
        layers.SeparableConv1D: _separable,
        layers.SeparableConv2D: _separable,
    }
