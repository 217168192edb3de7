"""separable_block: shapes, names, and what it computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfcompress import models


@pytest.mark.parametrize(
    ("size", "sparse_friendly", "expected"),
    [(8, False, (4, 4)), (8, True, (4, 4)), (7, False, (3, 4)), (7, True, (4, 4))],
)
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_stride_2_sizes(size, sparse_friendly, expected, kernel_size):
    x = keras.Input((size, 8, 4))
    y = models.separable_block(
        x, 6, stride=2, kernel_size=kernel_size, sparse_friendly=sparse_friendly
    )
    assert y.shape == (None, *expected, 6)


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_standard_padding_is_same_at_even_sizes(kernel_size, stride, randomize, outputs):
    inputs = keras.Input((8, 12, 4))
    model = keras.Model(
        inputs, models.separable_block(inputs, 6, stride=stride, kernel_size=kernel_size)
    )
    layers = keras.layers
    x = layers.DepthwiseConv2D(kernel_size, strides=stride, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization(epsilon=1e-3)(x))
    x = layers.Conv2D(6, 1, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(epsilon=1e-3)(x))
    plain = keras.Model(inputs, x)
    model.set_weights(randomize(plain).get_weights())
    np.testing.assert_allclose(outputs(model), outputs(plain), rtol=1e-6, atol=1e-6)


def test_symmetric_padding_looks_one_pixel_further_back(randomize, outputs):
    """At an even size, sparse_friendly is the standard block on an image moved by one pixel."""
    inputs = keras.Input((8, 8, 3))
    moved = keras.layers.Cropping2D(((0, 1), (0, 1)))(
        keras.layers.ZeroPadding2D(((1, 0), (1, 0)))(inputs)
    )
    sparse = keras.Model(inputs, models.separable_block(inputs, 5, stride=2, sparse_friendly=True))
    standard = keras.Model(inputs, models.separable_block(moved, 5, stride=2))
    standard.set_weights(randomize(sparse).get_weights())
    # Only the standard block's zeros at the far border take the place of the last pixels.
    np.testing.assert_array_equal(outputs(sparse)[:, :-1, :-1], outputs(standard)[:, :-1, :-1])


def test_names_and_depth_multiplier():
    x = keras.Input((8, 8, 4))
    model = keras.Model(
        x, models.separable_block(x, 6, stride=2, depth_multiplier=3, name="stage2")
    )
    assert [layer.name for layer in model.layers[1:]] == [
        "conv_pad_stage2",
        "conv_dw_stage2",
        "conv_dw_stage2_bn",
        "conv_dw_stage2_relu",
        "conv_pw_stage2",
        "conv_pw_stage2_bn",
        "conv_pw_stage2_relu",
    ]
    assert model.get_layer("conv_dw_stage2").output.shape[-1] == 12


@pytest.mark.parametrize(
    ("activation", "expected"), [("relu6", 6.0), ("relu", None), ("hard_swish", None), (None, None)]
)
def test_activations(activation, expected):
    x = keras.Input((8, 8, 4))
    model = keras.Model(x, models.separable_block(x, 6, activation=activation, name="1"))
    kinds = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    assert [layer.max_value for layer in kinds] == [expected] * (
        2 if activation in ("relu6", "relu") else 0
    )
    other = [layer for layer in model.layers if isinstance(layer, keras.layers.Activation)]
    assert len(other) == (2 if activation == "hard_swish" else 0)
