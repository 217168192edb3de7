"""`tfc.complexity`: published counts, and counts worked out by hand."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress.errors import ConfigError, ModelTypeError

layers = keras.layers


def chain(shape, *parts, **options):
    inputs = x = keras.Input(shape, **options)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


PUBLISHED = {  # millions: the papers' own numbers
    "MobileNet": (569, 0.001),
    "MobileNetV2": (300, 0.003),
    "ResNet50": (3860, 0.001),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    millions, tolerance = PUBLISHED[name]
    model = getattr(keras.applications, name)(weights=None)
    found = tfc.complexity(model)
    assert found.multiply_adds / 1e6 == pytest.approx(millions, rel=tolerance)
    assert found.parameters == model.count_params() == sum(r.parameters for r in found.layers)
    assert found.multiply_adds == sum(row.multiply_adds for row in found.layers)


COUNTS = {  # layer, shape of its input, multiply-adds
    "Conv1D": (lambda: layers.Conv1D(5, 3), (10, 4), 8 * 3 * 4 * 5),
    "Conv1D causal": (lambda: layers.Conv1D(5, 3, padding="causal"), (10, 4), 10 * 3 * 4 * 5),
    "Conv2D": (lambda: layers.Conv2D(5, (3, 2), strides=2), (9, 9, 4), 4 * 4 * 6 * 4 * 5),
    "Conv2D grouped": (lambda: layers.Conv2D(6, 3, groups=2), (5, 5, 4), 9 * 9 * 2 * 6),
    "Conv3D": (lambda: layers.Conv3D(2, 2), (3, 4, 5, 3), 2 * 3 * 4 * 8 * 3 * 2),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(5, 3, strides=2), (7, 4), 7 * 3 * 4 * 5),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(5, 3), (4, 6, 2), 24 * 9 * 2 * 5),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(5, 2), (2, 2, 2, 3), 8 * 8 * 3 * 5),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4), 7 * 3 * 8),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3), (6, 6, 4), 16 * 9 * 4),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(6, 3), (9, 4), 7 * (3 * 4 + 4 * 6)),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(6, 3, depth_multiplier=2),
        (5, 5, 4),
        9 * (9 * 8 + 8 * 6),
    ),
    "Dense": (lambda: layers.Dense(5), (7, 3), 7 * 3 * 5),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cde->abde", (7, 2, 3)), (7, 4), 7 * 4 * 6),
    "EinsumDense, dots": (lambda: layers.EinsumDense("...x,xy->...y", 5), (2, 3, 4), 6 * 4 * 5),
    "MultiHeadAttention": (
        lambda: lambda x: layers.MultiHeadAttention(3, 4, value_dim=5)(x, x),
        (7, 6),
        7 * 6 * (12 + 12 + 15 + 15) + 3 * 49 * (4 + 5),
    ),
    "MultiHeadAttention over rows": (
        lambda: lambda x: layers.MultiHeadAttention(3, 4, attention_axes=(2,))(x, x),
        (5, 7, 6),
        5 * (7 * 6 * 48 + 3 * 49 * 8),
    ),
    "GroupQueryAttention": (
        lambda: lambda x: layers.GroupQueryAttention(4, 6, 2)(x, x),
        (7, 10),
        7 * 10 * (24 + 8 + 8 + 24) + 2 * 6 * 49 * 4,
    ),
    "Attention": (lambda: lambda x: layers.Attention()([x, x]), (7, 6), 2 * 49 * 6),
    "LSTM": (lambda: layers.LSTM(5), (7, 3), 7 * 4 * 5 * (3 + 5)),
    "GRU": (lambda: layers.GRU(5, return_sequences=True), (7, 3), 7 * 3 * 5 * (3 + 5)),
    "SimpleRNN": (lambda: layers.SimpleRNN(5, unroll=True), (7, 3), 7 * 5 * (3 + 5)),
    "Bidirectional": (lambda: layers.Bidirectional(layers.GRU(5)), (7, 3), 2 * 7 * 3 * 5 * 8),
    "stacked cells": (
        lambda: layers.RNN([layers.GRUCell(5), layers.LSTMCell(4)]),
        (7, 3),
        7 * (15 * (3 + 5) + 16 * (5 + 4)),
    ),
    "ConvLSTM1D": (
        lambda: layers.ConvLSTM1D(4, 3, padding="same"),
        (6, 8, 2),
        6 * 8 * 3 * 16 * (2 + 4),
    ),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(layers.Conv1D(5, 3)),
        (6, 8, 2),
        6 * 6 * 3 * 10,
    ),
    "BatchNormalization": (lambda: layers.BatchNormalization(), (7, 3), 0),
    "Dot": (lambda: lambda x: layers.Dot(axes=(2, 2))([x, x]), (7, 3), 7 * 7 * 3),
    "matmul": (lambda: lambda x: x @ keras.ops.transpose(x, (0, 2, 1)), (7, 3), 49 * 3),
    "einsum": (lambda: lambda x: keras.ops.einsum("bij,bkj->bik", x, x), (7, 3), 49 * 3),
    "tensordot": (lambda: lambda x: keras.ops.tensordot(x, np.ones((3, 4)), 1), (7, 3), 7 * 12),
    "Lambda": (lambda: layers.Lambda(lambda x: keras.ops.matmul(x, np.ones((3, 4)))), (7, 3), 84),
    "pooling": (lambda: layers.MaxPooling1D(), (8, 3), 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_by_hand(name):
    build, shape, expected = COUNTS[name]
    model = chain(shape, build())
    assert tfc.complexity(model).multiply_adds == expected
    # The same by the way that layers of unknown inside take.
    traced = tfc.complexity(model, input_shapes=shape)
    assert (traced.multiply_adds, traced.parameters) == (expected, model.count_params())


def test_cross_attention_by_keywords():
    target, source = keras.Input((6, 16)), keras.Input((4, 8))
    mask = keras.Input((6, 4), dtype="bool")
    attention = layers.MultiHeadAttention(4, 4)
    y = attention(value=source, query=target, attention_mask=mask)
    model = keras.Model([target, source, mask], y)
    expected = 6 * 2 * 16 * 16 + 4 * 2 * 8 * 16 + 2 * 6 * 4 * 16
    assert tfc.complexity(model).multiply_adds == expected
    traced = tfc.complexity(model, input_shapes=[(6, 16), (4, 8), (6, 4)])
    assert traced.multiply_adds == expected


def test_attention_by_keywords():
    x, mask = keras.Input((6, 16)), keras.Input((6, 6), dtype="bool")
    for args, kwargs in (
        ((x, x), {"attention_mask": mask}),
        ((), {"query": x, "value": x, "key": x, "attention_mask": mask}),
        ((x,), {"value": x, "query_mask": mask[:, 0]}),
    ):
        y = layers.MultiHeadAttention(4, 4)(*args, **kwargs)
        found = tfc.complexity(keras.Model([x, mask], y)).multiply_adds
        assert found == 4 * 6 * 16 * 16 + 2 * 6 * 6 * 16


def fixed(*shape):
    return np.ones(shape, "float32")


FIXED = {  # operations with a constant operand, in either place
    "einsum": (lambda x: keras.ops.einsum("nm,bmf->bnf", fixed(7, 6), x), (6, 16), 7 * 6 * 16),
    "matmul": (lambda x: keras.ops.matmul(fixed(7, 6), x), (6, 16), 7 * 6 * 16),
    "matmul by keyword": (
        lambda x: keras.ops.matmul(x2=x, x1=keras.ops.ones((7, 6))), (6, 16), 7 * 6 * 16
    ),
    "tensordot": (lambda x: keras.ops.tensordot(fixed(7, 6), x, [[1], [1]]), (6, 16), 7 * 6 * 16),
    "conv": (lambda x: keras.ops.conv(x, fixed(3, 3, 4, 5)), (8, 8, 4), 36 * 36 * 5),
    "depthwise_conv": (
        lambda x: keras.ops.depthwise_conv(x, fixed(3, 3, 4, 1)), (8, 8, 4), 36 * 36
    ),
    "separable_conv": (
        lambda x: keras.ops.separable_conv(x, fixed(3, 3, 4, 1), fixed(1, 1, 4, 5)),
        (8, 8, 4), 36 * (36 + 20),
    ),
    "conv_transpose": (
        lambda x: keras.ops.conv_transpose(x, fixed(3, 3, 5, 4), 2), (8, 8, 4), 64 * 36 * 5
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_constant_operands(name):
    apply, shape, expected = FIXED[name]
    assert tfc.complexity(chain(shape, apply)).multiply_adds == expected
    if name != "conv_transpose":  # a model of it cannot be called, in Keras itself
        assert tfc.complexity(chain(shape, apply), input_shapes=shape).multiply_adds == expected


def test_shrinking_beside_a_constant_operand():
    model = chain(
        (6, 16), layers.Dense(16), layers.Dense(8),
        lambda x: keras.ops.einsum("nm,bmf->bnf", fixed(6, 6), x), layers.Dense(3),
    )  # fmt: skip
    smaller = tfc.shrink(model, 0.3, round_to=1)
    assert smaller.compression_report.settings["reached"] == pytest.approx(
        1 - tfc.complexity(smaller).multiply_adds / tfc.complexity(model).multiply_adds, abs=1e-4
    )


def test_embedding_costs_nothing():
    model = chain((9,), layers.Embedding(50, 4, mask_zero=True), layers.LSTM(2), dtype="int32")
    embedding, *_, lstm = tfc.complexity(model).layers  # and the mask's comparison
    assert (embedding.multiply_adds, embedding.parameters) == (0, 200)
    assert (embedding.activation_elements, embedding.activation_bytes) == (36, 144)
    assert lstm.multiply_adds == 9 * 8 * 6


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(4, 9), channels=st.sampled_from([2, 4]), filters=st.sampled_from([2, 6]),
    size=st.integers(1, 4), stride=st.integers(1, 3), groups=st.sampled_from([1, 2]),
    padding=st.sampled_from(["same", "valid"]),
)  # fmt: skip
def test_a_convolution_counts_as_its_loop(rows, channels, filters, size, stride, groups, padding):
    layer = layers.Conv2D(filters, size, strides=stride, groups=groups, padding=padding)
    found = tfc.complexity(chain((rows, rows, channels), layer)).multiply_adds
    starts = range(0, rows, stride) if padding == "same" else range(0, rows - size + 1, stride)
    assert found == len(starts) ** 2 * filters * size**2 * (channels // groups)


def test_shared_and_nested():
    inner = chain((6, 4), layers.Dense(4, name="inner"))
    inner.name = "twice"
    a, b = keras.Input((6, 4)), keras.Input((6, 4))
    model = keras.Model([a, b], layers.Add(name="sum")([inner(a), inner(b)]))
    found = tfc.complexity(model)
    assert [row.path for row in found.layers] == ["twice/inner", "twice/inner", "sum"]
    assert [row.parameters for row in found.layers] == [20, 0, 0]
    assert [row.multiply_adds for row in found.layers] == [96, 96, 0]
    assert found.parameters == 20


def test_peak_activation_bytes():
    """A residual of 5 channels lives beside the branch of 20 channels that it waits for."""
    inputs = keras.Input((10, 5))
    x = layers.Dense(20)(inputs)
    x = layers.Dense(20)(x)
    model = keras.Model(inputs, layers.Add()([inputs, layers.Dense(5)(x)]))
    assert tfc.complexity(model).peak_activation_bytes == 4 * 10 * (5 + 20 + 20)
    half = chain((10, 5), layers.Dense(8, dtype="float16"))
    assert tfc.complexity(half).peak_activation_bytes == 10 * (5 * 4 + 8 * 2)
    both = keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(2)(inputs)])
    assert tfc.complexity(both).peak_activation_bytes == 4 * 10 * (5 + 3 + 2)


class Own(layers.Layer):
    """Attention, a Dense layer, and a product with a weight of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.dense = layers.Dense(6, name="dense")
        self.dropout = layers.Dropout(0.5)

    def build(self, shape):
        self.attention.build(shape, shape)
        self.dense.build(shape)
        self.own = self.add_weight(shape=(6, 6), name="own")

    def call(self, x):
        x = x + self.dropout(self.attention(x, x))
        return keras.ops.matmul(x + self.dense(x), self.own)


