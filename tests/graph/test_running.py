"""Runs of a flow: call by call the same as the model, nothing held for longer than needed."""

from __future__ import annotations

import keras
import numpy as np

from tfcompress.graph.flow import read_flow
from tfcompress.graph.running import CHUNK, Run

layers = keras.layers


def two_inputs():
    first, second = keras.Input((6, 4)), keras.Input((6,), dtype="int32")
    words = layers.Embedding(9, 4, mask_zero=True)(second)
    inner = keras.Sequential([keras.Input((6, 4)), layers.Dense(4), layers.Dropout(0.5)])
    mixed = inner(first) + layers.LSTM(4, return_sequences=True)(words)
    attended = layers.MultiHeadAttention(2, 3)(mixed, words)
    return keras.Model([first, second], [layers.Dense(2)(attended), inner(mixed) * 2.0])


def test_every_tensor_is_the_models():
    model = two_inputs()
    generator = np.random.default_rng(0)
    count = CHUNK + 3
    x = [
        generator.normal(size=(count, 6, 4)).astype("float32"),
        generator.integers(0, 9, (count, 6)),
    ]
    flow = read_flow(model)
    run = Run(flow, x)
    for call in flow.calls:
        last = run.compute(call)
        assert [sum(len(c) for c in chunks) for chunks in last] == [count] * len(call.results)
        run.step(call)
    expected = [np.asarray(y) for y in model(x, training=False)]
    found = [np.concatenate([np.asarray(c) for c in run.value(v)]) for v in flow.outputs]
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


def test_only_what_is_still_read_is_held():
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(4) for _ in range(5))])
    flow = read_flow(model)
    run = Run(flow, [np.ones((3, 4), "float32")])
    for call in flow.calls:
        run.step(call)
        assert len(run._values) == 1
