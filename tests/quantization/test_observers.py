import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress.quantization.observers import METHODS, Statistics, check_method

BATCHES = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), min_size=1, max_size=5
)


def seen(*batches):
    statistics = Statistics()
    for batch in batches:
        statistics.add(np.asarray(batch, np.float32))
    return statistics


@settings(max_examples=60, deadline=None)
@given(BATCHES)
def test_histogram_counts_every_value_wherever_the_width_grew(batches):
    statistics = seen(*batches)
    values = np.concatenate([np.asarray(b, np.float32) for b in batches])
    reach = np.maximum.accumulate([np.abs(np.float32(b)).max() for b in batches])
    counted = sum(len(b) for b, r in zip(batches, reach, strict=True) if r > 0)
    assert statistics.counts.sum() == counted
    assert (statistics.low, statistics.high) == (min(values.min(), 0), max(values.max(), 0))
    again, _ = np.histogram(
        np.concatenate([np.float32(b) for b, r in zip(batches, reach, strict=True) if r > 0])
        if counted else [], 16, (-statistics.reach, statistics.reach) if counted else (-1, 1),
    )  # fmt: skip
    # Coarser bins, of which the fine ones are parts, hold as many.
    np.testing.assert_array_equal(statistics.counts.reshape(16, -1).sum(1), again)


@settings(max_examples=40, deadline=None)
@given(BATCHES)
def test_no_method_goes_beyond_what_was_seen(batches):
    statistics = seen(*batches)
    for name, method in METHODS.items():
        low, high = method(statistics)
        assert low >= min(statistics.low, statistics.average[0]) - 1e-6, name
        assert high <= max(statistics.high, statistics.average[1]) + 1e-6, name


def test_outliers_are_cut_off_by_all_but_min_max():
    values = np.random.default_rng(0).normal(0, 1, 200_000)
    values[:3] = (40, -30, 50)
    statistics = seen(values)
    assert METHODS["min_max"](statistics) == (-30, 50)
    for name in ("percentile", "kl"):
        low, high = METHODS[name](statistics)
        assert -16 < low < -2 and 2 < high < 16, (name, low, high)
    low, high = METHODS["mse"](statistics)  # three values that are far off cost much when cut off
    assert -30 < low < -2 and 2 < high < 50


def test_mse_is_the_best_of_all_shrunk_ranges():
    values = np.random.default_rng(1).laplace(0, 1, 100_000).astype(np.float32)
    statistics = seen(values)

    def error(low, high):
        step = (high - low) / 255
        zero = np.round(low / step)
        q = np.clip(np.round(values / step), zero, zero + 255)
        return np.square(q * step - values).mean()

    best = error(*METHODS["mse"](statistics))
    whole = error(statistics.low, statistics.high)
    assert best < 0.85 * whole
    for share in np.linspace(0.2, 1, 17):
        assert best <= 1.02 * error(share * statistics.low, share * statistics.high)


def test_average_follows_the_batches():
    assert METHODS["moving_average"](seen([-1, 1], [-3, 5])) == pytest.approx((-1.2, 1.4))


def test_zeros_and_values_that_are_not_finite():
    assert METHODS["mse"](seen([0.0, 0.0])) == (0, 0)
    assert METHODS["min_max"](seen([np.nan, np.inf, 2.0])) == (0, 2)


def test_unknown_method():
    with pytest.raises(tfc.ConfigError, match="percentile"):
        check_method("median")
