"""The sparse_friendly networks keep every rule of XNNPACK's sparse kernels."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from tfcompress import models

HARMLESS = (
    layers.InputLayer,
    layers.BatchNormalization,
    layers.ReLU,
    layers.Add,
    layers.ZeroPadding2D,  # judged with the convolution behind it
    layers.Dropout,
)


def before(layer: keras.Layer) -> keras.Layer:
    """The layer whose output `layer` reads."""
    return layer.input._keras_history.operation


def padded_by(layer: keras.Layer, zeros: int) -> bool:
    pad = before(layer)
    return (
        layer.padding == "valid"
        and isinstance(pad, layers.ZeroPadding2D)
        and pad.padding == ((zeros, zeros), (zeros, zeros))
    )


def violations(model: keras.Model) -> list[str]:
    """Names of the layers that break a rule, each rule as XNNPACK states it."""
    first = next(layer for layer in model.layers if layer.weights)
    broken = []
    for layer in model.layers:
        if layer is first:
            fine = (
                type(layer) is layers.Conv2D
                and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
                and layer.strides == (2, 2)
                and padded_by(layer, 1)
            )
        elif isinstance(layer, layers.DepthwiseConv2D):
            side = layer.kernel_size[0]
            fine = layer.kernel_size in ((3, 3), (5, 5)) and layer.depth_multiplier == 1
            if layer.strides == (1, 1):
                fine = fine and layer.padding == "same"
            else:
                fine = fine and layer.strides == (2, 2) and padded_by(layer, side // 2)
        elif isinstance(layer, layers.Conv2D):
            fine = layer.kernel_size == layer.strides == (1, 1) and layer.groups == 1
        elif isinstance(layer, layers.GlobalAveragePooling2D):
            fine = not layer.keepdims
        elif isinstance(layer, layers.Dense):
            source = before(layer)
            source = before(source) if isinstance(source, layers.Dropout) else source
            fine = isinstance(source, layers.GlobalAveragePooling2D)
        else:
            fine = isinstance(layer, HARMLESS)
        if not fine:
            broken.append(layer.name)
    return broken


SPARSE = {"sparse_friendly": True}


@pytest.mark.parametrize("build", [models.mobilenet, models.mobilenet_v2])
@pytest.mark.parametrize(("shape", "dropout"), [((96, 96, 3), 0.0), ((57, 40, 3), 0.2)])
def test_every_rule_holds(build, shape, dropout):
    model = build(shape, 10, alpha=0.35, dropout=dropout, **SPARSE)
    assert violations(model) == []
    assert isinstance(model.layers[-1], layers.Dense)


@pytest.mark.parametrize("build", [models.mobilenet, models.mobilenet_v2])
def test_the_standard_network_breaks_rules(build):
    broken = violations(build((96, 96, 3), 10, alpha=0.35))
    assert "conv1" in broken
    assert len([name for name in broken if "dw" in name or "depthwise" in name]) == 4


@pytest.mark.parametrize("build", [models.mobilenet, models.mobilenet_v2])
@pytest.mark.parametrize("pooling", [None, "avg"])
def test_body_without_top(build, pooling):
    model = build((64, 64, 3), alpha=0.35, include_top=False, pooling=pooling, **SPARSE)
    assert violations(model) == []


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_blocks_of_ones_own(kernel_size):
    inputs = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(8, 3, strides=2)(x)
    for stride in (1, 2):
        x = models.separable_block(x, 16, stride=stride, kernel_size=kernel_size, **SPARSE)
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    assert violations(keras.Model(inputs, outputs)) == []


def test_weights_of_the_standard_network_fit():
    standard = models.mobilenet((32, 32, 3), 7, alpha=0.25)
    sparse = models.mobilenet((32, 32, 3), 7, alpha=0.25, **SPARSE)
    assert sparse.count_params() == standard.count_params()
    pairs = zip(sparse.weights, standard.get_weights(), strict=True)
    sparse.set_weights([value.reshape(weight.shape) for weight, value in pairs])
    v2 = models.mobilenet_v2((32, 32, 3), 7, alpha=0.35)
    models.mobilenet_v2((32, 32, 3), 7, alpha=0.35, **SPARSE).set_weights(v2.get_weights())
