"""What the tests of the networks share."""

from __future__ import annotations

import keras
import numpy as np
import pytest


def _randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every weight a value that matters, BatchNorm's statistics included."""
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        shape = tuple(weight.shape)
        if weight.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif weight.name in ("beta", "bias", "moving_mean"):
            value = rng.normal(0.0, 0.3, shape)
        else:
            fan_in = shape[0] if len(shape) == 2 else shape[0] * shape[1] * shape[2]
            if "conv_dw" in weight.path or "depthwise" in weight.path:
                fan_in = shape[0] * shape[1]
            value = rng.normal(0.0, (2.0 / fan_in) ** 0.5, shape)
        values.append(value.astype("float32"))
    model.set_weights(values)
    return model


def _outputs(model: keras.Model, batch: int = 2) -> np.ndarray:
    """Runs random images; fails where the outputs could hide an error by all being alike."""
    x = np.random.default_rng(1).normal(0.0, 1.0, (batch, *model.input_shape[1:]))
    y = np.asarray(model(x.astype("float32"), training=False))
    assert np.isfinite(y).all() and np.std(y) > 1e-3
    return y


@pytest.fixture
def randomize():
    return _randomize


@pytest.fixture
def outputs():
    return _outputs
