"""Files that listen to one text and write another: greedy, and the likeliest by search."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.errors import ConfigError, DataError
from tfcompress.generation.decoder import Decoder

WORDS, START, END = 5, 1, 2
SOURCE = [3, 1, 4, 2, 3]
LENGTHS = (7, 10)  # of source and target


@pytest.fixture(scope="module")
def model():
    model = tfc.models.encoder_decoder(
        6, WORDS, *LENGTHS, width=16, heads=4, kv_heads=2, blocks=1, dropout=0.0
    )
    rng = np.random.default_rng(3)
    for weight in model.weights:
        weight.assign(rng.normal(1.0 if weight.name == "gamma" else 0.0, 0.3, weight.shape))
    return model


@pytest.fixture(scope="module")
def tflite(model):
    return tfc.convert_decoder(model, prefill=3)


def _log_probabilities(model: keras.Model, text: tuple[int, ...], source=SOURCE) -> np.ndarray:
    """float64 (tokens, WORDS) for what follows each token of a text."""
    heard, written = np.zeros((1, LENGTHS[0]), "int32"), np.zeros((1, LENGTHS[1]), "int32")
    heard[0, : len(source)] = source
    written[0, : len(text)] = text
    scores = np.asarray(model.predict_on_batch([heard, written])[0, : len(text)], "float64")
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def _greedy(model: keras.Model, count: int, source=SOURCE) -> list[int]:
    text = [START]
    for _ in range(count):
        text.append(int(_log_probabilities(model, tuple(text), source)[-1].argmax()))
    return text[1:]


def test_greedy_text_is_that_of_keras(model, tflite):
    assert {s.key for s in tflite.parsed.signatures} == {"decode", "prefill", "encode"}
    for source in (SOURCE, [5, 5], [1, 2, 3, 4, 5, 1, 2]):
        text = list(tfc.generate(tflite, [START], source=source, max_new_tokens=9))
        assert text == _greedy(model, 9, source)
    prompt = [START, 3, 4, 0, 1, 3]
    expected = _log_probabilities(model, tuple(prompt))[-1].argmax()
    assert next(tfc.generate(tflite, prompt, source=SOURCE)) == expected


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_search_finds_the_best_of_all_texts(penalty, model, tflite):
    """Every text of at most three tokens that ends, scored by Keras."""
    most = 3
    scores = {}
    others = [token for token in range(WORDS) if token != END]
    for count in range(most):
        for text in itertools.product(others, repeat=count):
            chances = _log_probabilities(model, (START, *text))
            total = sum(chances[n, token] for n, token in enumerate((*text, END)))
            scores[text] = total / ((5 + count + 1) / 6) ** penalty
    expected = sorted(scores, key=scores.get, reverse=True)[:6]
    found = tfc.beam_search(
        tflite, [START], source=SOURCE, end=END, beams=80, max_new_tokens=most,
        length_penalty=penalty,
    )  # fmt: skip
    assert [answer.tokens for answer in found[:6]] == expected
    np.testing.assert_allclose(
        [answer.score for answer in found[:6]], [scores[text] for text in expected], rtol=1e-4
    )


@pytest.mark.parametrize("end", [END, 4])
def test_one_beam_is_greedy(end, model, tflite):
    greedy = _greedy(model, 6)
    expected = greedy[: greedy.index(end)] if end in greedy else greedy
    (answer,) = tfc.beam_search(tflite, [START], source=SOURCE, end=end, beams=1, max_new_tokens=6)
    assert list(answer.tokens) == expected


def test_what_cannot_be_translated(tflite, model):
    with pytest.raises(DataError, match="source"):
        tfc.generate(tflite, [START])
    with pytest.raises(DataError, match="1 to 7"):
        tfc.generate(tflite, [START], source=[1] * 8)
    with pytest.raises(ConfigError, match="beams"):
        tfc.beam_search(tflite, [START], source=SOURCE, end=END, beams=0)
    with pytest.raises(ConfigError, match="`end`"):
        tfc.beam_search(tflite, [START], source=SOURCE, end=WORDS)
    with pytest.raises(ConfigError, match="target"):
        tfc.convert_decoder(model, target="nothing")


def test_one_decoder_serves_many_texts(tflite):
    decoder = Decoder(tflite)
    sources = [SOURCE, SOURCE[::-1], SOURCE]
    apart = [
        list(tfc.generate(tflite, [START], source=source, max_new_tokens=5)) for source in sources
    ]
    together = [
        list(tfc.generate(decoder, [START], source=source, max_new_tokens=5)) for source in sources
    ]
    assert together == apart
    (answer,) = tfc.beam_search(decoder, [START], source=SOURCE, end=END, beams=1, max_new_tokens=5)
    (alone,) = tfc.beam_search(tflite, [START], source=SOURCE, end=END, beams=1, max_new_tokens=5)
    assert answer == alone
