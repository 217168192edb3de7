"""Layers' names from tensors' names, as different converters leave them."""

from __future__ import annotations

import dataclasses

import keras
import pytest
import tensorflow as tf
from keras import layers

import tfcompress as tfc
from tfcompress.runtime import schema
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.surroundings import Surroundings


def names(model: schema.Model) -> list[str]:
    graph = model.subgraphs[0]
    found = LayerNames(model, graph, Surroundings(model, graph))
    return [found.of(operator) for operator in graph.operators]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv_1")(inputs)
    x = layers.ReLU(name="relu_1")(layers.BatchNormalization(name="bn_1")(x))
    x = layers.SeparableConv2D(8, 3, name="separable")(x)
    inner = keras.Input((8, 8, 8))
    body = keras.Model(inner, layers.DepthwiseConv2D(3, name="depthwise")(inner), name="body")
    x = layers.Add(name="add")([body(x), layers.MaxPooling2D(3, 1, name="pool")(x)])
    x = layers.Dense(6, name="dense_on_image")(x)
    x = keras.ops.mean(x, axis=(1, 2))
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name="scores")(x))


EXPECTED = [
    ("CONV_2D", "conv_1"),
    ("DEPTHWISE_CONV_2D", "separable"),
    ("CONV_2D", "separable"),
    ("DEPTHWISE_CONV_2D", "body/depthwise"),
    ("MAX_POOL_2D", "pool"),
    ("ADD", "add"),
    ("FULLY_CONNECTED", "dense_on_image"),
    ("MEAN", "MEAN"),  # an operation of the model's own, in no layer's scope
    ("FULLY_CONNECTED", "scores"),
    ("SOFTMAX", "SOFTMAX"),  # its only name is the signature's
]


def named(parsed: schema.Model) -> list[tuple[str, str]]:
    operators = [op.name for op in parsed.subgraphs[0].operators]
    return [
        (operator, name.split(" #")[0])
        for operator, name in zip(operators, names(parsed), strict=True)
        if operator != "DEQUANTIZE"
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_names_of_a_converted_model(model, precision):
    assert sorted(named(tfc.convert(model, precision).parsed)) == sorted(EXPECTED)


def test_names_of_tensorflows_own_converter(model):
    """With an open batch size, so with operators that compute shapes."""
    found = named(schema.parse(tf.lite.TFLiteConverter.from_keras_model(model).convert()))
    assert set(found) >= set(EXPECTED)
    assert {name for operator, name in found if operator == "SHAPE"} == {"dense_on_image"}


def test_numbers_are_kept_where_not_every_scope_is_numbered(model):
    parsed = tfc.convert(model).parsed
    graph = parsed.subgraphs[0]
    tensors = tuple(
        dataclasses.replace(tensor, name=tensor.name.replace("/separable_1/", "/parted/"))
        for tensor in graph.tensors
    )
    renamed = dataclasses.replace(parsed, subgraphs=(dataclasses.replace(graph, tensors=tensors),))
    assert {"parted", "conv_1_1", "body_1/depthwise_1"} <= set(names(renamed))


def test_a_graph_without_scopes_is_named_by_its_operators():
    @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])
    def function(x):
        return tf.nn.relu(tf.matmul(x, tf.ones((4, 3))) + x[:, :1])

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    parsed = schema.parse(converter.convert())
    assert all(f"{op.name} #{op.index}" in names(parsed) for op in parsed.subgraphs[0].operators)
