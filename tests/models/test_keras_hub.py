"""Transformers of keras-hub, written out in stock layers: the same outputs, and every verb."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.errors import ConfigError, ModelTypeError

LENGTH, VOCABULARY = 12, 40
SIZES = {
    "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24,
}  # fmt: skip
SIZED = {"vocabulary_size": VOCABULARY, **SIZES, "max_sequence_length": LENGTH + 4}
hub = keras_hub.models

MODELS = {
    "BertTextClassifier": lambda: hub.BertTextClassifier(hub.BertBackbone(**SIZED), 3),
    "RobertaTextClassifier": lambda: hub.RobertaTextClassifier(hub.RobertaBackbone(**SIZED), 3),
    "DistilBertBackbone": lambda: hub.DistilBertBackbone(**SIZED),
    "ElectraBackbone": lambda: hub.ElectraBackbone(
        VOCABULARY, **SIZES, embedding_dim=8, max_sequence_length=LENGTH
    ),
    "GPT2CausalLM": lambda: hub.GPT2CausalLM(hub.GPT2Backbone(**SIZED)),
    "OPTCausalLM": lambda: hub.OPTCausalLM(hub.OPTBackbone(**SIZED)),
    "BartSeq2SeqLM": lambda: hub.BartSeq2SeqLM(hub.BartBackbone(**SIZED)),
}


def made(name):
    """The model, every weight of it drawn, biases and norms included."""
    model = MODELS[name]()
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, w.shape) if "gamma" in v.path else rng.normal(0, 0.3, w.shape)
            for v, w in zip(model.weights, model.get_weights(), strict=True)
        ]
    )
    return model


def texts(model, count=6):
    """Texts of several lengths, padded with 0 behind them, and the mask that says where."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, LENGTH + 1, (count, 1))
    seen = (np.arange(LENGTH) < lengths).astype("int32")
    given = {}
    for tensor in model.inputs:
        tokens = rng.integers(1, VOCABULARY, (count, LENGTH)) * seen
        segments = np.tile(np.arange(LENGTH) > 5, (count, 1))
        kinds = {"mask": seen, "segment": segments}
        (value,) = [v for k, v in kinds.items() if k in tensor.name] or [tokens]
        given[tensor.name] = value.astype("int32")
    return given, seen.astype(bool)


def answers(model, given):
    """All outputs, flat; inputs that the model does not have are left away."""
    own = {tensor.name: given[tensor.name] for tensor in model.inputs}
    found = model.predict(own if len(own) > 1 else next(iter(own.values())), verbose=0)
    return keras.tree.flatten(found)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_same_and_keras_alone_loads_it(name, tmp_path):
    model = made(name)
    plain = tfc.models.from_keras_hub(model, LENGTH)
    given, seen = texts(model)
    for ours, theirs in zip(answers(plain, given), answers(model, given), strict=True):
        if theirs.ndim == 3:
            ours, theirs = ours[seen], theirs[seen]
        np.testing.assert_allclose(ours, theirs, atol=5e-6 * np.abs(theirs).max())
    modules = {type(layer).__module__ for layer in plain._flatten_layers()}
    assert not any(module.startswith("keras_hub") for module in modules)
    plain.save(tmp_path / "plain.keras")
    assert "keras_hub" not in _config_of(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "plain.keras")
    for one, other in zip(answers(loaded, given), answers(plain, given), strict=True):
        np.testing.assert_array_equal(one, other)


def _config_of(path):
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


@pytest.mark.parametrize("name", ["BertTextClassifier", "BartSeq2SeqLM"])
def test_masks_made_of_tokens(name):
    model = made(name)
    given, seen = texts(model)
    plain = tfc.models.from_keras_hub(model, LENGTH, padding=0)
    assert not any("mask" in tensor.name for tensor in plain.inputs)
    ours, theirs = answers(plain, given)[0], answers(model, given)[0]
    if theirs.ndim == 3:
        ours, theirs = ours[seen], theirs[seen]
    np.testing.assert_allclose(ours, theirs, atol=5e-6 * np.abs(theirs).max())
    # Another token pads: the same texts, with the two exchanged.
    swapped = {
        key: np.where(value == 0, 7, np.where(value == 7, 0, value)) if "token" in key else value
        for key, value in given.items()
    }
    seventh = tfc.models.from_keras_hub(model, LENGTH, padding=7)
    ours, theirs = answers(seventh, swapped)[0], answers(model, swapped)[0]
    if theirs.ndim == 3:
        ours, theirs = ours[seen], theirs[seen]
    np.testing.assert_allclose(ours, theirs, atol=5e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["BertTextClassifier", "GPT2CausalLM"])
