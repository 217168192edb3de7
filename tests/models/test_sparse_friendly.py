"""The sparse_friendly networks keep every rule of XNNPACK's sparse kernels."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers

from tfcompress import models
from tfcompress.errors import ConfigError

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
    if layer.padding != "valid" or not isinstance(pad, layers.ZeroPadding2D):
        return False
    rows, columns = pad.input.shape[1:3]
    would_be_same = rows % 2 and columns % 2  # and the converter would write it as "same"
    return pad.padding == ((zeros, zeros), (zeros, zeros)) and not would_be_same


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


def test_the_converter_keeps_every_padding():
    """A "same" in place of the zeros would be wrong on ARM, and nothing here would show it."""
    converter = tf.lite.TFLiteConverter.from_keras_model(
        models.mobilenet((57, 40, 3), 3, alpha=0.05, **SPARSE)
    )
    interpreter = Interpreter(
        model_content=converter.convert(),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    operators = [detail["op_name"] for detail in interpreter._get_ops_details()]
    assert operators.count("PAD") == 5
    strided = [operators[i + 1] for i, name in enumerate(operators) if name == "PAD"]
    assert strided == ["CONV_2D"] + ["DEPTHWISE_CONV_2D"] * 4
    assert operators[-3:] == ["MEAN", "FULLY_CONNECTED", "SOFTMAX"]


@pytest.mark.parametrize("build", [models.mobilenet, models.mobilenet_v2])
@pytest.mark.parametrize(
    ("rows", "columns", "found"),
    [(57, 75, "57 x 75"), (48, 48, "3 x 3"), (112, 112, "7 x 7"), (57, 76, "15 x 19")],
)
def test_images_odd_in_both_directions_before_a_stride(build, rows, columns, found):
    with pytest.raises(ConfigError, match=f"{rows} x {columns} .*which is {found} before"):
        build((rows, columns, 3), 10, alpha=0.35, **SPARSE)


def test_block_on_an_image_odd_in_both_directions():
    for size in [(7, 8, 3), (8, 7, 3), (None, None, 3)]:
        models.separable_block(keras.Input(size), 6, stride=2, **SPARSE)
    models.separable_block(keras.Input((7, 7, 3)), 6, **SPARSE)
    with pytest.raises(ConfigError, match="7 x 7 with sparse_friendly"):
        models.separable_block(keras.Input((7, 7, 3)), 6, stride=2, **SPARSE)


def test_weights_of_the_standard_network_fit():
    standard = models.mobilenet((32, 32, 3), 7, alpha=0.25)
    sparse = models.mobilenet((32, 32, 3), 7, alpha=0.25, **SPARSE)
    assert sparse.count_params() == standard.count_params()
    pairs = zip(sparse.weights, standard.get_weights(), strict=True)
    sparse.set_weights([value.reshape(weight.shape) for weight, value in pairs])
    v2 = models.mobilenet_v2((32, 32, 3), 7, alpha=0.35)
    models.mobilenet_v2((32, 32, 3), 7, alpha=0.35, **SPARSE).set_weights(v2.get_weights())