ATTENTION = 5 * 6 * 4 * 8 + 2 * 2 * 25 * 4


def test_own_layer():
    model = chain((5, 6), Own(name="own"))
    found = tfc.complexity(model)
    costs = {row.path: (row.multiply_adds, row.parameters) for row in found.layers}
    attention = model.layers[1].attention.count_params()
    assert costs == {
        "own/attention": (ATTENTION, attention),
        "own/dense": (5 * 36, 42),
        "own": (5 * 36, 36),
    }
    # input, attention, their sum and what the Dense layer makes of it: three live at once
    assert found.peak_activation_bytes == 3 * 4 * 30


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.first = layers.Conv1D(6, 3, padding="same", name="first")
        self.own = Own(name="own")
        self.unused = layers.Dense(2)
        self.unused.build((None, 3))

    def call(self, x):
        x = self.own(self.first(x))
        return self.own(x)


def test_subclassed_model():
    model = Subclassed()
    with pytest.raises(ModelTypeError, match="built"):
        tfc.complexity(model)
    model(np.zeros((3, 5, 2), "float32"))
    found = tfc.complexity(model)
    assert found.multiply_adds == 5 * 3 * 2 * 6 + 2 * (ATTENTION + 2 * 5 * 36)
    assert found.parameters == model.count_params()
    assert found.notes[-1] == "8 parameters are in no layer that is called"


