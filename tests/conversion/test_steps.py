"""TimeDistributed in files: once for all steps where these are apart, as Keras has it elsewhere."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support import randomize

import tfcompress as tfc
from tfcompress.graph.flow import read_flow

layers, ops = keras.layers, keras.ops
each = layers.TimeDistributed


def chain(shape, *parts):
    inputs = x = keras.Input(shape)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def image(*more):
    """A network for images of any size."""
    return chain(
        (None, None, 3), layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU(), *more,
        layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax"),
    )  # fmt: skip


class Mixing(layers.Layer):
    """What may look at other examples."""

    def call(self, x):
        return x - ops.mean(x, axis=0, keepdims=True)

    def compute_output_shape(self, shape):
        return shape


def same(model, count=3):
    """Converts; checks the file against Keras, an example at a time as the file does them."""
    randomize(model)
    x = np.random.default_rng(0).normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")
    tflite = tfc.convert(model)
    expected = np.concatenate([model.predict_on_batch(x[n : n + 1]) for n in range(count)])
    np.testing.assert_allclose(tflite.predict(x), expected, rtol=0, atol=2e-5)
    return [operator.name for operator in tflite.operators]


APART = {
    "model": lambda: chain((4, 9, 9, 3), each(image())),
    "layers": lambda: chain(
        (4, 9, 9, 3),
        each(layers.Conv2D(6, 3)),
        each(layers.BatchNormalization()),
        layers.ReLU(),
        each(layers.Flatten()),
        each(layers.Dense(5)),
    ),
    "one in another": lambda: chain((2, 3, 9, 9, 3), each(each(image())), layers.Flatten()),
    "called twice": lambda: two_calls(),
    "in a model of its own class": lambda: of_its_own_class(),
    "attention": lambda: chain(
        (4, 5, 6), each(layers.LayerNormalization()), each(attending()), layers.Flatten()
    ),
    "recurrent": lambda: chain((4, 5, 6), each(layers.LSTM(3)), layers.LSTM(2)),
}


def two_calls():
    inputs, shared = keras.Input((4, 9, 9, 3)), each(image())
    return keras.Model(inputs, shared(inputs) + shared(inputs * 2.0))


def attending():
    inputs = keras.Input((5, 6))
    return keras.Model(inputs, layers.MultiHeadAttention(2, 3)(inputs, inputs))


class Own(keras.Model):
    """Films, with no graph that Keras knows."""

    def __init__(self):
        super().__init__()
        self.images, self.last = each(image()), layers.Dense(2)

    def call(self, x):
        return self.last(self.images(x))


def of_its_own_class():
    model = Own()
    model(np.zeros((1, 4, 9, 9, 3), "float32"))
    model.inputs = [keras.KerasTensor((None, 4, 9, 9, 3))]
    return model


@pytest.mark.parametrize("kind", APART)
def test_steps_are_rows_of_one_batch(kind):
    names = same(APART[kind]())
    assert "PACK" not in names
    if kind == "recurrent":  # whose own loop slices
        assert names.count("WHILE") == 2
    else:
        assert "STRIDED_SLICE" not in names
        assert names.count("CONV_2D") <= (2 if kind == "called twice" else 1)


NOT_APART = {
    "function": lambda: image(layers.Lambda(lambda x: x - ops.mean(x, 0, keepdims=True))),
    "layer of the user's": lambda: image(Mixing()),
    "operation": lambda: along(lambda x: x - ops.mean(x, axis=0, keepdims=True)),
    "sum over the batch": lambda: along(lambda x: ops.cumsum(x, axis=0)),
    "negative axis": lambda: along(lambda x: ops.cumsum(x, axis=-4)),
    "function of an activation": lambda: along(layers.Activation(centred)),
    "softmax of an activation": lambda: along(layers.Activation(layers.Softmax(axis=0))),
    "in one that stays": lambda: chain((3, 9, 9, 3), each(along(layers.Softmax(axis=0)))),
    "part of the batch": lambda: rows_of(
        lambda x: ops.slice_update(x, (0, 0), np.ones((1, 2), "float32"))
    ),
    "triangle": lambda: rows_of(ops.tril),
    "pairs of steps": lambda: rows_of(
        lambda x: ops.reshape(ops.softmax(ops.reshape(x, (-1, 12))), (-1, 6))
    ),
    "its own call": lambda: Overriding(*ends((9, 9, 3))),
    "flip": lambda: along(lambda x: ops.flip(x)),
    "index": lambda: along(lambda x: x[::-1, :]),
    "batch's own statistics": lambda: along(
        lambda x: layers.BatchNormalization()(x, training=True)
    ),
}


def centred(x):
    return x - ops.mean(x, axis=0, keepdims=True)


def rows_of(function):
    """A function of (examples, 6)."""
    inputs = keras.Input((9, 9, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(inputs))
    return keras.Model(inputs, function(x))


def ends(shape):
    inputs = keras.Input(shape)
    return inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(inputs))


class Overriding(keras.Model):
    """Its graph is not what it computes."""

    def call(self, x, training=None, mask=None):
        return centred(super().call(x, training=training, mask=mask))


def along(function):
    inputs = keras.Input((9, 9, 3))
    x = function(layers.Conv2D(6, 3)(inputs))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize("kind", NOT_APART)
def test_steps_that_may_look_at_each_other_stay_one_by_one(kind):
    inner = NOT_APART[kind]()
    shape = [size or 9 for size in inner.input_shape[1:]]
    model = chain((4, *shape), each(inner, name="films"))
    assert [call.path for call in read_flow(model, opens=lambda _: True).calls] == ["films"]
    if kind == "pairs of steps":
        return  # of one example there is no pair
    assert same(model).count("CONV_2D") >= 4


def test_steps_with_a_mask_stay_one_by_one():
    """The mask reaches the layer inside, which is to see its own step's."""
    inputs = keras.Input((4, 5))
    masked = layers.Masking()(inputs)
    model = keras.Model(inputs, each(layers.Dense(3), name="films")(masked))
    assert "films/steps" not in [call.path for call in read_flow(model).calls]
    same(model)


