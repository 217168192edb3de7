import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.conversion.calibration import InputSpec, gather

ONE = [InputSpec("image", (None, 4, 4, 1), "float32", ("keras_tensor",))]
TWO = [InputSpec("a", (None, 3), "float32"), InputSpec("b", (None, 5), "int32")]
X = np.random.default_rng(0).random((20, 4, 4, 1), "float32")
Y = np.arange(20)
A = np.random.default_rng(1).random((20, 3), "float32")
B = np.arange(100).reshape(20, 5)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[4 * index : 4 * index + 4], Y[4 * index : 4 * index + 4]


def generator():
    yield from (X[i : i + 3] for i in range(0, 20, 3))


ONE_FORMS = {
    "array": lambda: X,
    "float64 array": lambda: X.astype("float64"),
    "pair": lambda: (X, Y),
    "list of one": lambda: [X],
    "dict": lambda: {"image": X},
    "dict by the tensor's own name": lambda: {"keras_tensor": X},
    "tensor": lambda: tf.constant(X),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(X).batch(7),
    "dataset with labels": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(7),
    "dataset with labels and weights": lambda: tf.data.Dataset.from_tensor_slices((X, Y, Y)).batch(
        3
    ),
    "dataset not batched": lambda: tf.data.Dataset.from_tensor_slices((X, Y)),
    "dataset of dicts": lambda: tf.data.Dataset.from_tensor_slices({"image": X}).batch(6),
    "dataset that never ends": lambda: tf.data.Dataset.from_tensor_slices(X).repeat().batch(7),
    "generator": generator,
    "generator object": lambda: generator(),
    "function": lambda: generator,
    "tflite style": lambda: lambda: ([X[i : i + 1]] for i in range(20)),
    "PyDataset": Batches,
    "list of examples": lambda: list(X),
    "list of batches": lambda: [X[:8], X[8:16], X[16:]],
    "list of two batches": lambda: [X[:10], X[10:]],
    "list of pairs": lambda: [(X[:10], Y[:10]), (X[10:], Y[10:])],
}


@pytest.mark.parametrize("form", ONE_FORMS)
def test_every_form_gives_the_same_examples(form):
    found = gather(ONE_FORMS[form](), ONE, 20)["image"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, X)


TWO_FORMS = {
    "dict": lambda: {"b": B, "a": A},
    "list": lambda: [A, B],
    "tuple": lambda: (A, B),
    "pair with a dict": lambda: ({"a": A, "b": B}, Y),
    "pair with a tuple": lambda: ((A, B), Y),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(((A, B), Y)).batch(6),
    "dataset of dicts": lambda: tf.data.Dataset.from_tensor_slices(({"a": A, "b": B}, Y)),
    "generator": lambda: ({"a": A[i : i + 2], "b": B[i : i + 2]} for i in range(0, 20, 2)),
}


@pytest.mark.parametrize("form", TWO_FORMS)
def test_every_form_for_several_inputs(form):
    found = gather(TWO_FORMS[form](), TWO, 20)
    np.testing.assert_array_equal(found["a"], A)
    np.testing.assert_array_equal(found["b"], B)
    assert found["b"].dtype == np.int32


def test_examples_of_an_array_are_spread_over_the_whole():
    found = gather(X, ONE, 5)["image"]
    np.testing.assert_array_equal(found, X[[0, 5, 10, 14, 19]])


def test_pixels_may_be_integers():
    pixels = (X * 255).astype("uint8")
    np.testing.assert_array_equal(gather(pixels, ONE, 20)["image"], pixels.astype("float32"))


BAD = {
    "wrong shape": (X[:, :3], r"\(n, 4, 4, 1\).*Received: float32 \(20, 3, 4, 1\)"),
    "wrong name": ({"picture": X}, "'image'.*Received: {'picture'"),
    "no example": (X[:0], "holds no example"),
    "empty generator": (iter(()), "holds no example"),
    "strings": (np.full((5, 4, 4, 1), "a"), "float32"),
    "complex": (X.astype("complex64"), "complex64"),
    "NaN": (np.where(X > 0.9, np.nan, X), "NaN or infinite values in input 'image'"),
    "infinity": (np.where(X > 0.9, np.inf, X), "NaN or infinite"),
    "a number": (3, "Received: int"),
    "a bad item": ((x for x in [X[:2], X[:2, :2]]), "item 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_says_what_fits_and_what_came(case):
    data, message = BAD[case]
    with pytest.raises(tfc.DataError, match=message):
        gather(data, ONE, 20)


def test_fractions_for_an_integer_input():
    with pytest.raises(tfc.DataError, match="whole numbers"):
        gather({"a": A, "b": B + 0.5}, TWO, 20)


def test_too_few_inputs():
    with pytest.raises(tfc.DataError, match="'a' float32"):
        gather([A], TWO, 20)


def test_convert_writes_nothing_on_bad_data(small_model, tmp_path):
    for data in (None, X, X[:0], {"picture": X}, np.full((2, 28, 28, 1), np.nan)):
        with pytest.raises(tfc.DataError):
            tfc.convert(
                small_model, "int8", representative_data=data, path=tmp_path / "model.tflite"
            )
    assert list(tmp_path.iterdir()) == []
