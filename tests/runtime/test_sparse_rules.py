"""Sparse storage: the proven pattern is accepted, and everything beside it refused with a reason.

What ARM does with the refused models is in the comments: "wrong" means other outputs than those of
the dense file, without a word.
"""

from __future__ import annotations

import dataclasses
import functools
import re

import keras
import numpy as np
import pytest
from keras import layers
from sparse_networks import (
    dense_file,
    depthwise,
    excite,
    head,
    keepdims_mean,
    network,
    pointwise,
    prune,
    stem,
)
from support import randomize

import tfcompress as tfc
from tfcompress import models
from tfcompress.runtime import schema
from tfcompress.runtime.sparse_rules import refusals


@functools.cache
def plain() -> schema.Model:
    return dense_file(network())


# -- accepted: all of these give the dense file's outputs on ARM ----------------------------------

ACCEPTED = {
    "5x5 and stride 2": lambda x: depthwise(depthwise(x, size=5), 2, 5),
    "stride 2": lambda x: depthwise(x, 2),
    "hard-swish": lambda x: layers.Activation("hard_silu")(x),
    "swish": lambda x: pointwise(x, 32, "silu"),
    "relu": lambda x: pointwise(x, 32, "relu"),
    "linear": lambda x: pointwise(x, 32, None),
    "residual": lambda x: layers.ReLU()(layers.Add()([x, pointwise(depthwise(x), 32, None)])),
    "squeeze and excite": excite,
    "scaling": lambda x: x * 0.5,  # the converter folds it into the convolution
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_proven_patterns_are_accepted(name):
    assert refusals(dense_file(network(ACCEPTED[name])), "fp32") == []


@pytest.mark.parametrize(
    "end",
    [
        lambda x: layers.GlobalAveragePooling2D()(x),
        lambda x: layers.Dense(5)(layers.Flatten()(keepdims_mean(x))),
        lambda x: layers.Dense(5)(
            layers.Dense(16, activation="relu")(layers.GlobalAveragePooling2D()(x))
        ),
        lambda x: [head(x), head(pointwise(x, 16))],
    ],
    ids=["mean", "flatten", "two layers", "two heads"],
)
def test_proven_ends_are_accepted(end):
    assert refusals(dense_file(network(end=end)), "fp32") == []


def test_scaling_of_the_input_is_accepted():
    model = network(start=lambda x: stem(layers.Rescaling(1 / 127.5, -1)(x)))
    assert refusals(dense_file(model, batch=2), "fp32") == []


def test_mobilenet():
    model = models.mobilenet((32, 32, 3), 10, alpha=0.25, sparse_friendly=True)
    assert refusals(dense_file(prune(randomize(model))), "fp32") == []
    assert len(refusals(dense_file(prune(models.mobilenet((32, 32, 3), alpha=0.25))), "fp32")) > 2


def test_float16_is_read_through_its_expansion():
    assert refusals(dense_file(network(), float16=True), "fp16") == []


# -- refused --------------------------------------------------------------------------------------


def only_reason(model: schema.Model, precision: str = "fp32") -> str:
    (reason,) = refusals(model, precision)
    return reason


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("int8", "expanded when the file is loaded"),
        ("dynamic", "does not load anywhere"),
        ("int16x8", "int16 activations"),
        ("weight-int8", "int8 weights"),
        ("int4", "not proven"),
    ],
)
def test_only_float_precisions(precision, words):
    reason = only_reason(plain(), precision)
    assert words in reason
    assert "'fp32' or 'fp16'" in reason


def pad_as_keras_applications(x):
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    return layers.DepthwiseConv2D(3, strides=2)(x)


