"""Wide numbers (float32 and float16 weights, scales, biases of int32) as decisions.

A value is: is it zero? its exponent (of an integer: how many bits its magnitude has); its sign; the
highest bits of its mantissa. The bits below foretell nothing and are stored as they are; those that
are zero in the whole tensor are left out.

Source: the exponents apart from the mantissas as in M. Hershcovitch et al., "ZipNN" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tfcompress.parcel.mixing import Mixer, spread
from tfcompress.parcel.scan import Scan
from tfcompress.parcel.wire import Cursor, damaged

INPUTS: Final = 4
SETS: Final = 20
_TOP: Final = 3  # bits of the mantissa that are modelled

FLOATS: Final = {"float32": (32, 23), "float16": (16, 10), "bfloat16": (16, 7)}
INTEGERS: Final = {"int16": 16, "int32": 32, "int64": 64, "uint16": 16, "uint32": 32, "uint64": 64}


@dataclass(frozen=True)
class Parts:
    """Values as sign, exponent and mantissa, each uint64 of shape (n,).

    Attributes:
        sign: 0 or 1.
        exponent: 0 to 255.
        mantissa: without its leading one.
    """

    sign: np.ndarray
    exponent: np.ndarray
    mantissa: np.ndarray


def split(content: bytes | memoryview, dtype: str) -> Parts:
    """The parts of stored values."""
    if dtype in FLOATS:
        bits, fraction = FLOATS[dtype]
        words = np.frombuffer(content, f"<u{bits // 8}").astype(np.uint64)
        exponent = words >> np.uint64(fraction) & np.uint64((1 << bits - 1 - fraction) - 1)
        return Parts(words >> np.uint64(bits - 1), exponent, words & np.uint64((1 << fraction) - 1))
    words = np.frombuffer(content, f"<i{INTEGERS[dtype] // 8}").astype(np.int64)
    magnitude = np.where(words < 0, -words, words).astype(np.uint64)  # -2**63 is its own negative
    exponent = _bit_length(magnitude)
    mantissa = magnitude - np.where(exponent > 0, np.uint64(1) << _below(exponent), np.uint64(0))
    return Parts((words < 0).astype(np.uint64), exponent, mantissa)


def join(parts: Parts, dtype: str) -> bytes:
    """The stored values of their parts."""
    if dtype in FLOATS:
        bits, fraction = FLOATS[dtype]
        words = parts.sign << np.uint64(bits - 1) | parts.exponent << np.uint64(fraction)
        return bytes((words | parts.mantissa).astype(f"<u{bits // 8}").tobytes())
    top = np.where(parts.exponent > 0, np.uint64(1) << _below(parts.exponent), np.uint64(0))
    magnitude = (top | parts.mantissa).astype(np.int64)
    words = np.where(parts.sign, -magnitude, magnitude)
    return bytes(words.astype(f"<i{INTEGERS[dtype] // 8}").tobytes())


def _below(exponent: np.ndarray) -> np.ndarray:
    return np.where(exponent > 0, exponent - np.uint64(1), np.uint64(0))


def _bit_length(values: np.ndarray) -> np.ndarray:
    length = np.zeros(len(values), np.uint64)
    for shift in (32, 16, 8, 4, 2, 1):
        high = values >> np.uint64(shift) > 0
        length += np.where(high, np.uint64(shift), np.uint64(0))
        values = np.where(high, values >> np.uint64(shift), values)
    return length + (values > 0)


def lengths(exponent: np.ndarray, dtype: str) -> np.ndarray:
    """How many bits the mantissa has at each exponent, int64."""
    if dtype in FLOATS:
        return np.full(len(exponent), FLOATS[dtype][1], np.int64)
    return _below(exponent).astype(np.int64)


class WideCoder:
    """Codes tensors of wide numbers, one after another.

    Args:
        mixer: of `INPUTS` inputs and `SETS` sets.
    """

    def __init__(self, mixer: Mixer) -> None:
        self._mixer = mixer

    def code(
        self, scan: Scan, dtype: str, group: np.ndarray, layout: Layout, content: bytes | None
    ) -> bytes:
        """Codes one tensor, or several of one kind behind each other.

        Args:
            scan: the order.
            dtype: of the values.
            group: which tensor each value is of, or its like; shape (scan.size,).
            layout: of the values, from `layout_of`.
            content: the stored values, or None to find them.

        Returns:
            The stored values.
        """
        self._mixer.begin(scan.size)
        given = None if content is None else split(content, dtype)
        found = Parts(*(np.zeros(scan.size, np.uint64) for _ in range(3)))
        for batch in scan.batches():
            at = batch.position
            part = None
            if given is not None:
                part = Parts(given.sign[at], given.exponent[at], given.mantissa[at])
            contexts = np.stack(
                [
                    spread(np.full(len(at), layout.kind), 1),
                    spread(group[at], 2),
                    spread(batch.row, 3),
                    spread(batch.column if scan.columns < scan.size else batch.place, 4),
                ]
            )
            part = self._batch(contexts, dtype, layout, part)
            found.sign[at], found.exponent[at] = part.sign, part.exponent
            found.mantissa[at] = part.mantissa
        return join(found, dtype)

    def _batch(
        self, contexts: np.ndarray, dtype: str, layout: Layout, given: Parts | None
    ) -> Parts:
        mixer, count = self._mixer, contexts.shape[1]
        parts = Parts(*(np.zeros(count, np.uint64) for _ in range(3)))
        which = np.arange(count)
        if layout.zeros:
            node = np.zeros(count, np.uint32)
            bits = None if given is None else (given.exponent | given.mantissa) > 0
            nonzero = mixer.decide(contexts, node, 13, bits) > 0
            which = np.flatnonzero(nonzero)
            if layout.negative_zeros:
                zero = np.flatnonzero(~nonzero)
                bits = None if given is None else given.sign[zero] > 0
                node = np.full(len(zero), (1 << 10) + 1, np.uint32)
                parts.sign[zero] = mixer.decide(contexts[:, zero], node, 14, bits)
            if given is not None:
                given = Parts(given.sign[which], given.exponent[which], given.mantissa[which])
            contexts = np.ascontiguousarray(contexts[:, which])
        found = self._nonzero(contexts, dtype, layout, given)
        parts.sign[which], parts.exponent[which] = found.sign, found.exponent
        parts.mantissa[which] = found.mantissa
        return parts

    def _nonzero(
        self, contexts: np.ndarray, dtype: str, layout: Layout, given: Parts | None
    ) -> Parts:
        mixer, count = self._mixer, contexts.shape[1]
        prefix = np.ones(count, np.uint32)
        for level in range(layout.width - 1, -1, -1):
            shifted = None if given is None else given.exponent - np.uint64(layout.least)
            bits = None if shifted is None else (shifted >> np.uint64(level) & np.uint64(1)) > 0
            bits = mixer.decide(contexts, prefix, layout.width - 1 - level, bits)
            prefix = prefix << np.uint32(1) | bits
        exponent = prefix.astype(np.uint64) - np.uint64(1 << layout.width) + np.uint64(layout.least)
        if int(exponent.max(initial=0)) > layout.most:
            raise damaged("an exponent is in its range", int(exponent.max()))
        sign = np.zeros(count, np.uint64)
        if layout.signed:
            node = np.full(count, 1 << 10, np.uint32)
            bits = None if given is None else given.sign > 0
            sign = mixer.decide(contexts, node, 9, bits).astype(np.uint64)
        length = lengths(exponent, dtype)
        mantissa = np.zeros(count, np.uint64)
        tree = np.ones(count, np.uint32)
        base = (exponent.astype(np.uint32) + np.uint32(2)) << np.uint32(8)
        for level in range(_TOP):
            which = np.flatnonzero(length > level + layout.trailing)
            shift = (length[which] - 1 - level).astype(np.uint64)
            bits = None if given is None else (given.mantissa[which] >> shift & np.uint64(1)) > 0
            node = base[which] + tree[which]
            bits = mixer.decide(contexts[:, which], node, 10 + level, bits)
            mantissa[which] |= bits.astype(np.uint64) << shift
            tree[which] = tree[which] << np.uint32(1) | bits
        self._rest(length, layout.trailing, mantissa, given)
        return Parts(sign, exponent, mantissa)

    def _rest(
        self, length: np.ndarray, trailing: int, mantissa: np.ndarray, given: Parts | None
    ) -> None:
        """The mantissa's lower bits, as they are: plane by plane."""
        for level in range(_TOP, int(length.max(initial=0)) - trailing):
            which = np.flatnonzero(length > level + trailing)
            shift = (length[which] - 1 - level).astype(np.uint64)
            bits = None if given is None else (given.mantissa[which] >> shift & np.uint64(1)) > 0
            bits = self._mixer.coder.raw(len(which), bits)
            mantissa[which] |= bits.astype(np.uint64) << shift


