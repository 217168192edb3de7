"""What Keras's own `enable_lora` has put into layers, merged."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.variables import value_of

# The kernel's attribute, and those of the two matrices.
_KINDS = {"kernel": ("lora_kernel_a", "lora_kernel_b"),
          "embeddings": ("lora_embeddings_a", "lora_embeddings_b")}  # fmt: skip


def has_lora(layer: Any) -> bool:
    """Whether LoRA is enabled on that layer, and its weights are not Keras's own integers."""
    return bool(getattr(layer, "lora_enabled", False)) and not layer.quantization_mode


def holds_lora(model: Any) -> bool:
    """Whether it is on any layer that the model holds."""
    return any(has_lora(layer) for layer in model._flatten_layers())


def merge(source: Any, copy: Any) -> None:
    """Makes a copied layer plain, with the kernel that the original computes with.

    Args:
        source: a layer with LoRA; it does not change.
        copy: made from its config, with its kernel or what a wrapper made of it.
    """
    for kernel, (a, b) in _KINDS.items():
        if not hasattr(source, a):
            continue
        for name in (a, b):
            getattr(copy, name).assign(value_of(getattr(source, name)))
        # Keras 3.15 builds some layers again without their lora_alpha.
        copy.lora_rank, copy.lora_alpha = source.lora_rank, source.lora_alpha
        merged = value_of(getattr(copy, kernel))
        for name in (a, b):
            copy._untrack_variable(getattr(copy, name))
            # Keras's own `del` collects the garbage of the whole process, for each variable.
            super(keras.Layer, copy).__delattr__(name)
        copy.lora_enabled, copy.lora_rank, copy.lora_alpha = False, None, None
        variable = getattr(copy, f"_{kernel}")
        variable.trainable = copy.trainable
        variable.assign(merged)
