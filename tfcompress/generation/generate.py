"""`tfc.generate`: text from a decoder's file, token by token. No TensorFlow."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tfcompress.errors import ConfigError, DataError
from tfcompress.generation.decoder import Decoder, opened
from tfcompress.generation.sampling import Sampler
from tfcompress.runtime.model import TFLiteModel


@dataclass
class Stats:
    """How fast it went.

    Attributes:
        prompt_tokens: read at the beginning.
        prefill_seconds: which that took.
        new_tokens: that were made.
        decode_seconds: which that took, from the first token that was made and read on.
        decoded_tokens: that were read on one by one in that time.
        ended: `"tokens"` (as many as were asked for), `"stop"`, `"context"` (no more can be
            remembered), or "" while it goes on.
    """

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    new_tokens: int = 0
    decode_seconds: float = 0.0
    decoded_tokens: int = 0
    ended: str = ""

    @property
    def prefill_per_second(self) -> float:
        """Tokens of the prompt per second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_per_second(self) -> float:
        """New tokens per second."""
        return self.decoded_tokens / self.decode_seconds if self.decode_seconds else 0.0

    def to_dict(self) -> dict[str, float | int | str]:
        """As plain values, for JSON."""
        return {
            **vars(self),
            "prefill_tokens_per_second": round(self.prefill_per_second, 1),
            "decode_tokens_per_second": round(self.decode_per_second, 1),
        }


class Generation(Iterator[int]):
    """Tokens as they are made.

    Attributes:
        stats: how fast it goes.
    """

    def __init__(
        self, decoder: Decoder, prompt: Sequence[int], count: int, sampler: Sampler,
        stop: Collection[int],
    ) -> None:  # fmt: skip
        self.stats = Stats(prompt_tokens=len(prompt))
        self._decoder, self._count = decoder, count
        self._sampler, self._stop = sampler, frozenset(stop)
        started = time.perf_counter()
        decoder.read(prompt)
        self.stats.prefill_seconds = time.perf_counter() - started
        self._last: int | None = None

    def __next__(self) -> int:
        stats = self.stats
        if stats.ended:
            raise StopIteration
        if stats.new_tokens == self._count:
            stats.ended = "tokens"
            raise StopIteration
        started = time.perf_counter()
        if self._last is not None:
            if self._decoder.position == self._decoder.context:
                stats.ended = "context"
                raise StopIteration
            self._decoder.read([self._last])
            stats.decoded_tokens += 1
        token = self._sampler.choose(self._decoder.scores())
        if self._last is not None:
            stats.decode_seconds += time.perf_counter() - started
        self._last = token
        if token in self._stop:
            stats.ended = "stop"
            raise StopIteration
        stats.new_tokens += 1
        return token


def generate(
    tflite: str | os.PathLike[str] | bytes | TFLiteModel | Decoder,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Collection[int] = (),
    source: Sequence[int] | None = None,
    threads: int = 1,
    backend: str = "xnnpack",
    runtime: str = "auto",
) -> Generation:
    """Generates text with a file of `tfc.convert_decoder`.

    Args:
        tflite: path of the `.tflite`, its bytes, or a `TFLiteModel`; for many texts, one after the
            other, a `tfcompress.generation.decoder.Decoder` of it, which loads the file once.
        prompt: token ids to go on from, at least one.
        max_new_tokens: at most so many are made; fewer where the file's context is full.
        temperature: 0 takes the best token each time; above, tokens are drawn by the softmax of
            scores / temperature.
        top_k: draw among so many of the best tokens.
        top_p: draw among the fewest of the best tokens that have this share of the probability.
        seed: makes draws repeat.
        stop: token ids that end the text; they are not returned.
        source: tokens of the text to translate or answer, for a file that listens to one; the
            prompt is then how an answer begins, usually a start token alone.
        threads: threads of the runtime.
        backend: `"xnnpack"` or `"reference"`.
        runtime: as for `TFLiteModel.predict`.

    Returns:
        An iterator of token ids, each computed when it is asked for; `.stats` has the speed of
        reading the prompt (prefill) and of making tokens (decode) apart, and why it ended.

    Raises:
        ModelTypeError: the file is no decoder.
        DataError: a token that there is not, an empty prompt, or one longer than the context.
        ConfigError: an argument out of its range.
        CorruptFileError: the file is damaged.
        DeviceError: no runtime is installed, or it refuses the file.

    Example:
        >>> text = tfc.generate("gpt.tflite", [5, 3], max_new_tokens=20, temperature=0.8, top_k=40)
        >>> for token in text:
        ...     print(token)
        >>> print(text.stats.decode_per_second)

    Source: top-p is Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or (
        max_new_tokens < 1
    ):  # fmt: skip
        raise ConfigError(
            f"`max_new_tokens` must be a whole number >= 1. Received: {max_new_tokens!r}"
        )
    sampler = Sampler(temperature, top_k, top_p, seed)
    try:
        tokens = [int(token) for token in prompt]
    except (TypeError, ValueError):
        raise DataError(
            f"`prompt` is a sequence of token ids. Received: {prompt!r}. Turn text into ids with "
            "the model's tokenizer (tfc.load_tokenizer)."
        ) from None
    decoder = opened(tflite, backend=backend, runtime=runtime, threads=threads)
    if source is not None:
        decoder.listen(source)
    return Generation(decoder, tokens, max_new_tokens, sampler, stop)
