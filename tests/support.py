"""Helpers that tests import: where data is, and weights that look trained."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def data_folder() -> Path | None:
    """Where the larger data sets are, if anywhere."""
    folder = os.environ.get("TFCOMPRESS_DATA")
    return Path(folder) if folder and Path(folder).is_dir() else None


def randomize(model, seed=0):
    """Gives a model weights and BatchNorm statistics as if it had been trained."""
    generator = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        if type(layer).__name__ == "BatchNormalization":
            size = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.3, size))
            layer.moving_variance.assign(generator.uniform(0.3, 1.5, size))
            if layer.gamma is not None:
                layer.gamma.assign(generator.uniform(0.6, 1.4, size))
            if layer.beta is not None:
                layer.beta.assign(generator.normal(0, 0.3, size))
    return model


def software_gpu_driver() -> Path | None:
    """The driver file of SwiftShader, as Debian's chromium-common and Chrome install it."""
    folders = ("/usr/lib/chromium", "/usr/lib64/chromium-browser", "/opt/google/chrome")
    files = [Path(folder) / "vk_swiftshader_icd.json" for folder in folders]
    return next((file for file in files if file.is_file()), None)
