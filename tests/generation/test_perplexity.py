"""`tfc.perplexity`: a file's scores for what comes next are those of the Keras model."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.errors import ConfigError, DataError

WORDS, CONTEXT = 23, 16


def _scrambled(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    for weight in model.weights:
        base = 1.0 if weight.name == "gamma" else 0.0
        weight.assign(rng.normal(base, 0.25, weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return _scrambled(tfc.models.gpt_decoder(WORDS, CONTEXT, width=16, heads=2, blocks=1))


@pytest.fixture(scope="module")
def tflite(model):
    return tfc.convert_decoder(model, prefill=4)


def _expected(model: keras.Model, windows: list[list[int]]) -> float:
    """Mean cross-entropy of what comes behind each token of the windows."""
    losses = []
    for window in windows:
        whole = np.zeros((1, CONTEXT), "int32")
        whole[0, : len(window) - 1] = window[:-1]
        logits = model.predict(whole, verbose=0)[0, : len(window) - 1]
        losses += keras.ops.sparse_categorical_crossentropy(
            np.array(window[1:]), logits, from_logits=True
        ).numpy().tolist()  # fmt: skip
    return float(np.mean(losses))


def test_is_keras_cross_entropy(model, tflite):
    text = np.random.default_rng(1).integers(0, WORDS, 40).tolist()
    found = tfc.perplexity(tflite, text, progress=False)
    windows = [text[0:17], text[16:33], text[32:40]]
    assert found["cross_entropy"] == pytest.approx(_expected(model, windows), rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(found["cross_entropy"]))
    assert found["tokens"] == 39
    found = tfc.perplexity(tflite, np.array(text), window=5)
    windows = [text[n : n + 5] for n in range(0, 39, 4)]
    assert found["cross_entropy"] == pytest.approx(_expected(model, windows), rel=1e-5)
    several = [text[:7], text[9:15]]
    found = tfc.perplexity(tflite, several)
    assert found["cross_entropy"] == pytest.approx(_expected(model, several), rel=1e-5)
    assert found["tokens"] == 11


def test_of_translations():
    model = _scrambled(
        tfc.models.encoder_decoder(11, WORDS, 6, CONTEXT, width=16, heads=2, blocks=1)
    )
    tflite = tfc.convert_decoder(model)
    sources, texts = [[3, 4, 5], [7, 1, 9, 2]], [[1, 5, 8, 2], [1, 9, 4]]
    found = tfc.perplexity(tflite, texts, sources=sources)
    losses = []
    for source, text in zip(sources, texts, strict=True):
        given = np.zeros((1, 6), "int32"), np.zeros((1, CONTEXT), "int32")
        given[0][0, : len(source)], given[1][0, : len(text)] = source, text
        logits = model.predict(list(given), verbose=0)[0]
        for place, following in enumerate(text[1:]):
            losses.append(np.log(np.exp(logits[place]).sum()) - logits[place, following])
    assert found["cross_entropy"] == pytest.approx(np.mean(losses), rel=1e-5)
    with pytest.raises(DataError, match="a source for each of the 2 texts"):
        tfc.perplexity(tflite, texts, sources=sources[:1])
    with pytest.raises(DataError, match="`sources`"):
        tfc.perplexity(tflite, texts)
    for bad, said in ((["abc", "d"], "`sources` must be"), ([[-1], [2]], "from 0 on. Received: -1"),
                      ([[9999], [2]], "no row for")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            tfc.perplexity(tflite, texts, sources=bad)


def test_bad_input(tflite):
    for tokens, said in (
        ([], "Received: none"),
        ([[1, 2], [3]], "one of 1"),
        ("2024", "tokenizer"),
        (["text"], "tokenizer"),
        ([1.7, 2.9], "whole numbers"),
        ([1, WORDS], f"0 to {WORDS - 1}"),
        ([-1, 2], "Tokens are whole numbers"),
    ):
        with pytest.raises(DataError, match=said):
            tfc.perplexity(tflite, tokens)
    for window in (1, CONTEXT + 2, True, 2.5):
        with pytest.raises(ConfigError, match="`window`"):
            tfc.perplexity(tflite, [1, 2, 3], window=window)


def test_command_measures_a_text(model, tflite, tmp_path, capsys):
    from tfcompress.cli.main import main

    tflite.save(tmp_path / "gpt.tflite")
    (tmp_path / "letters.json").write_text(json.dumps({"characters": "abcdefghijklmnopqrstuvw"}))
    (tmp_path / "text.txt").write_text("badcafeheadbead")
    arguments = [str(tmp_path / "gpt.tflite"), "--tokenizer", str(tmp_path / "letters.json")]
    assert main(["evaluate", *arguments, "--text", str(tmp_path / "text.txt"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    tokens = [ord(one) - ord("a") for one in "badcafeheadbead"]
    expected = tfc.perplexity(tflite, tokens)
    assert {key: found[key] for key in expected} == expected
    assert main(["evaluate", str(tmp_path / "gpt.tflite"), "--text", str(tmp_path / "text.txt")])
    assert "--text needs --tokenizer" in capsys.readouterr().err
    text = ["evaluate", *arguments, "--text", str(tmp_path / "text.txt")]
    for more, said in (
        (["--workers", "7", "--metrics", "bleu"], "without --metrics, --workers"),
        (["--limit", "-3"], "--limit is at least 2"),
        (["--require", "accuracy>=0.5"], "names a metric that is measured"),
    ):
        assert main([*text, *more]) == 2
        assert said in capsys.readouterr().err
