"""Data and small models that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import pytest


def data_folder() -> Path | None:
    """Where the larger data sets are, if anywhere."""
    folder = os.environ.get("TFCOMPRESS_DATA")
    return Path(folder) if folder and Path(folder).is_dir() else None


@pytest.fixture(scope="session")
def images():
    """2,000 real images (n, 28, 28, 1) in 0..1 and their labels: Fashion-MNIST, or digits."""
    folder = data_folder()
    if folder is not None:
        with np.load(folder / "fashion_mnist.npz") as data:
            return data["x_train"][:2000, ..., None].astype("float32") / 255, data["y_train"][:2000]
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.kron(digits.images / 16, np.ones((3, 3)))
    return np.pad(x, ((0, 0), (2, 2), (2, 2)))[..., None].astype("float32"), digits.target


def randomize(model, seed=0):
    """Gives a model weights and BatchNorm statistics as if it had been trained."""
    generator = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        if type(layer).__name__ == "BatchNormalization":
            size = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.3, size))
            layer.moving_variance.assign(generator.uniform(0.3, 1.5, size))
            if layer.gamma is not None:
                layer.gamma.assign(generator.uniform(0.6, 1.4, size))
            if layer.beta is not None:
                layer.beta.assign(generator.normal(0, 0.3, size))
    return model


@pytest.fixture(scope="session")
def small_model():
    """A convolutional network (28, 28, 1) -> 10 with BatchNorm statistics that are not trivial."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(16, 1)(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(10, name="scores")(x)
    return randomize(keras.Model(inputs, outputs, name="small"))


@pytest.fixture(scope="session")
def float_file(small_model, tmp_path_factory):
    """`small_model` as a float32 .tflite on disk."""
    import tfcompress as tfc

    path = tmp_path_factory.mktemp("files") / "float.tflite"
    tfc.convert(small_model, "fp32", path=path)
    return path


@pytest.fixture(scope="session")
def int8_file(small_model, images, tmp_path_factory):
    """`small_model` as an int8 .tflite with float32 inputs and outputs on disk."""
    import tfcompress as tfc

    path = tmp_path_factory.mktemp("files") / "int8.tflite"
    tfc.convert(small_model, "int8", representative_data=images[0][:100], path=path)
    return path
