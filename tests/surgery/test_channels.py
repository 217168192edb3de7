"""Channel groups: taking out channels whose values are 0 leaves the outputs as they are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from channel_networks import NETWORKS, PARTS, network, silence
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_support import assert_same_outputs, scramble

import tfcompress as tfc
from tfcompress.report import CompressionReport
from tfcompress.surgery.channels.analysis import Analysis
from tfcompress.surgery.channels.atoms import Kept
from tfcompress.surgery.channels.cost import Cost
from tfcompress.surgery.channels.units import families
from tfcompress.surgery.shrink import without

layers, ops = keras.layers, keras.ops


def remove_some(model, share=0.5, seed=0):
    """Channels of every family silenced, and the model without them."""
    scramble(model, seed)
    found = Analysis(model)
    generator = np.random.default_rng(seed)
    gone = np.zeros(found.classes.max() + 1, bool)
    for family in families(found):
        count = len(family.units)
        chosen = generator.permutation(family.units)[: min(round(share * count), count - 1)]
        gone[chosen] = True
    silence(found, gone)
    smaller = without(model, found, gone, CompressionReport("shrink"))
    cost, real, kept = Cost(model, found), tfc.complexity(smaller), Kept(found.classes, gone)
    assert cost.of("multiply_adds", kept) == real.multiply_adds
    assert cost.of("parameters", kept) == real.parameters
    return smaller, gone


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_silent_channels_are_not_missed(name, seed):
    model = NETWORKS[name]()
    before = tfc.complexity(model)
    smaller, gone = remove_some(model, 0.3 + 0.3 * seed, seed)
    assert gone.any()
    assert tfc.complexity(smaller).parameters < before.parameters
    assert_same_outputs(model, smaller, 1e-5)
    assert {layer.name for layer in smaller._flatten_layers()} == {
        layer.name for layer in model._flatten_layers()
    }


@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=5),
    widths=st.lists(st.sampled_from([2, 4, 6]), min_size=6, max_size=6),
    flat=st.booleans(), several=st.booleans(), share=st.floats(0.2, 0.9), seed=st.integers(0, 99),
)  # fmt: skip
def test_silent_channels_of_random_networks(parts, widths, flat, several, share, seed):
    model = network(parts, widths, flat, several)
    smaller, _ = remove_some(model, share, seed)
    assert_same_outputs(model, smaller, 1e-5)
