import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.conversion.checks import layer_of
from tfcompress.runtime.noise import signal_to_noise, trace_noise

layers = keras.layers


def noisy_model():
    """One layer ruins int8: a few huge weights in a per-tensor activation of tiny signal."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    x = layers.Dense(16, activation="relu", name="good")(inputs)
    x = layers.Dense(16, name="outlier")(x)
    x = layers.Dense(16, activation="relu", name="after")(x)
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    kernel, bias = model.get_layer("outlier").get_weights()
    bias[0] = 5000.0  # one channel stretches the range over all others
    model.get_layer("outlier").set_weights([kernel, bias])
    kernel, bias = model.get_layer("after").get_weights()
    kernel[0] = 0.0  # and is not used
    model.get_layer("after").set_weights([kernel, bias])
    return model


def test_the_layer_that_costs_the_signal_is_named():
    model = noisy_model()
    x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    tflite = tfc.convert(model, "int8", representative_data=x)
    measured = signal_to_noise(tflite.predict(x[:32]), model.predict(x[:32], verbose=0))
    assert tflite.report.settings["snr_db"] == pytest.approx(measured, abs=0.2)
    assert measured < 20
    (note,) = [n for n in tflite.report.notes if "signal to noise" in n]
    named = {entry.name for entry in tflite.report.entries}
    assert "after" in named and "after" in note
    assert "good" not in named


def test_a_good_conversion_says_its_noise_and_blames_nobody(small_model, images):
    x = images[0][:64]
    report = tfc.convert(small_model, "int8", representative_data=x).report
    assert report.settings["snr_db"] > 20
    assert report.notes == [] and report.entries == []


def test_noise_of_every_operator_equals_what_keras_says(small_model, images):
    x = images[0][:16]
    int8 = tfc.convert(small_model, "int8", representative_data=x)
    rows = trace_noise(int8.content, tfc.convert(small_model).content, [x[:, None]])
    assert [row.operator for row in rows] == [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "MEAN",
        "FULLY_CONNECTED",
    ]
    expected = small_model.predict(x, verbose=0)
    # the trace runs the builtin kernels
    found = int8.predict(x, backend="reference")
    assert rows[-1].snr_db == pytest.approx(signal_to_noise(found, expected), abs=0.05)


def test_names_of_fused_tensors_lead_to_the_layer():
    known = {"conv": True, "conv_bn": False, "relu": False, "dense_1": True, "net": False}
    assert layer_of("net_1/relu_1/Relu6;net_1/conv_bn_1/add;net_1/conv_1/convolution", known) == (
        "conv"
    )
    assert layer_of("net/relu/Relu6", known) == "relu"
    assert layer_of("net/dense_1/BiasAdd", known) == "dense_1"
    assert layer_of("arith.constant", known) == "arith.constant"


def test_signal_to_noise_is_the_formula():
    assert signal_to_noise(np.array([1.1, 2.0]), np.array([1.0, 2.0])) == pytest.approx(
        10 * np.log10(5 / 0.01)
    )
    assert signal_to_noise(np.ones(3), np.ones(3)) == float("inf")


def test_a_masked_mean_is_not_tried_on_padding_alone():
    """0 / 0 in Keras as well."""
    model = keras.Sequential(
        [
            keras.Input((8,), dtype="int32"),
            keras.layers.Embedding(50, 16, mask_zero=True),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2),
        ]
    )
    ids = np.random.default_rng(0).integers(0, 50, (4, 8)).astype("int32")
    np.testing.assert_allclose(tfc.convert(model).predict(ids), model(ids), atol=1e-5)
