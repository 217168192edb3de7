"""Files of decoders: the text that they generate is the Keras model's."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.errors import (
    ConfigError,
    ConversionError,
    CorruptFileError,
    DataError,
    ModelTypeError,
)

WORDS, CONTEXT, CHUNK = 23, 32, 4
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]  # two chunks and a half


def _scrambled(model: keras.Model, seed: int = 0) -> keras.Model:
    """Weights under which no two tokens are alike."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        base = 1.0 if weight.name == "gamma" else 0.0
        weight.assign(rng.normal(base, 0.25, weight.shape))
    return model


def _gpt(**options) -> keras.Model:
    sizes = {"width": 16, "heads": 4, "blocks": 2} | options
    return _scrambled(tfc.models.gpt_decoder(WORDS, CONTEXT, **sizes))


def _greedy(model: keras.Model, count: int, prompt=tuple(PROMPT)) -> list[int]:
    """What Keras goes on with, by the whole text each time."""
    text = list(prompt)
    for _ in range(count):
        whole = np.zeros((1, CONTEXT), "int32")
        whole[0, : len(text)] = text
        text.append(int(np.argmax(model.predict_on_batch(whole)[0, len(text) - 1])))
    return text[len(prompt) :]


def _stored(tflite: tfc.TFLiteModel) -> int:
    """Bytes of all constants in a file."""
    parsed = tflite.parsed
    stored = {t.buffer: parsed.data(t) for g in parsed.subgraphs for t in g.tensors}
    return sum(data.nbytes for data in stored.values() if data is not None)


@pytest.fixture(scope="module")
def model():
    return _gpt(kv_heads=2, positions="rotary")


@pytest.fixture(scope="module")
def tflite(model):
    return tfc.convert_decoder(model, prefill=CHUNK)


def test_greedy_text_is_that_of_keras(model, tflite):
    room = CONTEXT - len(PROMPT)
    expected = _greedy(model, room)
    assert len(set(expected)) > 5  # no text that any decoder would make
    text = tfc.generate(tflite, PROMPT, max_new_tokens=room)
    assert list(text) == expected
    assert text.stats.ended == "tokens"
    assert (text.stats.prompt_tokens, text.stats.new_tokens) == (len(PROMPT), room)
    assert text.stats.prefill_per_second > 0 and text.stats.decode_per_second > 0


def test_prompts_of_any_length(model, tflite):
    for count in (1, 2, CHUNK, CHUNK + 1, CHUNK + 2, CONTEXT):
        prompt = (PROMPT * 4)[:count]
        assert list(tfc.generate(tflite, prompt, max_new_tokens=1)) == _greedy(model, 1, prompt)


def test_the_signatures_share_their_weights(model, tflite):
    weights = 4 * model.count_params()
    assert weights <= _stored(tflite) < weights + 4_000  # and constants such as rows of ones
    assert not tflite.keeps_state
    assert {s.key for s in tflite.parsed.signatures} == {"decode", "prefill"}
    settings = tflite.report.settings
    assert settings["largest_error"] < 1e-5 and settings["agreement"] == 1.0
    # The head of the graph (positions, the row of the token) is left, the rest is one partition.
    report = tfc.inspect(tflite)
    assert [sum(p.subgraph == n for p in report.partitions) for n in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"positions": "learned", "tie_embeddings": True, "norm": "post"}, "fp32"),
        ({"positions": "learned", "activation": "relu", "width": 64}, "weight-int8"),
        ({"positions": "learned", "kv_heads": 1, "width": 64}, "dynamic"),
    ],
)
def test_other_decoders_and_precisions(options, precision):
    model = _gpt(blocks=1, **options)
    file = tfc.convert_decoder(model, precision, prefill=CHUNK)
    expected = _greedy(model, 6)
    given = list(tfc.generate(file, PROMPT, max_new_tokens=6))
    if precision == "fp32":
        assert given == expected
        return
    assert file.report.settings["largest_error"] < 0.05
    assert _stored(file) < 4 * model.count_params() * 0.6


def test_a_decoder_that_was_made_smaller():
    model = _gpt(positions="learned")
    smaller = tfc.factorize(tfc.shrink(model, 0.3, round_to=1), rank=6)
    smaller = tfc.drop_layers(smaller, ["block_2_ffn_*"])
    assert smaller.count_params() < 0.8 * model.count_params()
    file = tfc.convert_decoder(smaller, prefill=CHUNK)
    expected = _greedy(smaller, 12)
    assert list(tfc.generate(file, PROMPT, max_new_tokens=12)) == expected


def test_a_decoder_of_ones_own_that_ends_in_a_softmax():
    """Attention of one head over the positions so far, nothing of tfc.models in it."""
    layers, ops = keras.layers, keras.ops
    tokens = keras.Input((CONTEXT,), dtype="int32")
    x = layers.Embedding(WORDS, 8)(tokens)
    places = ops.cumsum(ops.ones_like(tokens), axis=1)
    ahead = ops.expand_dims(places, 1) > ops.expand_dims(places, 2)
    scores = ops.matmul(x, ops.transpose(layers.Dense(8)(x), (0, 2, 1)))
    scores = scores - ops.cast(ahead, "float32") * 100.0
    x = layers.Add()([x, ops.matmul(ops.softmax(scores), layers.Dense(8)(x))])
    model = _scrambled(keras.Model(tokens, layers.Dense(WORDS, activation="softmax")(x)))
    file = tfc.convert_decoder(model, prefill=CHUNK)
    assert "probabilities" in next(s for s in file.parsed.signatures if s.key == "decode").outputs
    assert list(tfc.generate(file, PROMPT, max_new_tokens=12)) == _greedy(model, 12)


