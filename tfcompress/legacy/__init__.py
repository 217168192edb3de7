"""Keras 2: tf_keras models through tensorflow-model-optimization, and over to Keras 3.

`to_keras3` brings a tf_keras model or file to Keras 3, where all of tfcompress works on it.
`prune`, `quantize_aware`, `cluster` and `strip` take and give tf_keras models; what they do is done
by tensorflow-model-optimization (tfmot), told in tfcompress's own words.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> the module that defines it; loaded on first use, as in tfcompress itself.
_HOMES = {
    "prune": "verbs",
    "quantize_aware": "verbs",
    "cluster": "verbs",
    "strip": "stripping",
    "to_keras3": "conversion",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
