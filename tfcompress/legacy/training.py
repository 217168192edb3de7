"""How a model was compiled: loss, metrics and optimizer, from tf_keras to Keras 3."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

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
            loss=_known(loss, keras.losses),
            metrics=_known(metrics, keras.metrics),
            loss_weights=config.get("loss_weights"),
            weighted_metrics=_known(config.get("weighted_metrics"), keras.metrics),
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        return [f"not compiled: {str(error).splitlines()[0] if str(error) else error!r}"]
    return [f"compiled with {type(optimizer).__name__}; the optimizer's state is not carried over"]


def _optimizer(optimizer: Any, rate: Any) -> Any:
    if hasattr(optimizer, "inner_optimizer"):  # that scales the loss for float16
        inner = _optimizer(optimizer.inner_optimizer, rate)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=optimizer.initial_scale)
    config = optimizer.get_config()
    cls = getattr(keras.optimizers, type(optimizer).__name__.removeprefix("Legacy"), None)
    if cls is None:
        raise ValueError(f"Keras 3 has no optimizer {type(optimizer).__name__}")
    defaults = cls().get_config()
    taken = keras.optimizers.Adam().get_config().keys() | defaults.keys()
    kept = {key: value for key, value in config.items() if key in taken and key != "is_legacy"}
    for key, value in kept.items():
        # Keras 3 wants a float where the optimizers of Keras 2.10 have a NumPy number or 0.
        if isinstance(defaults.get(key), float) and isinstance(value, (int, np.number)):
            kept[key] = float(value)
    if isinstance(config.get("learning_rate"), dict):
        kept["learning_rate"] = _made(config["learning_rate"], keras.optimizers.schedules)
    else:
        kept["learning_rate"] = float(rate.numpy())
        if config.get("decay"):  # the rate by 1 / (1 + decay * step), in those of Keras 2.10
            kept["learning_rate"] = keras.optimizers.schedules.InverseTimeDecay(
                kept["learning_rate"], 1, float(config["decay"])
            )
    return cls(**kept)


def _known(part: Any, place: Any) -> Any:
    """Losses and metrics, given by name or config.

    Args:
        part: as `get_compile_config` has it.
        place: the module of Keras 3 that has the classes.
    """
    if isinstance(part, dict) and "class_name" in part:
        return _made(part, place)
    if isinstance(part, dict):
        return {key: _known(value, place) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_known(value, place) for value in part]
    if callable(part):
        raise ValueError(f"the function {getattr(part, '__name__', part)!r} is of Keras 2")
    return part


def _made(part: Mapping[str, Any], place: Any) -> Any:
    """A loss, metric or schedule of Keras 3 with the options of one of Keras 2."""
    config: dict[str, Any] = part["config"]
    cls: Any = getattr(place, part["class_name"], None)
    options = inspect.signature(cls).parameters if isinstance(cls, type) else {"fn": None}
    if "fn" in options or ">" in str(part.get("registered_name")):
        return keras.saving.deserialize_keras_object(part)
    # What Keras 2 writes besides: the function of the class, and what stands for a default.
    kept = {key: value for key, value in config.items() if key != "fn" and value is not None}
    if kept.get("reduction") == "auto":
        kept["reduction"] = "sum_over_batch_size"
    missing = kept.keys() - options.keys()
    if missing:
        raise ValueError(f"Keras 3's {cls.__name__} has no option {sorted(missing)}")
    return cls(**kept)
