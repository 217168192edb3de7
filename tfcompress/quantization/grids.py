"""Grids of integers: a scale and a zero point, chosen so that the converter finds the same bits.

The converter reads a range (min, max) from each fake-quant operator and computes, in double,
scale = (max - min) / steps. A scale of 24 significant bits does not always survive that (up to 5 %
of random ones do not), as both ends of the range are rounded to float32 first. So every scale
chosen here has as many zero bits at its end as a stored integer has bits, a relative change of at
most 2^-16 (those of weights twice as many, and 2^-8: see `weight_grid`). Then the range, the
weights (integer * scale) and the products of two scales in double are all exact, and no rounding
on the way to the file can differ from ours.

Everything works on tensors, in graphs too: a scale is a variable while a model trains.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress.errors import ConfigError
from tfcompress.quantization import exact

SMALLEST = 2.0**-27
"""No scale is below this: the converter widens a range under 1e-6 to 1e-6 (measured)."""

SMALLEST_WIDE = 2.0**-35
"""The same for integers of 16 bits, of which a range holds 256 times as many."""

_WEIGHT_SCALE_ZEROS = 16
"""Zero bits at the end of a weight scale: 8 significant ones are left."""

WEIGHT_RATIO = 2.0**-16
"""No weight scale is below this part of its kernel's largest."""

BIAS_LIMIT = 2.0**23
"""No bias integer is beyond this: up to here float32 brings integer * scale to the converter."""

BIAS_LIMIT_WIDE = 2.0**30
"""The same behind inputs of 16 bits, where the converter gets the bias as it is trained."""


@dataclass(frozen=True, eq=False)
class Grid:
    """real = (integer - zero_point) * scale.

    Attributes:
        scale: float32 tensor, scalar or one value per channel (the last axis of what it
            quantizes); anything that TensorFlow makes a tensor of.
        zero_point: integer-valued float32 tensor, scalar.
        bits: 8, or 16 for an activation on a wide grid, whose zero point is 0.
    """

    scale: Any
    zero_point: Any = 0.0
    bits: int = 8

    def __post_init__(self) -> None:
        for name in ("scale", "zero_point"):
            value = getattr(self, name)
            if hasattr(value, "assign"):  # A variable is read where it is used.
                value = tf.convert_to_tensor(value, tf.float32)
            elif not tf.is_tensor(value):
                with tf.init_scope():  # Known: what follows from it is computed ahead.
                    value = tf.convert_to_tensor(value, tf.float32)
            object.__setattr__(self, name, value)

    @property
    def wide(self) -> bool:
        """Whether its integers have 16 bits."""
        return self.bits == 16

    @property
    def low(self) -> float:
        """The smallest integer that its type holds."""
        return -(2.0 ** (self.bits - 1))

    @property
    def high(self) -> float:
        """The largest."""
        return 2.0 ** (self.bits - 1) - 1


def softmax_grid() -> Grid:
    """The one output grid of SOFTMAX and LOGISTIC."""
    return Grid(1 / 256, -128)


def tanh_grid() -> Grid:
    """The one output grid of TANH and L2_NORMALIZATION."""
    return Grid(1 / 128, 0)


def log_softmax_grid() -> Grid:
    """The one output grid of LOG_SOFTMAX."""
    return Grid(16 / 256, 127)


def limits(bits: int, *, narrow: bool = False) -> tuple[int, int]:
    """Smallest and largest integer of `bits` (2 to 8, 16) bits; narrow leaves out the smallest."""
    if bits not in (*range(2, 9), 16):
        raise ConfigError(f"bits must be 2 to 8, or 16, got {bits}.")
    half = 2 ** (bits - 1)
    return (1 - half if narrow else -half), half - 1


def short_scale(scale: Any, *, bits: int = 8) -> tf.Tensor:
    """Rounds scales to 24 - `bits` significant bits, so that integer * scale is exact in float32.

    Args:
        scale: positive float32 tensor, normal numbers.
        bits: width of the integers, or more.

    Returns:
        float32 tensor of the same shape; a relative change of at most 2^(bits - 24).
    """
    stored = tf.bitcast(tf.convert_to_tensor(scale, tf.float32), tf.int32)
    # Rounding by integers: a carry moves into the exponent by itself, and nothing can be fused.
    half = 1 << (bits - 1)
    return tf.bitcast(tf.bitwise.bitwise_and(stored + half, -(1 << bits)), tf.float32)


