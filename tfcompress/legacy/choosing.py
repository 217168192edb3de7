"""Which layers of a tf_keras model a verb takes, and the copy in which they are wrapped."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from tfcompress.errors import ConfigError, ModelTypeError
from tfcompress.legacy.nodes import is_graph, walk
from tfcompress.legacy.packages import keras2
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike, resolve


class Choice:
    """The layers of a model and what the caller said of them.

    Args:
        model: a tf_keras model.
        include: layers to take; None for all.
        exclude: layers to leave.

    Raises:
        ScopeError: one of them matches no layer.
    """

    def __init__(self, model: Any, include: ScopeLike, exclude: ScopeLike) -> None:
        everything = list(walk(model))
        self.layers = [(path, layer) for path, layer in everything if not is_graph(layer)]
        self._excluded = resolve(exclude, everything, "exclude")
        self._included = None if include is None else resolve(include, everything, "include")

    def left(self, layer: Any) -> str:
        """Why a layer is left by the caller's wish; "" where it is not."""
        if id(layer) in self._excluded:
            return "excluded"
        if self._included is not None and id(layer) not in self._included:
            return "not in `include`"
        return ""

    def tell(
        self, report: CompressionReport, path: str, layer: Any, action: str, reason: str
    ) -> None:
        """An entry for what was done, or why not."""
        if not reason:
            report.add(path, type(layer).__name__, action)
        elif layer.weights:
            report.add(path, type(layer).__name__, "left", reason)


def by_scope(model: Any, value: Any, translated: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function layer -> what is said for it: one for all, or by scope, where the first counts."""
    if not isinstance(value, dict):
        only = translated(value)
        return lambda layer: only
    layers = list(walk(model))
    rows = [
        (resolve(scope, layers, "schedule"), None if own is None else translated(own))
        for scope, own in value.items()
    ]
    return lambda layer: next((own for ids, own in rows if id(layer) in ids), None)


def copied(model: Any) -> Any:
    """A copy with weights of its own.

    Raises:
        ModelTypeError: a layer cannot be rebuilt from its config.
    """
    try:
        copy = keras2().models.clone_model(model)
        copy.set_weights(model.get_weights())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelTypeError(
            f"{model.name!r} cannot be copied: {error}\nGive classes of its own a get_config, and "
            "register them with tf_keras.utils.register_keras_serializable."
        ) from error
    for (_, before), (_, after) in zip(walk(model), walk(copy), strict=True):
        after.trainable = before.trainable
    return copy


def wrapped(
    copy: Any,
    chosen: Collection[int],
    wrap: Callable[[Any], Any],
    report: CompressionReport | None,
) -> Any:
    """A model on the layers of `copy`, some of them wrapped, nested models laid out as they are.

    Raises:
        ConfigError: tfmot refuses one of them.
    """
    clone = keras2().models.clone_model

    def replaced(layer: Any) -> Any:
        if is_graph(layer):
            return clone(layer, clone_function=replaced)
        return wrap(layer) if id(layer) in chosen else layer

    try:
        model = clone(copy, clone_function=replaced)
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise ConfigError(
            f"tensorflow-model-optimization cannot wrap the layers of {copy.name!r}: {error}\n"
            "Leave the layer that it is about out by `exclude`."
        ) from error
    model.compression_report = report
    return model
