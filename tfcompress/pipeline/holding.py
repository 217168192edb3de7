"""Zeros and shared values that earlier steps made, held while a later step trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import registry
from tfcompress.transforms.sharing import shares_values
from tfcompress.transforms.wrapper import wrappers
from tfcompress.variables import value_of


class _Held(keras.constraints.Constraint):
    """A variable's constraint: its own first, then what is held of the kernel as it was."""

    transient = True  # not for a copy of the model

    def __init__(self, free: np.ndarray, values: np.ndarray, inner: Any) -> None:
        self.free, self.values, self.inner = free, values, inner

    def __call__(self, value: Any) -> Any:
        if self.inner is not None:
            value = self.inner(value)
        return keras.ops.where(self.free, value, keras.ops.cast(self.values, value.dtype))


@contextlib.contextmanager
def held(model: Any, kept: Sequence[str]) -> Iterator[None]:
    """Holds zeros, and kernels that share values, in every layer that does not hold its own.

    Wrapped and quantize-aware layers hold theirs; what these models left as it was does not. It is
    done by constraints of the variables, as in pruning: the optimizer keeps them in its update.

    Args:
        model: what trains.
        kept: some of "sparsity" and "clusters". A kernel of shared values that no layer trains as
            such keeps all of its values.
    """
    before: list[tuple[Any, Callable[[Any], Any] | None]] = []
    for layer, kernel in _loose(model):
        values = np.asarray(value_of(kernel))
        free = np.ones(values.shape, bool)
        if "clusters" in kept and shares_values(values, _channel_axes(layer, kernel), least=1 / 8):
            free[...] = False
        if "sparsity" in kept:
            free &= values != 0
        if not free.all():
            before.append((kernel, kernel.constraint))
            kernel.constraint = _Held(free, values, kernel.constraint)
    try:
        yield
    finally:
        for kernel, constraint in before:
            kernel.constraint = constraint


def _loose(model: Any) -> Iterator[tuple[Any, Any]]:
    """Layers and their kernels that no transform makes."""
    made = {id(kernel) for wrapper in wrappers(model) for kernel, _ in wrapper.kernels}
    for _, layer in registry.walk(model):
        for kernel in registry.kernels(layer):
            if id(kernel) not in made and not getattr(layer, "lora_enabled", False):
                yield layer, kernel


def _channel_axes(layer: Any, kernel: Any) -> list[int]:
    return [axis for axis, role in enumerate(registry.axes(layer, kernel)) if role == "o"]
