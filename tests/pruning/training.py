"""A small training that the pruning tests share."""

import keras
import numpy as np

import tfcompress as tfc
from tfcompress import registry
from tfcompress.pruning.masks import zeros_for

layers = keras.layers


def data(examples=64):
    generator = np.random.default_rng(0)
    return generator.random((examples, 8), "float32"), generator.integers(0, 3, examples)


def small_model(**arguments):
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", name="first", **arguments),
            layers.Dense(12, activation="relu", name="second"),
            layers.Dense(3, name="head"),
        ]
    )


def compiled(model=None, optimizer="adam", **arguments):
    model = model or small_model()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(True), **arguments)
    return model


def train(model, callback, *, epochs=3, batch_size=8, **arguments):
    keras.utils.set_random_seed(1)
    return model.fit(
        *data(), batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[callback], **arguments
    )


def zeros(model):
    """Zeros in each pruned-by-default kernel, by path."""
    return {
        path: int(sum((keras.ops.convert_to_numpy(k) == 0).sum() for k in registry.kernels(layer)))
        for path, layer in registry.walk(model)
        if registry.kernels(layer)
    }


def assert_exact(model, share):
    for path, layer in registry.walk(model):
        for kernel in registry.kernels(layer):
            value = keras.ops.convert_to_numpy(kernel)
            assert (value == 0).sum() == zeros_for(share, value.size), path


SCHEDULE = tfc.PolynomialDecay(0.0, 0.75, begin_step=2, end_step=12, frequency=4)
