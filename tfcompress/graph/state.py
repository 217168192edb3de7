"""From one layer to its copy: all that its config does not tell."""

from __future__ import annotations

import tempfile
from typing import Any


def copy_state(source: Any, copy: Any) -> None:
    """Gives a rebuilt layer its original's weights, seeds, vocabularies, constraints and flags.

    Raises:
        ValueError: the two have other weights; then it is no copy.
    """
    old, new = source.weights, copy.weights
    if _signature(old) != _signature(new):
        raise ValueError(
            f"rebuilt from its config it has weights {_signature(new)} instead of {_signature(old)}"
        )
    # Random seeds come with the weights where both have them.
    if _signature(source.variables) == _signature(copy.variables):
        old, new = source.variables, copy.variables
    for before, after in zip(old, new, strict=True):
        after.assign(before)
    align(source, copy)
    for before, after in zip(source._flatten_layers(), copy._flatten_layers(), strict=False):
        if before.trainable != after.trainable:
            after.trainable = before.trainable
        copy_learned(before, after)
    for before, after in zip(old, new, strict=True):
        if before.trainable != after.trainable:
            after.trainable = before.trainable
        # Those that were given to the variable, not to the layer.
        if after.regularizer is None:
            after.regularizer = before.regularizer
        if after.constraint is None:
            after.constraint = _lasting(before.constraint)


def align(source: Any, copy: Any) -> None:
    """Gives layers inside a rebuilt layer their names, and the precision they compute in.

    What a layer makes in its own `__init__` is named by counting, and takes the dtype policy that
    is set at the time; neither is in its config.
    """
    for before, after in zip(source._flatten_layers(), copy._flatten_layers(), strict=False):
        if type(before) is type(after):
            after.name = before.name
            if before.dtype_policy != after.dtype_policy:
                after.dtype_policy = before.dtype_policy


def _signature(variables: list[Any]) -> list[tuple[tuple[int, ...], str]]:
    return [(tuple(variable.shape), str(variable.dtype)) for variable in variables]


def copy_learned(before: Any, after: Any) -> None:
    """What layers have learned from data by `adapt`, outside their weights."""
    if hasattr(before, "save_assets") and hasattr(after, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            before.save_assets(folder)
            after.load_assets(folder)
    if hasattr(after, "finalize_state") and after.built:
        after.finalize_state()


def _lasting(constraint: Any) -> Any:
    """The constraint without one that a training under way has put around it."""
    while getattr(constraint, "transient", False):
        constraint = constraint.inner
    return constraint
