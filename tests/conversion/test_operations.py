"""Operations of Keras that TensorFlow Lite has no operator for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.conversion.operations import lacking
from tfcompress.errors import ConversionError

ops = keras.ops


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_positions_are_those_of_keras(axis, dtype):
    inputs = keras.Input((5, 6), batch_size=1, dtype=dtype)
    found = [getattr(ops, name)(inputs, axis, keepdims=k)
             for name in ("argmax", "argmin") for k in (False, True)]  # fmt: skip
    model = keras.Model(inputs, found)
    x = np.random.default_rng(0).integers(-3, 3, (1, 5, 6)).astype(dtype)
    tflite = tfc.convert(model, batch_size=1)
    for one, wanted in zip(tflite.predict(x).values(), model(x), strict=True):
        np.testing.assert_array_equal(np.asarray(one).reshape(-1), np.asarray(wanted).reshape(-1))


class Classes(keras.layers.Layer):
    """Its function is traced once, by whoever calls it first."""

    @tf.function
    def call(self, x):
        return ops.argmax(x, axis=-1)


def test_keras_is_as_before():
    """Where -0.0 is less than 0.0; and what was traced before converts."""
    inputs = keras.Input((2,), batch_size=1)
    model = keras.Model(inputs, Classes()(inputs))
    zeros = np.array([[-0.0, 0.0]], "float32")
    before = int(model(zeros)[0])
    tflite = tfc.convert(model)
    assert int(model(zeros)[0]) == int(ops.argmax(zeros, -1)[0]) == before
    assert tflite.predict(np.array([[1, 2]], "float32")).tolist() == [1]
    assert tflite.predict(zeros).tolist() == [0]


def test_other_bit_masks_stay():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, ops.where(ops.signbit(inputs), inputs, 0.0))
    with pytest.raises(ConversionError, match=r"no operator for .*BitwiseAnd"):
        tfc.convert(model)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_model_that_gives_classes(precision):
    """As on a board: the class, not the scores; of each pixel too."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(5, 3, padding="same")(inputs)
    pixels = ops.argmax(x, axis=-1)
    whole = ops.argmax(keras.layers.Dense(7)(keras.layers.Flatten()(x)), axis=-1, keepdims=True)
    model = keras.Model(inputs, {"pixels": pixels, "whole": whole})
    x = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32")
    tflite = tfc.convert(model, precision, representative_data=x)
    found, wanted = tflite.predict(x), model.predict(x, verbose=0)
    assert found["pixels"].shape == (64, 6, 6) and found["whole"].shape == (64, 1)
    for name in ("pixels", "whole"):
        assert (found[name] == wanted[name]).mean() >= (1 if precision == "fp32" else 0.9)
    assert {op.name for op in tflite.parsed.subgraphs[0].operators} >= {"ARG_MAX"}


class Inverse(keras.layers.Layer):
    def call(self, x):
        return tf.linalg.inv(x)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_has_no_operator_is_named(precision):
    inputs = keras.Input((2, 2))
    x = Inverse(name="inverse")(ops.tan(inputs))
    model = keras.Model(inputs, Inverse(name="again")(x))
    data = np.random.default_rng(0).normal(size=(8, 2, 2)).astype("float32")
    with pytest.raises(ConversionError) as caught:
        tfc.convert(model, precision, representative_data=data, io="float32")
    message = str(caught.value)
    assert "no operator for what the model computes: Tan, MatrixInverse (in inverse" in message
    assert "again" in message and len(message) < 400
    assert "tf.MatrixInverse" in caught.value.log


def test_other_failures_are_not_taken_for_it():
    assert lacking("Could not translate MLIR: out of memory") == ""
    assert lacking("") == ""
