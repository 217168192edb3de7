"""Rounding steps against Python's whole numbers and NumPy's float32, whatever compiles them."""

import numpy as np
import pytest
import tensorflow as tf

from tfcompress.quantization import exact
from tfcompress.quantization.arithmetic import reductions
from tfcompress.quantization.grids import Grid

RANDOM = np.random.default_rng(2)
SIZE = 200_000
MODES = pytest.mark.parametrize("compiled", [None, True], ids=["graph", "xla"])


def uniform(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.001, 2, shape).astype(np.float32)


def integers(*shape: int) -> tf.Tensor:
    return tf.constant(RANDOM.integers(-128, 128, shape), tf.float32)


def same_everywhere(function, compiled, *arguments) -> None:
    """A function gives the same bits eagerly and compiled."""
    graph = tf.function(function, jit_compile=compiled, autograph=False)
    np.testing.assert_array_equal(graph(*arguments), function(*arguments))


@MODES
def test_a_product_is_not_fused_with_a_sum(compiled):
    a, b = uniform(SIZE), uniform(SIZE)
    c = -(a * b)
    graph = tf.function(
        lambda a, b, c: exact.product(a, b) + c, jit_compile=compiled, autograph=False
    )
    assert not np.any(graph(a, b, c))


@MODES
def test_a_quotient_is_rounded_once(compiled):
    a, constant = uniform(SIZE), np.float32(0.0371)
    for divisor in (constant, uniform(SIZE)):
        graph = tf.function(
            lambda a, divisor=divisor: exact.quotient(a, divisor),
            jit_compile=compiled,
            autograph=False,
        )
        np.testing.assert_array_equal(graph(a), a / divisor)


@MODES
def test_a_mean_is_not_fused(compiled):
    grids = (Grid(0.0235, -128), Grid(0.0117, 31))
    for function in (reductions.mean, reductions.sum):
        same_everywhere(lambda q, f=function: f(q, 0, *grids), compiled, integers(5, SIZE))


@MODES
def test_a_pinned_value_keeps_constants_apart(compiled):
    kernel, factor, ratio = integers(1, 1, 8, 8).numpy(), integers(8).numpy(), np.float32(0.0371)
    q = integers(1, 128, 128, 8)
    same_everywhere(lambda q: exact.pin(tf.nn.conv2d(q, kernel, 1, "SAME")) * ratio, compiled, q)
    same_everywhere(lambda q: exact.pin(q * factor) * ratio, compiled, q)


@MODES
def test_a_long_softmax_is_summed_in_order(compiled):
    for count in (reductions.UNROLLED, reductions.UNROLLED + 1):
        q = integers(3000, count)
        same_everywhere(lambda q: reductions.softmax(q, Grid(0.03, 0)), compiled, q)


def test_half_away():
    just_below = np.nextafter(np.float32(0.5), np.float32(0))
    x = tf.constant([0.5, 1.5, -0.5, -2.5, just_below, -just_below, 8388609.0, 2.4])
    np.testing.assert_array_equal(exact.half_away(x), [1, 2, -1, -3, 0, 0, 8388609, 2])


def test_powers_and_logarithms():
    x = np.float32([1, 1.99, 2, 0.0009765624, 0.0009765625, 255.9])
    np.testing.assert_array_equal(exact.floor_log2(tf.constant(x)), [0, 0, 1, -11, -10, 7])
    exponents = tf.range(-126, 128)
    np.testing.assert_array_equal(
        exact.power_of_two(exponents), np.ldexp(np.float32(1), exponents.numpy())
    )


def fixed_by_hand(x: int, ratio: float) -> int:
    """MultiplyByQuantizedMultiplier in Python's integers."""
    fraction, exponent = np.frexp(ratio)
    multiplier, exponent = int(np.floor(fraction * 2.0**31 + 0.5)), int(exponent)
    if multiplier == 2**31:
        multiplier, exponent = 2**30, exponent + 1
    if exponent < -31:
        return 0
    full = x * 2 ** max(exponent, 0) * multiplier
    full += 2**30 if full >= 0 else 1 - 2**30
    high = abs(full) // 2**31 * (1 if full >= 0 else -1)
    unit = 2 ** max(-exponent, 0)
    return (abs(high) + unit // 2) // unit * (1 if high >= 0 else -1)


@MODES
def test_fixed_point_multiplication(compiled):
    ratios = np.concatenate(
        [
            2.0 ** RANDOM.uniform(-34, 6, 800),
            2.0 ** np.arange(-34, 6),
            1 - 2.0 ** -np.arange(28, 40),
        ]
    )
    x = RANDOM.integers(-(2**24), 2**24, ratios.size)
    x[::5] //= 2**16
    expected = [fixed_by_hand(int(v), float(r)) for v, r in zip(x, ratios, strict=True)]
    graph = tf.function(exact.fixed_multiply, jit_compile=compiled, autograph=False)
    np.testing.assert_array_equal(graph(tf.constant(x), tf.constant(ratios)), expected)
