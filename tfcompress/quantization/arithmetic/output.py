"""The last steps of every operator: the zero point, the activation's bounds, the clip."""

from __future__ import annotations

from typing import Literal

import numpy as np
import tensorflow as tf

from tfcompress.errors import ConfigError
from tfcompress.quantization import exact
from tfcompress.quantization.grids import Grid, limits

Activation = Literal["relu", "relu6", "relu_n1_to_1"] | None
Target = Literal["x86", "arm"]

_REAL_BOUNDS: dict[str, tuple[float, float]] = {
    "relu": (0.0, np.inf),
    "relu6": (0.0, 6.0),
    "relu_n1_to_1": (-1.0, 1.0),
}


def clip(q: tf.Tensor, bits: int = 8) -> tf.Tensor:
    """Integers brought into int8's range, or that of so many bits."""
    low, high = limits(bits)
    return tf.clip_by_value(q, float(low), float(high))


def offset(q: tf.Tensor, grid: Grid) -> tf.Tensor:
    """Takes the zero point off: q - z, the integer that is proportional to the real value."""
    return q - grid.zero_point


@exact.ahead
def bounds(
    out: Grid, activation: Activation, *, builtin: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """The range that a fused activation leaves, in integers of the output grid.

    Args:
        out: output grid.
        activation: what is fused, or None.
        builtin: TFLite's own kernels, which round the bound before the zero point is added and
            ties away from zero; else XNNPACK, the other way round and to even.

    Returns:
        Two integer-valued float32 scalars within [-128, 127], or int16's range.
    """
    if activation is None:
        return tf.constant(out.low), tf.constant(out.high)
    if activation not in _REAL_BOUNDS:
        raise ConfigError(
            f"activation must be one of {sorted(_REAL_BOUNDS)} or None, got {activation!r}."
        )
    found = []
    for real, outermost in zip(_REAL_BOUNDS[activation], (out.low, out.high), strict=True):
        if np.isinf(real):
            found.append(tf.constant(outermost))
            continue
        steps = exact.quotient(tf.constant(real, tf.float32), out.scale)
        if builtin:
            found.append(clip(exact.half_away(steps) + out.zero_point, out.bits))
        else:
            found.append(clip(tf.round(exact.pin(steps) + out.zero_point), out.bits))
    return found[0], found[1]


def finish(
    rounded: tf.Tensor, out: Grid, activation: Activation = None, *, builtin: bool = False
) -> tf.Tensor:
    """Adds the zero point and clips.

    Args:
        rounded: integer-valued float32 tensor.
        out: output grid.
        activation: what is fused.
        builtin: see `bounds`.

    Returns:
        Integers of the output as float32, of the same shape.
    """
    low, high = bounds(out, activation, builtin=builtin)
    return tf.minimum(tf.maximum(rounded + out.zero_point, low), high)
