"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR: input and output are on the same grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

FRACTION = 2048.0
"""XNNPACK's weights of the neighbours are integers of 11 bits."""


def resize_bilinear(
    q: tf.Tensor,
    size: Sequence[int],
    *,
    half_pixel_centers: bool = False,
    align_corners: bool = False,
) -> tf.Tensor:
    """RESIZE_BILINEAR on XNNPACK.

    Args:
        q: integers (batch, h, w, c), float32, with known h and w.
        size: output height and width.
        half_pixel_centers: coordinates as Keras' UpSampling2D and Resizing have them.
        align_corners: the corners of both images lie on each other.

    Returns:
        Integers (batch, h', w', c), float32:
        (2048 * T + (B - T) * ay + 2^21) >> 22 with T = 2048 * left + (right - left) * ax.
    """
    (top, bottom, down), (left, right, across) = (
        _neighbours(int(length), new, half_pixel_centers, align_corners)
        for length, new in zip(q.shape[1:3], size, strict=True)
    )

    def row(indices: np.ndarray) -> tf.Tensor:
        line = tf.gather(q, indices, axis=1)
        first, second = tf.gather(line, left, axis=2), tf.gather(line, right, axis=2)
        return FRACTION * first + (second - first) * across[:, None]

    upper, lower = row(top), row(bottom)
    difference, weight = lower - upper, down[:, None, None]
    # 31 bits, in integers under 2^24 each: difference = 1024 * high + low, and the floor of a
    # floor. So nothing here is rounded, and it may be fused at will.
    high = tf.floor(difference / 1024)
    low = difference - 1024 * high
    whole = 2 * upper + high * weight + tf.floor(low * weight / 1024)
    return tf.floor((whole + 2048) / 4096)


def resize_nearest(
    q: tf.Tensor,
    size: Sequence[int],
    *,
    half_pixel_centers: bool = False,
    align_corners: bool = False,
) -> tf.Tensor:
    """RESIZE_NEAREST_NEIGHBOR: copies; arguments as `resize_bilinear`."""
    for axis, new in enumerate(size, 1):
        length, k = int(q.shape[axis]), np.arange(new, dtype=np.float32)
        scale = np.float32(length) / np.float32(new)
        if align_corners and new > 1:
            scale = np.float32(length - 1) / np.float32(new - 1)
        place = (k + np.float32(0.5 if half_pixel_centers else 0)) * scale
        # C's round is half away from zero.
        index = np.floor(place + np.float32(0.5)) if align_corners else np.floor(place)
        q = tf.gather(q, np.clip(index, 0, length - 1).astype(np.int32), axis=axis)
    return q


def _neighbours(
    length: int, new: int, half_pixel_centers: bool, align_corners: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index before, index after and weight of the latter (0 to 2048, float32) for each output."""
    k = np.arange(new, dtype=np.float32)
    if align_corners and new > 1:
        place = k * (np.float32(length - 1) / np.float32(new - 1))
    else:
        scale = np.float32(length) / np.float32(new)
        place = k * scale
        if half_pixel_centers:
            place += np.float32(0.5) * scale - np.float32(0.5)
    place = np.clip(place, np.float32(0), np.float32(length - 1))
    before = np.floor(place).astype(np.int32)
    after = np.minimum(before + 1, length - 1)
    return before, after, np.rint(FRACTION * (place - before)).astype(np.float32)
