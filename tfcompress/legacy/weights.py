"""Weights from a tf_keras layer into its Keras 3 counterpart, matched by name and shape."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tfcompress.legacy.layers import WithoutCounterpart

_AMONG_OPTIONS = ("Normalization", "IntegerLookup", "StringLookup", "TextVectorization")
_RENAMED = {"depthwise_kernel": "kernel"}


def transfer(old: Any, new: Any) -> list[Any]:
    """Copies a layer's weights.

    Names are compared from their end: `lstm/lstm_cell/kernel:0` of Keras 2 is `kernel` of Keras 3,
    and where one layer has several of a name, the name of what holds them has to agree too.

    Args:
        old: the tf_keras layer.
        new: the Keras 3 layer, built.

    Returns:
        The tf_keras variables that were copied.

    Raises:
        WithoutCounterpart: names, numbers or shapes do not agree.
    """
    sources, targets = list(old.weights), list(new.weights)
    if type(old).__name__ in (
        "Normalization",
        "IntegerLookup",
        "StringLookup",
        "TextVectorization",
    ):
        return sources  # what it learned is among its options
    if len(sources) != len(targets):
        raise WithoutCounterpart(
            f"it has the weights {[_parts(w.name)[-1] for w in sources]}, in Keras 3 "
            f"{[w.name for w in targets]}"
        )
    left = list(targets)
    for source in sources:
        found = _counterpart(source, left)
        left = [target for target in left if target is not found]
        found.assign(np.asarray(source.numpy()))
    return sources


def _counterpart(source: Any, targets: list[Any]) -> Any:
    parts = _parts(source.name)
    same = [target for target in targets if _parts(target.path)[-1] == parts[-1]]
    fitting = [target for target in same if tuple(target.shape) == tuple(source.shape)]
    if len(parts) > 1 and len({tuple(_parts(target.path)[-2:]) for target in same}) > 1:
        fitting = [target for target in fitting if _parts(target.path)[-2] == parts[-2]] or fitting
    if not fitting:  # Keras 3 counts variables that a layer gave no name
        unnamed = [target for target in targets if re.fullmatch(r"variable(_\d+)?", target.name)]
        fitting = [target for target in unnamed if tuple(target.shape) == tuple(source.shape)]
        fitting = fitting if len(fitting) == 1 else []
    if not fitting:
        raise WithoutCounterpart(
            f"its weight {source.name!r} of shape {tuple(source.shape)} has no counterpart among "
            f"{[(target.path, tuple(target.shape)) for target in targets]}"
        )
    return fitting[0]


def _parts(name: str) -> list[str]:
    *above, last = name.split(":")[0].split("/")
    return [*above, _RENAMED.get(last, last)]
