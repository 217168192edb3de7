"""Rounding steps that come out the same eagerly, in a graph and under XLA.

What compilers do to float arithmetic, measured with TensorFlow 2.21 on x86-64:

- XLA fuses a float32 product and the sum it goes into (one rounding instead of two), also where
  the product is made in float64 and cast, and through bitcasts: LLVM sees through both. `pin` ends
  it: no compiler may drop a minimum that can bind.
- XLA and TensorFlow's own graph optimizer (Grappler) turn x / constant into x * (1 / constant).
  `quotient` divides in float64 and rounds once, which gives the float32 quotient either way: two
  float32 numbers' quotient is never closer than 2^-49 to where float32 rounding changes.
- Grappler gathers the constants of a product, (x * a) * b -> x * (a * b), and moves a factor into
  a convolution's kernel. `pin` ends it as well.

Where all values are integers below 2^24 (2^53 in float64), sums and products are exact and may be
fused and reordered at will; most of this package is arranged to be of that kind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

_F = TypeVar("_F", bound=Callable[..., Any])

_LARGE = np.float32(3e38)


def ahead(function: _F) -> _F:
    """Makes a function of grids run at trace time where all its grids are known.

    Then tables and ratios are constants of the graph, computed operator by operator out of the
    compilers' reach, and conditions are decided, so that only one form of an operator is built.
    Grids that come from variables leave everything in the graph.
    """

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        grids = [arg for arg in args if hasattr(arg, "zero_point")]
        tensors = [t for grid in grids for t in (grid.scale, grid.zero_point)]
        if all(hasattr(tensor, "numpy") for tensor in tensors):
            with tf.init_scope():
                return function(*args, **options)
        return function(*args, **options)

    return run  # type: ignore[return-value]


def once(*shapes: Sequence[int | None]) -> Callable[[_F], _F]:
    """Decorator: the function's operators are traced once, and a graph holds one call for each use.

    Tracing an operator takes about a millisecond. A network of a hundred layers, each with its
    grids, would take minutes to begin training.

    Args:
        shapes: of the function's arguments, float32 tensors; no gradient passes through them.
    """
    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]

    def decorate(function: _F) -> _F:
        compiled = tf.function(function, input_signature=signature, autograph=False)

        @functools.wraps(function)
        def run(*args: Any) -> Any:
            return compiled(*(tf.stop_gradient(tf.convert_to_tensor(a, tf.float32)) for a in args))

        return run  # type: ignore[return-value]

    return decorate


def pin(x: Any) -> tf.Tensor:
    """A float32 value that stays a value of its own: not fused, not reordered."""
    return tf.minimum(x, _LARGE)


def quotient(a: Any, b: Any) -> tf.Tensor:
    """The quotient a / b rounded once to float32, whatever the compiler makes of the division.

    Args:
        a: float32 tensor.
        b: float32 tensor that broadcasts with it.

    Returns:
        float32 tensor.
    """
    return tf.cast(wide_quotient(a, b), tf.float32)


def wide_quotient(a: Any, b: Any) -> tf.Tensor:
    """The quotient a / b in float64, as C computes it for two floats cast to double.

    A known divisor under a dividend that is not may come out one unit in the 53rd bit off.
    """
    return tf.cast(a, tf.float64) / tf.cast(b, tf.float64)


def product(a: Any, b: Any) -> tf.Tensor:
    """The product a * b rounded to float32, and not fused with what follows."""
    return pin(tf.convert_to_tensor(a, tf.float32) * b)


def half_away(x: tf.Tensor) -> tf.Tensor:
    """Nearest integer, ties away from zero, of a float tensor (C's round)."""
    size = tf.abs(x)
    whole = tf.floor(size)
    # size - whole is exact; floor(size + 0.5) would not be, just below 0.5.
    return tf.sign(x) * (whole + tf.cast(size - whole >= 0.5, x.dtype))


def power_of_two(exponent: tf.Tensor) -> tf.Tensor:
    """2^exponent as float32 for an int32 tensor of -126 to 127, exact."""
    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), tf.float32)


