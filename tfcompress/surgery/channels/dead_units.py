"""Units that make no difference, and what their constants add to the layers that read them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.graph.copying import Replacement
from tfcompress.graph.flow import Call, Value
from tfcompress.report import CompressionReport
from tfcompress.surgery.channels.analysis import Analysis, Record
from tfcompress.surgery.channels.atoms import Kept
from tfcompress.surgery.channels.constants import Constants, separable, zeros_add_nothing
from tfcompress.surgery.channels.linear import channel_axis, from_config
from tfcompress.surgery.channels.rebuild import Resized, replacements
from tfcompress.surgery.channels.sums import READERS, added, sees_no_border
from tfcompress.surgery.channels.units import families


class DeadUnits:
    """The dead units of a model.

    Args:
        found: its atoms.

    Attributes:
        gone: (classes,) of bool: which can go.
        notes: sentences on constant channels that stay.
    """

    def __init__(self, found: Analysis) -> None:
        self._found, self._constants = found, Constants(found)
        self._count = int(found.classes.max()) + 1
        self.notes: list[str] = []
        gone = (self._constant() | self._unread() | self._without_effect()) & ~self._recurrent()
        gone[0] = False
        self.gone = np.zeros(self._count, bool)
        for family in families(found):
            units = family.units[gone[family.units]]
            self.gone[units[1:] if len(units) == len(family.units) else units] = True

    def without(
        self, model: keras.Model, report: CompressionReport, first: Analysis
    ) -> keras.Model:
        """The model without them; the report counts from that of another, the first."""
        from tfcompress.surgery.channels.telling import tell
        from tfcompress.surgery.rewriting import replaced

        kept = Kept(self._found.classes, self.gone)
        changed, fresh = self._biases()
        made = replacements(self._found, kept, changed)
        for key, bias in fresh.items():
            made[key] = self._with_bias(self._found.records[key], made[key], bias, kept)
        tell(self._found, kept, report, self._why_left, first)
        return replaced(model, made, report)

    def _why_left(self, record: Record) -> str:
        """Why a layer keeps its channels."""
        if isinstance(record.operation, keras.layers.RNN):
            return "its units read each other: which of them are dead is not looked into"
        calls = [call for call in record.calls if call in self._found.flow.calls]
        if not calls:
            return "it is inside another layer: which of its channels are dead is not looked into"
        found = [~np.isnan(self._constants.along(call.results[0])) for call in calls]
        constant = min(int(one.sum()) for one in found)
        if constant:
            return f"{constant} of its channels are constant, but what reads them needs them"
        return "none of its channels is dead"

    def _flags(self) -> np.ndarray:
        return np.zeros(self._count, bool)

    def _constant(self) -> np.ndarray:
        """Those that are constant wherever a weight reads them, so that a bias can stand for them.

        Before that they may vary, as in front of a BatchNormalization scale of 0.
        """
        read, stays = self._flags(), self._flags()
        for record in self._found.records.values():
            for call in record.calls:
                if separable(call, record) and not record.read:
                    continue  # it hands every channel on
                for value in call.inputs:
                    for number, atoms in enumerate(self._found.axes(value)):
                        if atoms is not None:
                            unit = self._found.classes[atoms]
                            read[unit] = True
                            folds = self._folds(record, call, value, number)
                            stays[unit[~folds]] = True
        return read & ~stays

    def _folds(self, record: Record, call: Call, value: Value, number: int) -> np.ndarray:
        """Which channels along an axis of what a call reads can go from there."""
        constants = self._constants.on(value, number)
        if not isinstance(record.operation, READERS):
            # Of sums of products a channel of zeros can go; norms count it all the same.
            return (constants == 0) & zeros_add_nothing(call, record)
        if number != channel_axis(call):  # handed on
            return np.zeros(len(constants), bool)
        known, border = ~np.isnan(constants), not sees_no_border(record.operation)
        for other in record.calls:  # one bias must do for all
            known &= self._constants.on(other.inputs[0], channel_axis(other)) == constants
        if border and (known & (constants != 0)).any():
            self.notes.append(
                f"{int((known & (constants != 0)).sum())} constant channels that {record.path!r} "
                "reads stay: the zeros that it pads with would need its shift too"
            )
        return known & ~(border & (constants != 0))

    def _unread(self) -> np.ndarray:
        """Those that nothing reads, as behind a slice, or only weights of 0."""
        read, reader = self._flags(), self._flags()
        for record in self._found.records.values():
            for slot in record.slots:
                for number in slot.reads:
                    axis = slot.axes[number]
                    if axis is None:
                        continue
                    rows = np.moveaxis(np.asarray(slot.variable), number, 0)
                    some = (rows.reshape(len(axis), -1) != 0).any(1)
                    reader[self._found.classes[axis]] = True
                    read[self._found.classes[axis[some]]] = True
            for call in record.calls:
                if separable(call, record):
                    continue
                for value in call.inputs:
                    for axis in self._found.axes(value):
                        if axis is not None:
                            read[self._found.classes[axis]] = True
        for axes in self._found.all_axes().values():
            for axis in axes:
                if axis is not None:
                    reader[self._found.classes[axis]] = True
        return reader & ~read

    def _without_effect(self) -> np.ndarray:
        """Heads and widths of attention whose queries, keys or values are 0."""
        result = self._flags()
        for record in self._found.records.values():
            layer = record.operation
            if not isinstance(layer, keras.layers.MultiHeadAttention) or not record.made:
                continue
            heads, width, depth = (axis for axis, _ in record.made[:3])
            query, key, value = (
                self._is_zero(d) for d in (layer._query_dense, layer._key_dense, layer._value_dense)
            )
            classes = self._found.classes
            result[classes[width[query.all(0) | key.all(0)]]] = True
            result[classes[depth[value.all(0)]]] = True
            result[classes[heads[value.all(1)]]] = True
        return result

    @staticmethod
    def _is_zero(dense: Any) -> np.ndarray:
        """(heads, width): whether what a projection gives is 0."""
        zero = (np.asarray(dense.kernel) == 0).all(0)
        return zero if dense.bias is None else zero & (np.asarray(dense.bias) == 0)

    def _recurrent(self) -> np.ndarray:
        """Units of recurrent layers, which read each other."""
        result = self._flags()
        for record in self._found.records.values():
            if isinstance(record.operation, keras.layers.RNN):
                for axis, _ in record.made:
                    result[self._found.classes[axis]] = True
        return result

    def _biases(self) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """New values of biases by `id` of the variable; for layers that have none, of the layer."""
        changed, fresh = {}, {}
        for key, record in self._found.records.items():
            layer = record.operation
            if not isinstance(layer, READERS) or not record.read:
                continue
            ((_, axis, atoms),) = record.read
            constants = np.nan_to_num(self._constants.on(record.calls[0].inputs[0], axis))
            gone = self.gone[self._found.classes[atoms]]
            sums = added(layer, np.where(gone, constants, 0.0))
            if not sums.any():
                continue
            if layer.bias is None:
                fresh[key] = sums
            else:
                bias = np.asarray(layer.bias)
                changed[id(layer.bias)] = (bias.astype(np.float64) + sums).astype(bias.dtype)
        return changed, fresh

    @staticmethod
    def _with_bias(record: Record, made: Replacement, bias: np.ndarray, kept: Kept) -> Resized:
        """The layer with a bias that it had not."""
        layer = from_config(made.layers[0], use_bias=True)
        ((channels, _),) = record.made
        values = bias[kept.mask(channels)].astype(np.asarray(made.weights[0]).dtype)
        return Resized([layer], [*made.weights, values], source=record.operation)
