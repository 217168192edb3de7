"""Operators of two inputs, and those that move integers to another grid first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfcompress.quantization import exact
from tfcompress.quantization.arithmetic.output import Activation, Target, finish, offset
from tfcompress.quantization.arithmetic.tables import requantize_grid
from tfcompress.quantization.grids import Grid


def add(
    a: tf.Tensor,
    b: tf.Tensor,
    a_grid: Grid,
    b_grid: Grid,
    out: Grid,
    *,
    activation: Activation = None,
) -> tf.Tensor:
    """ADD: XNNPACK's form, or TFLite's own where a scale ratio is below 2^-10 or from 2^8 on.

    Args:
        a: integers, float32.
        b: integers, float32, of a shape that broadcasts with it.
        a_grid: grid of a.
        b_grid: grid of b.
        out: output grid. With grids whose values are known only one form is built.
        activation: what is fused.

    Returns:
        Integers, float32.
    """
    return _sum(a, b, a_grid, b_grid, out, 1.0, activation)


def subtract(
    a: tf.Tensor,
    b: tf.Tensor,
    a_grid: Grid,
    b_grid: Grid,
    out: Grid,
    *,
    activation: Activation = None,
) -> tf.Tensor:
    """SUB, a - b; else as `add`."""
    return _sum(a, b, a_grid, b_grid, out, -1.0, activation)


def multiply(
    a: tf.Tensor,
    b: tf.Tensor,
    a_grid: Grid,
    b_grid: Grid,
    out: Grid,
    *,
    activation: Activation = None,
    target: Target = "x86",
) -> tf.Tensor:
    """MUL: XNNPACK's form, or TFLite's own where s_a * s_b / s_out is not in [2^-16, 2^8).

    Args:
        a: integers, float32.
        b: integers, float32, of a shape that broadcasts with it.
        a_grid: grid of a.
        b_grid: grid of b.
        out: output grid.
        activation: what is fused.
        target: "arm" rounds ties up, x86 to even.

    Returns:
        Integers, float32.
    """
    ratio, placed = product_ratio(a_grid, b_grid, out)
    products = offset(a, a_grid) * offset(b, b_grid)

    def by_xnnpack() -> tf.Tensor:
        if target == "arm":
            # Fixed-point there: the exact product (41 bits at most), nearest, half up.
            scaled = tf.cast(products, tf.float64) * tf.cast(ratio, tf.float64)
            return finish(tf.cast(tf.floor(scaled + 0.5), tf.float32), out, activation)
        # Without the pin Grappler gathers the ratio and a constant factor.
        return finish(tf.round(exact.pin(products) * ratio), out, activation)

    def by_builtin() -> tf.Tensor:
        rescaled = exact.fixed_multiply(products, tf.cast(ratio, tf.float64))
        return finish(tf.cast(rescaled, tf.float32), out, activation, builtin=True)

    return exact.branch(placed, by_xnnpack, by_builtin)


def maximum(a: tf.Tensor, b: tf.Tensor, a_grid: Grid, b_grid: Grid, out: Grid) -> tf.Tensor:
    """MAXIMUM: both inputs are moved to the output's grid first (QUANTIZE), then compared."""
    return tf.maximum(requantize_grid(a, a_grid, out), requantize_grid(b, b_grid, out))


def minimum(a: tf.Tensor, b: tf.Tensor, a_grid: Grid, b_grid: Grid, out: Grid) -> tf.Tensor:
    """MINIMUM; see `maximum`."""
    return tf.minimum(requantize_grid(a, a_grid, out), requantize_grid(b, b_grid, out))


def concatenate(
    inputs: Sequence[tf.Tensor], grids: Sequence[Grid], out: Grid, *, axis: int = -1
) -> tf.Tensor:
    """CONCATENATION: each input is moved to the output's grid (QUANTIZE), then copied.

    An input that is on the output's grid already is not changed by the move.
    """
    moved = [requantize_grid(q, grid, out) for q, grid in zip(inputs, grids, strict=True)]
    return tf.concat(moved, axis)


def squared_difference(
    a: tf.Tensor, b: tf.Tensor, a_grid: Grid, b_grid: Grid, out: Grid
) -> tf.Tensor:
    """SQUARED_DIFFERENCE, TFLite's own kernel (7 more bits, fixed point).

    Args:
        a: integers, float32.
        b: integers, float32, of a shape that broadcasts with it.
        a_grid: grid of a.
        b_grid: grid of b.
        out: output grid.

    Returns:
        Integers, float32.
    """
    ratio_a, ratio_b, back = common_ratios(a_grid, b_grid, out, 2.0**14, 2)
    difference = exact.fixed_multiply(offset(a, a_grid) * 128, ratio_a)
    difference -= exact.fixed_multiply(offset(b, b_grid) * 128, ratio_b)
    squared = exact.fixed_multiply(difference * difference, back)
    return finish(tf.cast(squared, tf.float32), out)


