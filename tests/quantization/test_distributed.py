"""TimeDistributed in quantize-aware models: names, what is excluded, and what must not be moved."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import chain

import tfcompress as tfc

layers, ops = keras.layers, keras.ops
each = layers.TimeDistributed


def examples(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def quantized(model, x, **options):
    """The quantize-aware model, near the float one, and its file the same."""
    qmodel = tfc.quantize_aware(model, calibration_data=x, **options)
    found, expected = qmodel.predict(x, verbose=0), model.predict(x, verbose=0)
    found, expected = keras.tree.flatten(found), keras.tree.flatten(expected)
    for one, two in zip(found, expected, strict=True):
        assert np.abs(one - two).max() < 0.08 * np.abs(two).max()
    assert tfc.convert(qmodel, "int8").report.settings["identical"] == 1
    return qmodel


def twice():
    wrapper, inputs = each(layers.Dense(5)), keras.Input((4, 6))
    return keras.Model(inputs, layers.Flatten()(wrapper(inputs) + wrapper(inputs * 0.5)))


def nested_twice():
    inner, inputs = chain((4, 6), each(layers.Dense(6))), keras.Input((4, 6))
    return keras.Model(inputs, layers.Flatten()(inner(inner(inputs))))


def one_relu():
    relu, inputs = layers.ReLU(name="r"), keras.Input((4, 6))
    x = relu(each(layers.Dense(5))(inputs)) + relu(each(layers.Dense(5))(inputs))
    return keras.Model(inputs, layers.Flatten()(x))


NETWORKS = {
    "called twice": twice,
    "nested, called twice": nested_twice,
    "one activation of two": one_relu,
    "names that are taken": lambda: chain(
        (6, 4), layers.Permute((2, 1), name="td.rows"), each(layers.Dense(5), name="td"),
        layers.Reshape((5, 4), name="td.steps"), layers.Flatten(),
    ),
    "one in another": lambda: chain(
        (2, 3, 8, 8, 3), each(each(chain((8, 8, 3), layers.Conv2D(4, 3), layers.Flatten()))),
        layers.Flatten(), layers.Dense(3),
    ),
    "softmax along the steps": lambda: chain(
        (4, 6), each(layers.Dense(5)), layers.Activation(lambda y: ops.softmax(y, axis=1)),
        layers.Flatten(), layers.Dense(3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_it_holds_is_quantized(kind):
    keras.utils.set_random_seed(0)
    model = NETWORKS[kind]()
    qmodel = quantized(model, examples(40, *model.input_shape[1:]))
    left = [entry.kind for entry in qmodel.compression_report.left]
    assert "TimeDistributed" not in left and "Dense" not in left


def test_outputs_keep_their_names():
    inputs = keras.Input((4, 6))
    td = each(layers.Dense(5), name="td")(inputs)
    r = layers.ReLU(name="r")(each(layers.Dense(5), name="other")(inputs))
    d = layers.Dense(2, name="d")(layers.Flatten()(td))
    x = examples(40, 4, 6)
    for outputs in ({"td": td, "r": r, "d": d}, [td, r, d]):
        model = keras.Model(inputs, outputs)
        qmodel = tfc.quantize_aware(model, calibration_data=x)
        assert qmodel.output_names == model.output_names
        tflite = tfc.convert(qmodel, "int8")
        assert sorted(tflite.predict(x)) == ["d", "r", "td"]


@pytest.mark.parametrize("options", [{"exclude": "*"}, {"include": "last"}, {"exclude": "td"}])
def test_what_is_excluded_keeps_its_values(options):
    keras.utils.set_random_seed(0)
    last = layers.Dense(3, name="last")
    model = chain((4, 6), each(layers.Dense(5), name="td"), layers.Flatten(), last)
    x = examples(8, 4, 6)
    qmodel = tfc.quantize_aware(model, calibration_data=x, **options)
    names = [layer.name for layer in qmodel.layers]
    assert not [name for name in names if name.startswith("td.rows_")]
    if options == {"exclude": "*"}:
        np.testing.assert_allclose(qmodel.predict(x), model.predict(x), rtol=0, atol=1e-6)


def test_dropout_of_whole_steps_stays_where_it_is():
    model = chain(
        (4, 6), each(layers.Dense(6)), layers.Dropout(0.5, noise_shape=(None, 1, 6)),
        layers.Flatten(), layers.Dense(3),
    )  # fmt: skip
    qmodel = tfc.quantize_aware(model, calibration_data=examples(4, 4, 6))
    assert qmodel(examples(2, 4, 6), training=True).shape == (2, 3)
