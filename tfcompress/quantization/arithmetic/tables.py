"""Operators of one input: 256 possible values, so a table computed in the graph, then a gather.

The table follows the grids while they are trained; computing 256 entries costs nothing beside a
layer. Transcendental functions are taken in float64 and rounded to float32, which is what a good
C library's float32 function returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from tfcompress.quantization import exact
from tfcompress.quantization.arithmetic.output import Activation, clip, finish, offset
from tfcompress.quantization.grids import Grid, softmax_grid, tanh_grid

Function = Callable[[tf.Tensor], tf.Tensor]
"""From a float64 tensor to a float64 tensor, elementwise."""


def levels() -> tf.Tensor:
    """-128 to 127 as float32 (256,)."""
    return tf.range(-128.0, 128.0)


def look_up(q: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """table[q + 128], and NaN of NaN.

    Args:
        q: integers, float32, any shape.
        table: (256,) of float32.

    Returns:
        float32 tensor of q's shape.
    """
    unknown = tf.math.is_nan(q)
    index = tf.cast(tf.where(unknown, 0.0, q + 128), tf.int32)
    return tf.where(unknown, q, tf.gather(table, index))


def requantize_grid(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """QUANTIZE int8 -> int8: XNNPACK's form with 8 fraction bits, or TFLite's own.

    XNNPACK takes float32(s_x / s_out) from 2^-8 to 128.

    Args:
        q: integers, float32.
        x: grid of q.
        out: output grid.

    Returns:
        Integers, float32.
    """
    return look_up(q, _requantized(x, out))


@exact.ahead
def _requantized(x: Grid, out: Grid) -> tf.Tensor:
    d, ratio = offset(levels(), x), exact.quotient(x.scale, out.scale)
    near = _by_256ths(d, tf.round(256 * ratio))
    far = exact.fixed_multiply(d, tf.cast(ratio, tf.float64), half_up=True)
    placed = (ratio >= 2.0**-8) & (ratio <= 128)
    return finish(tf.where(placed, near, tf.cast(far, tf.float32)), out)


def leaky_relu(q: tf.Tensor, alpha: float, x: Grid, out: Grid) -> tf.Tensor:
    """LEAKY_RELU: XNNPACK's form, or TFLite's own where a slope is beyond its 8 fraction bits.

    Args:
        q: integers, float32.
        alpha: the slope on the negative side.
        x: grid of q.
        out: output grid.

    Returns:
        Integers, float32.
    """
    return look_up(q, _leaky_relu(x, out, alpha))


@exact.ahead
def _leaky_relu(x: Grid, out: Grid, alpha: float) -> tf.Tensor:
    d, ratio = offset(levels(), x), exact.quotient(x.scale, out.scale)
    slope = exact.product(ratio, tf.constant(alpha, tf.float32))
    near = tf.where(
        d >= 0, _by_256ths(d, tf.round(256 * ratio)), _by_256ths(d, tf.round(256 * slope))
    )
    # A negative slope's multiplier is negative; the same products come of a negated input.
    negated = d * math.copysign(1.0, alpha)
    far = tf.where(
        d >= 0,
        exact.fixed_multiply(d, tf.cast(ratio, tf.float64)),
        exact.fixed_multiply(negated, tf.cast(tf.abs(slope), tf.float64)),
    )
    # The bounds of XNNPACK's 16-bit multipliers (xnn_define_leaky_relu).
    placed = (ratio >= 2.0**-8) & (ratio <= 128) & (tf.abs(slope) >= 2.0**-8)
    placed &= (slope <= 128) & (slope >= -127.99609375)
    return finish(tf.where(placed, near, tf.cast(far, tf.float32)), out)


def logistic(q: tf.Tensor, x: Grid) -> tf.Tensor:
    """LOGISTIC onto its one output grid, `softmax_grid()`: round_half_even(256 * fn - 128).

    Args:
        q: integers, float32.
        x: grid of q.

    Returns:
        Integers, float32.
    """
    return look_up(q, _bounded(x, softmax_grid(), tf.sigmoid, 256))


def tanh(q: tf.Tensor, x: Grid) -> tf.Tensor:
    """TANH onto its one output grid, `tanh_grid()`: round_half_even(128 * fn)."""
    return look_up(q, _bounded(x, tanh_grid(), tf.tanh, 128))


@exact.ahead
def _bounded(x: Grid, out: Grid, function: Function, steps: float) -> tf.Tensor:
    value = tf.cast(function(_reals(x)), tf.float32)
    # A product with a power of two is exact; the sum is rounded to float32 before it is an integer.
    return clip(tf.round(value * steps + out.zero_point))


def by_table(q: tf.Tensor, function: Function, x: Grid, out: Grid) -> tf.Tensor:
    """GELU, EXP and LOG: TFLite's own kernels, which use a table themselves.

    Args:
        q: integers, float32.
        function: what the operator computes, in float64.
        x: grid of q.
        out: output grid.

    Returns:
        Integers, float32: round_half_away(fn(s * d) * float32(1 / s_out)) + z.
    """
    return look_up(q, _tabulated(x, out, function, exact.half_away))


def by_float(q: tf.Tensor, function: Function, x: Grid, out: Grid) -> tf.Tensor:
    """Operators that the converter leaves in float: DEQUANTIZE, the function, QUANTIZE.

    Args:
        q: integers, float32.
        function: what the operator computes, in float64.
        x: grid of q.
        out: output grid.

    Returns:
        Integers, float32: round_half_even(fn(s * d) * float32(1 / s_out)) + z.
    """
    return look_up(q, _tabulated(x, out, function, tf.round))


@exact.ahead
def _tabulated(x: Grid, out: Grid, function: Function, nearest: Function) -> tf.Tensor:
    value = tf.cast(function(_reals(x)), tf.float32)
    scaled = exact.product(exact.pin(value), exact.quotient(1.0, out.scale))
    return finish(nearest(scaled), out)


def gelu(q: tf.Tensor, x: Grid, out: Grid, *, approximate: bool = False) -> tf.Tensor:
    """GELU (`by_table`), exact or in tanh's approximation."""
    return by_table(q, _gelu_tanh if approximate else _gelu, x, out)


