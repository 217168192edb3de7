"""Which units go: the least important ones first, until the target is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tfcompress.surgery.channels.units import Family

# Where a family would be left with less than this share, more goes elsewhere, if that is enough.
LEAST_SHARE = 0.1
# What is close enough to the ratio that was asked for.
CLOSE = 0.005
# Farther from the ratio than this, any two of so few families are tried together.
FAR, FEW = 0.03, 8
# What is worth so many times as much as all that has gone so far goes only from farther than that,
# and where it brings it so much nearer.
DEAR, WORTH_IT = 2.0, 0.01
# How often one family is given more or less that is worth something.
TURNS = 4
# Where it is measured, how far two measurements may be apart.
NOISE = 0.03


@dataclass
class Order:
    """Units of all families in the order in which they go.

    Args:
        families: the families.
        scores: the importance of each family's units; infinite for those that stay.
        round_to: see `tfc.shrink`.
        pooling: likewise.
        least: the smallest share of a family that stays.
    """

    families: Sequence[Family]
    scores: Sequence[np.ndarray]
    round_to: int
    pooling: str
    least: float = LEAST_SHARE

    def __post_init__(self) -> None:
        self._sorted = [np.argsort(s, kind="stable") for s in self.scores]
        ranks = []
        for number, (scores, order) in enumerate(zip(self.scores, self._sorted, strict=True)):
            value = scores[order]
            if self.pooling == "layer":
                share = (np.arange(len(value)) + 0.5) / len(value)
                value = np.where(np.isfinite(value), share, np.inf)
            finite = value[np.isfinite(value)]
            ranks.append(np.stack([finite, np.full(len(finite), number)], 1))
        table = np.concatenate(ranks) if ranks else np.zeros((0, 2))
        table = table[np.argsort(table[:, 0], kind="stable")]
        self._turns, self._values = table[:, 1].astype(np.int64), table[:, 0]
        self._ranked = [np.sort(own[:, 0]) for own in ranks]

    @property
    def steps(self) -> int:
        """How many units could go."""
        return len(self._turns)

    def kept_counts(self, step: int) -> list[int]:
        """How many units of each family are left after that many steps."""
        gone = np.bincount(self._turns[:step], minlength=len(self.families))
        return [
            self._rounded(family, len(family.units) - int(n), int(np.isinf(scores).sum()))
            for family, scores, n in zip(self.families, self.scores, gone, strict=True)
        ]

    def _rounded(self, family: Family, wanted: int, fixed: int) -> int:
        whole, granule = len(family.units), family.granule(self.round_to)
        wanted = max(wanted, fixed, int(np.ceil(self.least * whole)))
        if wanted >= whole:
            return whole
        down = wanted // granule * granule
        nearest = down if wanted - down < granule / 2 and down >= max(fixed, 1) else down + granule
        return min(max(nearest, granule), whole)

    def neighbours(self, counts: Sequence[int]) -> Iterator[list[int]]:
        """The same counts but for one family, which has a granule more or less."""
        for number, (family, count) in enumerate(zip(self.families, counts, strict=True)):
            granule = family.granule(self.round_to)
            fixed = int(np.isinf(self.scores[number]).sum())
            for wanted in (count - granule, count + granule):
                other = self._rounded(family, wanted, fixed)
                if other != count and wanted > 0:
                    yield [*counts[:number], other, *counts[number + 1 :]]

    def harmless(self, counts: Sequence[int], step: int, times: float = 1.0) -> bool:
        """Whether nothing goes that is worth more than (times) what goes in that many steps."""
        limit = self._values[min(step, self.steps) - 1] if step and self.steps else -np.inf
        limit = times * limit if limit > 0 else limit
        lost = (
            ranked[len(family.units) - left - 1]
            for family, ranked, left in zip(self.families, self._ranked, counts, strict=True)
            if left < len(family.units)
        )
        return all(value <= limit for value in lost)

    def gone(self, counts: Sequence[int], classes: int) -> np.ndarray:
        """(classes,) of bool: which go if so many of each family are left."""
        result = np.zeros(classes, bool)
        for family, order, left in zip(self.families, self._sorted, counts, strict=True):
            result[family.units[order[: len(family.units) - left]]] = True
        return result


def closest(
    order: Order, saved: Callable[[Sequence[int]], float], wanted: float, exact: bool = True
) -> list[int]:
    """The counts at which `saved` is closest to what is wanted.

    Args:
        order: the order in which units go.
        saved: counts that are left -> what is saved; it falls where counts rise.
        wanted: what is to be saved.
        exact: whether `saved` is without noise, and quick.
    """
    low, high = 0, order.steps  # saves less, or as much; saves as much, or all that can be
    while high - low > 1:
        middle = (low + high) // 2
        reached = saved(order.kept_counts(middle))
        if not exact and abs(reached - wanted) < NOISE:
            return order.kept_counts(middle)
        if reached >= wanted:
            high = middle
        else:
            low = middle

    def error(counts: Sequence[int]) -> float:
        return abs(saved(counts) - wanted)

    step = min((low, high), key=lambda step: error(order.kept_counts(step)))
    best = order.kept_counts(step)
    # Where steps are coarse, one family more or less comes closer: first without taking what is
    # worth more than what has gone so far, as long as there is such.
    harmful = 0
    for _ in range(2 * TURNS if exact else 0):
        if error(best) < CLOSE:
            break
        near = list(order.neighbours(best))
        if len(order.families) <= FEW and error(best) > FAR:  # one family more for another
            near += [other for one in near for other in order.neighbours(one)]
        closer = [other for other in near if error(other) < error(best)]
        free = [other for other in closer if order.harmless(other, step)]
        harmful += not free
        limit = error(best) - WORTH_IT if error(best) > FAR else -1.0
        closer = [o for o in closer if error(o) <= limit or order.harmless(o, step, DEAR)]
        if not closer or harmful > TURNS:
            break
        best = min(free or closer, key=error)
    return best