@pytest.mark.parametrize("form", ["as it is", "written out", "quantize-aware"])
def test_goes_through_convert(name, form):
    model = made(name)
    given, seen = texts(model, 32)
    expected = answers(model, given)[0]
    bounds = {"fp32": 1e-5, "dynamic": 0.1, "int8": 0.25, "int8-matmul": 0.25}
    shapes = dict.fromkeys(given, (LENGTH,)) if form == "as it is" else None
    if form == "as it is":
        # Keras-hub's layers hold their products inside; the converter's own int8 puts masks on the
        # grid of the scores: it runs, and that is all.
        bounds = {"fp32": 1e-5, "dynamic": 0.1, "int8": np.inf}
    else:
        model = tfc.models.from_keras_hub(model, LENGTH)
        given = {tensor.name: given[tensor.name] for tensor in model.inputs}
        given = given if len(given) > 1 else given["token_ids"]
        del bounds["int8"]
    if form == "quantize-aware":
        model = tfc.quantize_aware(model, "int8", calibration_data=given)
        bounds = {"int8": 0.25}
    for precision, bound in bounds.items():
        samples = given if precision.startswith("int8") and form != "quantize-aware" else None
        tflite = tfc.convert(model, precision, representative_data=samples, input_shapes=shapes)
        off = np.abs(tflite.predict(given) - expected)
        assert (off[seen] if expected.ndim == 3 else off).max() < bound * np.abs(expected).max()


def test_every_verb_reaches_the_layers():
    model = tfc.models.from_keras_hub(made("BertTextClassifier"), LENGTH, padding=0)
    given, _ = texts(model, 32)
    qmodel = tfc.quantize_aware(model, "int8-matmul", calibration_data=given)
    left = {entry.kind for entry in qmodel.compression_report.left}
    assert "Dense" not in left
    answered = qmodel.predict(given, verbose=0)
    np.testing.assert_array_equal(tfc.convert(qmodel, "int8-matmul").predict(given), answered)
    smaller = tfc.shrink(model, 0.3, round_to=4)
    assert tfc.complexity(smaller).multiply_adds <= 0.72 * tfc.complexity(model).multiply_adds
    half = tfc.drop_layers(model, "transformer_layer_1*")
    assert half.output_shape == model.output_shape


def test_gpt2_writes_the_same_text_from_its_file():
    model = made("GPT2CausalLM")
    plain = tfc.models.from_keras_hub(model, LENGTH)
    prompt, count = [3, 9, 4], LENGTH - 3
    text = prompt.copy()
    for _ in range(count):
        tokens = np.array([text + [0] * (LENGTH - len(text))])
        given = {"token_ids": tokens, "padding_mask": (np.arange(LENGTH) < len(text))[None]}
        text.append(int(model.predict(given, verbose=0)[0, len(text) - 1].argmax()))
    made_by_file = tfc.generate(tfc.convert_decoder(plain), prompt, max_new_tokens=count)
    assert prompt + list(made_by_file) == text


def test_bart_writes_the_same_text_from_its_file():
    model = made("BartSeq2SeqLM")
    plain = tfc.models.from_keras_hub(model, LENGTH, padding=0)
    file = tfc.convert_decoder(plain, target="decoder_token_ids")
    source, text = [5, 6, 7], [2]
    heard = np.array([source + [0] * (LENGTH - 3)])
    for _ in range(6):
        tokens = np.array([text + [0] * (LENGTH - len(text))])
        given = {"encoder_token_ids": heard, "decoder_token_ids": tokens}
        given["encoder_padding_mask"] = heard > 0
        given["decoder_padding_mask"] = (np.arange(LENGTH) < len(text))[None]
        text.append(int(model.predict(given, verbose=0)[0, len(text) - 1].argmax()))
    assert list(tfc.generate(file, [2], source=source, max_new_tokens=6)) == text[1:]


