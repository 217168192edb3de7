"""Sharing a budget out among layers that can each be had at several prices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)


def is_number(value: Any) -> bool:
    """Whether a share or the like was given as a number, NumPy's among them; bool is none."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def cheapest_errors(
    points: Mapping[Key, Sequence[tuple[int, float]]], budget: float
) -> dict[Key, int] | None:
    """Which point of each layer to take, so that errors add up to little within a budget.

    Each layer begins with its cheapest point. Then the step that takes away the most error for
    what it costs is made, along the lower convex hull of each layer's points, until no step fits.
    Within the last step that is the best there is.

    Args:
        points: (cost, error) of each layer's forms.
        budget: what all may cost together.

    Returns:
        The number of the point for each layer; None where even the cheapest cost more.

    Example:
        >>> cheapest_errors({"a": [(1, 0.5), (3, 0.1)], "b": [(1, 0.2), (3, 0.1)]}, 4)
        {'a': 1, 'b': 0}
    """
    taken: dict[Key, int] = {}
    steps: list[tuple[float, int, int, Key, int]] = []
    for place, (key, own) in enumerate(points.items()):
        hull = _hull(own)
        taken[key] = hull[0]
        for before, after in pairwise(hull):
            more = own[after][0] - own[before][0]
            steps.append(((own[after][1] - own[before][1]) / more, place, more, key, after))
    spent = sum(points[key][number][0] for key, number in taken.items())
    if spent > budget:
        return None
    stuck = set()
    for _, _, more, key, after in sorted(steps, key=lambda step: step[:2]):
        # A hull gets flatter: the steps of a layer come in order, and none can be left out.
        if key not in stuck and spent + more <= budget:
            spent += more
            taken[key] = after
        else:
            stuck.add(key)
    return taken


def _hull(points: Sequence[tuple[int, float]]) -> list[int]:
    """The points, by number, from the cheapest on, that no mixture of others betters."""
    hull: list[int] = []
    for number in sorted(range(len(points)), key=lambda n: points[n]):
        cost, error = points[number]
        if hull and error >= points[hull[-1]][1]:
            continue
        while len(hull) > 1:
            (c0, e0), (c1, e1) = points[hull[-2]], points[hull[-1]]
            if (e1 - e0) * (cost - c0) < (error - e0) * (c1 - c0):
                break
            hull.pop()
        hull.append(number)
    return hull
