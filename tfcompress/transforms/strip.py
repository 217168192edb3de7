"""`strip`: a plain model again, with what its wrappers computed in its weights."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from tfcompress import registry
from tfcompress.errors import ModelTypeError
from tfcompress.graph.copying import copy_model
from tfcompress.keras3 import check_built, check_keras3
from tfcompress.transforms.lora import has_lora, merge
from tfcompress.transforms.low_rank import Still
from tfcompress.transforms.wrapper import TransformedLayer, effective, wrappers
from tfcompress.variables import value_of


def strip(model: keras.Model) -> keras.Model:
    """A model of plain layers that computes the same, whatever was wrapped.

    The masked, clustered or adapted kernels become the weights, LoRA of `tfc.adapt` or of Keras's
    own `enable_lora` is merged, and what these froze trains again. Nothing of tfcompress is
    left in the model: it saves, loads and converts anywhere. A model without wrapped layers gives
    an equal copy, one of `tfc.distill` a copy of its student. The copy is not compiled; an
    optimizer's state is not carried over.

    Args:
        model: what `tfc.prune`, `tfc.cluster` or `tfc.adapt` returned, trained, or a model that
            holds it. It does not change.

    Returns:
        The new model, whose outputs are those of `model` bit for bit. A layer that cannot be
        rebuilt from its config belongs to both models; a warning names it.

    Raises:
        ModelTypeError: no built Keras 3 model, or a subclassed one that cannot be rebuilt.

    Example:
        >>> pruned = tfc.prune(model, tfc.PolynomialDecay(0.0, 0.8, 0, 1000))
        >>> pruned.compile("adam", "mse")
        >>> pruned.fit(x, y, epochs=5)
        >>> tfc.convert(tfc.strip(pruned)).save("model.tflite")
    """
    check_keras3(model)
    model = registry.student_of(model)
    check_built(model, "tfc.strip")
    with model.distribute_strategy.scope():
        plain: list[tuple[Any, Any]] = []
        copy = copy_model(model, unwrap=_inner, wrap=functools.partial(_unadapted, plain))
        for layer, fresh in plain:
            fresh.take(layer)
            fresh.transformed.assign(value_of(effective(layer.transformed, layer.transforms)))
        for wrapper in wrappers(model):
            _bake(wrapper, copy.layers.get(id(wrapper.layer)))
        for layer in model._flatten_layers():
            _merge(layer, copy)
    with_weights = [layer.name for layer, _ in copy.shared if layer.weights]
    if with_weights:
        warnings.warn(
            "Layers that cannot be rebuilt from their config belong to both models now: "
            f"{with_weights}. Give their classes a get_config and from_config that make them anew.",
            stacklevel=2,
        )
    return copy.model


def _inner(layer: Any) -> Any:
    return layer.layer if isinstance(layer, TransformedLayer) else layer


def _bake(wrapper: TransformedLayer, copy: Any) -> None:
    if copy is None:
        raise ModelTypeError(
            f"The wrapped layer {wrapper.name!r} ({type(wrapper.layer).__name__}) cannot be "
            "rebuilt from its config, so it cannot be stripped into a new model. Give its class a "
            "get_config and from_config that make it again."
        )
    thawed: list[Any] = []
    rested = False
    places = {id(weight): index for index, weight in enumerate(wrapper.layer.weights)}
    for variable, transforms in wrapper.kernels:
        weight = copy.weights[places[id(variable)]]
        weight.assign(value_of(effective(variable, transforms)))
        for transform in transforms:
            if transform.replaces:
                weight.trainable = any(own.trainable for own in transform.variables)
            rested = rested or transform.freezes
            if transform.freezes and not isinstance(transform, Still):
                thawed.append(weight)
    if rested:
        held = zip(wrapper.layer._flatten_layers(), copy._flatten_layers(), strict=True)
        thaw(copy, thawed, [fresh for own, fresh in held if any(own is r for r in wrapper.rested)])


def thaw(layer: Any, weights: list[Any], rested: Sequence[Any] = ()) -> None:
    """Lets weights of a layer, and layers at rest in it, train again; no others that did not."""
    before = [(weight, weight.trainable) for weight in layer.weights]
    for own in (layer, *rested):  # Keras passes nothing on where it is True already
        own.trainable = True
    for weight, trained in before:
        weight.trainable = trained or any(weight is one for one in weights)


def _unadapted(found: list[tuple[Any, Any]], layer: Any, copy: Any) -> Any:
    """In place of an adapted layer of a quantize-aware model, one with plain weights."""
    if not getattr(layer, "adapted", False):
        return copy
    fresh = layer.remade([t for t in layer.transforms if not t.ends], ())
    found.append((layer, fresh))
    return fresh


def _merge(layer: Any, copy: Any) -> None:
    """Merges Keras's own LoRA."""
    made = copy.layers.get(id(layer))
    if made is None:
        return
    for source, fresh in zip(layer._flatten_layers(), made._flatten_layers(), strict=False):
        if has_lora(source):
            merge(source, fresh)
