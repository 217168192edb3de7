import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress.pruning.masks import lowest_mask, zeros_for
from tfcompress.pruning.patterns import Units, as_pattern
from tfcompress.pruning.pooling import POOLINGS

shapes = st.lists(
    st.tuples(st.sampled_from([1, 9]), st.integers(1, 12), st.integers(1, 12)),
    min_size=1,
    max_size=6,
)


def kernels_of(drawn, seed, ties=False):
    generator = np.random.default_rng(seed)
    kernels = [np.abs(generator.normal(0, scale + 0.1, shape)) for scale, shape in enumerate(drawn)]
    return [np.round(kernel, 1) for kernel in kernels] if ties else kernels


def units_of(kernels, pattern="unstructured"):
    return [as_pattern(pattern).units(kernel, np.ones(kernel.shape, bool)) for kernel in kernels]


def dims(drawn):
    return [(3, 3, i, o) if s == 9 else (i, o) for s, i, o in drawn]


@given(shapes, st.integers(0, 999), st.floats(0, 0.99), st.booleans())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("pooling", ["global", "global-raw", "erk"])
def test_the_total_is_exact(pooling, drawn, seed, sparsity, ties):
    units = units_of(kernels_of(drawn, seed, ties))
    counts = POOLINGS[pooling](units, dims(drawn), sparsity, 0.0, 1.0)
    assert sum(counts) == zeros_for(sparsity, sum(u.sizes.sum() for u in units))
    assert all(0 <= n <= u.sizes.size for n, u in zip(counts, units, strict=True))


@given(shapes, st.integers(0, 999), st.floats(0.2, 0.9), st.floats(0, 0.2), st.floats(0.9, 1))
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("pooling", ["global", "global-raw", "erk"])
def test_floor_and_cap_hold_in_every_kernel(pooling, drawn, seed, sparsity, floor, cap):
    units = units_of(kernels_of(drawn, seed))
    counts = POOLINGS[pooling](units, dims(drawn), sparsity, floor, cap)
    for count, own in zip(counts, units, strict=True):
        # Whole weights: to the nearest, half a weight either way (one for "erk", which rounds
        # twice: to the layer's rate and to the exact total).
        assert floor * own.sizes.size - 1 <= count <= cap * own.sizes.size + 1


def lamp_by_definition(kernels):
    """Lee 2021, equation 4, one weight at a time."""
    scores = []
    for kernel in kernels:
        flat = kernel.reshape(-1).astype(np.float64)
        order = np.argsort(flat, kind="stable")
        own = np.empty(flat.size)
        for rank, index in enumerate(order):
            own[index] = flat[index] ** 2 / (flat[order[rank:]] ** 2).sum()
        scores.append(own)
    return scores


@given(shapes, st.integers(0, 999), st.floats(0, 0.99))
@settings(max_examples=100, deadline=None)
def test_global_is_lamp_by_its_definition(drawn, seed, sparsity):
    kernels = kernels_of(drawn, seed)
    counts = POOLINGS["global"](units_of(kernels), dims(drawn), sparsity, 0.0, 1.0)
    scores = lamp_by_definition(kernels)
    everything = np.concatenate(scores)
    mask = lowest_mask(everything, zeros_for(sparsity, everything.size))
    expected, start = [], 0
    for own in scores:
        expected.append(int((~mask[start : start + own.size]).sum()))
        start += own.size
    # Each kernel's last weight scores exactly 1, in all kernels alike: at such ties counts of
    # kernels may differ, nowhere else.
    if sum(counts) <= sum(own.size - 1 for own in scores):
        assert counts == expected


def test_global_raw_takes_the_lowest_of_all():
    small, large = np.full((1, 4, 4), 0.1), np.full((1, 4, 4), 1.0)
    assert POOLINGS["global-raw"](units_of([large, small]), [(4, 4)] * 2, 0.5, 0.0, 1.0) == [0, 16]
    # LAMP does not look at the scale of a layer.
    assert POOLINGS["global"](units_of([large, small]), [(4, 4)] * 2, 0.5, 0.0, 1.0) == [8, 8]


def test_lamp_never_empties_a_layer_while_another_has_more_than_one_weight():
    kernels = [np.full((1, 2, 2), 1e-9), np.random.default_rng(0).random((1, 40, 40))]
    counts = POOLINGS["global"](units_of(kernels), [(2, 2), (40, 40)], 0.99, 0.0, 1.0)
    assert counts[0] < 4


def test_erdos_renyi_kernel_by_its_formula():
    dims_ = [(3, 3, 8, 16), (3, 3, 64, 64), (64, 10)]
    sizes = [int(np.prod(d)) for d in dims_]
    units = [
        Units(np.arange(n, dtype=float), np.ones(n, np.int64), np.zeros(n, bool)) for n in sizes
    ]
    counts = POOLINGS["erk"](units, dims_, 0.8, 0.0, 1.0)
    raw = np.array([sum(d) / np.prod(d) for d in dims_])
    density = np.array([1 - c / n for c, n in zip(counts, sizes, strict=True)])
    # The smaller two are dense or in proportion to the formula.
    ratio = density / raw
    free = density < 0.999
    assert free[1] and np.ptp(ratio[free]) < 0.02 * ratio[free].mean()
    assert all(ratio[~free] <= ratio[free].max() + 1e-9)


@given(shapes, st.integers(0, 999), st.floats(0, 0.95))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_blocks_come_as_near_as_whole_blocks_can(pooling, drawn, seed, sparsity):
    units = units_of(kernels_of(drawn, seed), "block:2x3")
    counts = POOLINGS[pooling](units, dims(drawn), sparsity, 0.0, 1.0)
    zeros = 0
    for count, own in zip(counts, units, strict=True):
        order = np.argsort(own.scores, kind="stable")
        zeros += int(own.sizes[order[:count]].sum())
    total = sum(int(u.sizes.sum()) for u in units)
    # Half a block in all; or in each kernel, where the last block of six weights may have to stay.
    allowed = 3.5 if pooling.startswith("global") else 6.5 * len(units)
    assert abs(zeros - sparsity * total) <= allowed


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pooling": "globally"}, "must be one of 'layer', 'global'"),
        ({"pooling": "global", "cap": 0.5}, "final sparsity"),
        ({"pooling": "global", "floor": 0.9}, "final sparsity"),
        ({"pooling": "erk", "floor": -0.1}, "from 0 to 1"),
        ({"cap": 0.9}, "same sparsity"),
        ({"pooling": "global", "cap": "all"}, "from 0 to 1"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(tfc.ConfigError, match=words):
        tfc.PruningCallback(tfc.ConstantSparsity(0.8, 0), **options)