def test_open_sizes():
    model = chain((None, None, 3), layers.Conv2D(4, 3))
    found = tfc.complexity(model)
    assert found.multiply_adds == 9 * 12
    assert "input_shapes" in found.notes[1]
    assert tfc.complexity(model, input_shapes=(6, 8, 3)).multiply_adds == 24 * 9 * 12
    with pytest.raises(ConfigError, match="input_shapes"):
        tfc.complexity(model, input_shapes=(6, 8, 4))


class Loop(layers.Layer):
    def call(self, x):
        return keras.ops.fori_loop(0, 3, lambda _, y: keras.ops.matmul(y, y), x)


class Stubborn(layers.Layer):
    def call(self, x):
        if not isinstance(x, keras.KerasTensor):
            raise RuntimeError("not today")
        return x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Cell(layers.Layer):
    """A cell of one's own, which runs in a loop."""

    state_size = output_size = 4

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build((shape[0], 4))

    def call(self, x, states, training=None):
        y = self.dense(states[0]) + x
        return y, [y]


def test_loops_are_counted_once_and_told():
    model = chain((7, 4), layers.Dense(4), layers.RNN(Cell(), name="own"), layers.Dense(2))
    found = tfc.complexity(model)
    assert found.multiply_adds == 7 * 16 + 16 + 8
    assert found.parameters == model.count_params() == sum(r.parameters for r in found.layers)
    assert any("'own'" in note and "While" in note for note in found.notes)


