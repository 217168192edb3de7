"""A tf_keras model whose `fit` adds the callback that it needs."""

from __future__ import annotations

import functools
import inspect
from typing import Any


def with_callback(model: Any, kind: type) -> Any:
    """Makes `fit` add a callback, unless one of that class is given.

    The model's class stays, so that it is saved and loaded as tfmot's guides do it.

    Args:
        model: a tf_keras model; changed in place.
        kind: the callback's class.
    """
    plain = model.fit

    @functools.wraps(plain)
    def fit(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(plain).bind(*args, **kwargs)
        given: Any = bound.arguments.get("callbacks")
        listed = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
        if hasattr(given, "callbacks"):  # a CallbackList
            listed = list(given.callbacks)
        if not any(isinstance(callback, kind) for callback in listed):
            # First, so that a callback that saves holds the masked weights.
            bound.arguments["callbacks"] = [kind(), *listed]
        return plain(*bound.args, **bound.kwargs)

    object.__setattr__(model, "fit", fit)  # past Keras's tracking
    return model
