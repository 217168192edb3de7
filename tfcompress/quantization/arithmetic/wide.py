"""Operators of 16-bit activations and 8-bit weights, as TFLite's own kernels compute them.

XNNPACK has none of them. All grids are symmetric, so integers are proportional to real values; a
bias is stored in 64 bits, which makes the kernels sum in 64 bits and scale by a multiplier of 15.
Measured, no difference. Source: internal/common.h and internal/reference/integer_ops in
tensorflow/lite/kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfcompress.quantization import exact
from tfcompress.quantization.arithmetic.elementwise import common_ratios, product_ratio
from tfcompress.quantization.arithmetic.elementwise import quantize as narrow_quantize
from tfcompress.quantization.arithmetic.output import Activation, bounds
from tfcompress.quantization.arithmetic.reductions import average_pool2d, count_of
from tfcompress.quantization.grids import Grid

LANES = 16
"""So many values ADD takes at a time on x86-64."""

POOLED = 256
"""The sum of so many integers stays below 2^24, so float32 holds it."""


def split_sum(multiply: Callable[[tf.Tensor], tf.Tensor], q: tf.Tensor) -> tf.Tensor:
    """The exact sums of a layer with a kernel.

    Args:
        multiply: the layer's sums, exact for integers of 9 bits, of a tensor of q's shape.
        q: integers of 16 bits, float32: their upper and lower bytes are summed on their own.

    Returns:
        float64 tensor.
    """
    upper = tf.floor(q / 256)
    sums = [tf.cast(multiply(part), tf.float64) for part in (upper, q - 256 * upper)]
    return 256 * sums[0] + sums[1]


def scaled(acc: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """The last step of a layer with a kernel: MultiplyByQuantizedMultiplier of 64-bit sums.

    Args:
        acc: integer-valued tensor (..., channels).
        ratio: positive float64 tensor, scalar or (channels,).

    Returns:
        int64 tensor: acc * ratio with the ratio cut to 15 bits, nearest, ties up.
    """
    multiplier, exponent = exact.fixed_multiplier(ratio)
    half, one = tf.constant(2**15, tf.int64), tf.constant(1, tf.int64)
    short = tf.bitwise.right_shift(multiplier + half, tf.constant(16, tf.int64))
    short = tf.minimum(short, half - 1)
    shift = 15 - exponent
    rounding = tf.bitwise.left_shift(one, shift - 1)
    return tf.bitwise.right_shift(tf.cast(acc, tf.int64) * short + rounding, shift)


@exact.ahead
def linear_ratio(x: Grid, weights: Grid, out: Grid) -> tf.Tensor:
    """The ratio s_x * s_w / s_out in float64, scalar or (channels,)."""
    product = tf.cast(x.scale, tf.float64) * tf.cast(weights.scale, tf.float64)
    return exact.wide_quotient(product, out.scale)


def add(
    a: tf.Tensor, b: tf.Tensor, a_grid: Grid, b_grid: Grid, out: Grid, *, activation: Activation
) -> tf.Tensor:
    """ADD of integers of 16 bits, as float32; their scales are no powers of two.

    On x86-64 with AVX2 the kernel takes 16 values of an example at a time, and rounds each input
    once instead of twice; what is left at the end, and operands of two shapes, it takes as other
    processors take all: one value in 100,000 differs by 1.
    """
    twice = _sum(a, b, a_grid, b_grid, out, 1, activation)
    sizes = a.shape[1:]
    if sizes != b.shape[1:] or None in sizes or not sizes.rank:
        return twice
    once = _sum(a, b, a_grid, b_grid, out, 1, activation, _once)
    count = int(np.prod(sizes))
    together = np.arange(count) < count // LANES * LANES
    return once if together.all() else tf.where(together.reshape(sizes), once, twice)


def subtract(
    a: tf.Tensor, b: tf.Tensor, a_grid: Grid, b_grid: Grid, out: Grid, *, activation: Activation
) -> tf.Tensor:
    """SUB, a - b; else as `add`."""
    return _sum(a, b, a_grid, b_grid, out, -1, activation)


def multiply(
    a: tf.Tensor, b: tf.Tensor, a_grid: Grid, b_grid: Grid, out: Grid, *, activation: Activation
) -> tf.Tensor:
    """MUL: M(a * b, float32(float32(s_a * s_b) / s_out))."""
    products = tf.cast(a, tf.int64) * tf.cast(b, tf.int64)
    ratio, _ = product_ratio(a_grid, b_grid, out)
    return _finish(exact.fixed_multiply(products, tf.cast(ratio, tf.float64)), out, activation)


def mean(q: tf.Tensor, axes: Sequence[int], x: Grid, out: Grid, *, keepdims: bool) -> tf.Tensor:
    """MEAN: the sum by a multiplier that has the count divided into it, rounded twice.

    Args:
        q: integers, float32; the reduced axes have a known size, of up to `LARGEST_WIDE_SUM`
            values together.
        axes: which.
        x: grid of q.
        out: output grid.
        keepdims: reduced axes stay, with size 1.

    Returns:
        Integers, float32.
    """
    count = count_of(q, axes)
    total = tf.reduce_sum(tf.cast(q, tf.int64), axes, keepdims=keepdims)
    multiplier, exponent = _mean_multiplier(x, out, count)
    zero = tf.zeros_like(exponent)
    left, right = tf.maximum(exponent, zero), tf.maximum(-exponent, zero)
    high = exact.doubling_high(tf.bitwise.left_shift(total, left), multiplier)
    return _finish(exact.rounding_shift(high, right), out)


def average_pool(
    q: tf.Tensor, size: Sequence[int], strides: Sequence[int], padding: str
) -> tf.Tensor:
    """AVERAGE_POOL_2D: input and output are on the same grid; arguments as `average_pool2d`."""
    if int(np.prod(size)) <= POOLED:
        return average_pool2d(q, size, strides, padding)
    pooled = average_pool2d(tf.cast(q, tf.float64), size, strides, padding)
    return tf.cast(pooled, tf.float32)


def requantize_grid(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """QUANTIZE int16 -> int16: M(q, s_x / s_out)."""
    return _finish(exact.fixed_multiply(q, _scale_ratio(x, out)), out)


def quantize(x: tf.Tensor, out: Grid) -> tf.Tensor:
    """QUANTIZE from float: as in 8 bits, but what is beyond int32 becomes the smallest integer.

    So it is on x86-64 (NaN as well); ARM's conversion saturates.

    Args:
        x: float32 tensor.
        out: output grid.

    Returns:
        Integers, float32.
    """
    held = tf.abs(exact.quotient(x, out.scale)) < 2.0**31
    return tf.where(held, narrow_quantize(x, out), tf.constant(out.low))


def clipped(q: tf.Tensor, out: Grid, activation: Activation) -> tf.Tensor:
    """Integers within a fused activation's bounds."""
    low, high = bounds(out, activation, builtin=True)
    return tf.clip_by_value(q, low, high)


