"""Tables of embeddings in 8 bits, a scale for each row; weights in blocks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import tfcompress as tfc
from tfcompress.conversion.tables import quantize_tables, quantized_rows

WORDS, WIDTH, LENGTH = 300, 16, 7
PRECISIONS = ("weight-int8", "weight-int4", "dynamic-int4", "dynamic-int4-blocks")


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)),
        elements=st.floats(-(2.0**90), 2.0**90, width=32),
    )
)  # fmt: skip
def test_a_row_is_off_by_half_a_step_at_most(table):
    integers, scales = quantized_rows(table)
    assert integers.dtype == np.int8 and scales.shape == (len(table), 1)
    off = np.abs(integers.astype("float64") * scales - table)
    step = np.maximum(np.abs(table).max(1, keepdims=True).astype("float64") / 127, 1e-37)
    assert (off <= 0.5001 * step).all()
    assert (np.abs(integers.astype(int)) <= 127).all()


def _model(shared=False):
    """Rows of very different size, as words have; the same table for two texts if `shared`."""
    keras.utils.set_random_seed(0)
    table = keras.layers.Embedding(WORDS, WIDTH)
    one = keras.Input((LENGTH,), dtype="int32", name="one")
    x, inputs = table(one), [one]
    if shared:
        other = keras.Input((LENGTH,), dtype="int32", name="other")
        x, inputs = keras.layers.Subtract()([x, table(other)]), [one, other]
    model = keras.Model(inputs if shared else one, x)
    rng = np.random.default_rng(0)
    table.set_weights([rng.normal(size=(WORDS, WIDTH)) * 10.0 ** rng.uniform(-3, 1, (WORDS, 1))])
    return model, table.get_weights()[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_give_integer_times_scale_to_the_bit(precision):
    model, table = _model()
    tflite = tfc.convert(model, precision)
    tokens = np.random.default_rng(1).integers(0, WORDS, (50, LENGTH)).astype("int32")
    integers, scales = quantized_rows(table)
    expected = (integers.astype("float32") * scales)[tokens]
    for backend in ("xnnpack", "reference"):  # there is no Dense layer, so no block
        np.testing.assert_array_equal(tflite.predict(tokens, backend=backend), expected)
    assert len(tflite.content) < len(tfc.convert(model).content) - 2.5 * table.size
    names = [operator.name for operator in tflite.operators]
    assert names.count("GATHER") == 2 and names[-2:] == ["DEQUANTIZE", "MUL"]
    tensors = tflite.parsed.subgraphs[0].tensors
    assert [t.dtype for t in tensors if t.shape == table.shape] == ["int8"]


def test_a_table_that_is_read_twice_is_stored_once():
    model, table = _model(shared=True)
    tflite = tfc.convert(model, "weight-int8")
    rng = np.random.default_rng(1)
    x = {name: rng.integers(0, WORDS, (20, LENGTH)).astype("int32") for name in ("one", "other")}
    integers, scales = quantized_rows(table)
    rows = integers.astype("float32") * scales
    np.testing.assert_array_equal(tflite.predict(x), rows[x["one"]] - rows[x["other"]])
    once = len(tfc.convert(_model()[0], "weight-int8").content)
    assert len(tflite.content) < once + table.size // 2


def test_small_tables_and_other_gathers_stay():
    inputs = keras.Input((4,), dtype="int32")
    small = keras.Model(inputs, keras.layers.Embedding(20, 8)(inputs))
    content = tfc.convert(small).content
    assert quantize_tables(content) == content
    taken = keras.Input((64, 32))
    columns = keras.Model(taken, keras.ops.take(taken, np.arange(0, 32, 3), axis=2))
    content = tfc.convert(columns).content
    assert quantize_tables(content) == content


def test_blocks_where_they_fit():
    """64 and 96 inputs divide into blocks of 32, 50 do not."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 64))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 1, activation="relu")(inputs))
    x = layers.Dense(50)(layers.Dense(96, name="same")(x))
    model = keras.Model(inputs, layers.Dense(10, name="last")(x))
    data = np.random.default_rng(0).random((50, 8, 8, 64)).astype("float32")
    expected = model.predict(data, verbose=0)
    tflite = tfc.convert(model, "dynamic-int4-blocks")
    graph = tflite.parsed.subgraphs[0]
    blocks = [
        getattr(graph.tensors[operator.inputs[1]].quantization.blocks, "block_size", 0)
        for operator in graph.operators
        if operator.name == "FULLY_CONNECTED"
    ]
    assert blocks == [32, 32, 0]
    kernels = {
        graph.tensors[operator.inputs[1]].dtype
        for operator in graph.operators
        if operator.name in ("FULLY_CONNECTED", "CONV_2D")
    }
    assert kernels == {"int4"}
    off = tflite.predict(data) - expected
    assert np.abs(off).max() < 0.2 * np.abs(expected).max()
    # Measured: off by several times the outputs, and no error.
    with pytest.raises(tfc.DeviceError, match="scales of weights in blocks for those"):
        tflite.predict(data, backend="reference")


def test_a_table_beside_weights_in_blocks():
    """Weights name the tensors of their scales by numbers, which change where a table goes."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Concatenate()([layers.Embedding(200, 32)(inputs), layers.Embedding(200, 32)(inputs)])
    x = layers.Flatten()(x)
    for units in (64, 96, 32):
        x = layers.Dense(units, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(8)(x))
    model.set_weights([30 * w for w in model.get_weights()])
    tokens = np.random.default_rng(0).integers(0, 200, (100, 4)).astype("int32")
    expected = model.predict(tokens, verbose=0)
    for precision, backend in (
        ("dynamic-int4-blocks", "xnnpack"),
        ("dynamic-int4", "xnnpack"),
        ("dynamic-int4", "reference"),
    ):
        off = tfc.convert(model, precision).predict(tokens, backend=backend) - expected
        assert np.square(off).mean() < 0.05 * np.square(expected).mean()


@pytest.mark.parametrize("tied", [False, True])
def test_decoders_with_tables_and_blocks(tied):
    keras.utils.set_random_seed(0)
    gpt = tfc.models.gpt_decoder(200, 32, width=32, heads=2, blocks=2, tie_embeddings=tied)
    text = np.random.default_rng(0).integers(0, 200, 30).tolist()
    exact = tfc.perplexity(tfc.convert_decoder(gpt), text)["cross_entropy"]
    for precision in PRECISIONS:
        found = tfc.perplexity(tfc.convert_decoder(gpt, precision), text)["cross_entropy"]
        assert found == pytest.approx(exact, abs=0.02)


def test_narrow_tables_stay():
    inputs = keras.Input((4,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Embedding(2_000, 1)(inputs))
    content = tfc.convert(model).content
    assert quantize_tables(content) == content


def test_large_files_whose_data_lies_behind_the_container():
    """From some size on, ai-edge-quantizer writes weights behind the flatbuffer."""
    keras.utils.set_random_seed(0)
    model = tfc.models.bert_encoder(3_000, 16, 4, width=128, heads=4, blocks=2, dropout=0.0)
    tokens = np.random.default_rng(0).integers(1, 3_000, (20, 16)).astype("int32")
    tflite = tfc.convert(model, "weight-int8")
    assert len(tflite.content) < 1.15 * model.count_params()
    expected = model.predict(tokens, verbose=0)
    np.testing.assert_allclose(tflite.predict(tokens), expected, atol=0.02)
    np.testing.assert_array_equal(tfc.slim(tflite).predict(tokens), tflite.predict(tokens))
