"""Choosing the next token by its scores."""

from __future__ import annotations

import math
import numbers

import numpy as np

from tfcompress.errors import ConfigError


class Sampler:
    """Draws tokens.

    Of the `top_k` best tokens, then of the fewest of the best that have `top_p` of the probability
    together (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration",
    https://arxiv.org/abs/1904.09751), by the softmax of scores / temperature.

    Args:
        temperature: 0 for always the best token.
        top_k: of how many tokens; None for all.
        top_p: above 0, at most 1; None for all.
        seed: of the random numbers; None for others each time.

    Raises:
        ConfigError: an argument out of its range.

    Example:
        >>> Sampler(temperature=0.0).choose(np.array([0.1, 2.0, 0.3]))
        1
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> None:
        if not isinstance(temperature, numbers.Real) or not 0 <= temperature < math.inf:
            raise ConfigError(
                f"`temperature` is a finite number of at least 0. Received: {temperature!r}"
            )
        whole = isinstance(top_k, numbers.Integral) and not isinstance(top_k, bool)
        if top_k is not None and (not whole or top_k < 1):
            raise ConfigError(f"`top_k` is a whole number of at least 1. Received: {top_k!r}")
        if top_p is not None and (not isinstance(top_p, numbers.Real) or not 0 < top_p <= 1):
            raise ConfigError(f"`top_p` is above 0 and at most 1. Received: {top_p!r}")
        if temperature == 0 and (top_k is not None or top_p is not None):
            raise ConfigError(
                "`top_k` and `top_p` choose among tokens at random, and `temperature=0` always "
                f"takes the best. Received: top_k={top_k!r}, top_p={top_p!r}. Set a temperature, "
                "usually 0.7 to 1."
            )
        self.temperature: float = float(temperature)
        self.top_k: int | None = top_k
        self.top_p: float | None = top_p
        self._random: np.random.Generator = np.random.default_rng(seed)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """float64 (vocabulary,) of scores (vocabulary,): how likely each token is drawn."""
        scores = np.asarray(scores, np.float64)
        if self.temperature == 0:
            return np.eye(1, len(scores), int(scores.argmax()))[0]
        order = np.argsort(-scores, kind="stable")
        scaled = (scores - scores.max()) / self.temperature
        if self.top_k is not None:
            scaled[order[self.top_k :]] = -np.inf
        chances = np.exp(scaled)
        chances /= chances.sum()
        if self.top_p is not None:
            before = np.cumsum(chances[order]) - chances[order]
            chances[order[before >= self.top_p]] = 0.0
            chances /= chances.sum()
        return chances

    def choose(self, scores: np.ndarray) -> int:
        """A token, by scores (vocabulary,)."""
        if self.temperature == 0:
            return int(np.argmax(scores))
        return int(self._random.choice(len(scores), p=self.probabilities(scores)))
