"""Atoms: what stands for one index along an axis, and which of them can only go together."""

from __future__ import annotations

from typing import Any

import numpy as np

# The atom of each index along an axis; None for an axis from which nothing can go.
Axis = np.ndarray | None

PINNED = 0


class Atoms:
    """Numbers for the indices of axes, and which of them must go together.

    Two indices with one atom, or with atoms that were united, go together or stay together. Atoms
    that were pinned stay.
    """

    def __init__(self) -> None:
        self._count = 1  # atom 0 is the pinned one
        self._pairs: list[np.ndarray] = []

    def fresh(self, count: int) -> np.ndarray:
        """Atoms of their own for that many indices."""
        start, self._count = self._count, self._count + int(count)
        return np.arange(start, self._count)

    def unite(self, one: Any, other: Any) -> None:
        """Unites atoms index by index; the two broadcast against each other."""
        one, other = np.broadcast_arrays(one, other)
        if one is not other:
            self._pairs.append(np.stack([one.ravel(), other.ravel()]))

    def pin(self, axis: Axis) -> None:
        """What has these atoms stays."""
        if axis is not None:
            self.unite(axis, PINNED)

    def count_of_unions(self) -> int:
        """How often atoms have been united so far."""
        return len(self._pairs)

    def united_since(self, count: int) -> np.ndarray:
        """(2, pairs): what has been united since there were that many unions, pins left out."""
        pairs = np.concatenate([np.zeros((2, 0), np.int64), *self._pairs[count:]], axis=1)
        return pairs[:, (pairs != PINNED).all(0)]

    def pinned_since(self) -> np.ndarray:
        """(atoms,): how many unions there were when what an atom hangs on was pinned; -1: none.

        Of several pins it is the one that is the fewest unions away.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import breadth_first_order

        result = np.full(self._count, -1)
        pairs = np.concatenate([np.zeros((2, 1), np.int64), *self._pairs], axis=1)
        sizes = [pair.shape[1] for pair in self._pairs]
        number = np.repeat(np.arange(len(self._pairs)), sizes)
        direct = (pairs[:, 1:] == PINNED).any(0)
        # Of several entries for an atom the last counts, which is the first that was made.
        result[pairs[:, 1:].max(0)[direct][::-1]] = number[direct][::-1]
        graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs)), (self._count, self._count))
        order, before = breadth_first_order(graph.tocsr(), PINNED, directed=False)
        for atom in order[1:]:
            if before[atom] != PINNED:
                result[atom] = result[before[atom]]
        return result

    def classes(self) -> np.ndarray:
        """(atoms,): the number of the class that each atom is in; class 0 is pinned."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.concatenate([np.zeros((2, 1), np.int64), *self._pairs], axis=1)
        graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs)), (self._count, self._count))
        found = connected_components(graph, directed=False)[1].astype(np.int64)
        # The pinned class gets number 0.
        pinned = found[PINNED]
        return np.where(found == pinned, 0, np.where(found == 0, pinned, found))


class Kept:
    """What is left when some classes are gone.

    Args:
        classes: see `Atoms.classes`.
        gone: (classes,) of bool.
    """

    def __init__(self, classes: np.ndarray, gone: np.ndarray) -> None:
        self._kept = ~gone[classes]

    def mask(self, axis: Axis) -> np.ndarray:
        """Which indices of an axis with atoms stay."""
        return self._kept[axis]

    def count(self, axis: Axis) -> int:
        """How many of them do."""
        return int(self._kept[axis].sum())

    def whole(self, axis: Axis) -> bool:
        """Whether all of them do."""
        return axis is None or bool(self._kept[axis].all())

    def size(self, axis: Axis, size: int | None) -> int | None:
        """The new size of an axis that had this one."""
        return size if axis is None else self.count(axis)

    def take(self, array: np.ndarray, axes: tuple[Axis, ...]) -> np.ndarray:
        """An array without what is gone along its axes."""
        for number, axis in enumerate(axes):
            if axis is not None:
                array = np.compress(self.mask(axis), array, number)
        return array