WRONG_MIDDLES = {  # name: layers, what the reason says
    "max pooling": (layers.MaxPooling2D(), "MAX_POOL_2D among the convolutions"),  # wrong
    "average pooling": (layers.AveragePooling2D(2), "AVERAGE_POOL_2D among"),  # wrong
    "concat": (lambda x: layers.Concatenate()([x, pointwise(x)]), "CONCATENATION among"),
    "upsampling": (layers.UpSampling2D(2, interpolation="bilinear"), "RESIZE_BILINEAR among"),
    "3x3": (layers.Conv2D(32, 3, padding="same"), "only 1x1 ones"),  # wrong
    "strided 1x1": (layers.Conv2D(32, 1, strides=2), "only 1x1 ones"),  # wrong
    "grouped 1x1": (layers.Conv2D(32, 1, groups=4), "only 1x1 ones"),  # wrong
    "padded 1x1": (lambda x: pointwise(layers.ZeroPadding2D(1)(x)), "only 1x1 ones"),  # wrong
    "constant": (lambda x: layers.BatchNormalization()(layers.ReLU()(x) + x), "BatchNorm"),  # wrong
    "hard-sigmoid gate": (lambda x: excite(x, "hard_sigmoid"), "arithmetic with a constant"),
    "sum with itself": (lambda x: layers.Add()([x, x]), "with itself"),
    "factors without a convolution": (  # does not load on ARM
        lambda x: layers.Multiply()([x, keepdims_mean(x)]),
        "a mean with keepdims=True must be read by 1x1 convolutions",
    ),
    "activation of a mean": (  # wrong
        lambda x: layers.Multiply()([x, pointwise(layers.ReLU()(keepdims_mean(x)))]),
        "a mean with keepdims=True must be read by 1x1 convolutions",
    ),
    "broadcast sum": (
        lambda x: layers.Add()([x, pointwise(x, 1, "sigmoid")]),
        "ADD must have two images of one shape",
    ),
    "image and factors of a row": (
        lambda x: layers.Multiply()([x, pointwise(x, 1, "sigmoid")]),
        "one factor for each channel",
    ),
    "7x7 depthwise": (lambda x: depthwise(x, size=7), "must be 3x3 or 5x5"),  # wrong
    "depth multiplier": (lambda x: depthwise(x, depth_multiplier=2), "depth_multiplier=1"),  # wrong
    "dilation": (lambda x: depthwise(x, dilation_rate=2), "dilation_rate=1"),  # wrong
    "valid": (lambda x: depthwise(x, padding="valid"), "stride 1 and padding 'same'"),  # wrong
    "same at stride 2": (
        layers.DepthwiseConv2D(3, strides=2, padding="same"),  # wrong
        "as many zeros on every side",
    ),
    "zeros on one side": (pad_as_keras_applications, "as many zeros on every side"),  # wrong
    "dense gate": (
        lambda x: layers.Multiply()(
            [x, layers.Reshape((1, 1, 32))(layers.Dense(32)(layers.GlobalAveragePooling2D()(x)))]
        ),
        "joins the image with what follows its mean",
    ),
    "mean over rows": (lambda x: x + keras.ops.mean(x, 1, keepdims=True), "over rows and columns"),
    "tanh": (layers.Activation("tanh"), "TANH among"),
}


@pytest.mark.parametrize("name", WRONG_MIDDLES)
def test_what_has_no_sparse_kernel_is_refused_by_name(name):
    middle, words = WRONG_MIDDLES[name]
    reasons = refusals(dense_file(network(middle)), "fp32")
    assert any(words in reason for reason in reasons), reasons


FIRST = "the first convolution must be 3x3 with stride 2 on 3 channels"


@pytest.mark.parametrize(
    ("start", "shape"),
    [
        (lambda x: stem(x, padding=0), (32, 32, 3)),
        (lambda x: stem(x, stride=1), (32, 32, 3)),
        (stem, (32, 32, 1)),
        (lambda x: layers.Conv2D(8, 5, strides=2)(layers.ZeroPadding2D(1)(x)), (32, 32, 3)),
        (lambda x: pointwise(x, 8), (32, 32, 3)),
    ],
    ids=["same", "stride 1", "gray", "5x5", "1x1"],
)
def test_first_convolution(start, shape):
    assert FIRST in only_reason(dense_file(network(start=start, shape=shape)))


def test_odd_sides_are_explained():
    """The converter makes symmetric zeros 'same' there, and ARM's outputs are wrong."""
    model = dense_file(network(lambda x: depthwise(x, 2), shape=(34, 30, 3)))
    assert "an image of 17x15" in only_reason(model)
    assert refusals(dense_file(network(lambda x: depthwise(x, 2), shape=(36, 30, 3))), "fp32") == []


