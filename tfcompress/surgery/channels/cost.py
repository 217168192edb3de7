"""What a model costs when some of its channels are gone, without building it."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.graph.flow import Value
from tfcompress.surgery.channels.analysis import Analysis, Record
from tfcompress.surgery.channels.atoms import Kept
from tfcompress.surgery.multiply_adds import operands, rule_of, shape_of, size


class Cost:
    """Multiply-adds and parameters of a model without what is gone.

    Args:
        model: the model.
        found: its atoms.
    """

    def __init__(self, model: keras.Model, found: Analysis) -> None:
        from tfcompress.surgery.complexity import complexity

        self._found = found
        whole = complexity(model)
        self.multiply_adds, self.parameters = whole.multiply_adds, whole.parameters
        self._calls = []
        for call in found.flow.calls:
            rule = rule_of(call.operation)
            axes = [a for v in (*call.inputs, *call.results) for a in found.axes(v)]
            axes += [a for slot in found.records[id(call.operation)].slots for a in slot.axes]
            if rule is not None and any(axis is not None for axis in axes):
                read = operands(call.operation, call.args, call.kwargs)
                before = rule(
                    call.operation, [shape_of(v) for v in read], [v.shape for v in call.results]
                )
                self._calls.append((call, rule, read, before))

    def of(self, target: str, kept: Kept) -> int:
        """What is left of `"multiply_adds"` or `"parameters"`."""
        return self._parameters(kept) if target == "parameters" else self._multiply_adds(kept)

    def _multiply_adds(self, kept: Kept) -> int:
        total = self.multiply_adds
        for call, rule, read, before in self._calls:
            record = self._found.records[id(call.operation)]
            shapes = [
                [_shape(self._found, kept, value) for value in values]
                for values in (read, call.results)
            ]
            # Of each of the rows of the batch that an example has.
            total += (rule(_Smaller(record, kept), *shapes) - before) * call.results[0].rows
        return total

    def _parameters(self, kept: Kept) -> int:
        total = self.parameters
        for record in self._found.records.values():
            for slot in record.slots:
                shape = tuple(slot.variable.shape)
                left = [kept.size(a, n) for a, n in zip(slot.axes, shape, strict=True)]
                total += size(left) - size(shape)
        return total


def _shape(found: Analysis, kept: Kept, value: Any) -> tuple[int | None, ...]:
    if not isinstance(value, Value):  # a constant stays as it is
        return shape_of(value)
    axes = found.axes(value)
    return tuple(kept.size(axis, n) for axis, n in zip(axes, value.shape, strict=True))


class _Smaller:
    """Stands for a layer with smaller weights, as far as the rules of multiply-adds look at it."""

    # Attributes of MultiHeadAttention, and which of the kernel's axes says how large they are now.
    _SIZES = {  # noqa: RUF012
        "num_heads": ("_query_dense", 1), "key_dim": ("_query_dense", 2),
        "value_dim": ("_value_dense", 2), "num_query_heads": ("_query_dense", 1),
    }  # fmt: skip

    def __init__(self, record: Record, kept: Kept, part: Any = None) -> None:
        self._record, self._kept = record, kept
        self._part = record.operation if part is None else part

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The layer's: it is what the rules go by."""
        return type(self._part)

    def __getattr__(self, name: str) -> Any:
        if name in self._SIZES and hasattr(self._part, "_query_dense"):
            dense, axis = self._SIZES[name]
            return getattr(self, dense).kernel.shape[axis]
        value = getattr(self._part, name)
        for slot in self._record.slots:
            if value is slot.variable:
                return _Shaped(self._kept, slot)
        if isinstance(value, keras.layers.Layer):
            return _Smaller(self._record, self._kept, value)
        return value


class _Shaped:
    def __init__(self, kept: Kept, slot: Any) -> None:
        pairs = zip(slot.axes, slot.variable.shape, strict=True)
        self.shape = tuple(kept.size(axis, n) for axis, n in pairs)
