"""`tfc.xnnpack_sparse_layers`: the layers that XNNPACK's sparse kernels would speed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tfcompress import registry
from tfcompress.runtime import sparse_rules

if TYPE_CHECKING:
    import keras

_TOLERANCE: Final = 1e-4  # of a filter's largest weight; folding BatchNorm rounds in float32


def xnnpack_sparse_layers(model: keras.Model, *, input_shapes: Any = None) -> list[keras.Layer]:
    """The layers worth pruning for XNNPACK's sparse kernels.

    Those are the layers whose weights are 1x1 convolutions in the converted file, of a model that
    the kernels take once these are pruned to more than 2/3 zeros together and the file is written
    by `tfc.convert(sparse=True)`. Other layers may be pruned as well, for a smaller file; they
    run no faster.

    The model is converted here and that file is judged, so what is said holds for what will be
    shipped. Weights are left as they are.

    Args:
        model: a built Keras 3 model of any kind, nested ones included.
        input_shapes: sizes that the model leaves open (`None`), without the batch axis.

    Returns:
        The layers in the order of execution, to be passed as
        `include=tfc.xnnpack_sparse_layers(model)`. Empty where the model does not qualify:
        `tfc.inspect(tfc.convert(model), target="xnnpack-sparse")` says why and what would change
        that, and `tfc.sparse_friendly(model)` does what leaves the outputs as they are.

    Raises:
        ModelTypeError: no Keras 3 model, or one that is not built.
        ConfigError: the model leaves sizes open and `input_shapes` does not give them.
        ConversionError: it does not convert.

    Example:
        >>> model = tfc.models.mobilenet((96, 96, 3), 10, sparse_friendly=True)
        >>> pruning = tfc.PruningCallback(schedule, include=tfc.xnnpack_sparse_layers(model))

    Source: Elsen et al. 2020, "Fast Sparse ConvNets" (arXiv:1911.09723); the rules are those of
    `tfcompress.runtime.sparse_rules`.
    """
    from tfcompress.conversion.convert import convert

    parsed = convert(model, input_shapes=input_shapes).parsed
    if sparse_rules.violations(parsed, structural_only=True):
        return []
    candidates = [
        (path, layer, kernel)
        for path, layer in registry.walk(model)
        for kernel in map(_matrix, registry.kernels(layer))
        if kernel is not None
    ]
    found: dict[int, keras.Layer] = {}
    for convolution in sparse_rules.pointwise(parsed):
        same = [(path, layer) for path, layer, k in candidates if _is(k, convolution.kernel)]
        # Layers with equal kernels, such as copies of a block before training, differ by name; a
        # layer that computes its kernel (a wrapper, LoRA) is found by its name alone.
        named = _named(convolution.layer, same or [(path, layer) for path, layer, _ in candidates])
        for layer in named or [layer for _, layer in same]:
            found.setdefault(id(layer), layer)
    return list(found.values())


def _matrix(kernel: Any) -> np.ndarray | None:
    """A kernel as (filters, channels) where it is 1x1, else None."""
    if len(kernel.shape) != 4 or tuple(kernel.shape[:2]) != (1, 1):
        return None
    return np.asarray(kernel, dtype=np.float32)[0, 0].T


def _is(kernel: np.ndarray, stored: np.ndarray) -> bool:
    """Whether a file's kernel is the layer's, but for a factor for each filter (BatchNorm)."""
    if kernel.shape != stored.shape:
        return False
    filters = np.arange(len(kernel))
    largest = np.abs(kernel).argmax(axis=1)
    scale, scaled = kernel[filters, largest], stored[filters, largest]
    difference = kernel * scaled[:, None] - stored * scale[:, None]
    allowed = _TOLERANCE * np.abs(scale * scaled)
    lost = (scale == 0) & stored.any(axis=1)  # nothing times a factor is something: not this one
    return bool((np.abs(difference) <= allowed[:, None]).all() and not lost.any())


def _named(name: str, layers: list[tuple[str, keras.Layer]]) -> list[keras.Layer]:
    """The layers that the file's name fits: by the whole path, else by its end."""
    exact = [layer for path, layer in layers if path == name]
    return exact or [
        layer for path, layer in layers if path.endswith(f"/{name}") or name.endswith(f"/{path}")
    ]
