"""Every network at a small size, by name: for tests and benchmarks that loop over all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import keras

from .ds_cnn import ds_cnn
from .mobilenet import mobilenet
from .mobilenet_small import mobilenet_small
from .mobilenet_v2 import mobilenet_v2
from .resnet8 import resnet8

_IMAGE = (96, 96, 3)

_BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "mobilenet_small_28": mobilenet_small,
    "mobilenet_small_64": partial(mobilenet_small, (64, 64, 3), 10),
    "mobilenet_small_96": partial(mobilenet_small, _IMAGE, 2),
    # The architecture of MLPerf Tiny's visual wake words, but for ReLU6 in place of ReLU.
    "mobilenet_96_025": partial(mobilenet, _IMAGE, 2, alpha=0.25),
    "mobilenet_v2_96_035": partial(mobilenet_v2, _IMAGE, 2, alpha=0.35),
    "mobilenet_sparse_friendly_96": partial(mobilenet, _IMAGE, 2, alpha=0.5, sparse_friendly=True),
    "mobilenet_v2_sparse_friendly_96": partial(
        mobilenet_v2, _IMAGE, 2, alpha=0.35, sparse_friendly=True
    ),
    "resnet8": resnet8,
    "ds_cnn": ds_cnn,
    "ds_cnn_logmel": partial(ds_cnn, (61, 40, 1), 10),
}

PRESETS: dict[str, Callable[[], keras.Model]] = {
    name: partial(build, name=name) for name, build in _BUILDERS.items()
}
"""Name -> function without arguments that builds the model of that name."""
