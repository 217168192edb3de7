"""What the verbs that replace layers have in common: who may come, and the copy with its report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import keras

from tfcompress import registry
from tfcompress.errors import ModelTypeError
from tfcompress.graph.calls import functional
from tfcompress.graph.copying import Replacement, copy_model
from tfcompress.graph.flow import Call, read_flow
from tfcompress.keras3 import check_keras3
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike, resolve

EXCLUDED = "excluded"
UNKNOWN_PLACE = "it is called inside another layer, whose calls are not known"


def check_graph(model: Any) -> None:
    """Checks that Keras knows the model's graph of layers.

    Raises:
        ModelTypeError: it does not.
    """
    check_keras3(model)
    if functional(model) is None:
        raise ModelTypeError(
            "Layers can be replaced where Keras knows the model's graph of them: Functional, or "
            f"Sequential and built. Received: {model.name!r} of class {type(model).__name__}. "
            "Give the verb the Functional or Sequential models inside it, or build the model from "
            "keras.Input."
        )


def calls_by_layer(model: keras.Model) -> dict[int, list[Call]]:
    """The calls of each layer and operation in the model's flow, by `id`."""
    found: dict[int, list[Call]] = {}
    for call in read_flow(model).calls:
        found.setdefault(id(call.operation), []).append(call)
    return found


class Choice:
    """Which layers a verb is to look at.

    Args:
        model: the model.
        include: layers to take; None for all that can be.
        exclude: layers to leave.

    Raises:
        ScopeError: one of them matches no layer.
    """

    def __init__(self, model: keras.Model, include: ScopeLike, exclude: ScopeLike) -> None:
        self.layers = registry.walk(model)
        self._excluded = resolve(exclude, self.layers, "exclude")
        self._included = None if include is None else resolve(include, self.layers, "include")

    def left(self, layer: keras.Layer) -> str:
        """Why a layer is left by the caller's wish; "" where it is not."""
        if id(layer) in self._excluded:
            return EXCLUDED
        return "not in `include`" if self._included is not None and not self.named(layer) else ""

    def named(self, layer: keras.Layer) -> bool:
        """Whether `include` names it."""
        return self._included is not None and id(layer) in self._included


def replaced(
    model: keras.Model,
    replacements: Mapping[int, Replacement],
    report: CompressionReport,
    rejoined: Mapping[int, Any] | None = None,
) -> keras.Model:
    """The copy with layers replaced; its `compression_report` tells what became of each.

    Args:
        model: the model; it does not change.
        replacements: see `copy_model`.
        report: what has been told so far.
        rejoined: see `copy_model`.
    """
    copy = copy_model(model, replacements=replacements, rejoined=rejoined)
    paths = {id(layer): path for path, layer in registry.walk(model)}
    for layer, reason in copy.shared:
        path = paths.get(id(layer), layer.name)
        why = f"it cannot be rebuilt from its config, so both models share it ({reason})"
        report.add(path, type(layer).__name__, "left", why)
    report.notes += copy.notes
    copy.model.compression_report = report
    return copy.model


def plain_kernels(layer: Any) -> str:
    """Why a layer's kernels, or those of layers in it, cannot be taken as they are; "" else."""
    parts = list(layer._flatten_layers()) if isinstance(layer, keras.Layer) else []
    if any(getattr(part, "lora_enabled", False) for part in parts):
        return "it has LoRA weights: merge them first"
    if any(getattr(part, "quantization_mode", None) for part in parts):
        return "its weights are quantized"
    return ""


def resizable_config(layer: keras.Layer) -> dict[str, Any]:
    """The layer's config, from which one of other sizes can be made.

    Initializers that are given arrays, as of trained embeddings, fit one size alone; weights are
    assigned in any case, so that zeros do.
    """
    config = layer.get_config()
    for name, value in config.items():
        if name.endswith("_initializer") and isinstance(value, dict):
            given = value.get("config")
            if isinstance(given, dict) and isinstance(given.get("value"), (dict, list, tuple)):
                config[name] = "zeros"
    return config


def fresh_name(name: str, taken: Collection[str]) -> str:
    """The name, or with a number behind it where it is taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
