"""Weights that take few values: the values once, then for each weight its place among them.

Weights that were clustered share their values across a layer, but each output channel has its own
scale, so its integers differ from its neighbour's. Channels whose largest weight is the same
centroid have the same integers: a tensor has a few alphabets, and every channel one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from tfcompress.parcel.scan import Scan
from tfcompress.parcel.wire import Cursor, damaged, varint

_MOST: Final = 64  # values of an alphabet
_SLICE: Final = 1 << 20
_WIDEST: Final = 256  # values of a palette of wide numbers


@dataclass(frozen=True)
class Palette:
    """Alphabets of a tensor of small whole numbers.

    Attributes:
        alphabets: of each the values other than zero, rising.
        rows: for each output channel its alphabet's number.
    """

    alphabets: tuple[tuple[int, ...], ...]
    rows: np.ndarray

    @property
    def width(self) -> int:
        """Bits of the largest place less one."""
        most = max(
            (max(sum(v > 0 for v in a), sum(v < 0 for v in a)) for a in self.alphabets), default=0
        )
        return max(most - 1, 0).bit_length()

    def packed(self) -> bytes:
        """As bytes."""
        out = bytearray(varint(len(self.alphabets)))
        for alphabet in self.alphabets:
            out += varint(len(alphabet)) + bytes(value & 0xFF for value in alphabet)
        if len(self.alphabets) > 1:
            out += self.rows.astype(np.uint8).tobytes()
        return bytes(out)

    @classmethod
    def read(cls, cursor: Cursor, rows: int) -> Palette:
        """From bytes.

        Raises:
            CorruptFileError: no palette is so.
        """
        alphabets = []
        count = cursor.varint()
        if not 0 < count <= 256:
            raise damaged("a tensor has 1 to 256 alphabets", count)
        for _ in range(count):
            values = np.frombuffer(cursor.take(cursor.varint()), np.int8).astype(np.int64)
            if 0 in values or (np.diff(values) <= 0).any():
                raise damaged("an alphabet's values rise, zero left out", values.tolist()[:300])
            alphabets.append(tuple(values.tolist()))
        numbers = np.zeros(rows, np.int64)
        if count > 1:
            numbers = np.frombuffer(cursor.take(rows), np.uint8).astype(np.int64)
            if int(numbers.max(initial=0)) >= count:
                raise damaged(f"a channel has one of {count} alphabets", int(numbers.max()))
        return cls(tuple(alphabets), numbers)

    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Place of each value, and value of each place, by alphabet; 128 in the middle."""
        places = np.zeros((len(self.alphabets), 257), np.int16)
        values = np.full((len(self.alphabets), 257), 999, np.int16)
        values[:, 128] = 0
        for number, alphabet in enumerate(self.alphabets):
            below = [v for v in reversed(alphabet) if v < 0]
            above = [v for v in alphabet if v > 0]
            for sign, part in ((-1, below), (1, above)):
                for place, value in enumerate(part, 1):
                    places[number, value + 128] = sign * place
                    values[number, sign * place + 128] = value
        return places, values

    def places(self, values: np.ndarray, scan: Scan) -> np.ndarray:
        """Each value's place in its alphabet, from zero outwards, int16."""
        table = self._tables()[0]
        found = np.empty(scan.size, np.int16)
        for part, rows in _slices(scan):
            found[part] = table[self.rows[rows], values[part].astype(np.int64) + 128]
        return found

    def values(self, places: np.ndarray, scan: Scan) -> np.ndarray:
        """The values of places.

        Raises:
            CorruptFileError: an alphabet has no such place.
        """
        table = self._tables()[1]
        found = np.empty(scan.size, np.int16)
        for part, rows in _slices(scan):
            at = np.clip(places[part].astype(np.int64) + 128, 0, 256)
            found[part] = table[self.rows[rows], at]
        if (found == 999).any():
            raise damaged("a value has a place in its alphabet", "a place beyond it")
        return found


def _slices(scan: Scan) -> Iterator[tuple[slice, np.ndarray]]:
    """Parts of a tensor with each value's output channel: a whole one would take much memory."""
    for start in range(0, scan.size, _SLICE):
        part = slice(start, min(start + _SLICE, scan.size))
        index = np.arange(part.start, part.stop)
        yield part, index % scan.rows if scan.rows_last else index // (scan.places * scan.columns)


def of_channels(values: np.ndarray, scan: Scan) -> Palette | None:
    """The palette of small whole numbers, None where they take too many values.

    Args:
        values: int16, shape (scan.size,), -128 to 127.
        scan: of the tensor.
    """
    table = np.zeros((scan.rows, 256), np.bool_)
    for part, rows in _slices(scan):
        table[rows, values[part].astype(np.int64) + 128] = True
    table[:, 128] = False
    sets = [frozenset((np.flatnonzero(row) - 128).tolist()) for row in table]
    most = max(map(len, sets))
    if most > _MOST or (most * 3 > scan.size // scan.rows and len(set(sets)) > 1):
        return None
    alphabets: list[set[int]] = []
    numbers = np.zeros(scan.rows, np.int64)
    for row in sorted(range(scan.rows), key=lambda row: (-len(sets[row]), row)):
        fits = [
            (len(sets[row] - a), number)
            for number, a in enumerate(alphabets)
            if len(sets[row] - a) * 4 <= len(sets[row]) and len(sets[row] | a) <= _MOST
        ]
        if fits:
            numbers[row] = min(fits)[1]
            alphabets[numbers[row]] |= sets[row]
        elif len(alphabets) == 256:
            return None
        else:
            numbers[row] = len(alphabets)
            alphabets.append(set(sets[row]))
    return Palette(tuple(tuple(sorted(a)) for a in alphabets), numbers)


def of_tensor(words: np.ndarray) -> np.ndarray | None:
    """The distinct values of wide numbers, the most frequent first; None where they are many."""
    if len(words) < 64 or len(np.unique(words[:4096])) > _WIDEST:
        return None
    distinct, counts = np.unique(words, return_counts=True)
    if len(distinct) > _WIDEST or len(distinct) * 8 > len(words):
        return None
    return distinct[np.lexsort((distinct, -counts))]