def exp(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """EXP (`by_table`)."""
    return by_table(q, tf.exp, x, out)


def log(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """LOG (`by_table`), for positive inputs."""
    return by_table(q, tf.math.log, x, out)


def elu(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """ELU (`by_float`)."""
    return by_float(q, _elu, x, out)


def sqrt(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """SQRT (`by_float`), for inputs that are not negative."""
    return by_float(q, tf.sqrt, x, out)


def rsqrt(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """RSQRT (`by_float`), for positive inputs."""
    return by_float(q, tf.math.rsqrt, x, out)


def square(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """SQUARE (`by_float`)."""
    return by_float(q, tf.square, x, out)


def relu(q: tf.Tensor, x: Grid, out: Grid, activation: Activation = "relu") -> tf.Tensor:
    """RELU and RELU6 that no operator took in: M(d, float32(s_x / s_out)), clipped.

    Args:
        q: integers, float32.
        x: grid of q.
        out: output grid.
        activation: which of the two.

    Returns:
        Integers, float32.
    """
    return look_up(q, _rescaled(x, out, tf.identity, activation))


def absolute(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """ABS: M(abs(d), float32(s_x / s_out))."""
    return look_up(q, _rescaled(x, out, tf.abs, None))


@exact.ahead
def _rescaled(x: Grid, out: Grid, function: Function, activation: Activation) -> tf.Tensor:
    ratio = tf.cast(exact.quotient(x.scale, out.scale), tf.float64)
    rescaled = exact.fixed_multiply(function(offset(levels(), x)), ratio)
    return finish(tf.cast(rescaled, tf.float32), out, activation, builtin=True)


def hard_swish(q: tf.Tensor, x: Grid, out: Grid) -> tf.Tensor:
    """HARD_SWISH, TFLite's own kernel, in 16-bit fixed point.

    Args:
        q: integers, float32.
        x: grid of q.
        out: output grid.

    Returns:
        Integers, float32.
    """
    return look_up(q, _hard_swish(x, out))


@exact.ahead
def _hard_swish(x: Grid, out: Grid) -> tf.Tensor:
    """The table. Source: tensorflow/lite/kernels/internal/reference/hard_swish.h."""
    fine = x.scale * (1 / 128)
    out_multiplier, out_exponent = _multiplier16(exact.quotient(fine, out.scale))
    gate_multiplier, gate_exponent = _multiplier16(exact.quotient(fine, 3 / 32768))
    value = tf.cast(offset(levels(), x) * 128, tf.int64)
    on_output = exact.doubling_high(value, out_multiplier, 16)
    # The gate, relu6(x + 3) / 6, as a fraction of 2^15: saturation is what clips it.
    zero, one = tf.constant(0, tf.int64), tf.constant(1, tf.int64)
    left = tf.maximum(gate_exponent - 1, zero)
    gate = _saturated16(tf.bitwise.left_shift(value, left))
    gate = exact.doubling_high(gate, gate_multiplier, 16)
    gate = tf.where(gate_exponent > 0, _saturated16(gate * 2), gate)
    gate = exact.rounding_shift(gate, tf.maximum(-gate_exponent, zero))
    gate = tf.bitwise.right_shift(gate + 2**15, one)
    product = exact.truncated_shift(gate * on_output, 15)
    rounded = exact.rounding_shift(product, tf.maximum(-out_exponent, zero))
    return finish(tf.cast(rounded, tf.float32), out)


def _reals(x: Grid) -> tf.Tensor:
    """The 256 real values of a grid: float32 (q - z) * s, as float64."""
    return tf.cast(exact.product(offset(levels(), x), x.scale), tf.float64)


def _by_256ths(d: tf.Tensor, multiplier: tf.Tensor) -> tf.Tensor:
    """(d * multiplier + 128) >> 8: integers under 2^24, so exact in float32."""
    return tf.floor((d * multiplier + 128) / 256)


def _multiplier16(ratio: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A ratio's multiplier in 16 bits, and its exponent (DownScaleInt32ToInt16Multiplier)."""
    multiplier, exponent = exact.fixed_multiplier(tf.cast(ratio, tf.float64))
    rounded = tf.bitwise.right_shift(multiplier + 2**15, tf.constant(16, tf.int64))
    return tf.minimum(rounded, tf.constant(2**15 - 1, tf.int64)), exponent


def _saturated16(x: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(x, -(2**15), 2**15 - 1)


def _elu(x: tf.Tensor) -> tf.Tensor:
    return tf.where(x >= 0, x, tf.math.expm1(tf.minimum(x, 0)))


def _gelu(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * x * tf.math.erfc(x * -math.sqrt(0.5))


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
