"""In which order the values of a tensor are coded, and how many at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from tfcompress.parcel.mixing import LARGEST_BATCH

_SMALLEST_BATCH: Final = 32
_LARGEST_KERNEL: Final = 1024
"""Places from which on a tensor is no kernel: coded without neighbours, whole batches at a time."""


class Batch(NamedTuple):
    """Values that are coded at a time; each array has the shape (n,).

    Attributes:
        position: in the tensor, as stored.
        row: output channel.
        column: input channel.
        place: in the kernel, row by row.
    """

    position: np.ndarray
    row: np.ndarray
    column: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class Scan:
    """A tensor as `rows` output channels, `places` in the kernel and `columns` input channels.

    Attributes:
        rows: output channels.
        places: positions in the kernel.
        columns: input channels.
        width: places in one row of the kernel.
        rows_last: whether the output channel is the last axis (depthwise kernels).
        flat: whether it would have too many places for a kernel (from version 2 of the format on).
    """

    rows: int
    places: int
    columns: int
    width: int = 1
    rows_last: bool = False
    flat: bool = False

    @property
    def size(self) -> int:
        """Number of values."""
        return self.rows * self.places * self.columns

    def position(self, row: np.ndarray, place: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Where in the tensor a value is stored."""
        if self.rows_last:
            return (place * self.columns + column) * self.rows + row
        return (row * self.places + place) * self.columns + column

    def batches(self) -> Iterator[Batch]:
        """All values once, along diagonals, so that rows and columns get known alike.

        Place by place of the kernel: neighbours in the kernel are known before.
        """
        slab = self.rows * self.columns
        done = 0
        while done < self.size:
            count = min(max(done // 8, _SMALLEST_BATCH), LARGEST_BATCH)
            if self.places > 1:  # a value's neighbours in the kernel come before its batch
                count = min(count, slab)
            index = np.arange(done, min(done + count, self.size))
            place, rest = np.divmod(index, slab)
            step, row = np.divmod(rest, self.rows)
            column = (row + step) % self.columns
            yield Batch(self.position(row, place, column), row, column, place)
            done += len(index)


def scan_of(shape: tuple[int, ...], axis: int) -> Scan:
    """The scan of a tensor.

    Args:
        shape: its shape.
        axis: the quantized dimension: output channels.
    """
    size = math.prod(shape)
    if len(shape) < 2 or not size:
        return Scan(1, 1, size)
    last = len(shape) - 1
    if axis == last or shape[0] == 1:
        width, places = shape[-2] if len(shape) > 2 else 1, size // shape[-1]
        if len(shape) > 2 and places > _LARGEST_KERNEL:
            return Scan(shape[-1], 1, places, 1, True, flat=True)
        return Scan(shape[-1], places, 1, width, True)
    columns = shape[-1]
    places = size // (shape[0] * columns)
    if places > _LARGEST_KERNEL:
        return Scan(shape[0], 1, places * columns, flat=True)
    return Scan(shape[0], places, columns, shape[-2] if len(shape) > 2 else 1)
