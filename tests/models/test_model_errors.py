"""Arguments that no network could use: a ConfigError that names them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfcompress import models
from tfcompress.errors import ConfigError

BUILDERS = [
    models.mobilenet,
    models.mobilenet_v2,
    models.mobilenet_small,
    models.resnet8,
    models.ds_cnn,
]
MOBILENETS = BUILDERS[:2]
WITH_ALPHA = BUILDERS[:3]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(
    "shape",
    [
        (32, 32),
        (1, 32, 32, 3),
        (None, 32, 3),
        (32, 32, None),
        (32, 32, 0),
        (32, -32, 3),
        (32.0, 32, 3),
        None,
        32,
        "96",
    ],
)
def test_input_shape(build, shape):
    with pytest.raises(ConfigError, match="input_shape="):
        build(shape, 10)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("classes", [0, -1, 2.0, True, None, "10"])
def test_classes(build, classes):
    with pytest.raises(ConfigError, match="classes="):
        build((32, 32, 3), classes)


@pytest.mark.parametrize("build", WITH_ALPHA)
@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf"), "1", None, True])
def test_alpha(build, alpha):
    with pytest.raises(ConfigError, match="alpha="):
        build((32, 32, 3), 10, alpha=alpha)


@pytest.mark.parametrize("build", WITH_ALPHA)
@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan"), None])
def test_dropout(build, dropout):
    with pytest.raises(ConfigError, match="dropout="):
        build((32, 32, 3), 10, dropout=dropout)


@pytest.mark.parametrize("dropout", [0.2, (0.2,), (0.2, 1.5), None])
def test_ds_cnn_dropout(dropout):
    with pytest.raises(ConfigError, match="dropout="):
        models.ds_cnn(dropout=dropout)


@pytest.mark.parametrize(
    ("build", "smallest"),
    [*[(build, 32) for build in MOBILENETS], (models.mobilenet_small, 8), (models.resnet8, 8)],
)
def test_too_small(build, smallest):
    assert build((smallest, smallest, 3), 2).output_shape == (None, 2)
    for shape in [(smallest - 1, smallest, 3), (smallest, smallest - 1, 3)]:
        with pytest.raises(ConfigError, match=f"at least {smallest} x {smallest}"):
            build(shape, 2)


@pytest.mark.parametrize("build", MOBILENETS)
def test_pooling(build):
    with pytest.raises(ConfigError, match="pooling='mean'"):
        build((32, 32, 3), include_top=False, pooling="mean")


@pytest.mark.parametrize("build", MOBILENETS)
def test_sparse_friendly(build):
    with pytest.raises(ConfigError, match=r"3 input channels.*Received: 1 input"):
        build((32, 32, 1), 10, sparse_friendly=True)
    with pytest.raises(ConfigError, match="pooling='max'"):
        build((32, 32, 3), sparse_friendly=True, include_top=False, pooling="max")


def test_depth_multiplier():
    with pytest.raises(ConfigError, match="depth_multiplier=0"):
        models.mobilenet((32, 32, 3), 10, depth_multiplier=0)
    with pytest.raises(ConfigError, match="depth_multiplier=2 with sparse_friendly"):
        models.mobilenet((32, 32, 3), 10, depth_multiplier=2, sparse_friendly=True)


@pytest.mark.parametrize("build", [models.resnet8, models.ds_cnn])
def test_tiny_networks(build):
    with pytest.raises(ConfigError, match="filters=0"):
        build(filters=0)
    with pytest.raises(ConfigError, match="weight_decay=-1"):
        build(weight_decay=-1)


@pytest.mark.parametrize(
    "options",
    [
        {"filters": 0},
        {"stride": 3},
        {"stride": True},
        {"kernel_size": 4},
        {"kernel_size": 1},
        {"depth_multiplier": 0},
        {"depth_multiplier": 2, "sparse_friendly": True},
        {"kernel_size": 7, "sparse_friendly": True},
    ],
)
def test_separable_block(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        models.separable_block(keras.Input((8, 8, 4)), **{"filters": 6, **options})


@pytest.mark.parametrize("x", [None, np.zeros((8, 8, 4))])
def test_separable_block_takes_images(x):
    with pytest.raises(ConfigError, match="batch, rows, columns, channels"):
        models.separable_block(x, 6)
    with pytest.raises(ConfigError, match="batch, rows, columns, channels"):
        models.separable_block(keras.Input((8, 8, None)), 6)


def test_channels_first_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(ConfigError, match="channels_last"):
        models.mobilenet_small()
