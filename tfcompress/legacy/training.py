"""How a model was compiled: loss, metrics and optimizer, from tf_keras to Keras 3."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.legacy.nodes import mapped


def compile_alike(old: Any, new: keras.Model) -> list[str]:
    """Compiles a Keras 3 model as the tf_keras one, as far as all parts have counterparts.

    Returns:
        Sentences on what was not carried over.
    """
    if getattr(old, "optimizer", None) is None:
        return []
    config = mapped(lambda value: value, dict(old.get_compile_config() or {}))
    rate = getattr(old.optimizer, "learning_rate", None)
    try:
        optimizer = _optimizer(old.optimizer, rate)
        loss, metrics = config.get("loss"), config.get("metrics")
        new.compile(
            optimizer,
            loss=_known(loss),
            metrics=_known(metrics),
            loss_weights=config.get("loss_weights"),
            weighted_metrics=_known(config.get("weighted_metrics")),
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        return [f"not compiled: {str(error).splitlines()[0] if str(error) else error!r}"]
    return [f"compiled with {type(optimizer).__name__}; the optimizer's state is not carried over"]


def _optimizer(optimizer: Any, rate: Any) -> Any:
    config = optimizer.get_config()
    cls = getattr(keras.optimizers, type(optimizer).__name__.removeprefix("Legacy"), None)
    if cls is None:
        raise ValueError(f"Keras 3 has no optimizer {type(optimizer).__name__}")
    taken = keras.optimizers.Adam().get_config().keys() | cls().get_config().keys()
    kept = {key: value for key, value in config.items() if key in taken and key != "is_legacy"}
    if not isinstance(config.get("learning_rate"), dict):
        kept["learning_rate"] = float(rate.numpy())
    return cls.from_config(kept)


def _known(part: Any) -> Any:
    """Losses and metrics, given by name or config."""
    if isinstance(part, dict) and "class_name" in part:
        return keras.saving.deserialize_keras_object(part)
    if isinstance(part, dict):
        return {key: _known(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_known(value) for value in part]
    if callable(part):
        raise ValueError(f"the function {getattr(part, '__name__', part)!r} is of Keras 2")
    return part