def test_what_cannot_be_written_out():
    with pytest.raises(ModelTypeError, match="called more than once, as in ALBERT"):
        backbone = hub.AlbertBackbone(
            VOCABULARY, **SIZES, embedding_dim=8, max_sequence_length=LENGTH
        )
        tfc.models.from_keras_hub(backbone, LENGTH)
    with pytest.raises(ModelTypeError, match="'mlm_head' is a MaskedLMHead of keras-hub"):
        tfc.models.from_keras_hub(hub.BertMaskedLM(hub.BertBackbone(**SIZED)), LENGTH)
    with pytest.raises(ConfigError, match="`length` is at most 16"):
        tfc.models.from_keras_hub(hub.GPT2Backbone(**SIZED), LENGTH + 5)
    with pytest.raises(ConfigError, match="`length`"):
        tfc.models.from_keras_hub(hub.GPT2Backbone(**SIZED), 0)
    with pytest.raises(ModelTypeError, match="built keras-hub model"):
        tfc.models.from_keras_hub("bert", LENGTH)


def wired(tables=None, blocks=None, **inputs):
    """A model of keras-hub's layers: (token ids -> x), (x, inputs -> x)."""
    named = {name: keras.Input((6,), dtype="int32", name=name) for name in ("token_ids", *inputs)}
    tables = tables or keras_hub.layers.TokenAndPositionEmbedding(20, 6, 8)
    x = tables(named["token_ids"])
    x = (blocks or (lambda x, named: keras_hub.layers.TransformerEncoder(16, 2)(x)))(x, named)
    return keras.Model(named, x)


def test_what_would_come_out_wrong_is_refused():
    both = keras_hub.layers.TokenAndPositionEmbedding
    encoder, decoder = keras_hub.layers.TransformerEncoder, keras_hub.layers.TransformerDecoder
    cases = [
        (wired(both(20, 6, 8, mask_zero=True)), {}, ModelTypeError, "mask_zero=True"),
        (
            wired(lambda ids: both(20, 9, 8)(ids, start_index=3)),
            {}, ModelTypeError, "'start_index'",
        ),
        (
            wired(blocks=lambda x, named: encoder(16, 2)(x, named["mask"]), mask=1),
            {"padding": 0}, ConfigError, "named 'token_ids' and 'padding_mask'",
        ),
        (
            wired(blocks=lambda x, _: decoder(16, 2)(x, keras.layers.Dense(16)(x))),
            {}, ModelTypeError, "of a text of as many",
        ),
        (
            wired(blocks=lambda x, _: keras.layers.Dense(3)(keras.layers.Flatten()(x))),
            {"length": 5}, ConfigError, "give the `length` that it was built for",
        ),
        (wired(), {"padding": "x"}, ConfigError, "`padding` is a token"),
    ]  # fmt: skip
    for model, options, kind, said in cases:
        with pytest.raises(kind, match=said):
            tfc.models.from_keras_hub(model, **{"length": 6} | options)
    quantized = hub.GPT2Backbone(**SIZED)
    quantized.quantize("int8")
    with pytest.raises(ModelTypeError, match="which Keras has quantized to 'int8'"):
        tfc.models.from_keras_hub(quantized, LENGTH)


def test_positional_arguments_and_shared_positions():
    table = keras_hub.layers.PositionEmbedding(6)
    encoder = keras_hub.layers.TransformerEncoder(16, 2)

    def blocks(x, named):
        x = keras.layers.Add()([x, table(x)])
        x = encoder(x, named["padding_mask"], None)
        return keras.layers.Add()([x, table(x)])

    model = wired(keras.layers.Embedding(20, 8), blocks, padding_mask=1)
    model.set_weights([w + 0.1 for w in model.get_weights()])
    plain = tfc.models.from_keras_hub(model, 6)
    assert plain.count_params() == model.count_params()
    rng = np.random.default_rng(0)
    given = {"token_ids": rng.integers(0, 20, (4, 6)), "padding_mask": np.ones((4, 6), "int32")}
    np.testing.assert_allclose(answers(plain, given)[0], answers(model, given)[0], atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_whatever_the_dtypes_it_is_float32(policy):
    keras.utils.set_random_seed(0)
    model = hub.GPT2CausalLM(hub.GPT2Backbone(**SIZED, dtype=policy))
    plain = tfc.models.from_keras_hub(model, LENGTH)
    assert {layer.dtype_policy.name for layer in plain._flatten_layers()} == {"float32"}
    given, seen = texts(model)
    ours, theirs = answers(plain, given)[0], answers(model, given)[0].astype("float32")
    assert np.abs(ours - theirs)[seen].max() < 0.05 * np.abs(theirs).max()
