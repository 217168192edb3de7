"""The last step of a layer while it trains: integers forward, gradients straight through.

With a learned scale the gradient reaches it as well (Esser et al. 2020, "Learned Step Size
Quantization"): round(v) - v for values within the grid, v = x / s, and the end of the grid for
those beyond, times 1 / sqrt(number of values * largest integer).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfcompress.quantization import exact, modes
from tfcompress.quantization.arithmetic import linear, wide
from tfcompress.quantization.arithmetic.output import Activation, bounds
from tfcompress.quantization.grids import Grid
from tfcompress.quantization.ranges import GridSource


def requantized(
    acc: tf.Tensor, inputs: Grid, weights: Grid, source: GridSource, activation: Activation
) -> tf.Tensor:
    """Real values on the output grid, of the sums of a layer with a kernel.

    Args:
        acc: integer-valued float32 (..., channels); float64 for 16 bits, where float32 is rounded.
        inputs: grid of the layer's input.
        weights: grid of its kernel.
        source: of the output grid.
        activation: what is fused.

    Returns:
        float32 (..., channels). The gradient passes where the value is within the grid and the
        activation's bounds.
    """
    out = source.grid()
    ratio = linear.linear_ratio(inputs, weights, out)
    step = exact.product(inputs.scale, weights.scale)
    lowest, highest = bounds(out, activation, builtin=out.wide)
    low, high = lowest - out.zero_point, highest - out.zero_point
    learned = source.learned()

    @tf.custom_gradient
    def run(acc: tf.Tensor, *learned: tf.Tensor) -> Any:
        scaled = exact.pin(tf.cast(acc, tf.float32)) * ratio
        nearest = tf.round(scaled)
        if out.wide:
            whole = wide.scaled(acc, wide.linear_ratio(inputs, weights, out))
            nearest = tf.cast(whole, tf.float32)
        steps = tf.clip_by_value(nearest, low, high)

        def gradient(upstream: tf.Tensor) -> Any:
            below = low if activation else low - 0.5
            inside = (scaled > below) & (scaled < high + 0.5)
            passed = tf.cast(tf.where(inside, upstream * step, 0.0), acc.dtype)
            if not learned:
                return passed
            return passed, _scale_gradient(upstream, scaled, steps, inside, out)

        return exact.product(steps, out.scale), gradient

    return run(acc) if learned is None else run(acc, learned)


def on_grid(value: tf.Tensor, real: tf.Tensor, source: GridSource) -> tf.Tensor:
    """Values on a grid, with the gradient of the real ones that they stand for.

    Args:
        value: float32, on the grid.
        real: float32 of its shape, what the operator computes without rounding.
        source: of the grid.
    """
    out = source.grid()
    low, high = ((end - out.zero_point) * out.scale for end in (out.low, out.high))
    learned = source.learned()
    if learned is None:
        return modes.through(value, tf.clip_by_value(real, low, high))

    @tf.custom_gradient
    def run(value: tf.Tensor, real: tf.Tensor, learned: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> Any:
            inside = (real >= low) & (real <= high)
            scaled, steps = real / out.scale, value / out.scale
            passed = tf.where(inside, upstream, 0.0)
            return None, passed, _scale_gradient(upstream, scaled, steps, inside, out)

        return tf.identity(value), gradient

    return run(value, real, learned)


def _scale_gradient(
    upstream: tf.Tensor, scaled: tf.Tensor, steps: tf.Tensor, inside: tf.Tensor, out: Grid
) -> tf.Tensor:
    each = tf.where(inside, steps - scaled, steps)
    count = tf.cast(tf.size(scaled[0]), tf.float32)
    return tf.reduce_sum(upstream * each) / tf.sqrt(count * out.high)
