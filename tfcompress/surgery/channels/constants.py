"""Channels that have the same value everywhere, whatever the input: found by walking the calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.channels import (
    attention,
    elementwise,
    indexing,
    linear,
    norms,
    products,
    shapes,
    spatial,
)
from tfcompress.surgery.channels.analysis import Analysis, Record
from tfcompress.surgery.channels.handlers import handler_of
from tfcompress.surgery.channels.sums import FOLDING, constant_outputs
from tfcompress.surgery.linear import scale_and_shift

_MOVING = shapes.MOVING + indexing.MOVING + spatial.MOVING
_PRODUCTS = ("Multiply",)
_KEEPING = ("Mean", "Max", "Min", "Amax", "Amin")


class Constants:
    """The values of constant channels.

    Args:
        found: the atoms of a model.
    """

    def __init__(self, found: Analysis) -> None:
        self._found = found
        self._known: dict[int, np.ndarray] = {}
        for call in found.flow.calls:
            self._visit(call)

    def along(self, value: Value) -> np.ndarray:
        """(channels,): the constants along the axis with atoms, NaN for what varies."""
        known = self._known.get(id(value))
        axis = self.axis(value)
        if known is None:
            return np.full(0 if axis is None else value.shape[axis] or 0, np.nan)
        return known

    def on(self, value: Value, number: int) -> np.ndarray:
        """(channels,): likewise along that axis; NaN where others have atoms as well."""
        if self.axis(value) == number:
            return self.along(value)
        return np.full(value.shape[number] or 0, np.nan)

    def axis(self, value: Value) -> int | None:
        """The one axis with atoms; None where there is none, or several."""
        numbers = [n for n, axis in enumerate(self._found.axes(value)) if axis is not None]
        return numbers[0] if len(numbers) == 1 else None

    def _visit(self, call: Call) -> None:
        record = self._found.records[id(call.operation)]
        # Keras calls layers that prepare data with training=True, whatever they do.
        trains = call.kwargs.get("training") and not isinstance(call.operation, layers.Resizing)
        if trains or (record.barrier and not record.slots):
            return
        handler: Any = handler_of(call.operation)
        reduced = handler is products.reduce and _gives_constants_again(call)
        if handler in _MOVING or reduced:
            self._moved(call)
        elif handler in elementwise.ELEMENTWISE:
            self._set(call.results[0], self._evaluated(call))
        elif isinstance(call.operation, FOLDING) and record.slots:
            self._set(call.results[0], self._linear(call))
        elif handler is norms.batch_norm:
            self._set(call.results[0], self._batch(call))
        elif handler is linear.embedding:
            table = np.asarray(call.operation.embeddings, np.float64)
            same = (table == table[:1]).all(0)
            self._set(call.results[0], np.where(same, table[0], np.nan))
        elif handler in (norms.prelu, norms.unit):  # 0 stays 0
            along = self.along(call.inputs[0])
            self._set(call.results[0], np.where(along == 0, 0.0, np.nan))
        elif is_product(call):
            self._set(call.results[0], self._multiplied(call))

    def _set(self, value: Value, constants: np.ndarray | None) -> None:
        axis = self.axis(value)
        if constants is not None and axis is not None and len(constants) == value.shape[axis]:
            self._known[id(value)] = np.where(np.isfinite(constants), constants, np.nan)

    def _moved(self, call: Call) -> None:
        """Operators that move channels: each takes its constant with it, by its atom."""
        if getattr(call.operation, "data_format", "") is None:
            return
        name = type(call.operation).__name__
        repeats = getattr(call.operation, "mode", "constant") != "constant"  # what is there
        zero_only = "Padding" in name or (name in ("Pad", "Resize", "Resizing") and not repeats)
        if zero_only and not _pads_with_zeros(call):
            return
        by_atom: dict[int, float] = {}
        for value in call.inputs:
            mine = self.axis(value)
            for number, atoms in enumerate(self._found.axes(value)):
                if atoms is None:
                    continue
                constants = self.along(value) if number == mine else np.full(len(atoms), np.nan)
                for atom, constant in zip(atoms, constants, strict=True):
                    known = by_atom.setdefault(int(atom), float(constant))
                    if known != constant or (zero_only and constant != 0):
                        by_atom[int(atom)] = float("nan")
        by_atom[0] = float("nan")
        self._agree(call, by_atom)
        for result in call.results:
            axis = self.axis(result)
            if axis is not None:
                atoms = self._found.axes(result)[axis]
                assert atoms is not None
                self._set(result, np.array([by_atom.get(int(a), float("nan")) for a in atoms]))

    def _agree(self, call: Call, by_atom: dict[int, float]) -> None:
        """Where one index stands for several atoms, all of them must have the same constant.

        As behind a concatenation along another axis, or a reshape that parts channels into heads:
        the call has united them, and its result carries only one of them.
        """
        pairs = self._found.united[id(call)].T.tolist()
        for _ in pairs:  # until what varies has reached all that hangs together with it
            differ = [p for p in pairs if not _same(by_atom.get(p[0]), by_atom.get(p[1]))]
            if not differ:
                return
            by_atom.update((atom, float("nan")) for pair in differ for atom in pair)

    def _evaluated(self, call: Call) -> np.ndarray | None:
        """Runs an elementwise operator on the constants alone."""
        (result,) = call.results
        varying: list[np.ndarray] = []
        zero: list[np.ndarray] = []

        def given(item: Any) -> Any:
            if not isinstance(item, Value):
                return item
            shape = [1] * len(item.shape)
            axis = self.axis(item)
            values: np.ndarray = np.full(1, np.nan)
            if axis is not None:
                values = self.along(item)
                shape[axis] = len(values)
            values = values.reshape(shape)
            varying.append(np.isnan(values))
            zero.append(values == 0)
            dtype = "float32" if item.dtype == "bool" else item.dtype
            return keras.ops.convert_to_tensor(np.where(np.isnan(values), 0.5, values), dtype)

        args, kwargs = keras.tree.map_structure(given, (call.args, call.kwargs))
        axis = self.axis(result)
        if axis is None or not varying:
            return None
        try:
            values = np.asarray(call.operation(*args, **kwargs), np.float64)
            varies = np.array(np.broadcast_arrays(*varying)).any(0)
            if type(call.operation).__name__ in _PRODUCTS:
                varies &= ~np.array(np.broadcast_arrays(*zero)).any(0)
                values = np.where(np.array(np.broadcast_arrays(*zero)).any(0), 0.0, values)
        except Exception:
            return None  # it cannot be asked in this way: nothing is known of what it gives
        if values.size != values.shape[axis] or values.shape != varies.shape:
            return None
        return np.where(varies, np.nan, values).reshape(-1)

    def _multiplied(self, call: Call) -> np.ndarray | None:
        """Zero along the axis with atoms where what it comes from is."""
        (result,) = call.results
        number = self.axis(result)
        if number is None:
            return None
        zero = np.zeros(result.shape[number] or 0, bool)
        for value, axis, place in _handed_on(call):
            constants = self.on(value, axis)
            if place == number and len(constants) == len(zero):
                zero |= constants == 0
        return np.where(zero, 0.0, np.nan)

    def _linear(self, call: Call) -> np.ndarray | None:
        layer, (value,) = call.operation, call.inputs
        constants = self.on(value, linear.channel_axis(call))
        return activated(layer, constant_outputs(layer, constants))

    def _batch(self, call: Call) -> np.ndarray | None:
        layer, value = call.operation, call.inputs[0]
        if self.axis(value) is None or self.axis(value) != layer.axis % len(value.shape):
            return None
        constants = self.along(value)
        scale, shift = scale_and_shift(layer)
        return np.where(scale == 0, shift, constants * scale + shift)


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one != one and other != other)


def _gives_constants_again(call: Call) -> bool:
    """Whether a call reduces places to one, which has the constant that all of them have."""
    name = type(call.operation).__name__
    return name in _KEEPING and getattr(call.operation, "initial", None) is None


def _pads_with_zeros(call: Call) -> bool:
    """Whether what an operator sets around its input, if anything, is 0."""
    operation = call.operation
    border = [*call.args[1:], call.kwargs.get("constant_values")]
    border.append(getattr(operation, "fill_value", None))
    return not any(isinstance(one, Value) or np.any(one) for one in border if one is not None)


def activated(layer: Any, values: np.ndarray) -> np.ndarray | None:
    """Constants behind a layer's activation."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return values
    try:
        elementwise.check_activation(activation)
        filled = keras.ops.convert_to_tensor(np.nan_to_num(values), layer.compute_dtype)
        result = np.asarray(activation(filled), np.float64)
    except Exception:
        return None
    return np.where(np.isnan(values), np.nan, result)