def _finish(whole: tf.Tensor, out: Grid, activation: Activation = None) -> tf.Tensor:
    low, high = bounds(out, activation, builtin=True)
    return tf.cast(
        tf.clip_by_value(whole, tf.cast(low, tf.int64), tf.cast(high, tf.int64)), tf.float32
    )


def _sum(
    a: tf.Tensor,
    b: tf.Tensor,
    a_grid: Grid,
    b_grid: Grid,
    out: Grid,
    sign: int,
    activation: Activation,
    rescale: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = exact.fixed_multiply,
) -> tf.Tensor:
    """Both inputs with 15 more bits on a common scale, then back: three roundings of each sum."""
    ratio_a, ratio_b, back = common_ratios(a_grid, b_grid, out, 2.0**15)
    total = rescale(tf.cast(a, tf.int64) * 2**15, ratio_a)
    total += sign * rescale(tf.cast(b, tf.int64) * 2**15, ratio_b)
    return _finish(exact.fixed_multiply(total, back), out, activation)


def _once(x: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """As `exact.fixed_multiply` for a ratio up to 1, but rounded once, ties up."""
    multiplier, exponent = exact.fixed_multiplier(ratio)
    shift = 31 - exponent
    rounding = tf.bitwise.left_shift(tf.constant(1, tf.int64), shift - 1)
    return tf.bitwise.right_shift(x * multiplier + rounding, shift)


@exact.ahead
def _scale_ratio(x: Grid, out: Grid) -> tf.Tensor:
    return exact.wide_quotient(x.scale, out.scale)


@exact.ahead
def _mean_multiplier(x: Grid, out: Grid, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Source: QuantizedMeanOrSum in tensorflow/lite/kernels/internal/reference/reduce.h."""
    multiplier, exponent = exact.fixed_multiplier(_scale_ratio(x, out))
    largest = tf.constant(min(count.bit_length() - 1, 32), tf.int64)
    shift = tf.minimum(largest, 31 + exponent)
    return tf.bitwise.left_shift(multiplier, shift) // count, exponent - shift
