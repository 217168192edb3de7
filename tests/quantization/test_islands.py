"""Scheme and precision "int8-matmul": products in integers, all between them in float."""

import keras
import numpy as np
import pytest

import tfcompress as tfc

layers = keras.layers


def classifier():
    """Embeddings, attention of two kinds, GELU and ReLU, normalization."""
    keras.utils.set_random_seed(3)
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16, name="words")(tokens)
    y = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    y = layers.Dense(32, activation="gelu", name="wide")(x)
    y = layers.Dense(16, activation="relu", name="narrow")(y)
    q = layers.Reshape((12, 4, 4))(layers.Dense(16, name="query")(y))
    k = layers.Reshape((12, 4, 4))(layers.Dense(16, name="key")(y))
    q, k = layers.Permute((2, 1, 3))(q), layers.Permute((2, 3, 1))(k)
    scores = layers.Softmax()(keras.ops.matmul(q, k))
    y = layers.Permute((2, 1, 3))(keras.ops.matmul(scores, q))
    x = layers.LayerNormalization()(layers.Add()([x, layers.Reshape((12, 16))(y)]))
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(tokens, layers.Dense(3, activation="softmax", name="classes")(x))
    for layer in model.layers:  # so that what is off by one is seen
        for weight in layer.weights:
            weight.assign(weight + np.random.default_rng(1).normal(0, 0.1, weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 50, (200, 12)).astype("int32")


@pytest.fixture(scope="module")
def trained(model, tokens):
    qmodel = tfc.quantize_aware(model, "int8-matmul", calibration_data=tokens)
    qmodel.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    qmodel.fit(tokens, np.arange(200) % 3, verbose=0)
    return qmodel


def test_the_file_computes_what_the_trained_model_does(trained, tokens, tmp_path):
    tflite = tfc.convert(trained, "int8-matmul", verify=tokens)
    assert tflite.report.settings["identical"] == 1.0
    trained.save(tmp_path / "m.keras")
    again = tfc.convert(keras.models.load_model(tmp_path / "m.keras"), "int8-matmul")
    np.testing.assert_array_equal(again.predict(tokens), tflite.predict(tokens))


def test_products_alone_are_integers_in_one_partition(trained, tmp_path):
    path = tmp_path / "m.tflite"
    tfc.convert(trained, "int8-matmul", path=path)
    report = tfc.inspect(path)
    kinds = {}
    for operator in report.operators:
        kinds.setdefault(operator.name, set()).add(operator.output_dtypes[0])
    for name in ("CONV_2D", "BATCH_MATMUL", "RESHAPE", "TRANSPOSE", "GATHER"):
        assert kinds[name] == {"int8"}, name
    for name in ("SOFTMAX", "GELU", "RSQRT", "MEAN", "ADD", "MUL"):
        assert kinds[name] == {"float32"}, name
    assert len(report.partitions) == 1
    assert {o.name for o in report.operators if not o.placed} == {"GATHER"}
    changed = {entry.name for entry in trained.compression_report.changed}
    assert {"words", "attention", "wide", "narrow", "query", "key", "classes"} <= changed
    left = {entry.kind: entry.reason for entry in trained.compression_report.left}
    assert "products alone" in left["LayerNormalization"]
    assert "products alone" in left["Add"]
    (wide,) = (e for e in trained.compression_report.changed if e.name == "wide")
    assert "but for its activation: gelu" in wide.reason


def test_after_training_a_plain_model(model, tokens):
    tflite = tfc.convert(model, "int8-matmul", representative_data=tokens, verify=tokens)
    given, wanted = tflite.predict(tokens), model.predict(tokens, verbose=0)
    assert 10 * np.log10(np.square(wanted).mean() / np.square(given - wanted).mean()) > 25
    # The same as doing it by hand.
    qmodel = tfc.quantize_aware(model, "int8-matmul", calibration_data=tokens)
    np.testing.assert_array_equal(given, tfc.convert(qmodel, "int8-matmul").predict(tokens))


def test_a_decoder(tokens):
    gpt = tfc.models.gpt_decoder(50, 12, width=16, heads=2, blocks=1)
    qmodel = tfc.quantize_aware(gpt, "int8-matmul", calibration_data=tokens)
    tflite = tfc.convert(qmodel, "int8-matmul", verify=tokens[:50])
    # A float sum in another order may take a token over the tie of a grid: 2 of 600 were seen.
    assert tflite.report.settings["identical"] >= 0.99
    assert [operator.name for operator in tflite.operators].count("BATCH_MATMUL") == 2


@pytest.mark.parametrize("shapes", [((5, 8), (8, 3)), ((2, 5, 8), (2, 8, 3))])
def test_products_of_two_tensors_in_full_int8(shapes):
    a, b = (keras.Input(shape) for shape in shapes)
    product = keras.ops.matmul(layers.Dense(shapes[0][-1])(a), layers.Dense(shapes[1][-1])(b))
    model = keras.Model([a, b], layers.Dense(4)(product))
    x = [np.random.default_rng(0).normal(size=(64, *shape)).astype("f4") for shape in shapes]
    qmodel = tfc.quantize_aware(model, calibration_data=x)
    tflite = tfc.convert(qmodel, "int8", verify=x)
    assert tflite.report.settings["identical"] == 1.0
    assert "BATCH_MATMUL" in [operator.name for operator in tflite.operators]
    assert not qmodel.compression_report.left


def test_products_that_stay_float():
    a = keras.Input((2, 4, 4))
    fixed = keras.ops.matmul(keras.ops.matmul(a, a), np.ones((4, 2), "f4"))
    model = keras.Model(a, layers.Dense(2)(fixed))
    x = np.random.default_rng(0).normal(size=(8, 2, 4, 4)).astype("f4")
    qmodel = tfc.quantize_aware(model, calibration_data=x)
    reasons = [entry.reason for entry in qmodel.compression_report.left]
    assert any("both operands are one tensor" in reason for reason in reasons)
    assert any("constant" in reason for reason in reasons)
    tfc.convert(qmodel, "int8", verify=x)


def test_refusals(model, tokens):
    with pytest.raises(tfc.DataError, match="representative_data"):
        tfc.convert(model, "int8-matmul")
    whole = tfc.quantize_aware(model, calibration_data=tokens)
    with pytest.raises(tfc.ConfigError, match="converts to one of"):
        tfc.convert(whole, "int8-matmul")
    with pytest.raises(tfc.ConfigError, match="operators"):
        tfc.QuantizationScheme(operators="some")
    with pytest.raises(tfc.ConfigError, match="one for the whole model"):
        tfc.QuantizationScheme(operators="matmul", overrides={"a": tfc.QuantizationScheme()})
    floats = keras.Sequential([keras.Input((4,)), layers.LayerNormalization()])
    with pytest.raises(tfc.ModelTypeError, match="No layer"):
        tfc.convert(floats, "int8-matmul", representative_data=np.ones((9, 4), "f4"))


@pytest.mark.parametrize("scheme", ["int8-matmul", "int8"])
@pytest.mark.parametrize("tie", [True, False])
def test_a_table_that_embeds_and_scores_is_int8_in_both(scheme, tie):
    """Keras's ReversibleEmbedding: its file has no float table left, and is exact."""
    inputs = keras.Input((6,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(60, 16, tie_weights=tie, name="table")
    x = keras.layers.Dense(16, activation="gelu")(table(inputs))
    model = keras.Model(inputs, table(x, reverse=True))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    x = rng.integers(0, 60, (64, 6)).astype("int32")
    qmodel = tfc.quantize_aware(model, scheme, calibration_data=x)
    (entry,) = [e for e in qmodel.compression_report.entries if e.kind == "ReversibleEmbedding"]
    assert entry.action == "quantized"
    notes = " ".join(qmodel.compression_report.notes)
    assert ("'table' embeds and scores with one table" in notes) == tie
    before, answered = model.predict(x, verbose=0), qmodel.predict(x, verbose=0)
    assert np.abs(answered - before).max() < 0.1 * np.abs(before).max()
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    qmodel.fit(x, x, verbose=0)  # both halves train
    answered = qmodel.predict(x, verbose=0)
    tflite = tfc.convert(qmodel, scheme)
    np.testing.assert_array_equal(tflite.predict(x), answered)
    tensors = tflite.parsed.subgraphs[0].tensors
    assert {t.dtype for t in tensors if set(t.shape) == {60, 16} and t.buffer} == {"int8"}


def test_scores_with_a_soft_cap_stay_float():
    inputs = keras.Input((6,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(20, 8, logit_soft_cap=5.0, name="table")
    model = keras.Model(inputs, table(keras.layers.Dense(8)(table(inputs)), reverse=True))
    x = np.arange(60).reshape(10, 6) % 20
    qmodel = tfc.quantize_aware(model, "int8-matmul", calibration_data=x)
    (entry,) = [e for e in qmodel.compression_report.entries if e.kind == "ReversibleEmbedding"]
    assert "scores with a soft cap" in entry.reason
    found = tfc.convert(qmodel, "int8-matmul").predict(x)
    np.testing.assert_allclose(found, qmodel.predict(x, verbose=0), atol=1e-6)
