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
    """Gives layers inside a rebuilt layer their names, precision and activations.

    What a layer makes in its own `__init__` is named by counting, and takes the dtype policy that
    is set at the time; neither is in its config.
    """
    for before, after in zip(source._flatten_layers(), copy._flatten_layers(), strict=False):
        if type(before) is type(after):
            after.name = before.name
            same_activations(before, after)
            if before.dtype_policy != after.dtype_policy:
                after.dtype_policy = before.dtype_policy


def same_activations(before: Any, after: Any) -> None:
    """Gives a rebuilt layer the very functions that the other has, where its config means them.

    Configs name functions, and another may have that name: `keras.ops.gelu`, the approximate one,
    comes back as `keras.activations.gelu`, which is exact.
    """
    from keras import activations

    for name in ("activation", "recurrent_activation"):
        old, new = getattr(before, name, None), getattr(after, name, None)
        if callable(old) and callable(new) and old is not new and hasattr(old, "__name__"):
            try:
                if activations.serialize(old) == activations.serialize(new):
                    setattr(after, name, old)
            except (TypeError, ValueError, AttributeError):
                continue  # a function that no config holds, or an attribute that is only read


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
