"""ResNet-8 and DS-CNN against MLPerf Tiny's reference."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import models

DATA = os.environ.get("TFCOMPRESS_DATA")


def test_resnet8_parameters():
    model = models.resnet8()
    assert model.count_params() == 78_666
    assert sum(w.numpy().size for w in model.non_trainable_weights) == 480


@pytest.mark.skipif(not DATA, reason="TFCOMPRESS_DATA is not set")
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_resnet8_equals_the_trained_network(weight_decay):
    path = Path(DATA or "") / "mlperf_tiny" / "resnet8_cifar10.h5"
    trained = keras.models.load_model(path, compile=False)
    model = models.resnet8(weight_decay=weight_decay)
    assert [w.shape for w in model.weights] == [w.shape for w in trained.weights]
    model.set_weights(trained.get_weights())
    x = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype("float32")
    expected = trained(x, training=False)
    np.testing.assert_array_equal(model(x, training=False), expected)
    assert len(model.losses) == (len(trained.losses) if weight_decay else 0)


def test_resnet8_other_inputs():
    assert models.resnet8((28, 44, 1), 5, filters=8).output_shape == (None, 5)


def test_ds_cnn_parameters():
    # conv 10x4, four times (depthwise 3x3, pointwise), all with bias and BatchNorm; Dense.
    block = (9 * 64 + 64) + 4 * 64 + (64 * 64 + 64) + 4 * 64
    expected = (40 * 64 + 64) + 4 * 64 + 4 * block + (64 * 12 + 12)
    assert models.ds_cnn().count_params() == expected == 24_908


@pytest.mark.parametrize("shape", [(49, 10, 1), (61, 40, 1), (4, 4, 2), (5, 7, 1)])
def test_ds_cnn_pools_to_one_pixel(shape, randomize, outputs):
    model = models.ds_cnn(shape, 6, classifier_activation=None)
    assert model.get_layer("pool").output.shape == (None, 1, 1, 64)
    assert outputs(randomize(model)).shape == (2, 6)


def test_ds_cnn_leaves_out_the_last_row_as_the_reference_does(randomize, outputs):
    """25 rows behind the stride, a window of 24: the benchmark's own rounding."""
    model = randomize(models.ds_cnn(classifier_activation=None))
    features = keras.Model(model.input, model.get_layer("dropout2").output)
    dense = model.get_layer("predictions")
    cropped = outputs(features)[:, :24, :5].mean(axis=(1, 2))
    expected = cropped @ dense.kernel.numpy() + dense.bias.numpy()
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-4, atol=1e-5)


def test_ds_cnn_dropout_and_penalty_are_the_references():
    model = models.ds_cnn()
    assert [x.rate for x in model.layers if isinstance(x, layers.Dropout)] == [0.2, 0.4]
    assert len(model.losses) == 5
    assert models.ds_cnn(weight_decay=0).losses == []
