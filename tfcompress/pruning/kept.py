"""The variables that pruning keeps beside a kernel, and for each group of kernels."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.pruning.settings import PruningSettings


def beside_kernel(settings: PruningSettings, shape: tuple[int, ...]) -> dict[str, Any]:
    """What these settings need for a kernel of that shape, besides its mask.

    `products`: sum of weight x gradient; `gradients`: sum of the gradients since the last mask
    update; `aside`: values of masked weights, for a criterion that revives them.
    """
    criterion, kept = settings.criterion, {}
    if criterion.products:
        kept["products"] = _summed("products", shape)
    if criterion.gradients or settings.regrows:
        kept["gradients"] = _summed("gradients", shape)
    if criterion.revives:
        kept["aside"] = _state("aside", "float32", keras.initializers.Zeros(), shape)
    return kept


def for_group(settings: PruningSettings) -> dict[str, Any]:
    """What these settings need for each group of kernels.

    `last`: the step of the last mask update, -1 before the first; `open`: whether sums still
    grow; `seen`: gradients summed since the last mask update.
    """
    kept = {"last": _state("last_update", "int64", keras.initializers.Constant(-1), ())}
    if settings.watches:
        kept["open"] = _state("open", "bool", keras.initializers.Ones(), ())
        kept["seen"] = _summed("seen", ())
    return kept


def new_mask(shape: tuple[int, ...]) -> Any:
    """A mask that keeps everything."""
    return _state("pruning_mask", "bool", keras.initializers.Ones(), shape)


# Initializers, not values: only those are allowed where Keras traces a layer to build it.
def _state(name: str, dtype: str, initializer: Any, shape: tuple[int, ...]) -> Any:
    return keras.Variable(initializer, shape=shape, dtype=dtype, trainable=False, name=name)


def _summed(name: str, shape: tuple[int, ...]) -> Any:
    """A variable that each replica adds its own share to."""
    return keras.Variable(
        keras.initializers.Zeros(),
        shape=shape,
        dtype="float32",
        trainable=False,
        name=name,
        synchronization="on_read",
        aggregation="sum",
    )
