"""What tensorflow-model-optimization can do to which layer, and tfcompress's words in its own."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError
from tfcompress.legacy.nodes import flat
from tfcompress.legacy.packages import keras2, tfmot
from tfcompress.pruning.patterns import Blocks, NofM, as_pattern

_NO_KERNEL = "tfmot knows no kernel of it"


def pruning_options(pattern: Any) -> dict[str, Any]:
    """Arguments of `prune_low_magnitude` for a pattern of tfcompress."""
    made = as_pattern(pattern)
    if isinstance(made, NofM):
        return {"sparsity_m_by_n": (made.group - made.keep, made.group)}
    if isinstance(made, Blocks):
        pooling = "MAX" if made.pool == "max" else "AVG"
        return {"block_size": (made.rows, made.columns), "block_pooling_type": pooling}
    return {}


def cannot_prune(layer: Any, options: dict[str, Any]) -> str:
    """Why tfmot does not prune a layer; "" where it does."""
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    registry = prune_registry.PruneRegistry
    if hasattr(layer, "get_prunable_weights"):
        weights = layer.get_prunable_weights()
    elif not registry.supports(layer):
        return _NO_KERNEL
    elif type(layer).__name__ == "MultiHeadAttention":
        return "tfmot's wrapper passes on one input, attention has two"
    elif registry._is_rnn_layer(layer):
        cells = registry._get_rnn_cells(layer)
        weights = [weight for cell in cells for weight in (cell.kernel, cell.recurrent_kernel)]
    else:
        weights = [getattr(layer, name) for name in registry._weight_names(layer)]
    if not weights:
        return _NO_KERNEL
    ranks = {len(weight.shape) for weight in weights}
    if "block_size" in options and ranks != {2}:
        return "tfmot prunes blocks of matrices only"
    if "sparsity_m_by_n" in options and not ranks <= {2, 4}:
        return "tfmot prunes N:M of kernels of rank 2 and 4 only"
    block = options.get("block_size", (1, 1))
    if block != (1, 1) and any(
        size <= side for weight in weights for size, side in zip(weight.shape, block, strict=True)
    ):
        return "tfmot needs two blocks or more along each side of a kernel"
    return ""


def clustering() -> Any:
    """The function of tfmot that wraps a layer, with all options."""
    tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    return cluster.cluster_weights


def clustering_options(count: int, init: str, per_channel: bool) -> dict[str, Any]:
    """Arguments of `cluster_weights`."""
    if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 2:
        raise ConfigError(f"`number_of_clusters` must be a whole number >= 2. Received: {count!r}")
    starts = {
        "kmeans++": "KMEANS_PLUS_PLUS",
        "linear": "LINEAR",
        "density": "DENSITY_BASED",
        "random": "RANDOM",
    }
    if not isinstance(init, str) or init not in starts:
        raise ConfigError(f"`init` must be one of {list(starts)}. Received: {init!r}")
    check_flag("per_channel", per_channel)
    return {
        "number_of_clusters": int(count),
        "cluster_centroids_init": tfmot().clustering.keras.CentroidInitialization[starts[init]],
        "cluster_per_channel": per_channel,
    }


def check_flag(name: str, value: Any) -> None:
    """Checks that an argument is True or False.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"`{name}` must be True or False. Received: {value!r}")


def cannot_cluster(layer: Any, options: dict[str, Any], zeros: bool) -> str:
    """Why tfmot does not cluster a layer; "" where it does."""
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_registry

    registry = clustering_registry.ClusteringRegistry
    if hasattr(layer, "get_clusterable_weights"):
        return ""
    if not layer.weights or not registry.supports(layer):
        return _NO_KERNEL
    if type(layer).__name__ == "MultiHeadAttention":
        return "tfmot's wrapper passes on one input, attention has two"
    if type(layer) in registry._LAYERS_WEIGHTS_MAP and not registry._weight_names(layer):
        return _NO_KERNEL
    count = options["number_of_clusters"]
    if zeros and count < 3:
        return "tfmot needs 3 clusters where zeros stay"
    kernel = getattr(layer, "kernel", None)
    if isinstance(layer, keras2().layers.Conv2D) and kernel is not None:
        size = int(np.prod(kernel.shape))
        if options["cluster_per_channel"]:
            size //= int(kernel.shape[-1])
        if size <= count:
            return "it has no more weights than clusters"
    elif any(np.prod(w.shape) < count for w in _clusterable(layer, registry)):
        return "it has fewer weights than clusters"
    return ""


def _clusterable(layer: Any, registry: Any) -> list[Any]:
    if type(layer) in registry._LAYERS_WEIGHTS_MAP:
        return [getattr(layer, name) for name in registry._weight_names(layer)]
    recurrent = hasattr(layer, "cell") or hasattr(layer, "forward_layer")
    cells = registry._get_rnn_cells(layer) if recurrent else []
    found = [getattr(cell, name, None) for cell in cells for name in ("kernel", "recurrent_kernel")]
    return [weight for weight in found if weight is not None]


def has_zeros(layer: Any) -> bool:
    """Whether a weight of rank 2 or more is exactly zero."""
    return any(len(w.shape) > 1 and (w.numpy() == 0).any() for w in layer.weights)


def kept(preserve: Collection[str]) -> list[str]:
    """What of the weights is to stay, checked.

    Raises:
        ConfigError: it is none of what tfmot knows.
    """
    names = preserve if isinstance(preserve, (list, tuple, set, frozenset)) else [preserve]
    if any(name not in ("sparsity", "clusters") for name in names):
        raise ConfigError(f'`preserve` takes "sparsity" and "clusters". Received: {preserve!r}')
    return sorted(names)


def quantization_scheme(preserve: Collection[str]) -> Any:
    """The scheme of tfmot that keeps zeros, shared values or both."""
    from tensorflow_model_optimization.python.core.quantization.keras import collab_opts
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_scheme as plain,
    )

    names = set(preserve)
    place = f"{collab_opts.__name__}"
    if not names:
        return plain.Default8BitQuantizeScheme()
    if names == {"sparsity"}:
        module = _module(f"{place}.prune_preserve.default_8bit_prune_preserve_quantize_scheme")
        return module.Default8BitPrunePreserveQuantizeScheme()
    module = _module(f"{place}.cluster_preserve.default_8bit_cluster_preserve_quantize_scheme")
    return module.Default8BitClusterPreserveQuantizeScheme("sparsity" in names)


def cannot_quantize(layer: Any, model: Any, scheme: Any) -> str:
    """Why tfmot does not quantize a layer; "" where it does, or where only trying tells."""
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry as default,
    )

    if layer not in model.layers:
        return "tfmot quantizes no models inside models"
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        return "" if _follows(layer, ("Conv2D", "DepthwiseConv2D", "Dense")) else _NOT_BEHIND
    if kind in ("SeparableConv1D", "SeparableConv2D", "Conv1D"):
        return "" if kind != "Conv1D" else "tfmot has no int8 form of it"
    if not default.Default8BitQuantizeRegistry().supports(layer):
        return "tfmot has no int8 form of it"
    own = scheme.get_quantize_registry()
    if layer.trainable_weights and not own.supports(layer):
        return "tfmot preserves nothing in it, and quantizes it only where nothing is preserved"
    return ""


_NOT_BEHIND = "tfmot quantizes it only right behind a convolution"


def _follows(layer: Any, kinds: tuple[str, ...]) -> bool:
    makers = [flat(node.inbound_layers) for node in layer._inbound_nodes]
    return all(len(found) == 1 and type(found[0]).__name__ in kinds for found in makers)


def _module(name: str) -> Any:
    return importlib.import_module(name)
