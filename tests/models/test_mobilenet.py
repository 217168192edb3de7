"""MobileNetV1 and V2 against keras.applications: same weights in, same outputs out."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfcompress import models

V1 = (models.mobilenet, keras.applications.MobileNet)
V2 = (models.mobilenet_v2, keras.applications.MobileNetV2)
EVERY_ALPHA = [(*V1, alpha) for alpha in (0.25, 0.5, 0.75, 1.0)] + [
    (*V2, alpha) for alpha in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
]


def reference(build, shape, classes=10, **options):
    """A model of keras.applications, without weights to download, with logits as outputs."""
    return build(
        input_shape=shape, classes=classes, weights=None, classifier_activation=None, **options
    )


def assert_equal(ours, theirs, randomize, outputs):
    assert ours.count_params() == theirs.count_params()
    ours.set_weights(randomize(theirs).get_weights())
    np.testing.assert_array_equal(outputs(ours), outputs(theirs))


@pytest.mark.parametrize(("ours", "theirs", "alpha"), EVERY_ALPHA)
def test_equals_keras_at_every_alpha(ours, theirs, alpha, randomize, outputs):
    model = ours((32, 32, 3), 10, alpha=alpha, classifier_activation=None)
    assert_equal(model, reference(theirs, (32, 32, 3), alpha=alpha), randomize, outputs)


@pytest.mark.parametrize(("ours", "theirs"), [V1, V2])
@pytest.mark.parametrize("shape", [(33, 47, 3), (58, 32, 1), (50, 35, 5)])
def test_equals_keras_at_odd_sizes_and_any_channels(ours, theirs, shape, randomize, outputs):
    model = ours(shape, 4, alpha=0.35, classifier_activation=None)
    assert_equal(model, reference(theirs, shape, 4, alpha=0.35), randomize, outputs)


def test_equals_keras_with_depth_multiplier(randomize, outputs):
    options = {"alpha": 0.25, "depth_multiplier": 2}
    model = models.mobilenet((32, 32, 3), 10, classifier_activation=None, **options)
    assert_equal(model, reference(V1[1], (32, 32, 3), **options), randomize, outputs)


@pytest.mark.parametrize(("ours", "theirs"), [V1, V2])
@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_equals_keras_without_top(ours, theirs, pooling, randomize, outputs):
    options = {"alpha": 0.35, "include_top": False, "pooling": pooling}
    model = ours((48, 48, 3), **options)
    assert_equal(
        model, theirs(input_shape=(48, 48, 3), weights=None, **options), randomize, outputs
    )
    assert len(model.output_shape) == (4 if pooling is None else 2)


@pytest.mark.parametrize(("ours", "theirs"), [V1, V2])
def test_softmax_by_default(ours, theirs, randomize, outputs):
    probabilities = ours((32, 32, 3), 10, alpha=0.35)
    logits = reference(theirs, (32, 32, 3), alpha=0.35)
    probabilities.set_weights(randomize(logits).get_weights())
    expected = np.asarray(keras.ops.softmax(outputs(logits)))
    np.testing.assert_allclose(outputs(probabilities), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("build", "parameters"), [(V1[0], 4_253_864), (V2[0], 3_538_984)])
def test_published_parameter_counts(build, parameters):
    assert build((224, 224, 3)).count_params() == parameters


def test_layer_names_are_those_of_keras():
    ours = models.mobilenet((32, 32, 3), 10, alpha=0.25)
    theirs = reference(V1[1], (32, 32, 3), alpha=0.25)
    weighted = [layer.name for layer in ours.layers if layer.weights]
    assert weighted == [layer.name for layer in theirs.layers if layer.weights]


@pytest.mark.parametrize("build", [V1[0], V2[0]])
def test_tiny_alpha_keeps_a_channel_and_dropout_is_optional(build):
    model = build((32, 32, 3), 2, alpha=0.001, dropout=0.0)
    assert model.output_shape == (None, 2)
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in model.layers)
    rates = [
        layer.rate
        for layer in build((32, 32, 3), 2, alpha=0.1, dropout=0.3).layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    assert rates == [0.3]
