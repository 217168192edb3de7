"""Whether the weights of a kernel share values, and how many there are in each channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A channel of a file can hold no more different integers.
INTEGERS = 256
_SAMPLE = 4096


def shares_values(kernel: np.ndarray, channel_axes: Sequence[int], *, least: float = 0.0) -> bool:
    """Whether its weights other than zero share values, beyond two that are equal by chance.

    So it is where no channel has more different ones than integers can tell apart, or where two
    weights on average have one. What is equal by chance in a small kernel is taken for shared.

    Args:
        kernel: the weights.
        channel_axes: its axes whose indices tell the output channel.
        least: so large a part of the weights must be spared by sharing. 0 where nothing that is
            shared may be missed, and more where nothing may be taken for it: of the values of a
            few thousand weights two are equal by chance, and of those stored in 16 bits many.
    """
    other = kernel != 0
    values = kernel[other]
    # Of so many weights that share, two are equal in any case: most kernels need no more sorting.
    if len(np.unique(values[:_SAMPLE])) == len(values[:_SAMPLE]):
        return False
    different = len(np.unique(values))
    in_channels = values_per_channel(values, channels_of(kernel.shape, channel_axes)[other])
    if in_channels.max() <= INTEGERS:
        # By chance, weights of different channels are equal much more often than those of one.
        one_book = not least or different <= INTEGERS
        stored = different if one_book else int(in_channels.sum())
        if len(values) - stored > least * len(values):
            return True
    return 2 * different <= len(values) and (not least or different <= _SAMPLE)


def channels_of(shape: Sequence[int], channel_axes: Sequence[int]) -> np.ndarray:
    """The output channel of each weight, whole numbers of that shape.

    Args:
        shape: of a kernel.
        channel_axes: its axes whose indices tell the channel; none for one channel.
    """
    sizes = [size if axis in channel_axes else 1 for axis, size in enumerate(shape)]
    numbers = np.arange(int(np.prod(sizes, dtype=np.int64))).reshape(sizes)
    return np.broadcast_to(numbers, tuple(shape))


def values_per_channel(values: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """How many different values each channel has.

    Args:
        values: any shape.
        channels: the channel of each, whole numbers from 0, of the same shape.

    Returns:
        Whole numbers (channels,).
    """
    return np.bincount(pairs(values, channels)[2])


def pairs(
    values: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different pairs of a group and a value.

    Args:
        values: any shape.
        groups: the group of each, whole numbers from 0, of the same shape; None: all are one.

    Returns:
        The value of each pair, which pair each of `values` makes (flat), the group of each pair.
    """
    table, index = np.unique(values.reshape(-1), return_inverse=True)
    if groups is None:
        return table, index.reshape(-1), np.zeros(len(table), np.int64)
    keys = groups.reshape(-1).astype(np.int64) * len(table) + index.reshape(-1)
    found, index = np.unique(keys, return_inverse=True)
    return table[found % len(table)], index.reshape(-1), found // len(table)
