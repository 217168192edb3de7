"""One move of RigL: drop the lowest of the kept units, grow as many by their gradient."""

from __future__ import annotations

import numpy as np

from tfcompress.pruning.masks import lowest_mask
from tfcompress.pruning.patterns import Units
from tfcompress.pruning.pooling import prefix


def moved(units: Units, gradients: np.ndarray, fraction: float) -> np.ndarray:
    """The units' new mask.

    Args:
        units: the kernel's units with their scores.
        gradients: absolute gradient of each unit, 1-D.
        fraction: share of the kept units to move.

    Returns:
        1-D bool, True where kept; as many weights as before (blocks of uneven size: as nearly as
        they allow).

    Source: Evci et al. 2020, "Rigging the Lottery" (arXiv:1911.11134), algorithm 1.
    """
    kept = ~units.gone
    moving = min(int(fraction * kept.sum()), int(units.gone.sum()))
    # What is masked already counts as lowest, then come those to drop.
    scores = np.where(kept, units.scores, -np.inf)
    staying = lowest_mask(scores, int(units.gone.sum()) + moving)
    # The dropped ones may be grown again, as in the paper: all that is not staying competes.
    candidates = np.flatnonzero(~staying)
    best = candidates[np.argsort(-gradients[candidates], kind="stable")]
    dropped = int(units.sizes[kept].sum()) - int(units.sizes[staying].sum())
    staying[best[: prefix(units.sizes[best], dropped)]] = True
    return staying
