"""Attention under masks in the precisions that calibrate: the masks do not spoil the scores."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.conversion import convert


@pytest.fixture(scope="module")
def padded():
    """A classifier of texts, half of them padded, and its answers."""
    keras.utils.set_random_seed(0)
    sizes = {"width": 32, "heads": 2, "blocks": 2, "dropout": 0.0}
    model = tfc.models.bert_encoder(50, 16, 3, **sizes, pooling="mean")
    rng = np.random.default_rng(1)
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, w.shape) if "gamma" in v.path else rng.normal(0, 0.3, w.shape)
            for v, w in zip(model.weights, model.get_weights(), strict=True)
        ]
    )
    tokens = rng.integers(1, 50, (64, 16))
    tokens[:, 10:] *= rng.random((64, 1)) < 0.5
    return model, tokens.astype("int32"), model.predict(tokens, verbose=0)


def test_int8_takes_our_ranges_where_masks_spoil_the_converters(padded):
    model, tokens, expected = padded
    tflite = tfc.convert(model, "int8", representative_data=tokens)
    found = tflite.predict(tokens)
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.9  # 0.42 by the converter's own
    assert any("masks of large negative numbers" in note for note in tflite.report.notes)
    trained = tfc.quantize_aware(model, calibration_data=tokens)
    np.testing.assert_array_equal(found, tfc.convert(trained, "int8").predict(tokens))


def test_int16x8_of_token_ids(padded):
    model, tokens, expected = padded
    tflite = tfc.convert(model, "int16x8", representative_data=tokens)
    assert np.abs(tflite.predict(tokens) - expected).max() < 0.05  # of 8-bit weights
    kernels = {
        graph.tensors[operator.inputs[0]].dtype
        for graph in tflite.parsed.subgraphs
        for operator in graph.operators
        if operator.name in ("FULLY_CONNECTED", "CONV_2D")
    }
    assert kernels == {"int16"}


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_what_we_cannot_calibrate_stays_the_converters(padded, precision, monkeypatch):
    def refuse(*_):
        raise tfc.ModelTypeError("not this one")

    monkeypatch.setattr(convert, "_calibrated", refuse)
    model, tokens, _ = padded
    tflite = tfc.convert(model, precision, representative_data=tokens)
    assert tflite.predict(tokens).shape == (64, 3)
    said = "Other ranges cannot be had: not this one"
    assert any(said in note for note in tflite.report.notes) == (precision == "int8")


def test_a_classifier_with_large_scores_is_left_to_the_converter():
    inputs = keras.Input((8,))
    dense = keras.layers.Dense(4, activation="softmax")
    model = keras.Model(inputs, dense(keras.layers.Dense(8, activation="relu")(inputs)))
    dense.set_weights([w * 500 for w in dense.get_weights()])
    x = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    tflite = tfc.convert(model, "int8", representative_data=x)
    assert not any("masks" in note for note in tflite.report.notes)
