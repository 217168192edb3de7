"""The rules for the arguments that several networks share."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import keras

from tfcompress.errors import ConfigError


def channels_last() -> None:
    """Raises ConfigError when Keras is set to another layout."""
    layout = keras.config.image_data_format()
    if layout != "channels_last":
        raise ConfigError(
            "These networks exist in the channels_last layout only. "
            f"Received: keras.config.image_data_format()={layout!r}. "
            "Call keras.config.set_image_data_format('channels_last') first."
        )


def image_shape(input_shape: Sequence[int], smallest: int) -> tuple[int, int, int]:
    """Returns `input_shape` as (rows, columns, channels), the sides at least `smallest`."""
    channels_last()
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(shape) != 3 or not all(_is_integer(side) and side >= 1 for side in shape):
        raise ConfigError(
            "`input_shape` is (rows, columns, channels), three positive integers without the "
            f"batch axis. Received: input_shape={input_shape!r}. Give every size a number: "
            "a .tflite file needs them fixed."
        )
    rows, columns, channels = (int(side) for side in shape)
    if min(rows, columns) < smallest:
        raise ConfigError(
            f"This network needs inputs of at least {smallest} x {smallest}. "
            f"Received: input_shape={input_shape!r}. Resize the input or take a network with "
            "fewer strides."
        )
    return rows, columns, channels


def at_least_one(**argument: int) -> int:
    """Returns the one given argument, a positive integer."""
    ((name, value),) = argument.items()
    if not _is_integer(value) or value < 1:
        raise ConfigError(f"`{name}` is a positive integer. Received: {name}={value!r}.")
    return int(value)


def one_of(allowed: Sequence[str], **argument: str) -> str:
    """Returns the one given argument, one of the `allowed` strings."""
    ((name, value),) = argument.items()
    if value not in allowed:
        raise ConfigError(f"`{name}` is one of {tuple(allowed)}. Received: {name}={value!r}.")
    return value


def width_multiplier(alpha: float) -> float:
    """Returns `alpha`, a positive finite number."""
    if (
        isinstance(alpha, bool)
        or not isinstance(alpha, numbers.Real)
        or not (math.isfinite(alpha) and alpha > 0)
    ):
        raise ConfigError(
            "`alpha` scales the number of channels and is a finite number above 0, usually 0.25 "
            f"to 1.4. Received: alpha={alpha!r}."
        )
    return float(alpha)


def dropout_rate(dropout: float) -> float:
    """Returns `dropout`, at least 0 and below 1."""
    if not isinstance(dropout, numbers.Real) or not 0 <= dropout < 1:
        raise ConfigError(
            "`dropout` is the share of values to drop, at least 0 and below 1. "
            f"Received: dropout={dropout!r}."
        )
    return float(dropout)


def penalty(weight_decay: float) -> float:
    """Returns `weight_decay`, a finite number of at least 0."""
    if not isinstance(weight_decay, numbers.Real) or not 0 <= weight_decay < math.inf:
        raise ConfigError(
            "`weight_decay` is the factor of the L2 penalty, a finite number of at least 0. "
            f"Received: weight_decay={weight_decay!r}."
        )
    return float(weight_decay)


def choice(options: Sequence[object], **argument: object) -> None:
    """Raises ConfigError unless the one given argument is among `options`."""
    ((name, value),) = argument.items()
    if isinstance(value, bool) or value not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ConfigError(f"`{name}` is one of {listed}. Received: {name}={value!r}.")


def sparse_friendly_network(
    shape: tuple[int, int, int],
    *,
    include_top: bool,
    pooling: str | None,
    depth_multiplier: int = 1,
) -> None:
    """Raises ConfigError where XNNPACK's sparse kernels cannot take the network."""
    rows, columns, channels = shape
    if channels != 3:
        raise ConfigError(
            "XNNPACK's sparse kernels start behind a first convolution with 3 input channels, so "
            f"a sparse_friendly network takes 3. Received: {channels} input channels. Repeat or "
            "project the channels to 3 before the network, or set sparse_friendly=False."
        )
    sparse_friendly_depthwise(depth_multiplier=depth_multiplier, kernel_size=3)
    sparse_friendly_sizes(rows, columns, strides=5)
    if not include_top and pooling == "max":
        raise ConfigError(
            "XNNPACK's sparse kernels end in a spatial mean; a maximum there gives wrong outputs "
            "on ARM. Received: pooling='max' with sparse_friendly=True. Use pooling='avg'."
        )


def sparse_friendly_depthwise(*, depth_multiplier: int, kernel_size: int) -> None:
    """Raises ConfigError where XNNPACK has no depthwise kernel for the sparse (CHW) layout."""
    if depth_multiplier != 1:
        raise ConfigError(
            "XNNPACK's sparse kernels take depthwise convolutions with a depth multiplier of 1 "
            f"only. Received: depth_multiplier={depth_multiplier!r} with sparse_friendly=True. "
            "Leave it at 1, or set sparse_friendly=False."
        )
    if kernel_size not in (3, 5):
        raise ConfigError(
            "XNNPACK's sparse kernels take depthwise convolutions of 3x3 or 5x5 only. "
            f"Received: kernel_size={kernel_size!r} with sparse_friendly=True. "
            "Use 3 or 5, or set sparse_friendly=False."
        )


def sparse_friendly_sizes(rows: int, columns: int, *, strides: int) -> None:
    """Raises ConfigError where an image is odd in both directions before a stride of 2.

    There, and only there, symmetric padding is what "same" pads, and the TFLite converter writes
    "same" in place of the zeros. XNNPACK's sparse kernels do not take that: behind the first
    convolution the outputs on ARM are wrong, without any error.
    """
    image = rows, columns
    for _ in range(strides):
        if image[0] % 2 and image[1] % 2:
            raise ConfigError(
                "XNNPACK's sparse kernels need an image with an even side before every stride of 2 "
                f"(converted, the padding of an odd one gives wrong outputs on ARM). Received: "
                f"{rows} x {columns} with sparse_friendly=True, which is {image[0]} x {image[1]} "
                f"before a stride. Make one side a multiple of {2**strides}, or set "
                "sparse_friendly=False."
            )
        image = (image[0] + 1) // 2, (image[1] + 1) // 2


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
