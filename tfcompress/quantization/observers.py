"""Observers: the range of every tensor, all from one pass over calibration data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tfcompress.errors import ConfigError

BINS = 2048
LEVELS = 256
MOMENTUM = 0.9
PERCENTILE = 99.99


@dataclass
class Statistics:
    """What is kept of a tensor over all batches.

    Attributes:
        low: smallest value.
        high: largest value.
        average: moving averages of each batch's smallest and largest value.
        counts: histogram of 2 * BINS bins of equal width over [-reach, reach].
        reach: half of its width; 0 before anything but zeros was seen.
    """

    low: float = 0.0
    high: float = 0.0
    average: tuple[float, float] | None = None
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * BINS))
    reach: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Takes in a batch, float32 of any shape."""
        flat = np.asarray(values, np.float32).reshape(-1)
        flat = flat[np.isfinite(flat)]
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.average is None:
            self.average = (low, high)
        else:
            keep, new = MOMENTUM, 1 - MOMENTUM
            self.average = (
                keep * self.average[0] + new * low,
                keep * self.average[1] + new * high,
            )
        self._widen(max(-low, high))
        if self.reach:
            counts, _ = np.histogram(flat, 2 * BINS, (-self.reach, self.reach))
            self.counts += counts

    def _widen(self, reach: float) -> None:
        """Doubles the histogram's width until it holds `reach`: two bins become one, exactly."""
        if not self.reach:
            # A power of two: bins of a later batch fall on the same places.
            self.reach = 2.0 ** np.ceil(np.log2(reach)) if reach > 0 else 0.0
        while self.reach < reach:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([np.zeros(BINS // 2), pairs, np.zeros(BINS // 2)])
            self.reach *= 2

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin."""
        edges = np.linspace(-self.reach, self.reach, 2 * BINS + 1)
        return (edges[1:] + edges[:-1]) / 2


Range = tuple[float, float]


def _min_max(s: Statistics) -> Range:
    return s.low, s.high


def _moving_average(s: Statistics) -> Range:
    return s.average or (0.0, 0.0)


def _percentile(s: Statistics) -> Range:
    """What leaves 0.01 % of the values outside, half of them at each end that has any."""
    share = np.cumsum(s.counts) / max(s.counts.sum(), 1)
    cut = (1 - PERCENTILE / 100) / 2
    edges = np.linspace(-s.reach, s.reach, 2 * BINS + 1)
    low = edges[np.searchsorted(share, cut)]
    high = edges[min(np.searchsorted(share, 1 - cut) + 1, 2 * BINS)]
    return max(float(low), s.low), min(float(high), s.high)


def _mse(s: Statistics) -> Range:
    """The shrunk range with the smallest mean squared error of rounding and clipping."""
    return _search(s, _squared_error)


def _kl(s: Statistics) -> Range:
    """The shrunk range whose quantized distribution is nearest in Kullback-Leibler divergence."""
    return _search(s, _divergence)


def _search(s: Statistics, cost: Callable[[Statistics, float, float], float]) -> Range:
    candidates = [(s.low * share, s.high * share) for share in np.linspace(0.2, 1.0, 81)]
    if s.low < 0 < s.high:  # A long tail may be on one side only.
        candidates += [(s.low * share, s.high) for share in np.linspace(0.2, 1.0, 41)]
        candidates += [(s.low, s.high * share) for share in np.linspace(0.2, 1.0, 41)]
    return min(candidates, key=lambda ends: cost(s, *ends))


def _quantized(s: Statistics, low: float, high: float) -> np.ndarray:
    step = max((high - low) / (LEVELS - 1), 1e-30)
    zero = np.round(low / step)
    return np.clip(np.round(s.centers / step), zero, zero + LEVELS - 1) * step


def _squared_error(s: Statistics, low: float, high: float) -> float:
    return float((s.counts * (s.centers - _quantized(s, low, high)) ** 2).sum())


def _divergence(s: Statistics, low: float, high: float) -> float:
    """KL(p, q): q spreads each level's share over the bins that became it (Migacz 2017)."""
    levels = np.unique(_quantized(s, low, high), return_inverse=True)[1]
    inside = (s.centers >= low) & (s.centers <= high)
    p = s.counts / max(s.counts.sum(), 1)
    # Clipped values count where they end up in p, but not in what q is made from.
    clipped = np.where(inside, p, 0)
    for outside, end in (
        (s.centers < low, np.argmax(inside)),
        (s.centers > high, len(inside) - 1 - np.argmax(inside[::-1])),
    ):
        clipped[end] += p[outside].sum()
    kept = np.where(inside, p, 0)
    total = np.bincount(levels, kept)
    filled = np.bincount(levels, (kept > 0).astype(float))
    q = np.where(kept > 0, total[levels] / np.maximum(filled[levels], 1), 0)
    mask = clipped > 0
    q = np.maximum(q / max(q.sum(), 1e-30), 1e-9)
    return float((clipped[mask] * np.log(clipped[mask] / q[mask])).sum())


METHODS: dict[str, Callable[[Statistics], Range]] = {
    "min_max": _min_max,
    "moving_average": _moving_average,
    "percentile": _percentile,
    "mse": _mse,
    "kl": _kl,
}


def check_method(method: str) -> None:
    """Checks that there is such a method.

    Raises:
        ConfigError: there is none.
    """
    if method not in METHODS:
        raise ConfigError(
            f"`calibration_method` must be one of {list(METHODS)}. Received: {method!r}"
        )
