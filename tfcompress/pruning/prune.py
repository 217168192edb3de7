"""`prune`: a copy of a model whose layers hold their masks, and whose `fit` prunes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfcompress import registry
from tfcompress.errors import ConfigError, ModelTypeError
from tfcompress.graph.copying import Copy, copy_model
from tfcompress.keras3 import check_keras3
from tfcompress.pruning.settings import PruningSettings
from tfcompress.pruning.targets import select
from tfcompress.pruning.wrapped import PruningMask
from tfcompress.report import CompressionReport, Entry
from tfcompress.scope import ScopeLike
from tfcompress.transforms.model import driven
from tfcompress.transforms.wrapper import TransformedLayer, wrappers

# `id` of each kernel to prune -> its settings and the name of its group.
_Plan = Mapping[int, tuple[PruningSettings, str]]


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
    _check_model(model)
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
    plan: dict[int, tuple[PruningSettings, str]] = {}
    selected = select(model, schedule, options, include, exclude, report)
    for index, (settings, targets) in enumerate(selected):
        plan.update({id(t.variable): (settings, f"{model.name}/{index}") for t in targets})
    report.settings.update(selected[0][0].describe())
    report.settings["schedule"] = " | ".join(repr(own.schedule) for own, _ in selected)

    def wrap(layer: Any, copy: Any) -> Any:
        return _wrapped(layer, copy, plan)

    # Variables made here follow the model's own onto every replica.
    with model.distribute_strategy.scope():
        copy = copy_model(model, wrap=wrap)
    _report_left(model, copy, plan, report)
    if not wrappers(copy.model):
        raise ConfigError(
            f"The model {model.name!r} has no layer to prune that can be copied:\n{report}\n"
            "tfc.PruningCallback prunes any model, in place."
        )
    return driven(copy.model, report)


def _check_model(model: Any) -> None:
    if not model.built:
        raise ModelTypeError(
            f"The model {model.name!r} is not built, so it has no weights to prune. Call it on "
            "data once, or build it, before pruning it."
        )
    if wrappers(model):
        raise ConfigError(
            f"`model` must be a plain model, and layers of {model.name!r} are wrapped already, by "
            "tfc.prune. Train it as it is, or begin anew with tfc.prune(tfc.strip(model), ...)."
        )


def _wrapped(layer: Any, copy: Any, plan: _Plan) -> Any:
    """The copy, wrapped if kernels in the layer are to be pruned."""
    masks, shapes = {}, {}
    for position, weight in enumerate(layer.weights):
        if id(weight) in plan:
            masks[position] = [PruningMask(*plan[id(weight)])]
            shapes[position] = tuple(weight.shape)
    return TransformedLayer(copy, masks, shapes) if masks else copy


def _report_left(model: Any, copy: Copy, plan: _Plan, report: CompressionReport) -> None:
    """Tells of the layers that could not be copied, and were left for that."""
    report.notes += copy.notes
    paths = {id(layer): path for path, layer in registry.walk(model)}
    for shared, reason in copy.shared:
        if not shared.weights:
            continue  # nobody can tell that it is shared
        inside = {paths.get(id(layer)) for layer in shared._flatten_layers()}
        report.notes.append(
            f"{paths.get(id(shared), shared.name)!r} belongs to both models: it cannot be rebuilt "
            f"from its config ({reason})."
        )
        report.entries = [
            Entry(entry.name, entry.kind, "left", "cannot be rebuilt from its config")
            if entry.name in inside and entry.action == "pruned"
            else entry
            for entry in report.entries
        ]
