"""The atoms of every tensor and weight of a model, found by walking its calls in order."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.graph.flow import Call, Flow, Value, read_flow
from tfcompress.surgery.channels.atoms import Atoms, Axis, Kept
from tfcompress.surgery.rewriting import plain_kernels

UNFORESEEN = "its channels could not be followed"


class Barrier(Exception):
    """What the operator does to single channels is not known; the text says why."""


@dataclass(frozen=True)
class Slot:
    """A weight and the atoms along its axes.

    Attributes:
        variable: the weight.
        axes: for each of its axes.
        makes: numbers of the axes whose indices it makes channels of.
        reads: numbers of the axes along which it sums up what it reads; along the others it
            follows the channels.
        scale: what its values are multiplied by, from what is kept.
    """

    variable: Any
    axes: tuple[Axis, ...]
    makes: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    scale: Callable[[Kept], float] | None = None


@dataclass
class Record:
    """What is known of a layer or operation, over all of its calls.

    Attributes:
        operation: the layer or operation.
        path: of its first call.
        calls: all of them.
        slots: its weights.
        made: the channels that it makes, and whether `round_to` counts for them.
        names: what to call each of those.
        read: for each tensor that its weights read along an axis with atoms: its number among the
            call's inputs, the axis, and the atoms.
        rebuild: gives what takes its place, from what is kept; None where its config is to be
            taken as it is.
        barrier: why its channels are left; "" where they are not.
    """

    operation: Any
    path: str
    calls: list[Call] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    made: list[tuple[np.ndarray, bool]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    read: list[tuple[int, int, np.ndarray]] = field(default_factory=list)
    rebuild: Callable[[Kept], Any] | None = None
    barrier: str = ""


Handler = Callable[[Call, "Analysis"], None]


def named(module: Any, handlers: Mapping[str, Handler]) -> dict[type, Handler]:
    """The classes of those names in a module of Keras, as far as this release has them."""
    return {getattr(module, n): made for n, made in handlers.items() if hasattr(module, n)}


class Analysis:
    """The atoms of a model.

    Args:
        model: a Functional or built Sequential model.
        left: layer -> why the channels that it makes are to stay; "" where they are not.
        whole_heads: where a reshape parts channels into several axes, slices along the first of
            them go, as heads do, instead of those along the longest.

    Attributes:
        flow: the model's calls.
        atoms: all atoms.
        records: by `id` of the layer or operation.
        united: by `id` of a call, the pairs of atoms that it has united.
        classes: of each atom.
    """

    def __init__(
        self,
        model: keras.Model,
        left: Callable[[Any], str] = lambda layer: "",
        whole_heads: bool = False,
    ) -> None:
        from tfcompress.surgery.channels.handlers import check_config, handler_of

        self.flow: Flow = read_flow(model)
        self.atoms = Atoms()
        self.records: dict[int, Record] = {}
        self.united: dict[int, np.ndarray] = {}
        self._axes: dict[int, tuple[Axis, ...]] = {}
        self._made: dict[tuple[int, str], np.ndarray] = {}
        self._ends: list[int] = []  # unions after each call
        self.left, self.whole_heads = left, whole_heads
        for call in self.flow.calls:
            record = self.record(call)
            record.calls.append(call)
            before = self.atoms.count_of_unions()
            try:
                why = plain_kernels(call.operation)
                if why:
                    raise Barrier(why)
                handler_of(call.operation)(call, self)
                check_config(call)
            except Barrier as why:
                self._bar(record, str(why))
            except Exception as error:  # a call in a form that its handler does not foresee
                self._bar(record, f"{UNFORESEEN} ({type(error).__name__})")
            self.united[id(call)] = self.atoms.united_since(before)
            self._ends.append(self.atoms.count_of_unions())
        for value in keras.tree.flatten(self.flow.outputs):
            for axis in self.axes(value):
                self.atoms.pin(axis)
        # A weight that several layers share is not taken apart.
        self._pin_shared_weights()
        self.classes = self.atoms.classes()

    def holder(self, axis: np.ndarray) -> Record | None:
        """What keeps channels that stay; None where it is an output of the model."""
        since = self._pinned_since[axis]
        number = bisect.bisect_right(self._ends, int(since[since >= 0][0]))
        return self.record(self.flow.calls[number]) if number < len(self._ends) else None

    @functools.cached_property
    def _pinned_since(self) -> np.ndarray:
        return self.atoms.pinned_since()

    def record(self, call: Call) -> Record:
        """The record of what is called."""
        return self.records.setdefault(id(call.operation), Record(call.operation, call.path))

    def axes(self, value: Value) -> tuple[Axis, ...]:
        """The atoms along each axis of a tensor, the batch axis among them."""
        return self._axes.get(id(value), (None,) * len(value.shape))

    def all_axes(self) -> dict[int, tuple[Axis, ...]]:
        """The same of all tensors that have any, by `id`."""
        return self._axes

    def give(self, value: Value, axes: Sequence[Axis]) -> None:
        """Says what the axes of a tensor carry."""
        assert len(axes) == len(value.shape), (axes, value.shape)
        for axis, size in zip(axes, value.shape, strict=True):
            assert axis is None or len(axis) == size, (len(axis), value.shape)
        self._axes[id(value)] = tuple(axes)

    def make(self, call: Call, what: str, size: int, rounded: bool = True) -> np.ndarray:
        """Atoms for the channels that a layer makes, the same in each of its calls."""
        record, key = self.record(call), (id(call.operation), what)
        if key not in self._made:
            made = self._made[key] = self.atoms.fresh(size)
            record.made.append((made, rounded))
            record.names.append(what)
            if self.left(call.operation):
                self.atoms.pin(made)
        return self._made[key]

    def same(self, call: Call, what: str, axis: Axis) -> Axis:
        """The atoms along an axis, united with those that the layer met there in earlier calls."""
        key = (id(call.operation), what)
        if axis is None:
            if key in self._made:
                self.atoms.pin(self._made[key])
                return self._made[key]
            self._made[key] = axis  # type: ignore[assignment]
            return axis
        if key in self._made:
            first = self._made[key]
            if first is None:
                self.atoms.pin(axis)
                return None
            if len(first) != len(axis):
                raise Barrier("it is called on tensors of several sizes")
            self.atoms.unite(first, axis)
            return first
        self._made[key] = axis
        return axis

    def set_weights(self, call: Call, *slots: Slot) -> None:
        """Says what the weights of a layer carry; its first call counts."""
        record = self.record(call)
        if not record.slots:
            record.slots = [slot for slot in slots if slot.variable is not None]
            for slot in record.slots:
                shape = tuple(len(a) if a is not None else n for a, n in
                              zip(slot.axes, slot.variable.shape, strict=True))  # fmt: skip
                assert shape == tuple(slot.variable.shape), (shape, slot.variable.shape)

    def reads(self, call: Call, *read: tuple[int, int, Axis]) -> None:
        """Says along which axes of its inputs a layer's weights read."""
        record = self.record(call)
        if not record.read:
            record.read = [(i, axis, atoms) for i, axis, atoms in read if atoms is not None]

    def pin_all(self, call: Call) -> bool:
        """What goes into a call stays; whether anything went into it."""
        found = [axis for value in call.inputs for axis in self.axes(value) if axis is not None]
        for axis in found:
            self.atoms.pin(axis)
        return bool(found)

    def _bar(self, record: Record, why: str) -> None:
        """A call that is a barrier makes its layer one in all of its calls."""
        reached = False
        for call in record.calls:
            reached |= self.pin_all(call)
            for value in call.results:
                for axis in self.axes(value):
                    self.atoms.pin(axis)
        for made, _ in record.made:
            self.atoms.pin(made)
        for slot in record.slots:
            for axis in slot.axes:
                self.atoms.pin(axis)
        if reached or record.slots or getattr(record.operation, "weights", None):
            record.barrier = why

    def _pin_shared_weights(self) -> None:
        owners: dict[int, Record] = {}
        for record in self.records.values():
            for slot in record.slots:
                other = owners.setdefault(id(slot.variable), record)
                if other is not record:
                    for one, two in ((record, other), (other, record)):
                        self._bar(one, f"it shares weights with '{two.path}'")
        called = {id(call) for call in self.flow.calls}  # others are inside layers that are
        for record in self.records.values():
            if not any(id(call) in called for call in record.calls):
                continue
            known = {id(slot.variable) for slot in record.slots}
            # As of a layer of somebody's own that holds another, to use its table once more.
            for variable in getattr(record.operation, "weights", ()):
                other = owners.get(id(variable), record)
                if id(variable) not in known and other is not record:
                    self._bar(other, f"it shares weights with '{record.path}'")
