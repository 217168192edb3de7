"""`strip`: a plain model again, with what its wrappers computed in its weights."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from tfcompress import registry
from tfcompress.errors import ModelTypeError
from tfcompress.graph.copying import copy_model
from tfcompress.keras3 import check_keras3
from tfcompress.transforms.wrapper import TransformedLayer, effective, wrappers
from tfcompress.variables import value_of


def strip(model: keras.Model) -> keras.Model:
    """A model of plain layers that computes the same, whatever was wrapped.

    The masked or clustered kernels become the weights. Nothing of tfcompress is
    left in the model: it saves, loads and converts anywhere. A model without wrapped layers gives
    an equal copy, one of `tfc.distill` a copy of its student. The copy is not compiled; an
    optimizer's state is not carried over.

    Args:
        model: what `tfc.prune` or `tfc.cluster` returned, trained, or a model that holds it. It
            does not change.

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
    if not model.built:
        raise ModelTypeError(
            f"The model {model.name!r} is not built, so there is nothing to strip. Call it on "
            "data once, or build it."
        )
    with model.distribute_strategy.scope():
        copy = copy_model(model, unwrap=_inner)
        for wrapper in wrappers(model):
            _bake(wrapper, copy.layers.get(id(wrapper.layer)))
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
    places = {id(weight): index for index, weight in enumerate(wrapper.layer.weights)}
    for variable, transforms in wrapper.kernels:
        weight = copy.weights[places[id(variable)]]
        weight.assign(value_of(effective(variable, transforms)))
        for transform in transforms:
            if transform.replaces:
                weight.trainable = any(own.trainable for own in transform.variables)