@dataclass(frozen=True)
class Layout:
    """What is the same for all values of a tensor.

    Attributes:
        kind: which shared counts it uses.
        least: smallest exponent of what is not zero.
        most: largest.
        signed: whether any value that is not zero is negative.
        zeros: whether any value is zero.
        negative_zeros: whether any of these has a sign.
        trailing: lowest bits of the mantissa that are zero in all values.
    """

    kind: int
    least: int
    most: int
    signed: bool
    zeros: bool
    negative_zeros: bool
    trailing: int

    @property
    def width(self) -> int:
        """Bits of an exponent less the smallest."""
        return (self.most - self.least).bit_length()

    def packed(self) -> bytes:
        """As bytes."""
        flags = self.signed | self.zeros << 1 | self.negative_zeros << 2
        return bytes([self.kind, self.least, self.most, flags, self.trailing])

    @classmethod
    def read(cls, cursor: Cursor) -> Layout:
        """From bytes.

        Raises:
            CorruptFileError: no layout is so.
        """
        kind, least, most, flags, trailing = cursor.take(5)
        if least > most or flags > 7 or trailing > 64:
            raise damaged("exponents have a range", (least, most, flags, trailing))
        return cls(kind, least, most, bool(flags & 1), bool(flags & 2), bool(flags & 4), trailing)


def layout_of(content: bytes | memoryview, dtype: str, kind: int) -> Layout:
    """The layout of stored values."""
    parts = split(content, dtype)
    nonzero = (parts.exponent | parts.mantissa) > 0
    zeros, negative_zeros = not nonzero.all(), bool(parts.sign[~nonzero].any())
    if not nonzero.any():
        return Layout(kind, 0, 0, False, zeros, negative_zeros, 0)
    low = int(np.bitwise_or.reduce(parts.mantissa))
    trailing = (low & -low).bit_length() - 1 if low else 0
    if dtype in FLOATS and not low:
        trailing = FLOATS[dtype][1]
    if dtype not in FLOATS:
        trailing = 0
    return Layout(
        kind,
        int(parts.exponent[nonzero].min()),
        int(parts.exponent[nonzero].max()),
        bool(parts.sign[nonzero].any()),
        zeros,
        negative_zeros,
        trailing,
    )
