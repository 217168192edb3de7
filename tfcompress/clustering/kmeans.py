"""k-means of numbers: sorted once, then every round costs a search for each cluster.

Clusters of numbers are intervals of the sorted ones, so their sums are differences of prefix sums
and a round takes O(clusters x log(numbers)), not O(clusters x numbers).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# (different numbers, sorted; how often each comes; clusters; generator) -> centroids.
Start = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]

_SAMPLE = 1 << 16
_ROUNDS = 1000


def quantized(
    values: np.ndarray, count: int, start: Start, generator: np.random.Generator
) -> np.ndarray:
    """Each value replaced by the centroid next to it.

    Args:
        values: finite floating-point numbers, any shape.
        count: how many different values are left at most. Where there are no more, all stay.
        start: where k-means begins, one of `STARTS`.
        generator: of what is drawn.

    Returns:
        An array of the values' shape and dtype, with exactly `count` different values where
        rounding to that dtype lets no two centroids fall together.
    """
    points, where, weights = np.unique(values, return_inverse=True, return_counts=True)
    if len(points) <= count:
        return values.copy()
    points = points.astype(np.float64)
    found = lloyd(points, weights, start(points, weights, count, generator))
    centroids = np.unique(found.astype(values.dtype))
    nearest = np.searchsorted(_borders(centroids.astype(np.float64)), points)
    return centroids[nearest][where].reshape(values.shape)


def lloyd(points: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Moves centroids into the means of what is nearest to them, until none moves.

    A centroid that nothing is nearest to goes where the error is largest.

    Args:
        points: different numbers, sorted, float64, more than there are centroids.
        weights: how often each comes.
        centroids: where to begin.
    """
    counts = np.concatenate([[0], np.cumsum(weights)])
    sums = np.concatenate([[0.0], np.cumsum(weights * points)])
    centroids = np.sort(centroids.astype(np.float64))
    before: np.ndarray | None = None
    for _ in range(_ROUNDS):
        ends = np.searchsorted(points, _borders(centroids))
        ends = np.concatenate([[0], ends, [len(points)]])
        held = np.diff(counts[ends])
        empty = np.flatnonzero(held == 0)
        if len(empty):
            nearest = np.repeat(centroids, np.diff(ends))
            error = weights * (points - nearest) ** 2
            centroids[empty] = points[np.argsort(error, kind="stable")[len(error) - len(empty) :]]
            centroids.sort()
            continue
        if before is not None and np.array_equal(ends, before):
            break
        centroids, before = np.diff(sums[ends]) / held, ends
    return centroids


def _borders(centroids: np.ndarray) -> np.ndarray:
    return (centroids[1:] + centroids[:-1]) / 2


def _plus_plus(
    points: np.ndarray, weights: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Each next one drawn by its squared distance to those there are (Arthur and Vassilvitskii)."""
    step = max(1, len(points) // max(_SAMPLE, 4 * count))
    points, weights = points[::step], weights[::step]
    distance = np.ones(len(points))
    found = np.empty(count)
    for index in range(count):
        drawn = np.cumsum(weights * distance)
        place = np.searchsorted(drawn, generator.random() * drawn[-1], side="right")
        found[index] = points[min(place, len(points) - 1)]
        nearer = (points - found[index]) ** 2
        distance = nearer if index == 0 else np.minimum(distance, nearer)
    return found


def _linear(
    points: np.ndarray, weights: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Evenly from the smallest to the largest: large weights, of which there are few, count."""
    return np.linspace(points[0], points[-1], count)


def _density(
    points: np.ndarray, weights: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """As many weights between one and the next everywhere."""
    summed = np.cumsum(weights)
    return points[np.searchsorted(summed, (np.arange(count) + 0.5) / count * summed[-1])]


def _random(
    points: np.ndarray, weights: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Any of the weights."""
    return generator.choice(points, count, replace=False, p=weights / weights.sum())


STARTS: dict[str, Start] = {
    "kmeans++": _plus_plus,
    "linear": _linear,
    "density": _density,
    "random": _random,
}