ENDS = {
    "1x1 convolution": (  # does not load on ARM
        lambda x: layers.Reshape((5,))(pointwise(keepdims_mean(x), 5)),
        "does not load on ARM",
    ),
    "flatten": (lambda x: layers.Dense(5)(layers.Flatten()(x)), "must end in GlobalAverage"),
    "max": (layers.GlobalMaxPooling2D(), "REDUCE_MAX among"),
    "image": (lambda x: x, "this output is an image"),
    "image as well": (lambda x: [x, head(x)], "this output is an image"),  # wrong
    "keepdims": (keepdims_mean, "a mean with keepdims=True"),  # another shape
    "two readers": (
        lambda x: (lambda m: [layers.Dense(5)(layers.Flatten()(m)), head(x * pointwise(m, 48))])(
            keepdims_mean(x)
        ),
        "a mean with keepdims=True",
    ),
    "activation": (  # does not load on ARM
        lambda x: layers.Dense(5)(layers.Flatten()(layers.ReLU()(keepdims_mean(x)))),
        "a mean with keepdims=True",
    ),
    "no flatten": (lambda x: layers.Dense(5)(keepdims_mean(x)), "use Flatten"),
    "normalization": (
        lambda x: layers.UnitNormalization()(layers.GlobalAveragePooling2D()(x)),
        "behind the mean is not proven",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends(name):
    end, words = ENDS[name]
    reasons = refusals(dense_file(network(end=end)), "fp32")
    assert any(words in reason for reason in reasons), reasons


def test_a_model_without_convolutions():
    model = prune(keras.Sequential([keras.Input((64,)), layers.Dense(64), layers.Dense(4)]))
    assert "convolutional networks" in refusals(dense_file(model), "fp32")[0]


def test_several_inputs():
    inputs = keras.Input((32, 32, 3)), keras.Input((4,))
    x = layers.GlobalAveragePooling2D()(pointwise(depthwise(stem(inputs[0])), 64))
    model = prune(keras.Model(inputs, layers.Dense(5)(x * layers.Dense(64)(inputs[1]))))
    assert any("several inputs" in reason for reason in refusals(dense_file(model), "fp32"))


def test_loops():
    looped = dataclasses.replace(plain(), subgraphs=plain().subgraphs * 2)
    assert "loops" in only_reason(looped)


def test_a_reason_names_its_operators_but_not_a_hundred():
    def middle(x):
        for _ in range(5):
            x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
        return x

    reason = only_reason(dense_file(network(middle)))
    assert reason.count("'") == 2 * 3
    assert "and 2 more: behind the first convolution" in reason


# -- the weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sparsity", "share"), [(0, "0%"), (0.25, "2.%"), (0.6, "(59|6.)%")])
def test_too_few_zeros(sparsity, share):
    reason = only_reason(dense_file(network(sparsity=sparsity)))
    assert re.search(f"only {share} of their weights", reason)
    assert "0.7 or more" in reason


def test_no_1x1_convolutions():
    inputs = keras.Input((32, 32, 3))
    model = prune(keras.Model(inputs, head(depthwise(stem(inputs)))))
    assert "there are none" in only_reason(dense_file(model))


def test_a_file_that_would_grow():
    inputs = keras.Input((32, 32, 3))
    model = prune(keras.Model(inputs, head(pointwise(depthwise(stem(inputs)), 4))))
    assert "would grow" in only_reason(dense_file(model))


def with_dense_kernel(change, features=48):
    model = network(end=lambda x: layers.Dense(32)(layers.GlobalAveragePooling2D()(x)))
    if features != 48:
        model = network(
            end=lambda x: layers.Dense(32)(layers.GlobalAveragePooling2D()(pointwise(x, features)))
        )
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(features, 32))
    model.layers[-1].kernel.assign(change(kernel, generator))
    return dense_file(model)


@pytest.mark.parametrize(
    ("change", "features"),
    [
        (lambda k, g: k * np.repeat(g.random((12, 32)) > 0.7, 4, axis=0), 48),
        (lambda k, g: k * (g.random(k.shape) > 0.4), 7),  # the converter drops 3 of 7 columns
    ],
    ids=["blocks", "by chance"],
)
def test_dense_layers_in_blocks(change, features):
    assert "blocks of 4" in only_reason(with_dense_kernel(change, features))


def test_dense_layers_without_blocks():
    assert refusals(with_dense_kernel(lambda k, g: k * (g.random(k.shape) > 0.7)), "fp32") == []
    assert refusals(with_dense_kernel(lambda k, g: k), "fp32") == []


def test_a_layer_of_zeros():
    """The converter writes a tensor without data, and the file is damaged."""
    assert "all weights are zero" in only_reason(with_dense_kernel(lambda k, g: 0 * k))
    assert "all weights are zero" in refusals(dense_file(network(sparsity=1.0)), "fp32")[0]


# -- the whole way --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_accepted_model_is_stored_sparse(precision):
    model = network(lambda x: excite(pointwise(depthwise(x), 96)))
    dense, sparse = (tfc.convert(model, precision, sparse=sparse) for sparse in (False, True))
    assert sparse.report.settings["sparse"] is True
    assert "DENSIFY" in [operator.name for operator in sparse.operators]
    assert sparse.sizes.raw < 0.75 * dense.sizes.raw
    x = np.random.default_rng(1).uniform(-1, 1, (4, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(sparse.predict(x), dense.predict(x), rtol=1e-5, atol=1e-7)


def test_a_refused_model_is_stored_dense_and_the_report_says_why():
    model = network(layers.MaxPooling2D())
    dense, asked = (tfc.convert(model, sparse=sparse) for sparse in (False, True))
    assert asked.content == dense.content
    assert asked.report.settings["sparse"] is False
    assert any("MAX_POOL_2D among the convolutions" in note for note in asked.report.notes)
