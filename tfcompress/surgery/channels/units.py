"""Units: what can go alone; families: units that stand in the same places."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tfcompress.surgery.channels.analysis import Analysis, Record


@dataclass
class Family:
    """Units that stand in the same axes of the same tensors, as often in each.

    Attributes:
        units: numbers of their classes.
        makers: the layers that make them.
        width: how many channels of such a layer a unit is.
        rounded: whether their count is to be rounded.
    """

    units: np.ndarray
    makers: list[Record]
    width: int
    rounded: bool

    def granule(self, round_to: int) -> int:
        """Of how many units the count is to be a multiple."""
        return round_to // math.gcd(round_to, self.width) if self.rounded else 1


def families(found: Analysis) -> list[Family]:
    """All units of a model that can go, by family."""
    classes = found.classes
    count = int(classes.max()) + 1
    generator = np.random.default_rng(0)
    # A sum of random numbers, one for each axis that a unit stands on, tells families apart.
    signature = np.zeros(count, np.uint64)
    for axis in _all_axes(found):
        weight = generator.integers(1, 2**63, dtype=np.uint64)
        signature += np.bincount(classes[axis], minlength=count).astype(np.uint64) * weight
    makers: dict[int, list[Record]] = {}
    widths = np.zeros(count, np.int64)
    rounded = np.zeros(count, bool)
    for record in found.records.values():
        for made, is_rounded in record.made:
            places = np.bincount(classes[made], minlength=count)
            widths = np.maximum(widths, places)
            rounded[places > 0] |= is_rounded
            for unit in np.flatnonzero(places).tolist():
                makers.setdefault(unit, []).append(record)
    groups: dict[int, list[int]] = {}
    for unit in sorted(makers):
        if unit != 0:  # class 0 is pinned
            groups.setdefault(int(signature[unit]), []).append(unit)
    return [
        Family(np.array(units), makers[units[0]], int(widths[units[0]]), bool(rounded[units[0]]))
        for units in groups.values()
    ]


def _all_axes(found: Analysis) -> Iterable[np.ndarray]:
    """Every axis with atoms, once."""
    seen: set[int] = set()
    values = [axis for axes in found.all_axes().values() for axis in axes]
    weights = [a for r in found.records.values() for slot in r.slots for a in slot.axes]
    made = [axis for record in found.records.values() for axis, _ in record.made]
    for axis in [*values, *weights, *made]:
        if axis is not None and id(axis) not in seen:
            seen.add(id(axis))
            yield axis
