"""Pooling: how the zeros are shared out among the layers.

Every function gets the units of the kernels (see `patterns`) and says how many of each kernel's
lowest-scoring units are masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tfcompress.pruning.masks import zeros_for
from tfcompress.pruning.patterns import Units

# (*spatial, inputs, outputs) of each kernel.
Shapes = Sequence[tuple[int, ...]]


def per_layer(
    units: Sequence[Units], shapes: Shapes, sparsity: float, floor: float, cap: float
) -> list[int]:
    """The same share of zeros in every kernel."""
    return [_nearest(u, zeros_for(sparsity, int(u.sizes.sum()))) for u in units]


def by_lamp_score(
    units: Sequence[Units], shapes: Shapes, sparsity: float, floor: float, cap: float
) -> list[int]:
    """The lowest LAMP scores of the whole model.

    score(u) = s(u)^2 / (sum of s(v)^2 over all units v of the kernel that score at least s(u))

    It makes kernels comparable: the last unit of each has score 1, so none is emptied. Scores that
    may be negative (movement) are first shifted to start at zero.

    Source: Lee et al. 2021, "Layer-adaptive sparsity for the Magnitude-based Pruning"
    (arXiv:2010.07611).
    """
    return _globally(units, _lamp, sparsity, floor, cap)


def by_raw_score(
    units: Sequence[Units], shapes: Shapes, sparsity: float, floor: float, cap: float
) -> list[int]:
    """The lowest scores of the whole model as they are."""
    return _globally(units, lambda ascending: ascending, sparsity, floor, cap)


def by_erdos_renyi_kernel(
    units: Sequence[Units], shapes: Shapes, sparsity: float, floor: float, cap: float
) -> list[int]:
    """Density of each kernel in proportion to (sum of its dimensions) / (product of them).

    Small kernels stay denser than large ones; what a rate above 1 - floor leaves over goes to the
    others.

    Source: Evci et al. 2020, "Rigging the Lottery" (arXiv:1911.11134).
    """
    sizes = np.array([float(u.sizes.sum()) for u in units])
    raw = np.array([sum(shape) / np.prod(shape, dtype=np.float64) for shape in shapes])
    lowest, highest = 1.0 - cap, 1.0 - min(floor, sparsity)
    kept = (1.0 - sparsity) * sizes.sum()

    def densities(scale: float) -> np.ndarray:
        return np.clip(scale * raw, lowest, highest)

    below, above = 0.0, 1.0 / raw.min()
    for _ in range(200):
        middle = (below + above) / 2.0
        if (densities(middle) * sizes).sum() < kept:
            below = middle
        else:
            above = middle
    zeros = (1.0 - densities(above)) * sizes
    return [_nearest(u, z) for u, z in zip(units, _rounded(zeros, sizes, sparsity), strict=True)]


POOLINGS: dict[str, Callable[..., list[int]]] = {
    "layer": per_layer,
    "global": by_lamp_score,
    "global-raw": by_raw_score,
    "erk": by_erdos_renyi_kernel,
}


def _rounded(zeros: np.ndarray, sizes: np.ndarray, sparsity: float) -> list[int]:
    """Whole numbers that add up to the exact total, by largest remainder."""
    whole = np.floor(zeros).astype(np.int64)
    missing = zeros_for(sparsity, int(sizes.sum())) - int(whole.sum())
    for index in np.argsort(-(zeros - whole), kind="stable")[: max(0, missing)]:
        whole[index] += 1
    return [int(w) for w in np.minimum(whole, sizes.astype(np.int64))]


def _nearest(units: Units, zeros: int) -> int:
    """How many of the lowest units make the number of zeros nearest to that (half: fewer)."""
    if (units.sizes == 1).all():
        return min(int(zeros), int(np.isfinite(units.scores).sum()))
    # One block at least stays: an empty kernel would end the network.
    return min(prefix(_ascending(units)[1], zeros), units.sizes.size - 1)


def prefix(sizes: np.ndarray, zeros: int) -> int:
    """How many of the first units add up to the number nearest to that (half: fewer)."""
    sums = np.concatenate([[0], np.cumsum(sizes)])
    return int(np.argmin(np.abs(sums - zeros)))


def _ascending(units: Units) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, sizes and what is gone of the units that may go, lowest first.

    Of equal scores those that are masked already come first, then by order, as in `lowest_mask`.
    """
    order = np.lexsort((~units.gone, units.scores))
    order = order[np.isfinite(units.scores[order])]
    return units.scores[order], units.sizes[order], units.gone[order]


def _lamp(ascending: np.ndarray) -> np.ndarray:
    if not ascending.size:
        return ascending
    energy = np.square(ascending.astype(np.float64) - min(0.0, float(ascending[0])))
    rest = np.cumsum(energy[::-1])[::-1]
    scores = np.divide(energy, rest, out=np.zeros_like(energy), where=rest > 0)
    # Rounding must not put a unit before one of lower score.
    return np.maximum.accumulate(scores)


def _globally(
    units: Sequence[Units],
    importance: Callable[[np.ndarray], np.ndarray],
    sparsity: float,
    floor: float,
    cap: float,
) -> list[int]:
    chosen: list[int] = []
    scores: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    gone: list[np.ndarray] = []
    given = 0
    for kernel in units:
        ascending, own, masked = _ascending(kernel)
        total = int(kernel.sizes.sum())
        first = prefix(own, zeros_for(min(floor, sparsity), total))
        last = prefix(own, zeros_for(cap, total))
        chosen.append(first)
        given += int(own[:first].sum())
        # A kernel's units stay in their order, so what is taken of it is its lowest.
        scores.append(importance(ascending)[first:last])
        sizes.append(own[first:last])
        gone.append(masked[first:last])
    wanted = zeros_for(sparsity, sum(int(u.sizes.sum()) for u in units))
    owner = np.concatenate([np.full(s.shape, i) for i, s in enumerate(scores)])
    # At equal scores a masked weight of one kernel goes before a live one of another: what is
    # set free is still zero, and would be a zero too many.
    order = np.lexsort((~np.concatenate(gone), np.concatenate(scores)))
    taken = order[: prefix(np.concatenate(sizes)[order], wanted - given)]
    counts = np.bincount(owner[taken], minlength=len(units))
    return [int(first + count) for first, count in zip(chosen, counts, strict=True)]