def test_says_what_it_cannot_see():
    loop = tfc.complexity(chain((3, 3), Loop(name="loop"), layers.Dense(2)))
    assert loop.multiply_adds == 18
    assert any("'loop'" in note and "While" in note for note in loop.notes)
    stubborn = tfc.complexity(chain((3, 3), Stubborn(name="stubborn"), layers.Dense(2)))
    assert stubborn.multiply_adds == 18
    assert any("'stubborn'" in note and "not today" in note for note in stubborn.notes)


def test_prints_and_saves(tmp_path):
    found = tfc.complexity(chain((6, 4), layers.Dense(5, name="scores")))
    assert "scores  Dense  6x5" in str(found)
    assert "120" in str(found)
    loaded = json.loads(found.save(tmp_path / "found.json").read_text())
    loaded_back = tfc.Complexity.from_dict(loaded)
    assert loaded_back.multiply_adds == found.multiply_adds == 120
    assert loaded_back.layers[0].path == "scores"


def test_leaves_the_model_alone():
    model = chain((5, 6), Own())
    before = len(model._nodes), [len(layer._inbound_nodes) for layer in model.layers]
    tfc.complexity(model, input_shapes=(5, 6))
    assert before == (len(model._nodes), [len(layer._inbound_nodes) for layer in model.layers])
    with pytest.raises(ModelTypeError):
        tfc.complexity("model")


def test_axes_folded_into_the_batch():
    """Windows, or images of a film: each is a row of the batch, and all are the example's."""
    inputs = keras.Input((16, 16))
    windows = layers.Dense(48)
    x = windows(keras.ops.reshape(inputs, (-1, 4, 16)))
    model = keras.Model(inputs, layers.Dense(2)(keras.ops.reshape(x, (-1, 16, 48))))
    found = tfc.complexity(model)
    assert found.multiply_adds == 16 * 16 * 48 + 16 * 48 * 2
    rows = {row.path: row for row in found.layers}
    assert rows[windows.name].activation_elements == 16 * 48
    frames = keras.Input((4, 8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same")(keras.ops.reshape(frames, (-1, 8, 8, 3)))
    x = keras.ops.reshape(layers.GlobalAveragePooling2D()(x), (-1, 4, 16))
    model = keras.Model(frames, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    assert tfc.complexity(model).multiply_adds == 4 * 8 * 8 * 27 * 16 + 16 * 2
    smaller = tfc.shrink(model, 0.5, round_to=1)
    assert tfc.complexity(smaller).multiply_adds == 4 * 8 * 8 * 27 * 8 + 8 * 2


def test_a_table_read_backwards_is_a_dense_layer():
    tokens = keras.Input((8,), dtype="int32")
    table = layers.ReversibleEmbedding(50, 16)
    model = keras.Model(tokens, table(layers.Dense(16)(table(tokens)), reverse=True))
    assert tfc.complexity(model).multiply_adds == 8 * 16 * 16 + 8 * 16 * 50


def test_steps_of_steps_of_a_model_are_counted():
    inner = keras.Input((6, 5))
    model = keras.Model(inner, keras.layers.Dense(3)(inner))
    inputs = keras.Input((2, 4, 6, 5))
    outer = keras.layers.TimeDistributed(keras.layers.TimeDistributed(model))
    assert tfc.complexity(keras.Model(inputs, outer(inputs))).multiply_adds == 2 * 4 * 6 * 5 * 3
