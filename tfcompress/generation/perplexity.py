"""`tfc.perplexity`: how well a decoder's file foretells a text. No TensorFlow."""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcompress import progress as bars
from tfcompress.deploy.metrics import LARGEST_EXPONENT
from tfcompress.errors import ConfigError, DataError
from tfcompress.generation.decoder import Decoder
from tfcompress.runtime.model import TFLiteModel


def perplexity(
    tflite: str | os.PathLike[str] | bytes | TFLiteModel,
    tokens: Any,
    *,
    window: int | None = None,
    sources: Sequence[Sequence[int]] | None = None,
    threads: int = 1,
    backend: str = "xnnpack",
    runtime: str = "auto",
    progress: bool = True,
) -> dict[str, float]:
    """Measures a file of `tfc.convert_decoder` on texts, token by token, as it generates.

    Args:
        tflite: path of the `.tflite`, its bytes, or a `TFLiteModel`.
        tokens: the ids of one text, or a list of texts. A long one is cut into windows side by
            side, each read without what came before it; the first token of a window is given, all
            others are foretold.
        window: tokens of a window; the file's context, and one more to foretell, by default.
        sources: for a file that listens to another text, the tokens of that, one for each text.
        threads: of the runtime.
        backend: `"xnnpack"` or `"reference"`.
        runtime: as for `TFLiteModel.predict`.
        progress: show a bar, on a terminal.

    Returns:
        `"perplexity"`, `"cross_entropy"` (its logarithm, in nats a token) and `"tokens"`, how many
        were foretold.

    Raises:
        ModelTypeError: the file is no decoder.
        DataError: a token that there is not, a text of fewer than two tokens, a source that is
            missing.
        ConfigError: an argument out of its range.

    Example:
        >>> tfc.perplexity("gpt.tflite", tokenizer.encode(text))
        {'perplexity': 4.51, 'cross_entropy': 1.506, 'tokens': 111000}

    Source: Jelinek et al. 1977, "Perplexity, a measure of the difficulty of speech recognition
    tasks".
    """
    decoder = Decoder(tflite, backend=backend, runtime=runtime, threads=threads)
    most = decoder.context + 1
    if window is None:
        window = most
    if isinstance(window, bool) or not isinstance(window, int) or not 2 <= window <= most:
        raise ConfigError(
            f"`window` must be a whole number from 2 to {most}, the file's context and one. "
            f"Received: {window!r}"
        )
    texts = _texts(tokens)
    heard = None if sources is None else _listed(sources, "sources")
    if heard is not None and len(heard) != len(texts):
        raise DataError(
            f"There must be a source for each of the {len(texts)} texts. Received: {len(heard)}"
        )
    if heard is None and decoder.source_length:
        raise DataError("The file answers to other texts: give their tokens as `sources`.")
    total, count = 0.0, 0
    with bars.shown(progress) as bar:
        bar.start("reading")
        for number, text in enumerate(texts):
            if heard is not None:
                decoder.listen(heard[number])
            # Each window begins with the token that the one before it foretold last.
            for start in range(0, len(text) - 1, window - 1):
                part = text[start : start + window]
                decoder.clear()
                for token, following in itertools.pairwise(part):
                    decoder.read([token])
                    scores = np.asarray(decoder.scores(), np.float64)
                    if not np.isfinite(scores).all():
                        raise DataError(
                            "The file's scores must be finite numbers. Received: some that are "
                            f"not, behind the token {token}. Look at the model."
                        )
                    if not 0 <= following < len(scores):
                        raise DataError(
                            f"Tokens are whole numbers from 0 to {len(scores) - 1}. Received: "
                            f"{following}"
                        )
                    top = scores.max()
                    total += float(np.log(np.exp(scores - top).sum()) + top - scores[following])
                    count += 1
                bar.update((number + min(start + window, len(text)) / len(text)) / len(texts))
    entropy = total / count
    perplexity = math.exp(min(entropy, LARGEST_EXPONENT))
    return {"perplexity": perplexity, "cross_entropy": entropy, "tokens": count}


def _listed(tokens: Any, name: str) -> list[list[int]]:
    """Texts as lists of ids; one text is a list of one.

    Raises:
        DataError: these are no ids.
    """
    try:
        if isinstance(tokens, (str, bytes)):
            raise TypeError
        listed = list(tokens)
        if any(isinstance(text, (str, bytes)) for text in listed):
            raise TypeError
        single = bool(listed) and np.ndim(listed[0]) == 0
        return [[operator.index(one) for one in text] for text in ([listed] if single else listed)]
    except (TypeError, ValueError):
        shown = repr(tokens)[:80]
        raise DataError(
            f"`{name}` must be token ids, whole numbers, or a list of texts of them. Received: "
            f"{shown}. Turn text into ids with the model's tokenizer (tfc.load_tokenizer)."
        ) from None


def _texts(tokens: Any) -> list[list[int]]:
    texts = _listed(tokens, "tokens")
    short = [len(text) for text in texts if len(text) < 2]
    if short or not texts:
        raise DataError(
            "Each text must have two tokens or more, one to foretell the next from. Received: "
            f"{f'one of {short[0]}' if short else 'none'}"
        )
    return texts