def choose_grid(minimum: Any, maximum: Any, *, bits: int = 8, symmetric: bool = False) -> Grid:
    """The activation grid of a range.

    The zero point is an integer before anything is derived from it, and 0 is always on the grid. A
    range like [-8, 8] puts it on a tie, where fake-quant and the converter would round it apart.
    The grid's range is the one asked for, moved by at most half a step: what it cuts off at one
    end is no further off than rounding brings anyway.

    Args:
        minimum: float32 tensor, scalar.
        maximum: float32 tensor, scalar.
        bits: 2 to 8, or 16, which is always symmetric.
        symmetric: zero point 0, and the range of the larger side for both.

    Returns:
        The grid. A range that is empty or smaller than floats can tell gets the smallest scale.
    """
    wide = bits == 16
    scale, zero_point = _chooser(bits, symmetric or wide)(minimum, maximum)
    return Grid(scale, zero_point, 16 if wide else 8)


@functools.cache
def _chooser(bits: int, symmetric: bool) -> Any:
    low, high = limits(bits)
    smallest = SMALLEST_WIDE if bits == 16 else SMALLEST

    @exact.once((), ())
    def choose(minimum: tf.Tensor, maximum: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        lowest, highest = tf.minimum(minimum, 0.0), tf.maximum(maximum, 0.0)
        if symmetric:
            # -2^(n-1) is left unused by neither side of a symmetric range: high steps for the
            # larger.
            scale = exact.quotient(tf.maximum(-lowest, highest), float(high))
            short = short_scale(tf.maximum(scale, smallest), bits=bits)
            return no_power_of_two(short) if bits == 16 else short, tf.zeros_like(scale)
        scale = tf.maximum(exact.quotient(highest - lowest, float(high - low)), SMALLEST)
        zero_point = low - tf.round(exact.quotient(lowest, scale))
        # A negative zero of the subtraction would show up as such in files and reports.
        return short_scale(scale, bits=bits), tf.clip_by_value(zero_point, low, high) + 0.0

    return choose


def no_power_of_two(scale: tf.Tensor) -> tf.Tensor:
    """The next scale of 8 bits where it is a power of two: there ADD has another kernel."""
    stored = tf.bitcast(scale, tf.int32)
    power = tf.equal(tf.bitwise.bitwise_and(stored, 2**23 - 1), 0)
    return tf.bitcast(tf.where(power, stored + 2**16, stored), tf.float32)


def weight_grid(kernel: Any, *, bits: int = 8, least: Any = 0.0) -> Grid:
    """The grid of a kernel: symmetric, narrow range, one scale for each index of the last axis.

    Args:
        kernel: float32 tensor (..., channels). A depthwise kernel (h, w, c, m) comes reshaped to
            (h, w, c * m); for one scale per tensor, reshape to (-1, 1).
        bits: 2 to 8.
        least: float32 tensor, scalar or (channels,): no scale below it (`least_weight_scale`).

    Returns:
        A grid with scale (channels,) and zero point 0. A channel whose weights are tiny beside
        those of the others (all zero, say) has its scale held at 2^-16 of the largest one: on an
        output grid that all channels share, what this loses cannot be seen. A scale is rounded to
        8 significant bits: that moves the ends of its range by at most half a step, which rounding
        may move any weight by, and of four stored bytes two are zero. In a small file, scales are
        as much as the weights once it is zipped.
    """
    _, high = limits(bits, narrow=True)
    kernel = tf.convert_to_tensor(kernel, tf.float32)
    axes = list(range(kernel.shape.rank - 1))
    scale = exact.quotient(tf.reduce_max(tf.abs(kernel), axes), float(high))
    scale = tf.maximum(scale, tf.reduce_max(scale) * WEIGHT_RATIO)
    scale = tf.maximum(scale, tf.maximum(least, SMALLEST))
    return Grid(short_scale(scale, bits=_WEIGHT_SCALE_ZEROS), 0.0)


def least_weight_scale(bias: Any, inputs: Grid) -> tf.Tensor:
    """The smallest weight scales for which a bias stays within its integers.

    A channel with tiny weights and a plain bias (BatchNorm with a small gamma, folded) would ask
    for bias integers beyond what float32 holds and, from 2^31, beyond what the file holds.

    Args:
        bias: float32 tensor (channels,).
        inputs: grid of the layer's input.

    Returns:
        float32 tensor (channels,), for `weight_grid(least=...)`.
    """
    limit = BIAS_LIMIT_WIDE if inputs.wide else BIAS_LIMIT
    # (a scale that is rounded down is less than 2^-8 of itself below)
    return exact.quotient(tf.abs(bias), inputs.scale) * (1.005 / limit)


def quantize_weights(kernel: Any, grid: Grid, *, bits: int = 8) -> tf.Tensor:
    """Integers of a kernel, nearest, ties to even.

    Args:
        kernel: float32 tensor (..., channels).
        grid: its grid (`weight_grid`).
        bits: 2 to 8.

    Returns:
        Integer-valued float32 tensor of the kernel's shape. Times the scale it is exact in
        float32, and the converter gets the same integers back.
    """
    low, high = limits(bits, narrow=True)
    return tf.clip_by_value(tf.round(exact.quotient(kernel, grid.scale)), low, high)


def layer_integers(
    kernel: tf.Tensor, bias: tf.Tensor | None, inputs: Grid, *, bits: int
) -> tuple[tf.Tensor, tf.Tensor | None, Grid]:
    """What the file stores of a layer.

    Args:
        kernel: float32 tensor (..., channels).
        bias: float32 tensor (channels,), or None.
        inputs: grid of the layer's input.
        bits: of the kernel, 2 to 8.

    Returns:
        Integers of the kernel (float32) and of the bias (see `quantize_bias`), of their shapes,
        and the kernel's grid, with scale (channels,). No gradient passes.
    """
    shape = kernel.shape
    given = [tf.reshape(kernel, (-1, shape[-1])), inputs.scale, *([] if bias is None else [bias])]
    whole, scale, *of_bias = _quantizer(bits, bias is not None, inputs.bits)(*given)
    scale.set_shape(shape[-1:])
    for tensor in of_bias:
        tensor.set_shape(shape[-1:])
    return tf.reshape(whole, shape), of_bias[0] if of_bias else None, Grid(scale)


@functools.cache
def _quantizer(bits: int, has_bias: bool, input_bits: int) -> Any:
    @exact.once((None, None), (), *([(None,)] if has_bias else []))
    def quantize(kernel: tf.Tensor, scale: tf.Tensor, *bias: tf.Tensor) -> list[tf.Tensor]:
        inputs = Grid(scale, bits=input_bits)
        least = least_weight_scale(bias[0], inputs) if bias else 0.0
        grid = weight_grid(kernel, bits=bits, least=least)
        of_bias = [quantize_bias(b, inputs, grid) for b in bias]
        return [quantize_weights(kernel, grid, bits=bits), grid.scale, *of_bias]

    return quantize


def bias_grid(inputs: Grid, weights: Grid) -> tf.Tensor:
    """Scales of a bias: float64 tensor, scalar or (channels,), input scale * weight scale.

    The product is exact. The converter divides by it in double, and stores it as float32.
    """
    return tf.cast(inputs.scale, tf.float64) * tf.cast(weights.scale, tf.float64)


def quantize_bias(bias: Any, inputs: Grid, weights: Grid) -> tf.Tensor:
    """Integers of a bias, as the converter rounds them: nearest, ties away from zero.

    Args:
        bias: float32 tensor (channels,).
        inputs: grid of the layer's input.
        weights: grid of its kernel.

    Returns:
        Integer-valued float32 tensor (channels,), clipped to +-2^23; `least_weight_scale` keeps
        a kernel's grid from asking for more. Behind inputs of 16 bits float64, up to 2^30.
    """
    whole = exact.half_away(tf.cast(bias, tf.float64) / bias_grid(inputs, weights))
    if inputs.wide:
        return tf.clip_by_value(whole, -BIAS_LIMIT_WIDE, BIAS_LIMIT_WIDE)
    return tf.cast(tf.clip_by_value(whole, -BIAS_LIMIT, BIAS_LIMIT), tf.float32)


def bias_values(integers: Any, inputs: Grid, weights: Grid) -> tf.Tensor:
    """The float32 bias that the converter turns into these integers."""
    return tf.cast(tf.cast(integers, tf.float64) * bias_grid(inputs, weights), tf.float32)


def fake_quant_range(
    grid: Grid, *, bits: int = 8, narrow: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What a fake-quant operator must be given for the converter to find exactly this grid.

    Args:
        grid: a grid whose values are known (eager).
        bits: `num_bits` of the operator: 8 also for a kernel of fewer bits that int8 tensors keep.
        narrow: its `narrow_range`; True for kernels.

    Returns:
        min and max, float32 of the scale's shape.

    Raises:
        ConfigError: the grid does not survive, as its scale has too many significant bits
            (`short_scale`).
    """
    low, high = limits(bits, narrow=narrow)
    scale, zero_point = np.asarray(grid.scale), np.asarray(grid.zero_point)
    ends = [((end - zero_point) * scale).astype(np.float32) for end in (low, high)]
    # As the converter does it (getNudgedScaleAndZeroPoint in MLIR's FakeQuantSupport.cc; measured).
    found = ((ends[1].astype(np.float64) - ends[0]) / (high - low)).astype(np.float32)
    if not np.array_equal(found, scale):
        raise ConfigError(
            f"scale {scale[found != scale]} does not survive as a float32 range: it has more than "
            f"{24 - bits} significant bits. Pass scales through `short_scale`."
        )
    return ends[0], ends[1]
