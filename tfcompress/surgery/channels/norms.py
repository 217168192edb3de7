"""Normalisation and layers with a weight for each channel: they follow the channels they read."""

from __future__ import annotations

from typing import Any

from keras import layers

from tfcompress.graph.flow import Call
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler, Slot, named
from tfcompress.surgery.channels.atoms import Axis, Kept
from tfcompress.surgery.channels.linear import from_config


def _along(call: Call, found: Analysis) -> Axis:
    """The atoms along the normalised axis; the output carries what the input does."""
    value, (result,) = call.inputs[0], call.results
    for mask in call.inputs[1:]:
        for one in found.axes(mask):
            found.atoms.pin(one)
    axes = list(found.axes(value))
    number = call.operation.axis
    if isinstance(number, (tuple, list)):
        if len(number) > 1:
            raise Barrier("it normalises several axes at once")
        (number,) = number
    axes[number] = found.same(call, "read", axes[number])
    found.give(result, axes)
    return axes[number]


def batch_norm(call: Call, found: Analysis) -> None:
    """BatchNormalization: its weights follow the channels along its axis."""
    layer, read = call.operation, _along(call, found)
    weights = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    found.set_weights(call, *(Slot(weight, (read,)) for weight in weights))


def _layer(call: Call, found: Analysis) -> None:
    """The mean over channels changes a little when some go: this follows, and is not exact."""
    layer, read = call.operation, _along(call, found)
    found.set_weights(call, *(Slot(weight, (read,)) for weight in (layer.gamma, layer.beta)))


def _rms(call: Call, found: Analysis) -> None:
    layer, read = call.operation, _along(call, found)
    found.set_weights(call, Slot(layer.scale, (read,)))


def _group(call: Call, found: Analysis) -> None:
    """Whole groups go, which is exact, or the same places within all groups if they are few."""
    layer, read = call.operation, _along(call, found)
    found.set_weights(call, *(Slot(weight, (read,)) for weight in (layer.gamma, layer.beta)))
    if read is None:
        return
    groups, within = layer.groups, len(read) // layer.groups
    table = read.reshape(groups, within)
    by_group = groups >= within
    found.atoms.unite(table[:, :1] if by_group else table[:1], table)

    def rebuild(kept: Kept) -> Any:
        return from_config(layer, groups=kept.count(read[::within]) if by_group else groups)

    found.record(call).rebuild = rebuild


def unit(call: Call, found: Analysis) -> None:
    """Scaled to a norm of 1: of the squares of all channels, so that it is not exact."""
    value, (result,) = call.inputs[0], call.results
    found.give(result, found.axes(value))


def prelu(call: Call, found: Analysis) -> None:
    """PReLU: its slopes follow the channels."""
    layer, (value,), (result,) = call.operation, call.inputs, call.results
    axes = list(found.axes(value))
    for number in range(1, len(axes)):
        axes[number] = found.same(call, str(number), axes[number])
    shared = layer.shared_axes or ()
    own = [None if n in shared else axis for n, axis in enumerate(axes)][1:]
    found.set_weights(call, Slot(layer.alpha, tuple(own)))
    found.give(result, axes)


def layer_scale(call: Call, found: Analysis) -> None:
    """ConvNeXt's scale for each channel follows it."""
    layer, (value,), (result,) = call.operation, call.inputs, call.results
    axes = list(found.axes(value))
    read = axes[-1] = found.same(call, "read", axes[-1])
    found.set_weights(call, Slot(layer.gamma, (read,)))
    found.record(call).rebuild = lambda kept: from_config(
        layer, projection_dim=kept.size(read, layer.projection_dim)
    )
    found.give(result, axes)


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    from keras.src.applications import convnext
    from keras.src.ops import nn

    later = named(nn, {"Normalize": unit}) | named(layers, {"RMSNormalization": _rms})
    return later | {
        layers.UnitNormalization: unit,
        layers.BatchNormalization: batch_norm,
        layers.LayerNormalization: _layer,
        layers.GroupNormalization: _group,
        layers.PReLU: prelu,
        convnext.LayerScale: layer_scale,
    }
