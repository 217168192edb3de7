"""`tfc.remove_dead` of a `.tflite`: smaller files that compute the same, int8 to the bit."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from channel_networks import NETWORKS, bn_relu, conv, silence
from surgery_support import chain, examples, scramble

import tfcompress as tfc
from tfcompress.surgery.channels.analysis import Analysis
from tfcompress.surgery.channels.units import families

layers = keras.layers


def silenced(model, share=0.5, seed=0):
    scramble(model, seed)
    found = Analysis(model)
    generator = np.random.default_rng(seed)
    gone = np.zeros(found.classes.max() + 1, bool)
    for family in families(found):
        count = int(len(family.units) * share)
        gone[generator.permutation(family.units)[:count]] = True
    silence(found, gone)
    return model


def mobile():
    inputs = keras.Input((12, 12, 3))
    x = bn_relu(conv(8, use_bias=False)(inputs))
    x = bn_relu(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x))
    x = bn_relu(conv(12, 1)(x))
    y = layers.ReLU(6.0)(conv(12)(layers.MaxPooling2D()(layers.ZeroPadding2D(1)(x))))
    x = layers.Add()([layers.AveragePooling2D(2)(layers.ZeroPadding2D(1)(x)), y])
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(10, activation="relu")(x)))


def same(before, after, x):
    for backend in ("xnnpack", "reference"):
        one, two = (np.asarray(f.predict(x, backend=backend)) for f in (before, after))
        if any("int8" in str(i.dtype) for i in before.parsed.subgraphs[0].tensors):
            np.testing.assert_array_equal(two, one)
        else:
            np.testing.assert_allclose(two, one, rtol=0, atol=1e-5 * np.abs(one).max())


def weights(tflite):
    return sum(len(b) for b in tflite.parsed.buffers if b is not None)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("make", [mobile, NETWORKS["squeeze_excite"]])
def test_silent_channels_go(make, precision):
    model = silenced(make())
    x = examples(model, 30)
    data = x if precision == "int8" else None
    tflite = tfc.convert(model, precision, representative_data=data)
    smaller = tfc.remove_dead(tflite)
    same(tflite, smaller, x)
    assert smaller.report.changed and weights(smaller) < 0.6 * weights(tflite)
    assert smaller.input_order == tflite.input_order
    # What is left has no dead channels.
    again = tfc.remove_dead(smaller)
    assert not again.report.changed and again.content == smaller.content


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_constants_go_into_biases_but_not_where_padding_meets_them(precision):
    """Channels that are a constant other than 0, read by 1x1 and by padded kernels."""
    model = scramble(
        chain(
            (8, 8, 2), layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.Conv2D(6, 1, activation="relu", name="second"),
            layers.Conv2D(4, 3, padding="same", name="third"), layers.GlobalAveragePooling2D(),
        )
    )  # fmt: skip
    for name, count in (("first", 5), ("second", 3)):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[..., :count], bias[:count] = 0, 0.5
        model.get_layer(name).set_weights([kernel, bias])
    x = examples(model, 30)
    tflite = tfc.convert(model, precision, representative_data=x if precision == "int8" else None)
    smaller = tfc.remove_dead(tflite)
    same(tflite, smaller, x)
    told = [(e.action, e.details.get("channels")) for e in smaller.report.entries]
    assert told == [("shrunk", "8 -> 3"), ("left", None), ("left", None)]


def test_what_rounds_by_its_own_range_stays():
    model = silenced(chain((8,), layers.Dense(64, activation="relu"), layers.Dense(48)))
    tflite = tfc.convert(model, "dynamic")
    if tflite.float_tensors and any(
        "int8" in str(t.dtype) for t in tflite.parsed.subgraphs[0].tensors
    ):
        assert tfc.remove_dead(tflite).content == tflite.content


def test_files_of_others(tmp_path):
    data = os.environ.get("TFCOMPRESS_DATA")
    if not data:
        pytest.skip("the shipped files of MLPerf Tiny are in the data folder only")
    path = Path(data) / "mlperf_tiny" / "vww_96_int8.tflite"
    smaller = tfc.remove_dead(path)
    x = np.random.default_rng(0).integers(-1, 2, (20, 96, 96, 3)).astype("float32")
    same(tfc.TFLiteModel(path), smaller, x)
    assert len(smaller.content) < 100_000 < 333_288 == path.stat().st_size
    saved = smaller.save(tmp_path / "smaller.tflite")
    assert tfc.inspect(saved).operators and tfc.remove_dead(saved.read_bytes()).content


def test_several_graphs_are_left():
    model = scramble(chain((6, 4), layers.LSTM(5)))
    tflite = tfc.convert(model)
    smaller = tfc.remove_dead(tflite)
    assert smaller.content == tflite.content
    assert "several graphs" in smaller.report.notes[0] and not smaller.report.entries


@pytest.mark.parametrize("content", [b"", b"TFL3" * 10])
def test_bad_files(content):
    with pytest.raises(tfc.CorruptFileError):
        tfc.remove_dead(content)


def test_a_file_that_declares_gigabytes_is_refused_at_once():
    from tfcompress.runtime.packing import opened, packed

    model = opened(tfc.convert(scramble(chain((8,), layers.Dense(4)))).content)
    for tensor in model.subgraphs[0].tensors:
        if len(tensor.shape) and tensor.shape[0] == 1:
            tensor.shape = np.array([40_000_000, *tensor.shape[1:]], np.int32)
    content = packed(model)
    for call in (tfc.remove_dead, tfc.benchmark):
        with pytest.raises((tfc.CorruptFileError, tfc.DeviceError), match="refuses"):
            call(tfc.TFLiteModel(content))
