"""Networks without training, as if they were trained, and images for them."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from common import data_file

# With shifts around 0, random networks amplify any error from layer to layer, so that even the
# float network is at 4 dB after noise of 40 dB on its input: positive ones keep most units active.
BETA = (0.5, 2.5)


def randomize(model: keras.Model, images: np.ndarray) -> None:
    """Random weights, and BatchNorm statistics as training would leave them: measured on images.

    gamma, beta and noise on the statistics keep them from being trivial.
    """
    generator = np.random.default_rng(0)
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        size = layer.moving_mean.shape
        if layer.gamma is not None:
            layer.gamma.assign(generator.uniform(0.7, 1.3, size))
        if layer.beta is not None:
            layer.beta.assign(generator.uniform(*BETA, size))
        layer.momentum = 0.0
    model(images, training=True)
    for layer in norms:
        size = layer.moving_mean.shape
        layer.moving_mean.assign_add(
            np.sqrt(layer.moving_variance) * generator.normal(0, 0.1, size)
        )
        layer.moving_variance.assign(layer.moving_variance * generator.uniform(0.8, 1.25, size))


def images_for(model: keras.Model, count: int) -> np.ndarray:
    """CIFAR-10 test images (log-mel speech for the audio network) in the model's shape."""
    shape = model.input_shape[1:]
    if shape[-1] == 1 and shape[:2] != (28, 28):
        with np.load(data_file("spoken_digits_logmel.npz")) as data:
            x = data["x"][:count].astype("float32")
        return tf.image.resize(x / 10, shape[:2]).numpy()
    with np.load(data_file("cifar10_20k.npz")) as data:
        x = data["x_test"][:count].astype("float32") / 255
    x = tf.image.resize(x, shape[:2]).numpy()
    return x.mean(-1, keepdims=True) if shape[-1] == 1 else x


def logits_of(model: keras.Model) -> keras.Model:
    """The model without its last softmax: noise is measured on logits."""
    last = model.layers[-1]
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear
        model.predict_function = None  # it may have been traced with the softmax
    return model
