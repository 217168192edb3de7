"""Operators that combine many values of one tensor: means, sums, pools, softmax; and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress.errors import ConfigError
from tfcompress.quantization import exact
from tfcompress.quantization.arithmetic.output import Target, clip, finish, offset
from tfcompress.quantization.grids import Grid, softmax_grid

LARGEST_SUM = 131_072
"""The sum of so many values stays within 2^24, so it is exact in float32."""

LARGEST_WIDE_SUM = 65_536
"""The same of 16-bit integers in TFLite's own kernel, whose sum overflows beyond (measured)."""

UNROLLED = 32
"""Up to so many terms a sum in order is written out; beyond, it is a loop."""


def mean(
    q: tf.Tensor,
    axes: int | Sequence[int],
    x: Grid,
    out: Grid,
    *,
    keepdims: bool = False,
    target: Target = "x86",
) -> tf.Tensor:
    """MEAN, on XNNPACK, over any axes of up to 131,072 values together.

    Args:
        q: integers, float32; the reduced axes have a known size.
        axes: which.
        x: grid of q.
        out: output grid.
        keepdims: reduced axes stay, with size 1.
        target: "arm" fuses each product with its sum, x86 rounds in between.

    Returns:
        Integers, float32.
    """
    count = count_of(q, axes)
    return _reduced(q, axes, x, out, keepdims, count, np.float32(1) / np.float32(count), target)


def sum(
    q: tf.Tensor,
    axes: int | Sequence[int],
    x: Grid,
    out: Grid,
    *,
    keepdims: bool = False,
    target: Target = "x86",
) -> tf.Tensor:
    """SUM; else as `mean`."""
    return _reduced(q, axes, x, out, keepdims, count_of(q, axes), None, target)


def average_pool2d(
    q: tf.Tensor, size: int | Sequence[int], strides: int | Sequence[int], padding: str
) -> tf.Tensor:
    """AVERAGE_POOL_2D, TFLite's own kernel: input and output are on the same grid.

    Args:
        q: integers (batch, h, w, c), float32, with known h and w.
        size: window, one number or two.
        strides: one number or two.
        padding: "SAME" (padding is not counted) or "VALID".

    Returns:
        Integers (batch, h', w', c), float32: the sum over the valid cells divided by their
        number, ties away from zero.
    """
    count = tf.constant(_cells(q.shape[1:3], _pair(size), _pair(strides), padding), q.dtype)
    pooled = tf.nn.avg_pool2d(q, size, strides, padding)
    # The pool's own division rounds; the sum it came from is the nearest integer to this.
    total = tf.round(pooled * count)
    # floor((n + 1/2) / count) for integers: half a unit off from where rounding could matter, so
    # it is right also where a compiler multiplies by a reciprocal.
    whole = tf.floor((tf.abs(total) + tf.floor(count / 2) + 0.5) / count)
    return tf.sign(total) * whole


def max_pool2d(
    q: tf.Tensor, size: int | Sequence[int], strides: int | Sequence[int], padding: str
) -> tf.Tensor:
    """MAX_POOL_2D of integers (batch, h, w, c); input and output are on the same grid."""
    return tf.nn.max_pool2d(q, size, strides, padding)


def pad(q: tf.Tensor, paddings: Any, x: Grid) -> tf.Tensor:
    """PAD with the integer that means 0.

    Args:
        q: integers, float32.
        paddings: (rank, 2), as `tf.pad` takes them.
        x: grid of q and of the output.

    Returns:
        Integers, float32.
    """
    return tf.pad(offset(q, x), paddings) + x.zero_point


def softmax(q: tf.Tensor, x: Grid, *, beta: float = 1.0, target: Target = "x86") -> tf.Tensor:
    """SOFTMAX over the last axis onto its one output grid, `softmax_grid()`.

    Args:
        q: integers (..., n), float32, n known.
        x: grid of q.
        beta: factor of the exponents.
        target: "arm" has a table of 16-bit integers, x86 one of float32.

    Returns:
        Integers (..., n), float32.
    """
    table = _exponentials(x, beta, target)
    steps = tf.cast(tf.reduce_max(q, -1, keepdims=True) - q, tf.int32)
    out = softmax_grid()
    if target == "arm":
        values = tf.cast(tf.gather(table, steps), tf.float64)
        total = tf.cast(tf.reduce_sum(values, -1, keepdims=True), tf.float32)
        ratio = exact.quotient(1.0, exact.product(total, out.scale))
        scaled = exact.fixed_multiply(values, tf.cast(ratio, tf.float64))
        return finish(tf.cast(scaled, tf.float32), out)
    values = tf.gather(table, steps)
    ratio = exact.quotient(1.0, exact.product(_sum_in_order(values), out.scale))
    return finish(exact.half_away(exact.product(values, ratio)), out)


