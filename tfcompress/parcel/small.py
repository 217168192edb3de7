"""Small whole numbers (int8 weights, four-bit weights, places in a palette) as decisions.

A value is: is it zero? its sign; the bits of its magnitude less one, the highest first. What the
mixer is told: the values seen so far in the same output channel, the same input channel, how many
zeros and how large values both have had, and the values beside it in the kernel.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tfcompress.parcel.mixing import Mixer, spread
from tfcompress.parcel.scan import Batch, Scan

INPUTS: Final = 7
SETS: Final = 10
_SIGNED: Final = [1, 3, 6]  # inputs that tell values of either sign apart
_FINE: Final = 2
"""Bits of a magnitude from this one on are told by the first `_COARSE` inputs only: faster."""
_COARSE: Final = 3


class _Profile:
    """Zeros and magnitudes seen so far along one axis."""

    def __init__(self, size: int) -> None:
        self._seen = np.zeros(size, np.int64)
        self._zeros = np.zeros(size, np.int64)
        self._sums = np.zeros(size, np.int64)

    def add(self, index: np.ndarray, magnitude: np.ndarray) -> None:
        places, at = np.arange(len(self._seen)), index
        if len(places) > 4 * len(index):  # an axis may be as long as the tensor
            places, at = np.unique(index, return_inverse=True)
        self._seen[places] += np.bincount(at, minlength=len(places))
        self._zeros[places] += np.bincount(at[magnitude == 0], minlength=len(places))
        self._sums[places] += np.bincount(at, magnitude, len(places)).astype(np.int64)

    def zeros(self, index: np.ndarray) -> np.ndarray:
        """Share of zeros in 15 steps."""
        return (15 * self._zeros[index] + 7) // np.maximum(self._seen[index], 1)

    def sizes(self, index: np.ndarray) -> np.ndarray:
        """Mean magnitude of what is not zero, in steps of about a fifth."""
        found = np.maximum(self._seen[index] - self._zeros[index], 1)
        return np.searchsorted(_STEPS, 16 * self._sums[index] // found)


_STEPS: Final = np.array([round(8 * 1.2**i) for i in range(31)], np.int64)


class SmallCoder:
    """Codes tensors of small whole numbers, one after another.

    Args:
        mixer: of `INPUTS` inputs and `SETS` sets.
    """

    def __init__(self, mixer: Mixer) -> None:
        self._mixer = mixer

    def code(self, scan: Scan, width: int, values: np.ndarray | None) -> np.ndarray:
        """Codes one tensor.

        Args:
            scan: its order.
            width: bits of the largest magnitude less one.
            values: int16, shape (scan.size,), or None to find them.

        Returns:
            The values.
        """
        self._mixer.begin(scan.size)
        found = np.zeros(scan.size, np.int16) if values is None else values
        rows, columns = _Profile(scan.rows), _Profile(scan.columns)
        for batch in scan.batches():
            contexts = self._contexts(scan, batch, found, rows, columns, width)
            part = self._batch(contexts, width, None if values is None else found[batch.position])
            found[batch.position] = part
            magnitude = np.abs(part.astype(np.int64))
            rows.add(batch.row, magnitude)
            columns.add(batch.column, magnitude)
        return found

    def _contexts(
        self,
        scan: Scan,
        batch: Batch,
        found: np.ndarray,
        rows: _Profile,
        columns: _Profile,
        width: int,
    ) -> np.ndarray:
        row, column, place = batch.row, batch.column, batch.place
        density = rows.zeros(row) * 16 + columns.zeros(column)
        size = rows.sizes(row) * 32 + columns.sizes(column)
        near = density
        if scan.places > 1:
            left = _class(self._beside(scan, batch, found, 1))
            above = _class(self._beside(scan, batch, found, scan.width))
            near = left * 32 + above
        return np.stack(
            [
                spread(np.full(len(row), width), 1),
                spread(np.zeros(len(row)), 2),
                spread(size, 3),
                spread(row, 4),
                spread(column if scan.columns > 1 else place, 5),
                spread(density, 6),
                spread(near, 7),
            ]
        )

    @staticmethod
    def _beside(scan: Scan, batch: Batch, found: np.ndarray, back: int) -> np.ndarray:
        place = batch.place - back
        at = scan.position(batch.row, np.maximum(place, 0), batch.column)
        return np.where(place >= 0, found[at], 0)

    def _batch(self, contexts: np.ndarray, width: int, values: np.ndarray | None) -> np.ndarray:
        mixer = self._mixer
        count = contexts.shape[1]
        node = np.zeros(count, np.uint32)
        nonzero = mixer.decide(contexts, node, 0, None if values is None else values != 0)
        result = np.zeros(count, np.int16)
        which = np.flatnonzero(nonzero)
        if not len(which):
            return result
        contexts = np.ascontiguousarray(contexts[:, which])
        kept = None if values is None else values[which].astype(np.int64)
        node = node[: len(which)] + np.uint32(1)
        negative = mixer.decide(contexts, node, 1, None if kept is None else kept < 0)
        sign = negative.astype(np.uint32)
        prefix = np.ones(len(which), np.uint32)
        for level in range(width - 1, -1, -1):
            bits = None if kept is None else (np.abs(kept) - 1 >> level & 1).astype(np.uint8)
            if width - 1 - level == _FINE:
                contexts = contexts[:_COARSE]
            node = prefix + np.uint32(2)
            nodes = np.broadcast_to(node, contexts.shape).copy()
            nodes[_SIGNED[: 1 + 2 * (len(nodes) == INPUTS)]] += sign << np.uint32(10)
            bits = mixer.decide(contexts, nodes, min(2 + width - 1 - level, SETS - 1), bits)
            prefix = prefix << np.uint32(1) | bits
        magnitude = prefix.astype(np.int64) - (1 << width) + 1
        result[which] = np.where(negative, -magnitude, magnitude)
        return result


def _class(values: np.ndarray) -> np.ndarray:
    """Sign and number of bits, 0 to 17."""
    magnitude = np.abs(values.astype(np.int64))
    return np.searchsorted(_POWERS, magnitude, "right") + np.where(values < 0, 9, 0)


_POWERS: Final = np.array([1 << i for i in range(9)], np.int64)
