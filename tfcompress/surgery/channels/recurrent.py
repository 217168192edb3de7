"""Recurrent layers: a unit goes with all its gates."""

from __future__ import annotations

import numpy as np
from keras import layers

from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler, Slot
from tfcompress.surgery.channels.atoms import Axis
from tfcompress.surgery.channels.elementwise import check_activation
from tfcompress.surgery.channels.linear import from_config, only

RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN)


def sequence(call: Call, found: Analysis) -> Value:
    """What a layer reads step by step, beside which it may get a mask of the steps.

    Raises:
        Barrier: it gets more, or the mask hangs on channels.
    """
    value, *others = call.inputs
    mask = call.kwargs.get("mask")
    if any(other is not mask for other in others):
        raise Barrier("its state goes in or out")
    if mask is not None and any(axis is not None for axis in found.axes(mask)):
        raise Barrier("the mask that it is given is computed from channels")
    return value


def _recurrent(call: Call, found: Analysis) -> None:
    layer = call.operation
    cell = layer.cell
    mask = call.kwargs.get("mask")
    states = [value for value in call.inputs[1:] if value is not mask]
    if not states:
        sequence(call, found)
    for state in (*states, *([mask] if states and mask is not None else [])):
        for axis in found.axes(state):
            found.atoms.pin(axis)
    for name in ("activation", "recurrent_activation"):
        check_activation(getattr(cell, name, None))
    read = found.same(call, "read", only(found, call, 2))
    made = found.make(call, "units", layer.units)
    gates = cell.kernel.shape[-1] // layer.units
    # What the gates keep side by side; and of the bias, one row for each kernel, or one in all.
    all_gates = np.tile(made, gates)
    slots = [
        Slot(cell.kernel, (read, all_gates), makes=(1,), reads=(0,)),
        Slot(cell.recurrent_kernel, (made, all_gates)),
    ]
    if cell.bias is not None:
        rows = (None,) * (len(cell.bias.shape) - 1)
        slots.append(Slot(cell.bias, (*rows, all_gates), makes=(len(rows),)))
    found.set_weights(call, *slots)
    found.reads(call, (0, 2, read))
    found.record(call).rebuild = lambda kept: from_config(layer, units=kept.count(made))
    if states or layer.stateful or layer.return_state:
        # What it reads may shrink all the same.
        found.atoms.pin(made)
        found.record(call).barrier = "its units stay: its state goes in or out"
        return
    (result,) = call.results
    found.give(result, (*[None] * (len(result.shape) - 1), made))


def _convolutional(call: Call, found: Analysis) -> None:
    """ConvLSTM: a filter with all its gates, of what it reads and of its own state."""
    layer, cell = call.operation, call.operation.cell
    if layer.stateful or layer.return_state or len(call.inputs) > 1:
        raise Barrier("its state goes in or out")
    for activation in (cell.activation, cell.recurrent_activation):
        check_activation(activation)
    first = layer.data_format == "channels_first"
    axis = 2 if first else len(call.inputs[0].shape) - 1
    read = found.same(call, "read", only(found, call, axis))
    made = found.make(call, "filters", layer.filters)
    gates, space = np.tile(made, 4), (None,) * len(layer.kernel_size)
    rank = len(space)
    found.set_weights(
        call,
        Slot(cell.kernel, (*space, read, gates), makes=(rank + 1,), reads=(rank,)),
        Slot(cell.recurrent_kernel, (*space, made, gates)),
        Slot(cell.bias, (gates,), makes=(0,)),
    )
    found.reads(call, (0, axis, read))
    found.record(call).rebuild = lambda kept: from_config(layer, filters=kept.count(made))
    (result,) = call.results
    axes: list[Axis] = [None] * len(result.shape)
    axes[-rank - 1 if first else -1] = made
    found.give(result, axes)


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    convolutional = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
    return dict.fromkeys(RECURRENT, _recurrent) | dict.fromkeys(convolutional, _convolutional)
