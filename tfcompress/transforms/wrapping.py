"""A copy of a model with wrapped layers, for every verb that makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfcompress import registry
from tfcompress.errors import ConfigError
from tfcompress.graph.copying import Copy, copy_model
from tfcompress.keras3 import check_built
from tfcompress.report import CompressionReport, Entry
from tfcompress.transforms.base import WeightTransform
from tfcompress.transforms.model import driven
from tfcompress.transforms.wrapper import TransformedLayer, wrappers

# `id` of each kernel -> makes its transform.
Plan = Mapping[int, Callable[[], WeightTransform]]


def check_plain(model: Any, verb: str) -> None:
    """Checks that a model is built and that none of its layers is wrapped yet.

    Args:
        model: the model.
        verb: name of the verb that asks.

    Raises:
        ModelTypeError: it is not built.
        ConfigError: it holds wrapped layers.
    """
    check_built(model, f"tfc.{verb}")
    if wrappers(model):
        raise ConfigError(
            f"`model` must be a plain model, and layers of {model.name!r} are wrapped already, by "
            "tfc.prune, tfc.cluster or tfc.adapt. Train it as it is, or begin anew with "
            f"tfc.{verb}(tfc.strip(model), ...)."
        )


def wrap(model: Any, plan: Plan, report: CompressionReport, remedy: str = "") -> Any:
    """A copy of a model whose layers hold transforms of their kernels.

    Args:
        model: a built model; it does not change.
        plan: what becomes of which kernel.
        report: of the verb, with an entry for each layer; what cannot be copied is added.
        remedy: what to do where no layer can be copied.

    Returns:
        The copy, not compiled, with the report.

    Raises:
        ModelTypeError: a subclassed model that cannot be rebuilt.
        ConfigError: no layer of the plan can be copied.
    """
    made: list[tuple[Any, Any]] = []

    def wrapped(layer: Any, copy: Any) -> Any:
        made.append((layer, copy))
        own = {i: weight for i, weight in enumerate(layer.weights) if id(weight) in plan}
        if not own:
            return copy
        shapes = {position: tuple(weight.shape) for position, weight in own.items()}
        transforms = {position: [plan[id(weight)]()] for position, weight in own.items()}
        return TransformedLayer(copy, transforms, shapes)

    # Variables made here follow the model's own onto every replica.
    with model.distribute_strategy.scope():
        copy = copy_model(model, wrap=wrapped)
    for wrapper in wrappers(copy.model):
        wrapper.settle()
    _report_left(model, copy, report)
    _report_parted(made, report)
    if not wrappers(copy.model):
        raise ConfigError(
            f"The model {model.name!r} has no layer for tfc.{report.verb} that can be copied:\n"
            f"{report}\n{remedy}".rstrip()
        )
    return driven(copy.model, report)


def _report_parted(made: Sequence[tuple[Any, Any]], report: CompressionReport) -> None:
    """Tells of weights that layers shared, as those in a TimeDistributed, and do no longer."""
    found: dict[int, dict[int, str]] = {}
    for layer, copy in made:
        for old, new in zip(layer.weights, copy.weights, strict=False):
            found.setdefault(id(old), {})[id(new)] = layer.name
    parted = sorted({tuple(names.values()) for names in found.values() if len(names) > 1})
    if parted:
        shown = "; ".join(" and ".join(map(repr, names)) for names in parted)
        remedy = " tfc.PruningCallback works in place, where they stay shared."
        report.notes.append(
            f"Weights that layers shared are each one's own now: {shown}."
            + (remedy if report.verb == "prune" else "")
        )


def _report_left(model: Any, copy: Copy, report: CompressionReport) -> None:
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
            if entry.name in inside and entry.action != "left"
            else entry
            for entry in report.entries
        ]
