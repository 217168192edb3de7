"""The model without what is gone: smaller layers in the places of the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.graph.copying import Replacement
from tfcompress.graph.state import align, copy_learned
from tfcompress.surgery.channels.analysis import Analysis, Record
from tfcompress.surgery.channels.atoms import Kept
from tfcompress.surgery.channels.linear import from_config


@dataclass(frozen=True)
class Resized(Replacement):
    """A layer or operation of other sizes, called as the old one was.

    Attributes:
        source: the old one.
    """

    source: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls it."""
        return self.layers[0](*args, **kwargs)

    def set_weights(self) -> None:
        """Gives it its weights, and what else the old one had."""
        (layer,) = self.layers
        if not isinstance(self.source, keras.Layer):
            return
        align(self.source, layer)
        for one, other in zip(self.source._flatten_layers(), layer._flatten_layers(), strict=True):
            if one.trainable != other.trainable:
                other.trainable = one.trainable
            copy_learned(one, other)
        for variable, value in zip(layer.weights, self.weights, strict=True):
            variable.assign(value)
        # A layer may have got a bias that it had not.
        for before, after in zip(self.source.weights, layer.weights, strict=False):
            if before.trainable != after.trainable:
                after.trainable = before.trainable


def replacements(found: Analysis, kept: Kept, bias: dict[int, np.ndarray] | None = None) -> Any:
    """What takes the place of each layer and operation that meets what is gone.

    Args:
        found: the atoms of the model.
        kept: what is left.
        bias: other values for variables of the old model, by their `id`.
    """
    result: dict[int, Resized] = {}
    for key, record in found.records.items():
        if _touched(found, record, kept):
            layer = _new(record, kept)
            result[key] = Resized(
                [layer], _weights(record, kept, bias or {}), source=record.operation
            )
    return result


def _touched(found: Analysis, record: Record, kept: Kept) -> bool:
    values = [value for call in record.calls for value in (*call.inputs, *call.results)]
    axes = [axis for value in values for axis in found.axes(value)]
    axes += [axis for slot in record.slots for axis in slot.axes]
    return not all(kept.whole(axis) for axis in axes)


def _new(record: Record, kept: Kept) -> Any:
    old = record.operation
    if record.rebuild is not None:
        new = record.rebuild(kept)
    elif isinstance(old, keras.Layer):
        new = from_config(old)
    else:
        try:
            new = type(old).from_config(old.get_config())
        except Exception:
            return old  # operations have no state
    if isinstance(new, keras.Operation):
        new.name = old.name
    if isinstance(new, keras.Layer):
        align(old, new)
    return new


def _weights(record: Record, kept: Kept, changed: dict[int, np.ndarray]) -> Sequence[np.ndarray]:
    if not isinstance(record.operation, keras.Layer):
        return ()
    slots = {id(slot.variable): slot for slot in record.slots}
    values = []
    for variable in record.operation.weights:
        value = changed.get(id(variable))
        value = np.asarray(variable) if value is None else value
        slot = slots.get(id(variable))
        if slot is not None:
            value = kept.take(value, slot.axes)
            if slot.scale is not None:
                value = (value * slot.scale(kept)).astype(value.dtype)
        values.append(value)
    return values
