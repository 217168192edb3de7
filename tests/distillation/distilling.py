"""Small networks and data for the tests of distillation."""

from __future__ import annotations

import keras
import numpy as np

CLASSES = 5


def data(count=96, seed=0):
    """Images of which a small network learns something, and their classes."""
    generator = np.random.default_rng(seed)
    x = generator.random((count, 8, 8, 3)).astype("float32")
    return x, (x.mean((1, 2, 3)) * 100).astype(int) % CLASSES


def convnet(width, *, end="softmax", seed=0):
    """Two convolutions with BatchNorm and dropout, 8x8 and 4x4, and an end of some kind."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 3, padding="same", use_bias=False, name="wide")(inputs)
    x = layers.ReLU(name="wide_relu")(layers.BatchNormalization(name="wide_norm")(x))
    x = layers.Conv2D(2 * width, 3, strides=2, padding="same", name="deep", activation="relu")(x)
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    x = layers.Dropout(0.1)(x)
    if end == "layer":
        outputs = layers.Softmax(name="end")(layers.Dense(CLASSES, name="scores")(x))
    elif end == "activation":
        outputs = layers.Activation("softmax", name="end")(layers.Dense(CLASSES, name="scores")(x))
    elif end == "operation":
        outputs = keras.ops.softmax(layers.Dense(CLASSES, name="scores")(x))
    else:
        outputs = layers.Dense(CLASSES, activation=end, name="scores")(x)
    return keras.Model(inputs, outputs, name=f"net{width}")


def values(model):
    """Every variable's value."""
    return [keras.ops.convert_to_numpy(v).copy() for v in model.variables]


def same(before, after):
    """Whether two lists of arrays are equal bit for bit."""
    return len(before) == len(after) and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True)
    )
