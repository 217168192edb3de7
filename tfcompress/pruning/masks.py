"""Masks of an exact number of zeros."""

from __future__ import annotations

import numpy as np


def zeros_for(sparsity: float, size: int) -> int:
    """How many of `size` weights are zero at that sparsity (nearest whole number, half up)."""
    return min(size, int(np.floor(sparsity * size + 0.5)))


def lowest_mask(scores: np.ndarray, zeros: int, first: np.ndarray | None = None) -> np.ndarray:
    """Masks the `zeros` lowest scores, to the weight.

    Args:
        scores: importance of each weight, any shape.
        zeros: how many to mask. Among equal scores the first in memory order go first, so the
            same scores always give the same mask.
        first: bool array of the scores' shape: among equal scores these go before the others.

    Returns:
        Boolean array of the scores' shape, False where masked.
    """
    flat = scores.reshape(-1)
    mask = np.ones(flat.shape, bool)
    if zeros <= 0:
        return mask.reshape(scores.shape)
    threshold = np.partition(flat, zeros - 1)[zeros - 1]
    below = flat < threshold
    mask[below] = False
    ties = np.flatnonzero(flat == threshold)
    if first is not None:
        ties = ties[np.argsort(~first.reshape(-1)[ties], kind="stable")]
    mask[ties[: zeros - int(below.sum())]] = False
    return mask.reshape(scores.shape)
