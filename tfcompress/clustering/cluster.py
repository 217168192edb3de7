"""`cluster`: a copy of a model whose weights share few values, which train on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import registry
from tfcompress.clustering.kmeans import STARTS, quantized
from tfcompress.errors import ConfigError, ScopeError
from tfcompress.keras3 import check_keras3
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike, resolve
from tfcompress.transforms.base import WeightTransform
from tfcompress.transforms.centroids import Centroids
from tfcompress.transforms.choosing import why_kernel_left, why_left
from tfcompress.transforms.lora import holds_lora
from tfcompress.transforms.sharing import channels_of, values_per_channel
from tfcompress.transforms.strip import strip
from tfcompress.transforms.wrapping import check_plain, wrap
from tfcompress.variables import value_of


def cluster(
    model: keras.Model,
    number_of_clusters: int,
    *,
    init: str = "kmeans++",
    per_channel: bool = False,
    preserve_sparsity: bool = True,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
    seed: int = 0,
) -> Any:
    """A copy of a model whose kernels hold few different values, which plain `fit` trains.

    Each kernel's weights are clustered by k-means; all weights of a cluster share one value, its
    centroid. Which weight is in which cluster is settled here; the centroids train, each by the
    sum of its weights' gradients. (tensorflow-model-optimization assigns anew in every step, which
    costs a distance to each centroid for each weight and a second copy of the kernel that
    trains beside. As there, a plain SGD's steps are as large as the clusters: take a smaller
    learning rate than for the weights, or Adam.)

    Files do not get smaller by themselves: they zip better. `tfc.strip` makes a plain model. In a
    file, BatchNorm multiplies each channel of the kernel before it by a factor, and in int8 each
    channel has a scale of its own: there a whole kernel may hold many values, and a channel at
    most `number_of_clusters`. The report of `tfc.convert` counts them. So `per_channel=True` costs
    the same and is closer to the weights. Training on after `tfc.strip` parts the values again,
    `tfc.quantize_aware(..., preserve="clusters")` keeps them.

    Args:
        model: a built Keras 3 model, Functional, Sequential or subclassed, with all that it
            nests; it does not change. A pruned one keeps its zeros (`tfc.strip` first if
            `tfc.prune` wrapped it).
        number_of_clusters: different values in a kernel, at least 1; the zeros of a pruned one are
            one of them. A kernel that has no more to begin with keeps those it has.
        init: where k-means starts: `"kmeans++"`, `"linear"` (evenly from the smallest to the
            largest), `"density"` (equally many weights each) or `"random"` (any of the weights).
        per_channel: clusters for each output channel instead of for each kernel; for an embedding,
            which has one scale in the file, all the same for the whole table.
        preserve_sparsity: zeros stay zeros: 0 is a centroid that does not train.
        include: layers to cluster; None for every layer with a kernel except depthwise ones.
        exclude: layers to leave alone.
        seed: of what k-means++ and random starts draw.

    Returns:
        The new model, not compiled, of wrapped layers that save and load as any. Its
        `compression_report` tells of each layer how many different values it has, the squared
        error of clustering relative to the squared weights, and what was left, with reasons.

    Raises:
        ModelTypeError: no built Keras 3 model, or a subclassed one that cannot be rebuilt.
        ScopeError: a pattern matches no layer.
        ConfigError: an argument that cannot be; nothing to cluster; the model is wrapped already.

    Example:
        >>> clustered = tfc.cluster(model, 16)
        >>> clustered.compile("adam", "sparse_categorical_crossentropy")
        >>> clustered.fit(x, y)
        >>> tfc.convert(tfc.strip(clustered)).sizes

    Source: Han et al. 2016, "Deep Compression" (arXiv:1510.00149), section 3.
    """
    check_keras3(model)
    check_plain(model, "cluster")
    if holds_lora(model):
        model = strip(model)  # merged
    settings = _Settings(number_of_clusters, init, per_channel, preserve_sparsity, seed)
    report = CompressionReport("cluster", {"number_of_clusters": number_of_clusters, "init": init})
    report.settings["per_channel"] = per_channel
    plan = _plan(model, settings, include, exclude, report)
    return wrap(model, plan, report)


@dataclass(frozen=True)
class _Settings:
    """What holds for all kernels."""

    count: int
    init: str
    per_channel: bool
    zeros: bool
    seed: int

    def __post_init__(self) -> None:
        whole = isinstance(self.count, (int, np.integer)) and not isinstance(self.count, bool)
        if not whole or self.count < 1:
            raise ConfigError(
                f"`number_of_clusters` must be a whole number >= 1. Received: {self.count!r}"
            )
        if self.init not in STARTS:
            raise ConfigError(f"`init` must be one of {list(STARTS)}. Received: {self.init!r}")


def _plan(
    model: Any,
    settings: _Settings,
    include: ScopeLike,
    exclude: ScopeLike,
    report: CompressionReport,
) -> dict[int, Callable[[], WeightTransform]]:
    """What becomes of each kernel; each layer with weights gets an entry in the report."""
    layers = registry.walk(model)
    included, excluded = resolve(include, layers, "include"), resolve(exclude, layers, "exclude")
    plan: dict[int, Callable[[], WeightTransform]] = {}
    for path, layer in layers:
        kernels, kind = registry.kernels(layer), type(layer).__name__
        if not kernels:
            if layer.weights and not layer._layers:
                report.add(path, kind, "left", "it has no kernel")
            continue
        named = id(layer) in included
        reason = why_left(layer, named, excluded)
        if include is not None and not named:
            reason = "not included"
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        refused = []
        for variable in kernels if not reason else ():
            values = value_of(variable)
            why = _refusal(layer, variable, values, named)
            if why:
                refused.append(f"{variable.name}: {why}" if len(kernels) > 1 else why)
            if why or id(variable) in plan:
                continue
            shared, groups = _shared(values, _channel_axes(layer, variable, settings), settings)
            zero = settings.zeros and bool((values == 0).any())
            plan[id(variable)] = functools.partial(
                Centroids.sharing, shared, zero=zero, groups=groups
            )
            found.append((values, shared, groups))
        reason = reason or "; ".join(refused)
        if found or not reason:
            report.add(path, kind, "clustered", reason, **_figures(found))
        else:
            report.add(path, kind, "left", reason)
    if not plan:
        _nothing(model, include, layers, report)
    return plan


def _refusal(layer: Any, variable: Any, values: np.ndarray, named: bool) -> str:
    reason = why_kernel_left(layer, variable, named, "not be shared")
    if reason:
        return reason
    if variable.constraint is not None:
        return "its kernel has a constraint, which shared weights may break"
    if not np.isfinite(values.astype(np.float64)).all():
        return "its kernel holds NaN or infinity"
    return "" if values.any() else "all its weights are zero"


def _channel_axes(layer: Any, variable: Any, settings: _Settings) -> tuple[int, ...]:
    if not settings.per_channel or isinstance(layer, keras.layers.Embedding):
        return ()
    roles = registry.axes(layer, variable)
    return tuple(axis for axis, role in enumerate(roles) if role == "o")


def _shared(
    values: np.ndarray, channel_axes: tuple[int, ...], settings: _Settings
) -> tuple[np.ndarray, np.ndarray]:
    """The weights with the values that they share, and the number of each one's channel."""
    front = tuple(range(len(channel_axes)))
    moved = np.moveaxis(values, channel_axes, front)
    channels = int(np.prod(moved.shape[: len(front)], dtype=np.int64))
    rows = moved.reshape(channels, -1).copy()
    generator = np.random.default_rng(settings.seed)
    start = STARTS[settings.init]
    for row in rows:
        free = row != 0 if settings.zeros else np.ones(len(row), bool)
        count = settings.count - int(not free.all())
        if count < 1 and free.any():
            raise ConfigError(
                "`number_of_clusters` must be at least 2 for a kernel with zeros that stay zeros "
                f"(preserve_sparsity=True). Received: {settings.count}"
            )
        row[free] = quantized(row[free], count, start, generator)
    shared = np.moveaxis(rows.reshape(moved.shape), front, channel_axes)
    return shared, channels_of(values.shape, channel_axes)


def _figures(found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """How many different values a layer has now, per kernel and channel, and how far off."""
    if not found:
        return {}
    most = max(int(values_per_channel(shared, groups).max()) for _, shared, groups in found)
    off = sum(float(((v.astype(np.float64) - s) ** 2).sum()) for v, s, _ in found)
    return {"clusters": most, "error": off / sum(float((v**2.0).sum()) for v, _, _ in found)}


def _nothing(
    model: Any, include: ScopeLike, layers: list[tuple[str, Any]], report: CompressionReport
) -> None:
    with_kernel = [path for path, layer in layers if registry.kernels(layer)]
    refused = [entry for entry in report.left if entry.name in with_kernel]
    if include is not None and all(entry.reason == "not included" for entry in refused):
        raise ScopeError(
            "`include` must match at least one layer with a kernel. The layers that have one: "
            f"{with_kernel}"
        )
    raise ConfigError(
        f"The model {model.name!r} has no layer to cluster:\n{report}\n"
        "Name layers in `include`, or tell tfcompress of your own layer classes with "
        "tfc.register_layer."
    )