@exact.ahead
def _exponentials(x: Grid, beta: float, target: Target) -> tf.Tensor:
    """exp(-s * beta * k) for k = 0 to 255, as PopulateSoftmaxLookupTable computes it."""
    exponents = exact.product(exact.product(x.scale, -beta), tf.range(256.0))
    table = tf.cast(tf.exp(tf.cast(exponents, tf.float64)), tf.float32)
    if target == "arm":
        return tf.floor(exact.product(exact.pin(table), 65535.0) + 0.5)
    return table


def count_of(q: tf.Tensor, axes: int | Sequence[int]) -> int:
    """How many values a reduction takes together.

    Raises:
        ConfigError: a reduced axis of unknown size, or too many.
    """
    sizes = [q.shape[axis] for axis in np.atleast_1d(axes)]
    if None in sizes:
        raise ConfigError(f"reduced axes need a known size, got shape {q.shape}, axes {axes}.")
    count = int(np.prod(sizes))
    if count > LARGEST_SUM:
        raise ConfigError(f"a mean or sum takes up to {LARGEST_SUM} values, got {count}.")
    return count


def _reduced(
    q: tf.Tensor,
    axes: int | Sequence[int],
    x: Grid,
    out: Grid,
    keepdims: bool,
    count: int,
    inverse: np.float32 | None,
    target: Target,
) -> tf.Tensor:
    """XNNPACK's qs8-rsum and qs8-rdsum: the raw sum times k, plus one constant for zero points."""
    total = tf.reduce_sum(q, axes, keepdims=keepdims)
    factor, constant = _reduction_factors(x, out, count, inverse, target)
    if target == "arm":
        wide = tf.cast(total, tf.float64)
        return clip(tf.round(_fused(wide, tf.cast(factor, tf.float64), constant)))
    return clip(tf.round(exact.product(exact.pin(total), factor) + constant))


@exact.ahead
def _reduction_factors(
    x: Grid, out: Grid, count: int, inverse: np.float32 | None, target: Target
) -> tuple[tf.Tensor, tf.Tensor]:
    """float32 k and float32(z_out - count * z_in * k)."""
    factor = exact.quotient(x.scale, out.scale)
    if inverse is not None:
        factor = exact.product(factor, inverse)
    zeros = x.zero_point * count
    if target == "arm":
        wide = tf.cast(-zeros, tf.float64)
        return factor, _fused(wide, tf.cast(factor, tf.float64), out.zero_point)
    return factor, exact.pin(out.zero_point - exact.product(zeros, factor))


def _fused(a: tf.Tensor, b: tf.Tensor, addend: tf.Tensor) -> tf.Tensor:
    """float32(a * b + addend) of float64 factors: what a fused multiply-add returns.

    The product is exact in float64, so only the sum is rounded before the float32 that it becomes.
    """
    return tf.cast(a * b + tf.cast(addend, tf.float64), tf.float32)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _cells(
    shape: Sequence[int], size: tuple[int, int], strides: tuple[int, int], padding: str
) -> np.ndarray:
    """How many cells of the input each window holds, float32 (h', w', 1)."""
    sides = []
    for length, window, step in zip(shape, size, strides, strict=True):
        if padding == "VALID":
            sides.append(np.full((length - window) // step + 1, window))
            continue
        windows = -(-length // step)
        before = max((windows - 1) * step + window - length, 0) // 2
        first = np.arange(windows) * step - before
        sides.append(np.minimum(first + window, length) - np.maximum(first, 0))
    return np.multiply.outer(*sides)[..., None].astype(np.float32)


def _sum_in_order(values: tf.Tensor) -> tf.Tensor:
    """The sum over the last axis, rounded to float32 after each term, first to last (..., 1)."""
    count = int(values.shape[-1])
    if count <= UNROLLED:
        total = values[..., :1]
        for index in range(1, count):
            # Pinned: Grappler would gather a chain of sums into one operator.
            total = exact.pin(total + values[..., index : index + 1])
        return total
    rank = values.shape.rank
    terms = tf.transpose(values, [rank - 1, *range(rank - 1)])

    def step(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index + 1, total + terms[index]

    start = (tf.constant(1), terms[0])
    total = tf.while_loop(lambda index, _: index < count, step, start, maximum_iterations=count)[1]
    return total[..., None]
