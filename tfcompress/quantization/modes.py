"""What the layers of a quantize-aware model compute: as trained, observed, or for the converter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

_observe: ContextVar[Any] = ContextVar("observe", default=None)
_export: ContextVar[int] = ContextVar("export", default=0)
_onnx: ContextVar[bool] = ContextVar("onnx", default=False)


@contextmanager
def observing(collect: Any) -> Iterator[None]:
    """Inside it, layers compute in float and give `collect(layer, values)` what they would round.

    Args:
        collect: a function of the layer and the float32 tensor that its range is to hold.
    """
    token = _observe.set(collect)
    try:
        yield
    finally:
        _observe.reset(token)


@contextmanager
def exporting(weight_bits: int = 8, *, onnx: bool = False) -> Iterator[None]:
    """Inside it, layers compute in the fake-quant form that the converter reads.

    Args:
        weight_bits: width of the integers that weights are stored in; those of fewer bits are
            kept on their grid in integers of 8 bits, unless this is less.
        onnx: the converter is that to ONNX: no marks for TFLite's, every operator's output is
            rounded by itself, and dense layers stay products of matrices.
    """
    tokens = _export.set(weight_bits), _onnx.set(onnx)
    try:
        yield
    finally:
        _export.reset(tokens[0])
        _onnx.reset(tokens[1])


def observer() -> Any:
    """What takes the observed values; None outside `observing`."""
    return _observe.get()


def export_bits() -> int:
    """Width of stored weights inside `exporting`; 0 outside."""
    return _export.get()


def for_onnx() -> bool:
    """Whether what is written inside `exporting` becomes ONNX."""
    return _onnx.get()


@tf.custom_gradient
def through(exact: tf.Tensor, surrogate: tf.Tensor) -> Any:
    """The value of `exact` with the gradient of `surrogate`, both of one shape."""

    def gradient(upstream: tf.Tensor) -> Any:
        return None, upstream

    return tf.identity(exact), gradient


@tf.custom_gradient
def rounded(x: tf.Tensor) -> Any:
    """Nearest integers, ties to even; the gradient passes straight through."""
    return tf.round(x), lambda upstream: upstream
