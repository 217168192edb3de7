"""`prune`: a copy of a model whose layers hold their masks, and whose `fit` prunes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.errors import ConfigError
from tfcompress.keras3 import check_keras3
from tfcompress.pruning.targets import select
from tfcompress.pruning.wrapped import PruningMask
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike
from tfcompress.transforms.base import WeightTransform
from tfcompress.transforms.lora import holds_lora
from tfcompress.transforms.strip import strip
from tfcompress.transforms.wrapping import check_plain, wrap


def prune(
    model: keras.Model,
    schedule: Any,
    *,
    pattern: Any = "unstructured",
    criterion: Any = "magnitude",
    pooling: str = "layer",
    floor: float = 0.0,
    cap: float = 1.0,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
) -> Any:
    """A copy of a model that prunes itself while it trains.

    Its layers are wrapped: each wrapper holds masks, computes with masked kernels and has the
    layer's name. Plain `fit` prunes, with no callback to think of; so does a model that was saved
    (`.keras`) and loaded (with `import tfcompress`), from where it stood. `tfc.strip` makes a
    plain model of it. In a custom loop: `tfc.Pruner(pruned)`.

    Prefer `tfc.PruningCallback` where the model itself may change and the callback can be passed
    again: it prunes the same, on any model, in place.

    Args:
        model: a built Keras 3 model, Functional, Sequential or subclassed, with all that it
            nests; it does not change.
        schedule: a schedule such as `PolynomialDecay`, a function `step -> sparsity`, or a dict
            scope -> schedule or None, such as `{"conv_*": PolynomialDecay(...), "head": None}`,
            whose first matching entry counts for a layer. Kernels under one entry are pooled
            together.
        pattern: `"unstructured"`, `"block:RxC"` or `"N:M"`; see `PruningCallback`.
        criterion: `"magnitude"`, `"taylor"`, `"snip"`, `"movement"`, or a function (weights,
            gradients) -> scores. A function, here or as a schedule, must be registered with
            `keras.saving.register_keras_serializable` before the model can be saved.
        pooling: `"layer"`, `"global"`, `"global-raw"` or `"erk"`.
        floor: smallest sparsity of a layer under global pooling and "erk".
        cap: largest one.
        include: layers to prune; None for every layer with a kernel except depthwise ones.
        exclude: layers to leave alone.

    Returns:
        The new model, not compiled. Its `compression_report` tells what is pruned and what was
        left, with reasons. A layer that cannot be rebuilt from its config is left and belongs to
        both models; the report says so.

    Raises:
        ModelTypeError: no built Keras 3 model, or a subclassed one that cannot be rebuilt.
        ScopeError: a pattern matches no layer.
        ConfigError: an argument that cannot be; nothing to prune; the model is wrapped already.

    Example:
        >>> pruned = tfc.prune(model, tfc.PolynomialDecay(0.0, 0.8, 0, 1000))
        >>> pruned.compile("adam", "sparse_categorical_crossentropy")
        >>> pruned.fit(x, y, epochs=5)
        >>> small = tfc.strip(pruned)

    Source: Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878).
    """
    check_keras3(model)
    check_plain(model, "prune")
    if holds_lora(model):
        model = strip(model)  # merged
    options = {
        "pattern": pattern,
        "criterion": criterion,
        "pooling": pooling,
        "floor": floor,
        "cap": cap,
    }
    if schedule is None:
        raise ConfigError("`schedule` must be given. Received: None")
    report = CompressionReport("prune")
    plan: dict[int, Callable[[], WeightTransform]] = {}
    selected = select(model, schedule, options, include, exclude, report)
    for index, (settings, targets) in enumerate(selected):
        mask = functools.partial(PruningMask, settings, f"{model.name}/{index}")
        plan.update({id(target.variable): mask for target in targets})
    report.settings.update(selected[0][0].describe())
    report.settings["schedule"] = " | ".join(repr(own.schedule) for own, _ in selected)

    return wrap(model, plan, report, "tfc.PruningCallback prunes any model, in place.")
