"""What the tests of several surgery verbs share."""

from __future__ import annotations

from contextlib import contextmanager

import keras
import numpy as np


def chain(shape, *parts, **options):
    inputs = x = keras.Input(shape, **options)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def scramble(model, seed=0):
    """Every weight random: biases too, and BatchNorm statistics far from 0 and 1."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        if "variance" in variable.path or "gamma" in variable.path:
            variable.assign(generator.uniform(0.4, 1.6, variable.shape))
        else:
            scale = 1 / np.sqrt(max(np.prod(variable.shape[:-1]), 1)) if variable.ndim > 1 else 0.3
            variable.assign(generator.normal(0, scale, variable.shape))
    return model


def examples(model, count=3, seed=7):
    generator = np.random.default_rng(seed)
    values = [
        generator.normal(size=(count, *(n or 6 for n in t.shape[1:]))).astype("float32")
        for t in model.inputs
    ]
    return values if len(values) > 1 else values[0]


def outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def assert_same_outputs(model, other, tolerance=3e-6):
    """Equal to a few float roundings, of the largest output."""
    x = examples(model)
    for one, two in zip(outputs(model, x), outputs(other, x), strict=True):
        assert one.shape == two.shape
        np.testing.assert_allclose(two, one, rtol=0, atol=tolerance * np.abs(one).max())


def entries(model):
    """Layer -> (action, reason) of a model's report."""
    return {e.name: (e.action, e.reason) for e in model.compression_report.entries}


def classes(model):
    return [
        type(layer).__name__
        for layer in model._flatten_layers(include_self=False)
        if not isinstance(layer, (keras.layers.InputLayer, keras.Model))
    ]


def assert_trains_saves_converts(model, tmp_path, tolerance=1e-5):
    """A plain Keras model: it trains, loads without tfcompress, and converts."""
    import tfcompress as tfc

    x = examples(model)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    for one, two in zip(outputs(model, x), outputs(loaded, x), strict=True):
        np.testing.assert_array_equal(one, two)
    tflite = tfc.convert(model)
    (expected,) = outputs(model, x)
    found = tflite.predict(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    before = [np.array(v) for v in loaded.trainable_variables]
    loaded.compile("sgd", "mse")
    loaded.fit(x, expected + 1, verbose=0)
    pairs = zip(before, loaded.trainable_variables, strict=True)
    assert all((one != np.array(two)).any() for one, two in pairs)


@contextmanager
def left_alone(model):
    """A verb leaves the weights of the model that it is given as they are."""
    before = [np.array(v) for v in model.weights]
    yield
    for one, two in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, two)
