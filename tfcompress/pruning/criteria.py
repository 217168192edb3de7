"""Criteria: how important a weight is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at for one kernel, all of the kernel's shape, float32.

    Attributes:
        weights: the kernel, zero where masked.
        gradients: mean gradient of the loss since the masks were last computed, masked weights
            included; None unless the criterion asks for it.
        products: the criterion's sums of weight x gradient over the steps; None unless it asks.
    """

    weights: np.ndarray
    gradients: np.ndarray | None = None
    products: np.ndarray | None = None


@dataclass(frozen=True)
class Criterion:
    """A score for each weight: the lowest are masked first.

    Attributes:
        name: as users write it.
        score: Evidence -> scores of the kernel's shape.
        gradients: whether it looks at the gradients.
        products: `"absolute"` to sum |w * g| over the steps, `"signed"` for w * g, "" for neither.
        forgets: whether sums start anew at each mask update.
        once: whether the first scores are the only ones (SNIP).
        revives: whether masked weights keep their value aside and get it back when their score
            rises again (movement).
        function: the user's own, where it is one.
    """

    name: str
    score: Callable[[Evidence], np.ndarray]
    gradients: bool = False
    products: str = ""
    forgets: bool = True
    once: bool = False
    revives: bool = False
    function: Callable[[Any, Any], Any] | None = None

    @property
    def watches(self) -> bool:
        """Whether it needs what only the optimizer's update sees."""
        return self.gradients or bool(self.products)


def _magnitude(evidence: Evidence) -> np.ndarray:
    return np.abs(evidence.weights)


def _sums(evidence: Evidence) -> np.ndarray:
    assert evidence.products is not None
    return evidence.products


def _towards_zero(evidence: Evidence) -> np.ndarray:
    assert evidence.products is not None
    return -evidence.products


CRITERIA = {
    # Han et al. 2015 (arXiv:1506.02626).
    "magnitude": Criterion("magnitude", _magnitude),
    # First-order Taylor expansion of the loss in each weight: |w * dL/dw|, mean over the batches
    # since the last mask update. Molchanov et al. 2017 (arXiv:1611.06440).
    "taylor": Criterion("taylor", _sums, products="absolute"),
    # The same at the start, once and for all. Lee et al. 2019 (arXiv:1810.02340).
    "snip": Criterion("snip", _sums, products="absolute", forgets=False, once=True),
    # What training moves towards zero goes: minus the sum of w * dL/dw over all steps.
    # Sanh et al. 2020 (arXiv:2005.07683).
    "movement": Criterion(
        "movement", _towards_zero, products="signed", forgets=False, revives=True
    ),
}


def as_criterion(criterion: Any) -> Criterion:
    """The criterion of that name, or of a user's own function `(weights, gradients) -> scores`.

    Raises:
        ConfigError: neither.
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, str) and criterion in CRITERIA:
        return CRITERIA[criterion]
    if callable(criterion) and not isinstance(criterion, type):
        return Criterion(_name(criterion), _checked(criterion), gradients=True, function=criterion)
    raise ConfigError(
        f"`criterion` must be one of {', '.join(map(repr, CRITERIA))}, or a function "
        "(weights, gradients) -> scores, whose lowest scores are masked first. "
        f"Received: {criterion!r}"
    )


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _checked(function: Callable[[Any, Any], Any]) -> Callable[[Evidence], np.ndarray]:
    def score(evidence: Evidence) -> np.ndarray:
        result = function(evidence.weights, evidence.gradients)
        scores = np.asarray(result)
        if scores.dtype.kind not in "fiub":
            raise ConfigError(
                f"The criterion {_name(function)!r} must return real numbers. Received: "
                f"{type(result).__name__} of dtype {scores.dtype}"
            )
        if scores.shape != evidence.weights.shape:
            raise ConfigError(
                f"The criterion {_name(function)!r} must return one score for each weight, shape "
                f"{evidence.weights.shape}. Received: shape {scores.shape}"
            )
        if np.isnan(scores).any():
            raise ConfigError(f"The criterion {_name(function)!r} must not return NaN scores.")
        return scores.astype(np.float64)

    return score
