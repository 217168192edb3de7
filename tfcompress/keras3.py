"""Telling Keras 3 models from everything else that is called a model."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.errors import ModelTypeError


def check_keras3(model: Any, argument: str = "model") -> None:
    """Checks that `model` is a Keras 3 model.

    Args:
        model: the model.
        argument: what it was given as.

    Raises:
        ModelTypeError: it is a Keras 2 (tf_keras) model, or no model at all.
    """
    if isinstance(model, keras.Model):
        return
    modules = {cls.__module__ for cls in type(model).__mro__}
    if any(name.startswith(("tf_keras.", "tensorflow.python.keras.")) for name in modules):
        raise ModelTypeError(
            f"`{argument}` must be a Keras 3 model. Received a Keras 2 (tf_keras) "
            f"{type(model).__name__}. Bring it to Keras 3 by tfcompress.legacy.to_keras3(model); "
            "or keep it in Keras 2, where tfcompress.legacy.prune, quantize_aware, cluster and "
            "strip do what tensorflow-model-optimization does."
        )
    raise ModelTypeError(
        f"`{argument}` must be a keras.Model. Received: {type(model).__name__} ({model!r:.80})"
    )


def check_built(model: Any, verb: str, argument: str = "model") -> None:
    """Checks that `model` is a Keras 3 model with weights.

    Args:
        model: the model.
        verb: what asks, such as `"tfc.strip"`.
        argument: what it was given as.

    Raises:
        ModelTypeError: it is not, or not built.
    """
    check_keras3(model, argument)
    if not model.built:
        raise ModelTypeError(
            f"The model {model.name!r} is not built, so it has no weights for {verb}. Call it on "
            "data once, or build it, before."
        )
