"""Operations of Keras that TensorFlow Lite has no operator for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.conversion.operations import convertible, lacking
from tfcompress.errors import ConversionError

ops = keras.ops


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions_are_those_of_keras(name, axis, keepdims):
    x = np.random.default_rng(0).integers(-3, 3, (4, 5, 6)).astype("float32")
    x[x == 0] = 0.0  # no -0.0
    wanted = getattr(ops, name)(x, axis=axis, keepdims=keepdims)
    with convertible():
        found = getattr(ops, name)(x, axis=axis, keepdims=keepdims)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)
    integers = ops.cast(x, "int32")
    with convertible():
        np.testing.assert_array_equal(
            getattr(ops, name)(integers, axis=axis, keepdims=keepdims), wanted
        )


def test_keras_is_as_before():
    from keras.src.backend.tensorflow import numpy as operations

    before = operations.argmax, operations.argmin
    with pytest.raises(ZeroDivisionError), convertible():
        assert operations.argmax is not before[0]
        raise ZeroDivisionError
    assert (operations.argmax, operations.argmin) == before


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