def prelu(q: tf.Tensor, slopes: tf.Tensor, x: Grid, slope_grid: Grid, out: Grid) -> tf.Tensor:
    """PRELU, TFLite's own kernel.

    Args:
        q: integers, float32.
        slopes: integers, float32, of a shape that broadcasts with it.
        x: grid of q.
        slope_grid: grid of the slopes.
        out: output grid.

    Returns:
        Integers, float32.
    """
    d = offset(q, x)
    ratio, _ = product_ratio(x, slope_grid, out)
    positive = exact.fixed_multiply(d, tf.cast(exact.quotient(x.scale, out.scale), tf.float64))
    negative = exact.fixed_multiply(d * offset(slopes, slope_grid), tf.cast(ratio, tf.float64))
    return finish(tf.cast(tf.where(d >= 0, positive, negative), tf.float32), out)


def quantize(x: tf.Tensor, out: Grid) -> tf.Tensor:
    """QUANTIZE from float: round_half_even(x * float32(1 / s)) + z.

    Not x / s, and not fake-quant's rounding (ties up): both differ now and then. NaN becomes the
    largest integer, as on x86-64.

    Args:
        x: float32 tensor.
        out: output grid.

    Returns:
        Integers, float32.
    """
    x = tf.where(tf.math.is_nan(x), tf.constant(np.inf, tf.float32), x)
    return finish(tf.round(exact.pin(x) * _inverse(out)), out)


@exact.ahead
def _inverse(grid: Grid) -> tf.Tensor:
    return exact.quotient(1.0, grid.scale)


def dequantize(q: tf.Tensor, x: Grid) -> tf.Tensor:
    """DEQUANTIZE: (q - z) * s, rounded once to float32."""
    return exact.product(offset(q, x), x.scale)


def _sum(
    a: tf.Tensor,
    b: tf.Tensor,
    a_grid: Grid,
    b_grid: Grid,
    out: Grid,
    sign: float,
    activation: Activation,
) -> tf.Tensor:
    """ADD for sign 1, SUB for -1."""
    da, db = offset(a, a_grid), offset(b, b_grid) * sign

    def by_xnnpack() -> tf.Tensor:
        high_a, low_a, high_b, low_b, unit, shrink = _fixed_factors(a_grid, b_grid, out)
        high = da * high_a + db * high_b
        low = da * low_a + db * low_b
        total = high + tf.floor(low / 1024) + unit / 2048
        return finish(tf.floor(total * shrink), out, activation)

    def by_builtin() -> tf.Tensor:
        ratio_a, ratio_b, back = common_ratios(a_grid, b_grid, out, 2.0**20)
        total = exact.fixed_multiply(da * 2.0**20, ratio_a)
        total += exact.fixed_multiply(db * 2.0**20, ratio_b)
        total = exact.fixed_multiply(total, back)
        return finish(tf.cast(total, tf.float32), out, activation, builtin=True)

    return exact.branch(_is_placed(a_grid, b_grid, out), by_xnnpack, by_builtin)


@exact.ahead
def _is_placed(a: Grid, b: Grid, out: Grid) -> tf.Tensor:
    """Whether XNNPACK takes a sum of these grids."""
    ratios = [exact.quotient(grid.scale, out.scale) for grid in (a, b)]
    return (tf.minimum(*ratios) >= 2.0**-10) & (tf.maximum(*ratios) < 2.0**8)


@exact.ahead
def _fixed_factors(a: Grid, b: Grid, out: Grid) -> tuple[tf.Tensor, ...]:
    """XNNPACK's (da * ma + db * mb + 2^(sh-1)) >> sh, cut so that float32 is enough.

    With ma = round_half_even(s_a / s_out * 2^sh) of up to 21 bits the sum has 31 bits. Cut into
    1024 times a high and a low part, ma = 1024 * h + l, every number stays an integer under 2^24:
    floor((1024 * H + L + 2^(sh-1)) / 2^sh) = floor((H + floor(L / 1024) + 2^(sh-11)) / 2^(sh-10)),
    for sh >= 11, which ratios below 2^8 grant. So nothing is rounded, and no GPU computes int32.
    Source: XNNPACK's qs8-vadd (its parameters' initialization).

    Returns:
        h and l of a, h and l of b, 2^sh, 2^(10-sh).
    """
    ratios = [exact.quotient(grid.scale, out.scale) for grid in (a, b)]
    shift = 20 - exact.floor_log2(tf.maximum(*ratios))
    unit = exact.power_of_two(shift)
    parts = []
    for ratio in ratios:
        multiplier = tf.round(ratio * unit)
        high = tf.floor(multiplier / 1024)
        parts += [high, multiplier - 1024 * high]
    return (*parts, unit, exact.power_of_two(10 - shift))


@exact.ahead
def common_ratios(
    a: Grid, b: Grid, out: Grid, fine: float, power: int = 1
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Onto TFLite's common scale of two inputs, T = 2 * max(s_a, s_b), and back, in float64.

    Returns:
        s_a / T, s_b / T and T^power / (fine * s_out).
    """
    top = 2 * tf.cast(tf.maximum(a.scale, b.scale), tf.float64)
    back = exact.wide_quotient(top**power, fine * tf.cast(out.scale, tf.float64))
    return exact.wide_quotient(a.scale, top), exact.wide_quotient(b.scale, top), back


@exact.ahead
def product_ratio(a: Grid, b: Grid, out: Grid) -> tuple[tf.Tensor, tf.Tensor]:
    """float32(float32(s_a * s_b) / s_out), and whether XNNPACK takes such a product."""
    ratio = exact.quotient(exact.product(a.scale, b.scale), out.scale)
    return ratio, (ratio >= 2.0**-16) & (ratio < 2.0**8)
