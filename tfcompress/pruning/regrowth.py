"""One move of RigL: drop the lowest of the kept units, grow as many by their gradient."""

from __future__ import annotations

import numpy as np

from tfcompress.pruning.masks import lowest_mask
from tfcompress.pruning.patterns import Pattern, Units


def moved(
    pattern: Pattern, units: Units, mask: np.ndarray, gradients: np.ndarray, fraction: float
) -> np.ndarray:
    """The units' new mask.

    Args:
        pattern: what the units are.
        units: the kernel's units with their scores.
        mask: the kernel's mask so far, `(spatial, inputs, outputs)`, True where kept.
        gradients: absolute gradient of every weight, likewise.
        fraction: share of the kept units to move.

    Returns:
        1-D bool, True where kept; as many as before.

    Source: Evci et al. 2020, "Rigging the Lottery" (arXiv:1911.11134), algorithm 1.
    """
    kept = pattern.pooled(mask.astype(np.float64)) > 0.5
    moving = min(int(fraction * kept.sum()), int((~kept).sum()))
    # What is masked already counts as lowest, then come those to drop.
    scores = np.where(kept, units.scores, -np.inf)
    staying = lowest_mask(scores, int((~kept).sum()) + moving)
    # The dropped ones may be grown again, as in the paper: all that is not staying competes.
    growth = np.where(staying, np.inf, pattern.pooled(gradients))
    grown = lowest_mask(growth, staying.size - int(staying.sum()) - moving)
    return grown
