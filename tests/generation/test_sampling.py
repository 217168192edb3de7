"""Which tokens are drawn, and how likely."""

from __future__ import annotations

import numpy as np
import pytest

from tfcompress.errors import ConfigError
from tfcompress.generation.sampling import Sampler

SCORES = np.log(np.array([0.05, 0.4, 0.1, 0.3, 0.15]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1.0}, [0.05, 0.4, 0.1, 0.3, 0.15]),
        ({"temperature": 1.0, "top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 1.0, "top_k": 99}, [0.05, 0.4, 0.1, 0.3, 0.15]),
        ({"temperature": 1.0, "top_p": 0.69}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 1.0, "top_p": 0.71}, [0, 8 / 17, 0, 6 / 17, 3 / 17]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0.5, "top_k": 2}, [0, 16 / 25, 0, 9 / 25, 0]),
    ],
)
def test_probabilities(options, expected):
    np.testing.assert_allclose(Sampler(**options).probabilities(SCORES), expected, atol=1e-12)


def test_draws_follow_the_probabilities():
    sampler = Sampler(1.0, seed=0)
    counts = np.bincount([sampler.choose(SCORES) for _ in range(4000)], minlength=5) / 4000
    np.testing.assert_allclose(counts, np.exp(SCORES), atol=0.03)


def test_scores_of_any_size():
    with np.errstate(over="raise", invalid="raise"):
        given = Sampler(1.0).probabilities(np.array([1e4, -1e4, 1e4], "float32"))
    np.testing.assert_allclose(given, [0.5, 0, 0.5])


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"temperature": 1.0, "top_k": 0},
                {"temperature": 1.0, "top_k": True}, {"temperature": 1.0, "top_p": 1.5},
                {"top_p": 0.5}],
)  # fmt: skip
def test_arguments_out_of_range(options):
    with pytest.raises(ConfigError):
        Sampler(**options)
