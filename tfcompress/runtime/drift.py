"""Whether two sets of examples differ, told from counts alone, with a stated rate of false alarms.

Each example has a share (of its values that hit the end of a range). Values of one example hang
together, so examples are what is compared, not values. The test asks for no kind of distribution.
"""

from __future__ import annotations

import math

import numpy as np

BINS = 65


def bins(shares: np.ndarray) -> np.ndarray:
    """How many examples have a share in each of 65 bins.

    Bin 0 holds those with none, and only those; the others are equally wide in arcsin(sqrt(share)),
    which is finer near 0 and 1.

    Args:
        shares: (examples,), 0 to 1.

    Returns:
        int64 (65,).
    """
    place = np.ceil(np.arcsin(np.sqrt(shares)) * (2 / np.pi) * (BINS - 1) - 1e-9)
    return np.bincount(place.astype(np.int64), minlength=BINS)


def probability(first: np.ndarray, second: np.ndarray) -> float:
    """How likely examples of one distribution would look as different as these two sets.

    The two-sided test of Mann and Whitney (1947) on ranks, with ties, as 65 bins make many: normal
    approximation, variance corrected for ties, and for continuity.

    Args:
        first: counts by bin of one set, (65,).
        second: of the other.

    Returns:
        The p-value, 0 to 1; 1.0 where all examples are in one bin.
    """
    n, m = int(first.sum()), int(second.sum())
    together = (first + second).astype(np.float64)
    total = n + m
    if min(n, m) == 0 or (together > 0).sum() < 2:
        return 1.0
    ranks = np.cumsum(together) - together + (together + 1) / 2
    statistic = float((second * ranks).sum()) - m * (m + 1) / 2
    ties = float((together**3 - together).sum()) / (total * (total - 1))
    spread = math.sqrt(n * m / 12 * (total + 1 - ties))
    away = max(abs(statistic - n * m / 2) - 0.5, 0.0) / spread
    return math.erfc(away / math.sqrt(2))
