"""How sparse a model is."""

from __future__ import annotations

import keras

from tfcompress import registry
from tfcompress.keras3 import check_built
from tfcompress.transforms.wrapper import computed, effective
from tfcompress.variables import value_of


def sparsity(model: keras.Model) -> dict[str, float]:
    """Share of zeros in the kernels of each layer.

    Args:
        model: a built Keras 3 model.

    Returns:
        Layer path (its name, for a layer that is not nested) to the share of zeros in its
        kernels, 0 to 1; and `"total"`, over all kernels.

    Raises:
        ModelTypeError: no built Keras 3 model.

    Example:
        >>> tfc.sparsity(model)["total"]
        0.8
    """
    check_built(model, "tfc.sparsity")
    result: dict[str, float] = {}
    zeros = size = 0
    changed = computed(model)
    for path, layer in registry.walk(model):
        kernels = [
            changed[id(kernel)] if id(kernel) in changed else value_of(kernel)
            for kernel in registry.kernels(layer)
        ]
        if getattr(layer, "transformed", None) is not None:  # of a quantize-aware model
            kernels = [value_of(effective(layer.transformed, layer.transforms))]
        if kernels:
            own = sum(int((kernel == 0).sum()) for kernel in kernels)
            count = sum(kernel.size for kernel in kernels)
            result[path] = own / count
            zeros, size = zeros + own, size + count
    result["total"] = zeros / size if size else 0.0
    return result
