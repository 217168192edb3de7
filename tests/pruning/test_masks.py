import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.pruning.masks import lowest_mask, zeros_for


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.floats(0, 1))
def test_exactly_the_lowest_go_and_ties_go_in_order(values, share):
    scores = np.array(values, np.float32)
    zeros = zeros_for(share, len(scores))
    mask = lowest_mask(scores, zeros)
    by_rank = sorted(range(len(values)), key=lambda i: (values[i], i))
    assert set(np.flatnonzero(~mask)) == set(by_rank[:zeros])


def test_shape_is_kept_and_the_count_is_exact():
    scores = np.random.default_rng(0).random((3, 3, 7, 11))
    mask = lowest_mask(scores, zeros_for(0.8, scores.size))
    assert mask.shape == scores.shape
    assert (~mask).sum() == round(0.8 * scores.size)