def separable(call: Call, record: Record) -> bool:
    """Whether each channel that a call reads reaches only its own, or a weight that reads it."""
    handler: Any = handler_of(call.operation)
    known = (
        *elementwise.ELEMENTWISE, *_MOVING, norms.batch_norm, norms.prelu, norms.layer_scale,
    )  # fmt: skip
    if handler is products.reduce:
        return not record.read
    if isinstance(call.operation, (layers.EinsumDense, layers.MultiHeadAttention)):
        return handler is not None
    return handler in known or isinstance(call.operation, FOLDING)


def is_product(call: Call) -> bool:
    """Whether a call sums up products of tensors, in which a channel of zeros adds nothing."""
    handler: Any = handler_of(call.operation)
    return handler in (
        products.product, attention.single_head, attention.dot_product, norms.unit,
    )  # fmt: skip


def zeros_add_nothing(call: Call, record: Record) -> bool:
    """Whether a channel of zeros that a call reads can go."""
    if handler_of(call.operation) is products.reduce:
        return products.adds_up(call.operation)
    return bool(record.read) or is_product(call)


def _handed_on(call: Call) -> Iterator[tuple[Value, int, int]]:
    """What a product reads, its axes that it does not sum over, and where these are then."""
    if isinstance(call.operation, (layers.Attention, layers.AdditiveAttention)):
        _, value, _ = attention.looked_up(call)
        yield value, len(value.shape) - 1, len(call.results[0].shape) - 1
        return
    if handler_of(call.operation) is attention.dot_product:
        yield attention.arguments(call)["value"], 3, 3
        return
    terms, output = products.spelling(call)
    for value, names in zip(call.inputs, terms, strict=True):
        for axis, name in enumerate(names):
            if name in output:
                yield value, axis, output.index(name)
