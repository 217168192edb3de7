"""Pooling, padding, cropping and resizing: they move positions and leave channels alone."""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from tfcompress.graph.flow import Call
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler
from tfcompress.surgery.channels.atoms import Axis
from tfcompress.surgery.channels.linear import channel_axis, only


def _moving(call: Call, found: Analysis) -> None:
    (value,), (result,) = call.inputs, call.results
    axis = channel_axis(call)
    if len(value.shape) == 3 and "2D" in type(call.operation).__name__:
        raise Barrier("it takes a single image")
    axes: list[Axis] = [None] * len(result.shape)
    axes[axis] = only(found, call, axis)
    found.give(result, axes)


def _global(call: Call, found: Analysis) -> None:
    value, (result,) = call.inputs[0], call.results
    for mask in call.inputs[1:]:
        for one in found.axes(mask):
            found.atoms.pin(one)
    read = only(found, call, channel_axis(call))
    axes: list[Axis] = [None] * len(result.shape)
    axes[channel_axis(call) if len(result.shape) == len(value.shape) else -1] = read
    found.give(result, axes)


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    from keras.src.ops import image, nn

    table: dict[type, Handler] = {}
    rows: tuple[tuple[Callable[[Call, Analysis], None], str], ...] = (
        (_moving, "MaxPooling{}D AveragePooling{}D AdaptiveMaxPooling{}D AdaptiveAveragePooling{}D "
                  "UpSampling{}D ZeroPadding{}D Cropping{}D"),
        (_global, "GlobalAveragePooling{}D GlobalMaxPooling{}D"),
    )  # fmt: skip
    for handler, names in rows:
        for name in names.split():
            for rank in (1, 2, 3):
                cls = getattr(layers, name.format(rank), None)
                if cls is not None:
                    table[cls] = handler
    table[layers.Resizing] = _moving
    for module, name in ((nn, "MaxPool"), (nn, "AveragePool"), (image, "Resize")):
        table[getattr(module, name)] = _moving
    return table


# As in `shapes`.
MOVING: tuple[Handler, ...] = (_moving, _global)
