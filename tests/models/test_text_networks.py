"""The networks for texts: what they compute, and that files and verbs take them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress import models
from tfcompress.errors import ConfigError
from tfcompress.surgery.blocks import find_blocks

SMALL = {"width": 16, "heads": 4, "blocks": 2}
BUILDERS = {
    "bert": lambda: models.bert_encoder(20, 8, 3, **SMALL),
    "bert_mean": lambda: models.bert_encoder(
        20, 8, 3, kv_heads=2, norm="pre", positions="rotary", pooling="mean", **SMALL
    ),
    "gpt": lambda: models.gpt_decoder(20, 8, kv_heads=2, positions="rotary", **SMALL),
    "gpt_tied": lambda: models.gpt_decoder(20, 8, tie_embeddings=True, norm="post", **SMALL),
    "encoder_decoder": lambda: models.encoder_decoder(20, 30, 8, 6, width=16, heads=4, blocks=1),
    "lstm": lambda: models.lstm_language_model(20, 8, width=8, units=8),
    "text_cnn": lambda: models.text_cnn(20, 8, 3, width=8, filters=4),
}


def _tokens(model: keras.Model, count: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.integers(1, 20, (count, tensor.shape[1])).astype("int32")
        for tensor in model.inputs
    }


def _run(model: keras.Model, x: dict[str, np.ndarray]) -> np.ndarray:
    """Outputs without a graph to trace first."""
    given = model(x if len(x) > 1 else next(iter(x.values())), training=False)
    return keras.tree.map_structure(np.asarray, given)


@pytest.fixture(scope="module")
def nets():
    keras.utils.set_random_seed(0)
    made = {name: build() for name, build in BUILDERS.items()}
    rng = np.random.default_rng(0)
    for model in made.values():  # zeros would hide where biases go
        for weight in model.weights:
            if weight.name in ("bias", "beta"):
                weight.assign(rng.normal(0, 0.3, weight.shape))
    return made


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_holds_keras_layers_only_and_survives_a_file(name, nets, tmp_path):
    model = nets[name]
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    assert [layer.name for layer in BUILDERS[name]().layers] == [x.name for x in model.layers]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = _tokens(model)
    np.testing.assert_array_equal(_run(loaded, x), _run(model, x))


@pytest.mark.parametrize("name", ["gpt", "encoder_decoder"])
def test_the_file_gives_the_models_answer_in_one_partition(name, nets):
    model = nets[name]
    tflite, x = tfc.convert(model), _tokens(model)
    given = tflite.predict(x)
    np.testing.assert_allclose(given, _run(model, x), rtol=1e-4, atol=1e-5)
    assert len(tfc.inspect(tflite).partitions) == 1


def test_parameters_are_those_of_the_sum():
    width, hidden, words, places = 16, 24, 20, 8
    attention = 4 * (width * width + width)
    feed_forward = width * hidden + hidden + hidden * width + width
    block = attention + feed_forward + 2 * 2 * width
    model = models.gpt_decoder(words, places, width=width, heads=4, blocks=3, hidden=hidden)
    head = 2 * width + width * words + words
    assert model.count_params() == (words + places) * width + 3 * block + head
    tied = models.gpt_decoder(words, places, hidden=hidden, tie_embeddings=True, **SMALL)
    assert tied.count_params() == (words + places) * width + 2 * block + 2 * width


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_is_that_of_keras(kv_heads):
    model = models.gpt_decoder(20, 8, kv_heads=kv_heads, **SMALL)
    layers = [model.get_layer(f"block_1_attention_{part}") for part in
              ("norm", "query", "key", "value", "output")]  # fmt: skip
    rng = np.random.default_rng(2)
    for layer in layers[1:]:
        layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    probe = keras.Model(model.input, [layers[0].output, layers[-1].output])
    seen, given = _run(probe, _tokens(model))
    if kv_heads == 4:
        reference = keras.layers.MultiHeadAttention(4, 4)
    else:
        reference = keras.layers.GroupQueryAttention(4, 4, kv_heads)
    reference.build(seen.shape, seen.shape)
    ours = [w for layer in layers[1:] for w in layer.get_weights()]
    reference.set_weights(
        [w.reshape(r.shape) for w, r in zip(ours, reference.get_weights(), strict=True)]
    )
    reference.set_weights(  # ours adds this bias to scores that have been divided already
        [w * (2.0 if n == 1 else 1.0) for n, w in enumerate(reference.get_weights())]
    )
    expected = reference(seen, seen, use_causal_mask=True)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt", "gpt_tied", "encoder_decoder"])
def test_a_token_is_not_told_of_those_behind_it(name, nets):
    model = nets[name]
    x = _tokens(model)
    target = list(x)[-1]
    changed = {**x, target: x[target].copy()}
    changed[target][:, 4:] = 19 - changed[target][:, 4:]
    before, after = _run(model, x), _run(model, changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_changes_nothing(pooling):
    options = {**SMALL, "positions": "rotary", "pooling": pooling}
    short, long = (models.bert_encoder(20, n, 3, **options) for n in (5, 9))
    long.set_weights(short.get_weights())
    x = _tokens(short)
    padded = {"tokens": np.pad(x["tokens"], ((0, 0), (0, 4)))}
    np.testing.assert_allclose(_run(long, padded), _run(short, x), rtol=1e-5, atol=1e-6)


def test_rotary_scores_know_distances_only():
    """A text of one token over and over: each place sees the same at every distance."""
    model = models.bert_encoder(20, 6, width=8, heads=2, blocks=1, positions="rotary", dropout=0.0)
    query = model.get_layer("block_1_attention_query_turned").output
    key = model.get_layer("block_1_attention_key_turned").output
    q, k = _run(keras.Model(model.input, [query, key]), {"tokens": np.full((1, 6), 7)})
    scores = np.einsum("qhd,khd->hqk", q[0], k[0])
    for distance in range(-5, 6):
        line = np.diagonal(scores, distance, 1, 2)
        np.testing.assert_allclose(line, line[:, :1].repeat(line.shape[1], 1), atol=1e-5)
    assert np.ptp(scores[:, 0]) > 1e-6


def _one_block() -> keras.Model:
    return models.gpt_decoder(20, 8, width=16, heads=4, blocks=1, kv_heads=2, positions="rotary")


def test_mixed_precision_trains_and_converts():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = _one_block()
    finally:
        keras.config.set_dtype_policy("float32")
    float_model, x = _one_block(), _tokens(model)
    float_model.set_weights(model.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = _run(float_model, x)
    given = tfc.convert(model).predict(x)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)
    model.compile("adam", loss, jit_compile=False)
    model.fit(x["tokens"], x["tokens"], verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: models.gpt_decoder(20, width=10, heads=4), "`heads` divides"),
        (lambda: models.gpt_decoder(20, heads=4, kv_heads=3), "`heads` divides"),
        (lambda: models.gpt_decoder(20, width=12, heads=4, positions="rotary"), "even number"),
        (lambda: models.gpt_decoder(20, norm="middle"), "`norm` is one of"),
        (lambda: models.bert_encoder(20, 8, 2, pooling="max"), "`pooling` is one of"),
        (lambda: models.encoder_decoder(0, 20), "positive integer"),
        (lambda: models.text_cnn(20, 4), "at most `length`"),
    ],
)
def test_arguments_out_of_range(build, text):
    with pytest.raises(ConfigError, match=text):
        build()


def test_attention_is_quantized_but_for_masks_and_softmax():
    keras.utils.set_random_seed(0)
    model = models.bert_encoder(20, 8, 3, width=16, heads=4, kv_heads=2, blocks=1)
    x = _tokens(model, 40)["tokens"]
    quantized = tfc.quantize_aware(model, calibration_data=x)
    left = {entry.name: entry.reason for entry in quantized.compression_report.left}
    assert "masks scores" in left["block_1_attention_masked"]
    assert not [name for name, reason in left.items() if "matmul" in name or "int8 form of M" in
                reason]  # fmt: skip
    tflite = tfc.convert(quantized, "int8")
    np.testing.assert_array_equal(tflite.predict(x), quantized.predict(x, verbose=0))
    products = [op for op in tflite.operators if op.name == "BATCH_MATMUL"]
    tensors = {t.name: t.dtype for t in tflite.parsed.subgraphs[0].tensors}
    assert [tensors[op.outputs[0]] for op in products] == ["int8", "int8"]


def test_what_makes_models_smaller_sees_through_attention(nets):
    model = nets["encoder_decoder"]
    smaller = tfc.factorize(tfc.shrink(model, 0.4, target="parameters", round_to=1), rank=5)
    assert smaller.count_params() < 0.6 * model.count_params()
    assert _run(smaller, _tokens(model)).shape == (3, 6, 30)
    kinds = [block.kind for block in find_blocks(nets["gpt"])]
    assert kinds.count("transformer") == 2 and kinds.count("residual") == 4
    dropped = tfc.drop_layers(nets["gpt"], next(b for b in find_blocks(nets["gpt"])
                                                if b.kind == "transformer"))  # fmt: skip
    assert not any(layer.name.startswith("block_1_a") for layer in dropped.layers)
