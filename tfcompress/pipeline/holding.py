"""Zeros that earlier steps made, held while a later step trains."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tfcompress import registry
from tfcompress.report import CompressionReport
from tfcompress.transforms.mask import Mask
from tfcompress.transforms.wrapper import wrappers
from tfcompress.transforms.wrapping import wrap
from tfcompress.variables import value_of


def held(model: Any, kept: Sequence[str]) -> Any:
    """The model, or a copy of it whose zeros in kernels stay zeros while it trains.

    Models whose layers are wrapped (shared values) or quantize-aware hold theirs themselves.
    """
    from tfcompress.conversion.convert import is_quantize_aware

    if "sparsity" not in kept or wrappers(model) or is_quantize_aware(model):
        return model
    plan = {}
    for _, layer in registry.walk(model):
        for kernel in registry.kernels(layer):
            values = value_of(kernel)
            if (values == 0).any():
                plan[id(kernel)] = functools.partial(Mask.keeping, values)
    return wrap(model, plan, CompressionReport("train")) if plan else model


def released(trained: Any, given: Any) -> Any:
    """What was trained, without what `held` has put around its layers."""
    from tfcompress.transforms.strip import strip

    return trained if trained is given or wrappers(given) else strip(trained)
