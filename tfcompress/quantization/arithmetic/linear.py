"""Operators that multiply by a kernel, and BATCH_MATMUL.

XNNPACK computes an exact int32 sum acc = sum((q_x - z_x) * q_w) + q_bias and then, in float32,
round_half_even(acc * ratio) + z_out, ratio = s_x * s_w[c] / s_out. The sum is had from TensorFlow's
float32 convolutions, whose partial sums are exact in any order while they stay below 2^24. Where a
kernel can exceed that, its input channels are taken in several pieces and the pieces are added in
float64. Source: XNNPACK's qs8-qc8w "fp32" requantization; measured, no difference.

Not covered: convolutions by Winograd's method (none on TensorFlow's CPU; a GPU library may choose
it), which multiply by fractions and are not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress.quantization import exact
from tfcompress.quantization.arithmetic.output import Activation, finish, offset
from tfcompress.quantization.grids import Grid

EXACT = 2**24
"""Up to this size every integer is a float32."""


def accumulator_bound(kernel: tf.Tensor, x: Grid, bias: tf.Tensor | None = None) -> tf.Tensor:
    """The largest size that any partial sum of a layer can reach, for any input.

    Args:
        kernel: integers (..., out), float32: all axes but the last are summed over.
        x: grid of the input.
        bias: integers (out,).

    Returns:
        float64 tensor (out,); `pieces=1` is exact where it is at most 2^24.
    """
    kernel = tf.abs(tf.cast(kernel, tf.float64))
    largest = tf.cast(tf.maximum(x.high - x.zero_point, x.zero_point - x.low), tf.float64)
    bound = tf.reduce_sum(kernel, list(range(kernel.shape.rank - 1))) * largest
    return bound if bias is None else bound + tf.abs(tf.cast(bias, tf.float64))


def pieces_needed(channels: int, *, taps: int = 1, weight_bits: int = 8) -> int:
    """Into how many pieces the input channels must be cut to be exact whatever the weights are.

    Args:
        channels: input channels.
        taps: kernel height * width.
        weight_bits: 2 to 8, narrow range.

    Returns:
        The number of pieces for the largest products possible, 255 * 127 for 8 bits: 1 for up to
        518 channels * taps. 0 where a single channel is too much. `accumulator_bound` tells
        whether given weights need fewer.
    """
    together = EXACT // (255 * (2 ** (weight_bits - 1) - 1) * taps)
    return -(-channels // together) if together else 0


def requantize(acc: tf.Tensor, ratio: Any, out: Grid, activation: Activation = None) -> tf.Tensor:
    """XNNPACK's last step: round_half_even(acc * ratio) + zero point, clipped.

    Args:
        acc: the sum rounded once to float32 (..., channels).
        ratio: float32, scalar or (channels,): `linear_ratio`.
        out: output grid.
        activation: what is fused.

    Returns:
        Integers of the output as float32.
    """
    # Without the pin Grappler moves a constant ratio into a constant kernel.
    return finish(tf.round(exact.pin(acc) * ratio), out, activation)


@exact.ahead
def linear_ratio(x: Grid, weights: Grid, out: Grid) -> tf.Tensor:
    """float32(float32(s_x * s_w) / s_out), scalar or (channels,)."""
    return exact.quotient(exact.product(x.scale, weights.scale), out.scale)


def conv2d(
    q: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor | None,
    x: Grid,
    weights: Grid,
    out: Grid,
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "VALID",
    dilations: int | Sequence[int] = 1,
    activation: Activation = None,
    pieces: int | None = None,
) -> tf.Tensor:
    """CONV_2D.

    Args:
        q: integers (batch, h, w, in), float32.
        kernel: integers (kh, kw, in, out), float32.
        bias: integers (out,), float32, or None.
        x: grid of q.
        weights: grid of the kernel: zero point 0, one scale or one per output channel.
        out: output grid.
        strides: one number or two.
        padding: "SAME" or "VALID".
        dilations: one number or two.
        activation: what is fused.
        pieces: in how many pieces to sum the input channels; None: as many as any weights need.

    Returns:
        Integers (batch, h', w', out), float32.
    """
    acc = conv2d_sum(offset(q, x), kernel, strides, padding, dilations, pieces)
    return _scaled(acc, bias, x, weights, out, activation)


def conv2d_sum(
    d: tf.Tensor,
    kernel: tf.Tensor,
    strides: int | Sequence[int],
    padding: str,
    dilations: int | Sequence[int] = 1,
    pieces: int | None = None,
) -> tf.Tensor:
    """The sums of CONV_2D, of integers d = q - z; arguments as `conv2d`.

    Returns:
        float32 (batch, h', w', out), float64 where it takes several pieces.
    """

    def convolve(values: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        if np.max(dilations) > 1:  # tf.nn.conv2d has no gradient of these on CPUs.
            both = [dilations] * 2 if isinstance(dilations, int) else list(dilations)
            return tf.nn.convolution(values, part, strides, padding, dilations=both)
        return tf.nn.conv2d(values, part, strides, padding)

    return _accumulate(convolve, d, kernel, 2, _count(kernel, 2, pieces))


def depthwise_conv2d(
    q: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor | None,
    x: Grid,
    weights: Grid,
    out: Grid,
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "VALID",
    dilations: int | Sequence[int] = 1,
    activation: Activation = None,
) -> tf.Tensor:
    """DEPTHWISE_CONV_2D; exact for kernels of up to 518 taps.

    Args:
        q: integers (batch, h, w, c), float32.
        kernel: integers (kh, kw, c, m), float32.
        bias: integers (c * m,), float32, or None.
        x: grid of q.
        weights: grid of the kernel: one scale or (c * m,).
        out: output grid.
        strides: one number or two equal ones.
        padding: "SAME" or "VALID".
        dilations: one number or two.
        activation: what is fused.

    Returns:
        Integers (batch, h', w', c * m), float32.
    """
    acc = depthwise_sum(offset(q, x), kernel, strides, padding, dilations)
    return _scaled(acc, bias, x, weights, out, activation)


def depthwise_sum(
    d: tf.Tensor,
    kernel: tf.Tensor,
    strides: int | Sequence[int],
    padding: str,
    dilations: int | Sequence[int] = 1,
) -> tf.Tensor:
    """The sums of DEPTHWISE_CONV_2D, of integers d = q - z; arguments as `depthwise_conv2d`."""
    steps = [strides] * 2 if isinstance(strides, int) else list(strides)
    rates = [dilations] * 2 if isinstance(dilations, int) else list(dilations)
    return tf.nn.depthwise_conv2d(d, kernel, [1, *steps, 1], padding, dilations=rates)


def conv2d_transpose(
    q: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor | None,
    x: Grid,
    weights: Grid,
    out: Grid,
    *,
    output_shape: Sequence[int] | tf.Tensor,
    strides: int | Sequence[int] = 1,
    padding: str = "VALID",
    activation: Activation = None,
    pieces: int | None = None,
) -> tf.Tensor:
    """TRANSPOSE_CONV.

    Args:
        q: integers (batch, h, w, in), float32.
        kernel: integers (kh, kw, out, in), float32, as Keras has it.
        bias: integers (out,), float32, or None.
        x: grid of q.
        weights: grid of the kernel: one scale or (out,).
        out: output grid.
        output_shape: (batch, h', w', out).
        strides: one number or two.
        padding: "SAME" or "VALID".
        activation: what is fused.
        pieces: see `conv2d`.

    Returns:
        Integers of `output_shape`, float32.
    """
    acc = transpose_sum(offset(q, x), kernel, output_shape, strides, padding, pieces)
    return _scaled(acc, bias, x, weights, out, activation)


def transpose_sum(
    d: tf.Tensor,
    kernel: tf.Tensor,
    output_shape: Sequence[int] | tf.Tensor,
    strides: int | Sequence[int],
    padding: str,
    pieces: int | None = None,
) -> tf.Tensor:
    """The sums of TRANSPOSE_CONV, of integers d = q - z; arguments as `conv2d_transpose`."""

    def convolve(values: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d_transpose(values, part, output_shape, strides, padding)

    return _accumulate(convolve, d, kernel, 3, _count(kernel, 3, pieces))


def dense(
    q: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor | None,
    x: Grid,
    weights: Grid,
    out: Grid,
    *,
    activation: Activation = None,
    pieces: int | None = None,
) -> tf.Tensor:
    """FULLY_CONNECTED.

    Args:
        q: integers (..., in), float32.
        kernel: integers (in, out), float32, as Keras has it.
        bias: integers (out,), float32, or None.
        x: grid of q.
        weights: grid of the kernel: one scale or (out,).
        out: output grid.
        activation: what is fused.
        pieces: see `conv2d`.

    Returns:
        Integers (..., out), float32.
    """
    acc = _accumulate(_matmul, offset(q, x), kernel, 0, _count(kernel, 0, pieces))
    return _scaled(acc, bias, x, weights, out, activation)


def batch_matmul(
    a: tf.Tensor,
    b: tf.Tensor,
    a_grid: Grid,
    b_grid: Grid,
    out: Grid,
    *,
    adjoint_b: bool = False,
    pieces: int | None = None,
) -> tf.Tensor:
    """BATCH_MATMUL of two activations: XNNPACK where the right one's zero point is 0, else builtin.

    Args:
        a: integers (..., n, k), float32.
        b: integers (..., k, m), float32; (..., m, k) with `adjoint_b`.
        a_grid: grid of a.
        b_grid: grid of b; a known zero point leaves one of the two forms out of the graph.
        out: output grid.
        adjoint_b: b is transposed.
        pieces: see `conv2d`.

    Returns:
        Integers (..., n, m), float32.
    """
    right = tf.linalg.matrix_transpose(b) if adjoint_b else b
    if pieces is None:  # Both sides reach 255 here, unlike a narrow kernel: 9 bits.
        pieces = pieces_needed(int(right.shape[-2]), weight_bits=9)
    left, right = offset(a, a_grid), offset(right, b_grid)
    acc = _accumulate(_matmul, left, right, right.shape.rank - 2, pieces)

    def by_xnnpack() -> tf.Tensor:
        return requantize(tf.cast(acc, tf.float32), linear_ratio(a_grid, b_grid, out), out)

    def by_builtin() -> tf.Tensor:
        rescaled = exact.fixed_multiply(acc, _wide_ratio(a_grid, b_grid, out))
        return finish(tf.cast(rescaled, tf.float32), out)

    return exact.branch(_is_symmetric(b_grid), by_xnnpack, by_builtin)


@exact.ahead
def _wide_ratio(a: Grid, b: Grid, out: Grid) -> tf.Tensor:
    return exact.wide_quotient(exact.product(a.scale, b.scale), out.scale)


@exact.ahead
def _is_symmetric(grid: Grid) -> tf.Tensor:
    return tf.equal(grid.zero_point, 0)


def _matmul(values: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    return tf.matmul(values, part)


def _count(kernel: tf.Tensor, axis: int, pieces: int | None) -> int:
    """The pieces asked for, or as many as a kernel with these input channels can need."""
    if pieces is not None:
        return pieces
    taps = int(np.prod(kernel.shape[:2])) if kernel.shape.rank == 4 else 1
    return pieces_needed(int(kernel.shape[axis]), taps=taps)


def _accumulate(
    multiply: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    values: tf.Tensor,
    kernel: tf.Tensor,
    axis: int,
    pieces: int,
) -> tf.Tensor:
    """The exact sum: float32, or float64 where float32 alone could not hold it.

    Args:
        multiply: what a piece goes through, with its share of the values' last axis.
        values: integers (..., in).
        kernel: integers.
        axis: the kernel's axis of input channels.
        pieces: into how many to cut that axis; 0: float64 throughout, exact and slow.
    """
    if pieces == 0:
        return multiply(tf.cast(values, tf.float64), tf.cast(kernel, tf.float64))
    if pieces == 1:
        return multiply(values, kernel)
    channels = np.arange(int(kernel.shape[axis]))
    sizes = [len(part) for part in np.array_split(channels, pieces)]
    parts = zip(tf.split(values, sizes, -1), tf.split(kernel, sizes, axis), strict=True)
    return tf.add_n([tf.cast(multiply(part, share), tf.float64) for part, share in parts])


def _scaled(
    acc: tf.Tensor,
    bias: tf.Tensor | None,
    x: Grid,
    weights: Grid,
    out: Grid,
    activation: Activation,
) -> tf.Tensor:
    """Adds the bias and requantizes. The sum is rounded to float32 once, as int32 -> float32 is."""
    if bias is not None:
        acc += tf.cast(bias, acc.dtype)
    return requantize(tf.cast(acc, tf.float32), linear_ratio(x, weights, out), out, activation)
