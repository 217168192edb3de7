"""Which layers and kernels verbs that change weights take, and why they leave the others."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress import registry


def why_left(layer: Any, named: bool, excluded: set[int]) -> str:
    """Why a layer with kernels is left alone; "" where it is taken.

    Args:
        layer: the layer.
        named: whether `include` names it.
        excluded: `id`s of the layers that `exclude` names.
    """
    if id(layer) in excluded:
        return "excluded"
    if named:
        return ""
    row = registry.lookup(layer)
    if row is not None and not row.default:
        return row.reason
    return "" if layer.trainable else "not trainable"


def why_kernel_left(layer: Any, variable: Any, named: bool, lora: str) -> str:
    """Why one of its kernels is left alone; "" where it is taken.

    Args:
        layer: the layer.
        variable: the kernel.
        named: whether `include` names the layer.
        lora: what a change that LoRA adds would do.
    """
    if getattr(layer, "lora_enabled", False):
        return f"LoRA is enabled, and what it adds would {lora}: merge it first"
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(variable.dtype)):
        return f"its kernel is stored as {variable.dtype}"
    if layer.trainable and not variable.trainable and not named:
        return "its kernel is not trainable"
    return ""
