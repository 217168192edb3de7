"""tf_keras and tensorflow-model-optimization, imported beside Keras 3."""

from __future__ import annotations

import importlib
import os
from typing import Any

from tfcompress.errors import ConfigError, ModelTypeError
from tfcompress.quiet import import_tensorflow

_SWITCH = "TF_USE_LEGACY_KERAS"


def keras2() -> Any:
    """The package tf_keras.

    Raises:
        ConfigError: it is not installed.
    """
    import_tensorflow()
    return _imported("tf_keras")


def tfmot() -> Any:
    """The package tensorflow_model_optimization, on tf_keras.

    It takes the Keras that `tf.keras` is, or tf_keras where that is Keras 3, and leaves an
    environment variable that would make `tf.keras` Keras 2 in this process and those it starts.
    So `tf.keras` is settled before, and the variable is put back.

    Raises:
        ConfigError: it or tf_keras is not installed.
    """
    keras2()
    import tensorflow as tf

    getattr(tf.keras, "version", None)  # which it is, is decided when it is first looked into
    before = os.environ.get(_SWITCH)
    try:
        return _imported("tensorflow_model_optimization")
    finally:
        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before


def check_keras2(model: Any) -> None:
    """Checks that `model` is a tf_keras model.

    Raises:
        ModelTypeError: it is of another kind.
    """
    if isinstance(model, keras2().Model):
        return
    import keras

    if isinstance(model, keras.Model):
        raise ModelTypeError(
            f"The verbs of tfcompress.legacy take tf_keras (Keras 2) models. Received a Keras 3 "
            f"{type(model).__name__}: use the verbs of tfcompress itself, such as tfc.prune."
        )
    raise ModelTypeError(
        f"`model` must be a tf_keras.Model. Received: {type(model).__name__} ({model!r:.80})"
    )


def check_graph2(model: Any) -> None:
    """Checks that tf_keras knows the model's graph of layers.

    Raises:
        ModelTypeError: it is no tf_keras model, not built, or subclassed.
    """
    check_keras2(model)
    if getattr(model, "_is_graph_network", False):
        return
    if isinstance(model, keras2().Sequential):
        raise ModelTypeError(
            f"The Sequential model {model.name!r} is not built, so it has no weights. Call it on "
            "data once, or give it an Input layer."
        )
    raise ModelTypeError(
        f"A Functional or Sequential model is needed, whose graph of layers Keras knows. Received: "
        f"{model.name!r} of class {type(model).__name__}, a subclassed model. Give the Functional "
        "or Sequential models inside it, or write its class anew on keras.Model and take the "
        "weights over."
    )


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        package = name.replace("_", "-")
        raise ConfigError(
            f"tfcompress.legacy needs the package {package}, which is not installed: "
            f"pip install {package}"
        ) from error
