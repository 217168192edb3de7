"""What the low-rank forms of layers have in common: plans, their costs, and that there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MULTIPLY_ADDS, PARAMETERS = "multiply_adds", "parameters"
# A name for a new layer, from what it should be called.
Namer = Callable[[str], str]


class NoForm(Exception):
    """The layer has no low-rank form; the text says why."""


@dataclass(frozen=True)
class Plan:
    """Ranks for a layer.

    Attributes:
        ranks: one for a matrix, two (inputs, outputs) for a convolution, two (keys, values) for
            attention.
        cost: of the layers that replace it, in its form's unit.
    """

    ranks: tuple[int, ...]
    cost: int
