"""k-means of numbers: what holds of every result, computed here by brute force."""

import itertools

import numpy as np
import pytest

from tfcompress.clustering.kmeans import STARTS, lloyd, quantized

EVERY = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)


def drawn(seed=0):
    return np.random.default_rng(seed)


def values(size=3000):
    generator = drawn(1)
    return np.concatenate([generator.normal(size=size), generator.normal(9, 0.1, 40)])


@EVERY
@pytest.mark.parametrize("count", [2, 7, 60])
def test_every_value_is_at_the_nearest_mean(start, count):
    given = values()
    found = quantized(given, count, start, drawn())
    centroids = np.unique(found)
    assert len(centroids) == count  # none is empty
    nearest = np.abs(given[:, None] - centroids).min(1)
    np.testing.assert_array_equal(np.abs(given - found), nearest)
    for centroid in centroids:
        assert given[found == centroid].mean() == pytest.approx(centroid, abs=1e-12)


@EVERY
def test_groups_far_apart_are_found(start):
    given = np.concatenate([np.full(5, -3.0), [2.0, 2.5], [7.0]])
    np.testing.assert_array_equal(np.unique(quantized(given, 3, start, drawn())), [-3.0, 2.25, 7.0])


def test_as_good_as_the_best_of_all_partitions():
    given = np.sort(drawn(3).normal(size=14))
    splits = itertools.combinations(range(1, 14), 3)
    best = min(sum(part.var() * part.size for part in np.split(given, s)) for s in splits)
    errors = [
        ((given - quantized(given, 4, STARTS["kmeans++"], drawn(seed))) ** 2).sum()
        for seed in range(20)
    ]
    assert min(errors) == pytest.approx(best)
    assert max(errors) < 2 * best


@EVERY
def test_more_clusters_than_values_and_only_one(start):
    given = np.float32([3, 1, 1, 2])
    np.testing.assert_array_equal(quantized(given, 3, start, drawn()), given)
    np.testing.assert_array_equal(quantized(given, 9, start, drawn()), given)
    np.testing.assert_array_equal(quantized(given, 1, start, drawn()), np.float32([1.75] * 4))
    assert quantized(np.float32([]), 2, start, drawn()).size == 0


@EVERY
def test_values_that_come_often_leave_no_cluster_empty(start):
    given = np.repeat([0.0, 1e-3, 2e-3, 5.0, 100.0], [9000, 5, 5, 2, 1])
    assert len(np.unique(quantized(given, 4, start, drawn()))) == 4


def test_empty_clusters_go_where_the_error_is():
    points = np.array([0.0, 1.0, 10.0, 11.0, 20.0])
    np.testing.assert_array_equal(
        lloyd(points, np.ones(5), np.array([50.0, 60.0, 5.0])), [0.5, 10.5, 20.0]
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_shape_and_seed_are_kept(dtype):
    given = values().astype(dtype).reshape(40, -1)
    one, other = (quantized(given, 5, STARTS["kmeans++"], drawn()) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.dtype == dtype and one.shape == given.shape and len(np.unique(one)) == 5