class Training(keras.Model):
    """BatchNormalization by the statistics of each step, in inference too."""

    def __init__(self):
        super().__init__()
        self.normalized, self.last = each(layers.BatchNormalization()), layers.Dense(3)

    def call(self, x):
        return self.last(self.normalized(x, training=True))


def test_statistics_of_each_step_stay_those_of_each_step():
    model = Training()
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype("float32")
    model(x)
    expected = model.predict_on_batch(x)
    np.testing.assert_allclose(tfc.convert(model).predict(x), expected, rtol=0, atol=2e-5)


def test_keras_is_as_before():
    before = layers.TimeDistributed.call
    tfc.convert(APART["model"]())
    assert layers.TimeDistributed.call is before


def test_open_batches_stay_open():
    """As in ONNX, where the batch is the caller's to choose."""
    model = randomize(APART["model"]())
    x = np.random.default_rng(0).normal(size=(3, 4, 9, 9, 3)).astype("float32")
    found = tfc.to_onnx(model).predict(x)
    np.testing.assert_allclose(found, model.predict_on_batch(x), rtol=0, atol=2e-5)


def test_post_training_quantization_sees_all_steps():
    model = randomize(chain((4, 9, 9, 3), each(image()), layers.Flatten(), layers.Dense(3)))
    x = np.random.default_rng(0).normal(size=(40, 4, 9, 9, 3)).astype("float32")
    tflite = tfc.convert(model, "int8", representative_data=x)
    assert tflite.float_tensors == []
    expected = model.predict_on_batch(x)
    assert np.abs(tflite.predict(x) - expected).max() < 0.1 * np.abs(expected).max()
