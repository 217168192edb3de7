"""How likely is a one? Several counts of what was seen in like places, weighed by how well they do.

Each input of the mixer is a table of counts (zeros, ones), looked up by a context: the channel, the
column, the values beside it, and so on. Its opinion is ln(ones / zeros); opinions are added with
weights that are learned from the decisions themselves, apart for how much an input has seen. Many
decisions are made at a time from the same state, and counted afterwards, so NumPy does the work;
everything is in whole numbers, so that every machine computes the same.

Source: M. Mahoney, "Adaptive weighing of context models for lossless data compression" (2005);
counts as in R. Krichevsky and V. Trofimov, "The performance of universal encoding" (1981).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from tfcompress.parcel.entropy import ONE, Coder

LARGEST_BATCH: Final = 4096
_LIMIT: Final = 4095  # counts are halved above it
_SHARED_BITS: Final = 12
_UNIT: Final = 256  # of an opinion: 1.0
_FURTHEST: Final = 11 * _UNIT
_BUCKETS: Final = 8

_LOGS: Final = np.array(
    [round(_UNIT * math.log(n + 0.4)) for n in range(_LIMIT + LARGEST_BATCH + 1)], np.int64
)
_CHANCES: Final = np.array(
    [
        min(max(round(ONE / (1 + math.exp(-s / _UNIT))), 1), ONE - 1)
        for s in range(-_FURTHEST, _FURTHEST + 1)
    ],
    np.int64,
)
_SEEN: Final = np.array(
    [
        sum(n > edge for edge in (0, 1, 2, 4, 12, 40, 160))
        for n in range(_LIMIT + LARGEST_BATCH + 1)
    ],
    np.int64,
)
_START: Final = (0.0, 0.12, 0.17, 0.22, 0.27, 0.30, 0.32, 0.34)


class Mixer:
    """Makes decisions.

    Args:
        coder: takes the probabilities.
        inputs: tables of counts; the first is kept from one tensor to the next.
        sets: of weights, one for each kind of decision.
    """

    def __init__(self, coder: Coder, inputs: int, sets: int) -> None:
        self.coder = coder
        self.inputs = inputs
        start = np.array([round(w * ONE * 6 / inputs) for w in _START], np.int64)
        self._weights = np.tile(start, inputs * sets)
        self._seen = np.zeros(len(self._weights), np.int64)
        self._input_base = (np.arange(inputs) * sets * _BUCKETS)[:, None]
        self._counts = np.zeros(1 << _SHARED_BITS, np.uint32)
        self.begin(1)

    def state(self) -> tuple[np.ndarray, ...]:
        """All that is learned, to go back to."""
        return self._weights.copy(), self._seen.copy(), self._counts[: 1 << _SHARED_BITS].copy()

    def restore(self, state: tuple[np.ndarray, ...]) -> None:
        """Goes back to a `state`."""
        self._weights, self._seen, self._counts = (part.copy() for part in state)

    def begin(self, size: int) -> None:
        """Forgets what all tables but the first counted: a tensor of `size` values begins."""
        bits = min(max((size - 1).bit_length() + 3, 10), 20)
        counts = np.zeros((1 << _SHARED_BITS) + (self.inputs - 1 << bits), np.uint32)
        counts[: 1 << _SHARED_BITS] = self._counts[: 1 << _SHARED_BITS]
        self._counts = counts
        shifts = [32 - _SHARED_BITS, *[32 - bits] * (self.inputs - 1)]
        self._shifts = np.array(shifts, np.uint32)[:, None]
        starts = [0, *((1 << _SHARED_BITS) + (i << bits) for i in range(self.inputs - 1))]
        self._starts = np.array(starts, np.int64)[:, None]

    def decide(
        self, contexts: np.ndarray, node: np.ndarray, kind: int, bits: np.ndarray | None
    ) -> np.ndarray:
        """Codes one decision for each of n values.

        Args:
            contexts: uint32, shape (k, n), for all inputs or the first k, by `spread`.
            node: which decision it is, uint32, shape (n,) or (k, n).
            kind: which set of weights.
            bits: the decisions, or None to find them.

        Returns:
            The decisions, uint8, shape (n,).
        """
        if not contexts.shape[1]:
            return np.zeros(0, np.uint8)
        hashed = (contexts + node * np.uint32(0x9E3779B1)) * np.uint32(0x85EBCA6B)
        hashed ^= hashed >> np.uint32(15)
        hashed *= np.uint32(0x2C1B3C6D)
        inputs = len(contexts)
        where = (hashed >> self._shifts[:inputs]) + self._starts[:inputs]
        counts = self._counts[where]
        zeros, ones = counts & 0xFFFF, counts >> 16
        opinions = _LOGS[ones] - _LOGS[zeros]
        cells = _SEEN[zeros + ones] + (self._input_base[:inputs] + kind * _BUCKETS)
        sums = (self._weights[cells] * opinions).sum(0) >> 16
        chances = _CHANCES[np.clip(sums, -_FURTHEST, _FURTHEST) + _FURTHEST]
        bits = self.coder.code(chances, bits)
        self._learn(where.ravel(), bits, cells.ravel(), opinions, chances)
        return bits

    def _learn(
        self,
        where: np.ndarray,
        bits: np.ndarray,
        cells: np.ndarray,
        opinions: np.ndarray,
        chances: np.ndarray,
    ) -> None:
        new = np.where(bits, np.uint32(1 << 16), np.uint32(1))
        np.add.at(self._counts, where, np.tile(new, len(where) // len(bits)))
        counts = self._counts[where]
        full = (counts & 0xFFFF) + (counts >> 16) > _LIMIT
        if full.any():
            self._counts[where[full]] = counts[full] >> 1 & 0x7FFF7FFF
        errors = np.where(bits, ONE, 0) - chances
        size = len(self._weights)
        # Sums of whole numbers below 2**53 are exact in float64.
        steps = np.bincount(cells, (errors * opinions).ravel(), size).astype(np.int64)
        times = np.bincount(cells, minlength=size)
        rate = _UNIT * (60 + np.minimum(self._seen >> 3, 2000)) * (1 + times // 128)
        self._weights += steps // rate
        self._seen += times


def spread(context: np.ndarray, salt: int) -> np.ndarray:
    """A context as a uint32 that is far from its neighbours'."""
    return (context.astype(np.uint32) + np.uint32(salt)) * np.uint32(0xC2B2AE35)
