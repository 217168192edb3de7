"""`tfc.beam_search`: the likeliest answers of a decoder's file. No TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError
from tfcompress.generation.decoder import Decoder, opened
from tfcompress.runtime.model import TFLiteModel


@dataclass(frozen=True)
class Answer:
    """A text that a search has found.

    Attributes:
        tokens: what was made, without the prompt and the end token.
        log_probability: of all its tokens, the end token included.
        score: by which answers are ranked.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float


@dataclass
class _Beam:
    tokens: tuple[int, ...]
    log_probability: float
    kept: Any


def beam_search(
    tflite: str | os.PathLike[str] | bytes | TFLiteModel | Decoder,
    prompt: Sequence[int],
    *,
    end: int,
    source: Sequence[int] | None = None,
    beams: int = 4,
    max_new_tokens: int = 100,
    length_penalty: float = 0.6,
    threads: int = 1,
    backend: str = "xnnpack",
    runtime: str = "auto",
) -> list[Answer]:
    """Searches for the likeliest texts that go on from a prompt, as for translation.

    Args:
        tflite: a file of `tfc.convert_decoder`: its path, its bytes, a `TFLiteModel`, or a
            `tfcompress.generation.decoder.Decoder`, which loads the file once for many texts.
        prompt: token ids that each answer begins with, usually a start token alone.
        end: the token that ends an answer.
        source: tokens of the text to translate, for a file that listens to one.
        beams: how many texts are followed at once; 1 takes the best token each time.
        max_new_tokens: at most so many are made, the end token included.
        length_penalty: answers are ranked by log probability / ((5 + tokens) / 6) to this power;
            0 prefers short ones.
        threads: threads of the runtime.
        backend: `"xnnpack"` or `"reference"`.
        runtime: as for `TFLiteModel.predict`.

    Returns:
        At most `beams` answers, the best one first; those that did not end in time come last.

    Raises:
        ModelTypeError: the file is no decoder.
        DataError: a token that there is not, or a text that is too long.
        ConfigError: an argument out of its range.

    Example:
        >>> answers = tfc.beam_search("translator.tflite", [1], source=[5, 9, 4], end=2)
        >>> answers[0].tokens

    Source: Wu et al. 2016, "Google's Neural Machine Translation System",
    https://arxiv.org/abs/1609.08144, section 7.
    """
    for name, value in (("beams", beams), ("max_new_tokens", max_new_tokens)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"`{name}` must be a whole number >= 1. Received: {value!r}")
    if not 0 <= length_penalty < np.inf:
        raise ConfigError(
            f"`length_penalty` is a finite number of at least 0. Received: {length_penalty!r}"
        )
    decoder = opened(tflite, backend=backend, runtime=runtime, threads=threads)
    if not 0 <= end < decoder.vocabulary:
        raise ConfigError(f"`end` is a token below {decoder.vocabulary}. Received: {end!r}")
    if source is not None:
        decoder.listen(source)
    decoder.read(prompt)
    live = [_Beam((), 0.0, None)]
    ended: list[Answer] = []

    def ranked(tokens: tuple[int, ...], log_probability: float, count: int) -> Answer:
        score = log_probability / ((5 + count) / 6) ** length_penalty
        return Answer(tokens, log_probability, score)

    for step in range(max_new_tokens):
        choices: list[tuple[float, int, int]] = []
        for number, beam in enumerate(live):
            if beam.tokens:
                if beam.kept[0] == decoder.context:
                    continue
                decoder.back(beam.kept)
                decoder.read([beam.tokens[-1]])
            beam.kept = decoder.keep()
            chances = beam.log_probability + _log_softmax(decoder.scores())
            for token in np.argsort(-chances, kind="stable")[: 2 * beams]:
                choices.append((-float(chances[token]), number, int(token)))
        choices.sort()
        following: list[_Beam] = []
        for rank, (cost, number, token) in enumerate(choices):
            beam = live[number]
            if token == end and rank >= beams:
                continue  # an end is no better than any other token
            if token == end:
                ended.append(ranked(beam.tokens, -cost, step + 1))
            elif len(following) < beams:
                following.append(_Beam((*beam.tokens, token), -cost, beam.kept))
            if len(following) == beams:
                break
        if not following or (beams == 1 and ended):
            break
        live = following
        best = sorted((answer.score for answer in ended), reverse=True)[:beams]
        # What can still be reached: no more probability, at the longest length.
        reach = ranked((), live[0].log_probability, max_new_tokens).score
        if len(best) == beams and best[-1] >= reach:
            break
    ended.sort(key=lambda answer: -answer.score)
    rest = [ranked(beam.tokens, beam.log_probability, len(beam.tokens)) for beam in live]
    rest.sort(key=lambda answer: -answer.score)
    return (ended + [answer for answer in rest if answer.tokens])[:beams]


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.asarray(scores, np.float64) - scores.max()
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return result