def floor_log2(x: tf.Tensor) -> tf.Tensor:
    """floor(log2(x)) as int32 of a positive, normal float32 tensor, exact."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - 127


def branch(condition: tf.Tensor, yes: Any, no: Any) -> tf.Tensor:
    """`yes()` or `no()`: decided now where the condition is known, else in the graph."""
    known = tf.get_static_value(condition)
    if known is not None:
        return yes() if known else no()
    return tf.cond(condition, yes, no)


# -- TFLite's fixed-point multiplication. Source: tensorflow/lite/kernels/internal/common.h and
# quantization_util.cc, without TFLITE_SINGLE_ROUNDING.


def fixed_multiplier(ratio: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A positive float64 ratio as multiplier * 2^(exponent - 31) (QuantizeMultiplier).

    Returns:
        multiplier: int64 tensor, 2^30 to 2^31 - 1; 0 for ratios that TFLite takes as 0.
        exponent: int64 tensor.
    """
    ratio = tf.convert_to_tensor(ratio, tf.float64)
    stored = tf.bitcast(ratio, tf.int64)
    exponent = tf.bitwise.right_shift(stored, 52) - 1022
    fraction = tf.bitwise.bitwise_and(stored, 2**52 - 1) + 2**52
    # Positive, so half up is half away from zero.
    multiplier = tf.bitwise.right_shift(fraction + 2**21, 22)
    carried = tf.equal(multiplier, 2**31)
    multiplier = tf.where(carried, tf.constant(2**30, tf.int64), multiplier)
    exponent += tf.cast(carried, tf.int64)
    small = exponent < -31
    return tf.where(small, tf.zeros_like(multiplier), multiplier), tf.where(
        small, tf.zeros_like(exponent), exponent
    )


def doubling_high(x: tf.Tensor, multiplier: tf.Tensor, bits: int = 32) -> tf.Tensor:
    """Returns x * multiplier / 2^(bits - 1), nearest, ties up (TFLite's ...DoublingHighMul).

    Args:
        x: int64 tensor of integers of `bits` bits.
        multiplier: int64 tensor likewise.
        bits: 32 or 16.
    """
    full = x * multiplier
    half = tf.constant(1 << (bits - 2), tf.int64)
    return truncated_shift(full + tf.where(full >= 0, half, 1 - half), bits - 1)


def truncated_shift(x: tf.Tensor, exponent: int) -> tf.Tensor:
    """Divides by 2^exponent, truncated towards zero, of an int64 tensor."""
    size = tf.bitwise.right_shift(tf.abs(x), tf.constant(exponent, tf.int64))
    return tf.where(x >= 0, size, -size)


def rounding_shift(x: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    """Divides an int64 tensor by 2^exponent: nearest, ties away from 0 (RoundingDivideByPOT)."""
    exponent = tf.cast(exponent, tf.int64)
    one = tf.ones_like(exponent)
    mask = tf.bitwise.left_shift(one, exponent) - 1
    threshold = tf.bitwise.right_shift(mask, one) + tf.cast(x < 0, tf.int64)
    over = tf.bitwise.bitwise_and(x, mask) > threshold
    return tf.bitwise.right_shift(x, exponent) + tf.cast(over, tf.int64)


def fixed_multiply(x: Any, ratio: tf.Tensor, *, half_up: bool = False) -> tf.Tensor:
    """The product x * ratio as TFLite's integer kernels compute it (MultiplyByQuantizedMultiplier).

    Rounded twice, so it is off the true product's nearest integer now and then, by 1.

    Args:
        x: integer-valued tensor, float or int64.
        ratio: positive float64 tensor that broadcasts with it.
        half_up: the last rounding takes ties up instead of away from zero.

    Returns:
        int64 tensor.
    """
    multiplier, exponent = fixed_multiplier(ratio)
    zero = tf.zeros_like(exponent)
    left, right = tf.maximum(exponent, zero), tf.maximum(-exponent, zero)
    high = doubling_high(tf.bitwise.left_shift(tf.cast(x, tf.int64), left), multiplier)
    if not half_up:
        return rounding_shift(high, right)
    one = tf.ones_like(right)
    half = tf.bitwise.right_shift(tf.bitwise.left_shift(one, right), one)
    return tf.bitwise.right_shift(high + half, right)
