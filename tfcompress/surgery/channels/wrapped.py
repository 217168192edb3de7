"""TimeDistributed and Bidirectional: the layers inside them read and make the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler
from tfcompress.surgery.channels.atoms import Axis, Kept
from tfcompress.surgery.channels.elementwise import broadcast
from tfcompress.surgery.channels.linear import from_config
from tfcompress.surgery.channels.recurrent import RECURRENT, sequence


def _inside(call: Call, found: Analysis, layer: Any, given: Value, made: Value) -> None:
    """Follows the channels through a layer in a wrapper, which takes over its weights."""
    from tfcompress.surgery.channels.handlers import check_config, handler_of

    part = Call(layer, (given,), {}, made, f"{call.path}/{layer.name}")
    record, outer = found.record(part), found.record(call)
    record.calls.append(part)
    handler_of(layer)(part, found)
    check_config(part)
    fresh = {id(slot.variable) for slot in outer.slots}
    outer.slots += [slot for slot in record.slots if id(slot.variable) not in fresh]
    if not any(other in found.flow.calls for other in record.calls):
        record.slots = []  # where it is called outside as well, both hold them, and both stay


def _smaller(found: Analysis, layer: Any, kept: Kept) -> Any:
    record = found.records[id(layer)]
    new = record.rebuild(kept) if record.rebuild else from_config(layer)
    new.name = layer.name
    return new


def _options(layer: Any) -> dict[str, Any]:
    return {"name": layer.name, "trainable": layer.trainable, "dtype": layer.dtype_policy}


def _time_distributed(call: Call, found: Analysis) -> None:
    wrapper, value, (result,) = call.operation, sequence(call, found), call.results
    if isinstance(wrapper.layer, keras.Model):
        raise Barrier(
            "it holds a model whose steps are not known to be apart (layers of your own, masks, "
            "sizes left open, or a batch size that is not): work on that alone, before it is "
            "wrapped"
        )
    axes = found.axes(value)
    found.atoms.pin(axes[1])
    given = Value((value.shape[0], *value.shape[2:]), value.dtype)
    made = Value((result.shape[0], *result.shape[2:]), result.dtype)
    found.give(given, [None, *axes[2:]])
    _inside(call, found, wrapper.layer, given, made)
    found.record(call).rebuild = lambda kept: layers.TimeDistributed(
        _smaller(found, wrapper.layer, kept), **_options(wrapper)
    )
    found.give(result, [None, None, *found.axes(made)[1:]])


def _bidirectional(call: Call, found: Analysis) -> None:
    wrapper, value = call.operation, sequence(call, found)
    both = (wrapper.forward_layer, wrapper.backward_layer)
    if not all(isinstance(layer, RECURRENT) for layer in both):
        raise Barrier("what the layers inside it do to single channels is not known")
    if any(layer.return_state for layer in both):
        raise Barrier("its state goes out")
    result, *second = call.results
    channels: list[Axis] = []
    for layer in both:
        made = Value((*result.shape[:-1], layer.units), result.dtype)
        _inside(call, found, layer, value, made)
        channels.append(found.axes(made)[-1])
    axis: Axis
    # Keras takes both directions to be of one width.
    found.atoms.unite(*channels)
    if second:  # unmerged, each direction on its own
        axis = channels[0]
        found.give(second[0], [*[None] * (len(result.shape) - 1), channels[1]])
    elif wrapper.merge_mode == "concat":
        parts: Sequence[Any] = channels
        axis = np.concatenate(parts)
    else:
        (axis,) = broadcast(found, [((result.shape[-1],), (one,)) for one in channels], 1)
    found.record(call).rebuild = lambda kept: layers.Bidirectional(
        _smaller(found, both[0], kept),
        backward_layer=_smaller(found, both[1], kept),
        merge_mode=wrapper.merge_mode,
        **_options(wrapper),
    )
    found.give(result, [*[None] * (len(result.shape) - 1), axis])


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    return {
        layers.TimeDistributed: _time_distributed,
        layers.Bidirectional: _bidirectional,
    }