@pytest.mark.parametrize("kind", ["MultiHeadAttention", "GroupQueryAttention"])
def test_a_decoder_of_keras_attention_layers(kind):
    layers = keras.layers
    tokens = keras.Input((CONTEXT,), dtype="int32")
    x = layers.Embedding(WORDS, 12)(tokens)
    attention = layers.MultiHeadAttention(3, 4, value_dim=5)
    if kind == "GroupQueryAttention":
        attention = layers.GroupQueryAttention(4, 3, 1)
    for _ in range(1 + (kind == "MultiHeadAttention")):
        y = layers.RMSNormalization()(x)
        x = layers.Add()([x, attention(y, y, use_causal_mask=True)])
    model = _scrambled(keras.Model(tokens, layers.Dense(WORDS)(x)))
    file = tfc.convert_decoder(model, prefill=CHUNK)
    assert list(tfc.generate(file, PROMPT, max_new_tokens=10)) == _greedy(model, 10)


def test_a_mixed_precision_model_that_gives_a_list():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inner = tfc.models.gpt_decoder(WORDS, CONTEXT, width=16, heads=2, blocks=1)
    finally:
        keras.config.set_dtype_policy("float32")
    model = _scrambled(keras.Model(inner.inputs, [inner.output]))
    file = tfc.convert_decoder(model, prefill=CHUNK)
    assert file.report.settings["largest_error"] < 1e-5


def _of(build) -> keras.Model:
    tokens = keras.Input((CONTEXT,), dtype="int32")
    x = keras.layers.Embedding(WORDS, 8)(tokens)
    return keras.Model(tokens, keras.layers.Dense(WORDS)(build(x)))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: _of(keras.layers.Conv1D(8, 3, padding="same", name="smooth")), "'smooth'"),
        (lambda: _of(keras.layers.LSTM(8, return_sequences=True, name="loop")), "'loop'"),
        (lambda: _of(keras.layers.GlobalAveragePooling1D(name="all")), "'all'"),
        (lambda: keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(2)]), "token ids"),
        (lambda: tfc.models.lstm_language_model(9, None), "fixed"),
    ],
)
def test_what_is_no_decoder_is_refused_by_name(build, text):
    with pytest.raises(ModelTypeError, match=text):
        tfc.convert_decoder(build())


def test_attention_that_looks_ahead_is_refused():
    """An encoder, whose mask of padding is remembered beside keys and values."""
    encoder = _scrambled(tfc.models.bert_encoder(WORDS, CONTEXT, width=8, heads=1, blocks=1))
    with pytest.raises(ConversionError, match="ahead"):
        tfc.convert_decoder(encoder, prefill=CHUNK)


def test_arguments_out_of_range(model, tmp_path):
    with pytest.raises(ConfigError, match="needs no data"):
        tfc.convert_decoder(model, "int8")
    with pytest.raises(ConfigError, match="built for 32"):
        tfc.convert_decoder(model, context=64)
    with pytest.raises(ConfigError, match="prefill"):
        tfc.convert_decoder(model, prefill=0)
    (tmp_path / "there.tflite").write_bytes(b"")
    with pytest.raises(ConfigError, match="exists"):
        tfc.convert_decoder(model, path=tmp_path / "there.tflite")


def test_draws_repeat_with_a_seed_and_differ_without(tflite):
    def drawn(**options):
        return list(tfc.generate(tflite, [1], max_new_tokens=20, temperature=2.0, **options))

    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    greedy = list(tfc.generate(tflite, [1], max_new_tokens=20))
    assert drawn(top_k=1) == greedy == drawn(top_p=1e-9)


def test_two_texts_at_once_do_not_meet(model, tflite):
    one = tfc.generate(tflite, PROMPT, max_new_tokens=6)
    other = tfc.generate(tflite, PROMPT[::-1], max_new_tokens=6)
    pairs = list(zip(one, other, strict=True))
    assert [a for a, _ in pairs] == _greedy(model, 6)
    assert [b for _, b in pairs] == _greedy(model, 6, tuple(PROMPT[::-1]))


def test_where_a_text_ends(model, tflite):
    expected = _greedy(model, 8)
    text = tfc.generate(tflite, PROMPT, max_new_tokens=8, stop=[expected[3]])
    first = expected.index(expected[3])
    assert list(text) == expected[:first] and text.stats.ended == "stop"
    long = tfc.generate(tflite, PROMPT, max_new_tokens=500)
    assert len(list(long)) == CONTEXT - len(PROMPT) + 1 and long.stats.ended == "context"


@pytest.mark.parametrize(
    ("prompt", "options", "error", "text"),
    [
        ([], {}, DataError, "at least one"),
        ([WORDS], {}, DataError, "from 0 to 22"),
        ([-1], {}, DataError, "from 0 to 22"),
        ("abc", {}, DataError, "token ids"),
        ([1] * (CONTEXT + 1), {}, DataError, "remembers 32"),
        ([1], {"max_new_tokens": 0}, ConfigError, "max_new_tokens"),
        ([1], {"top_k": 5}, ConfigError, "temperature"),
        ([1], {"temperature": float("nan")}, ConfigError, "temperature"),
        ([1], {"temperature": 1.0, "top_p": 0.0}, ConfigError, "top_p"),
    ],
)
def test_what_cannot_be_generated(prompt, options, error, text, tflite):
    with pytest.raises(error, match=text):
        tfc.generate(tflite, prompt, **options)


def test_other_files_are_refused(tflite, float_file):
    with pytest.raises(ModelTypeError, match="convert_decoder"):
        tfc.generate(float_file, [1])
    with pytest.raises(ModelTypeError, match="no other one"):
        tfc.generate(tflite, [1], source=[1])
    with pytest.raises(CorruptFileError):
        tfc.generate(tflite.content[: len(tflite.content) // 2], [1])
