"""From yes-or-no decisions and their probabilities to bytes and back (rANS).

One side of the coder is asked with the bits at hand (`Encoder`, `Tape`), the other answers with
them (`Decoder`), so a model of the data is written once and runs both ways. A block of decisions is
shared out among lanes, each a state of its own, so that NumPy computes hundreds at a time; small
blocks have one lane, which costs five bytes.

Source: J. Duda, "Asymmetric numeral systems" (2013); F. Giesen, "Interleaved entropy coders"
(2014).
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np

from tfcompress.parcel.wire import Cursor, damaged, varint

ONE: Final = 1 << 16
"""Probabilities are whole numbers of this: 1 to 65535."""

_LOW: Final = 1 << 24  # states are kept from here to 2**40 and give words of 16 bits
_STATE_BYTES: Final = 5
_BLOCK: Final = 1 << 22  # decisions: what is held in memory at a time
_LANES: Final = ((1 << 21, 1024), (1 << 19, 256), (1 << 18, 128), (1 << 17, 64))
"""(bytes of a block, lanes): 0.2 % of the size for speed."""
_MOST_LANES: Final = 4096
_COSTS: Final = np.array([round(-256 * math.log2((i + 0.5) / 256)) for i in range(256)], np.int64)


class Coder(Protocol):
    """What a model of the data speaks to."""

    def code(self, chances: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """Codes decisions.

        Args:
            chances: probability of a one, of `ONE`, int64, shape (n,).
            bits: the decisions, uint8, shape (n,); None where they are to be found.

        Returns:
            The decisions.
        """

    def raw(self, count: int, bits: np.ndarray | None) -> np.ndarray:
        """Codes `count` bits that no model foretells, uint8, shape (count,)."""


class Tape:
    """Writes down what is coded and what it would cost, to be replayed if it is the best way.

    Attributes:
        bits: the cost.
    """

    def __init__(self) -> None:
        self.bits = 0.0
        self._calls: list[tuple[np.ndarray | None, np.ndarray]] = []

    def code(self, chances: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """See `Coder`."""
        assert bits is not None
        self.bits += int(_COSTS[np.where(bits, chances, ONE - chances) - 1 >> 8].sum()) / 256
        self._calls.append((chances.astype(np.uint16), bits.astype(np.bool_)))
        return bits

    def raw(self, count: int, bits: np.ndarray | None) -> np.ndarray:
        """See `Coder`."""
        assert bits is not None
        self.bits += count
        self._calls.append((None, bits))
        return bits

    def replay(self, coder: Coder) -> None:
        """Codes the same again."""
        for chances, bits in self._calls:
            if chances is None:
                coder.raw(len(bits), bits)
            else:
                coder.code(chances.astype(np.int64), bits)


class Encoder:
    """Gathers decisions; `finish` gives the bytes."""

    def __init__(self) -> None:
        self._shares: list[np.ndarray] = []  # of each call: width of what was decided
        self._starts: list[np.ndarray] = []
        self._held = 0
        self._blocks: list[bytes] = []
        self._raw: list[np.ndarray] = []

    def code(self, chances: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """See `Coder`."""
        assert bits is not None
        if not len(bits):
            return bits
        self._shares.append(np.where(bits, chances, ONE - chances).astype(np.uint64))
        self._starts.append(np.where(bits, 0, chances).astype(np.uint64))
        self._held += len(bits)
        if self._held >= _BLOCK:
            self._flush()
        return bits

    def raw(self, count: int, bits: np.ndarray | None) -> np.ndarray:
        """See `Coder`."""
        assert bits is not None and len(bits) == count
        self._raw.append(np.packbits(bits))
        return bits

    def finish(self) -> tuple[bytes, bytes]:
        """The coded decisions and the raw bits."""
        if self._held:
            self._flush()
        return b"".join(self._blocks), b"".join(part.tobytes() for part in self._raw)

    def _flush(self) -> None:
        cost = sum(int(_COSTS[share.astype(np.int64) - 1 >> 8].sum()) for share in self._shares)
        lanes = next((lanes for size, lanes in _LANES if cost >= size * 8 * 256), 1)
        encode = _encode_lanes if lanes > 1 else _encode_serial
        states, words = encode(self._shares, self._starts, lanes)
        head = varint(lanes) + varint(len(words))
        body = b"".join(int(state).to_bytes(_STATE_BYTES, "little") for state in states)
        self._blocks.append(head + body + words.astype("<u2").tobytes())
        self._shares, self._starts, self._held = [], [], 0


def _encode_serial(
    shares: list[np.ndarray], starts: list[np.ndarray], lanes: int
) -> tuple[list[int], np.ndarray]:
    words: list[int] = []
    x = _LOW
    for share, start in zip(reversed(shares), reversed(starts), strict=True):
        for f, c in zip(share.tolist()[::-1], start.tolist()[::-1], strict=True):
            if x >= f << 24:
                words.append(x & 0xFFFF)
                x >>= 16
            high, low = divmod(x, f)
            x = (high << 16) + low + c
    return [x], np.array(words[::-1], np.uint16)


def _encode_lanes(
    shares: list[np.ndarray], starts: list[np.ndarray], lanes: int
) -> tuple[np.ndarray, np.ndarray]:
    words: list[np.ndarray] = []
    states = np.full(lanes, _LOW, np.uint64)
    wide, word = np.uint64(24), np.uint64(16)
    for share, start in zip(reversed(shares), reversed(starts), strict=True):
        for first in range((len(share) - 1) // lanes * lanes, -1, -lanes):
            f, c = share[first : first + lanes], start[first : first + lanes]
            x = states[: len(f)]
            full = x >= f << wide
            words.append(x[full].astype(np.uint16))
            x = np.where(full, x >> word, x)
            high = x // f
            states[: len(f)] = (high << word) + (x - high * f) + c
    return states, np.concatenate(words[::-1])


class Decoder:
    """Gives decisions back, in the order in which they were coded.

    Args:
        coded: what `Encoder.finish` gave first.
        raw: and second.
    """

    def __init__(self, coded: bytes | memoryview, raw: bytes | memoryview) -> None:
        self._coded = Cursor(coded)
        self._raw = np.frombuffer(raw, np.uint8)
        self._raw_at = 0
        self._given = 0
        self._lanes = 0
        self._open = False

    def _next_block(self) -> None:
        lanes = self._coded.varint()
        count = self._coded.varint()
        if not 1 <= lanes <= _MOST_LANES:
            raise damaged(f"a block has 1 to {_MOST_LANES} lanes", lanes)
        states = self._coded.take(lanes * _STATE_BYTES)
        self._words = np.frombuffer(self._coded.take(2 * count), "<u2")
        found = [
            int.from_bytes(states[i : i + _STATE_BYTES], "little")
            for i in range(0, len(states), _STATE_BYTES)
        ]
        self._lanes, self._at, self._given, self._open = lanes, 0, 0, True
        if lanes == 1:
            self._x = found[0]
            self._list: list[int] = self._words.tolist()
        else:
            self._states = np.array(found, np.int64)

    def _end_block(self) -> None:
        states = self._states.tolist() if self._lanes > 1 else [self._x]
        if self._at != len(self._words) or any(state != _LOW for state in states):
            raise damaged("a block of coded values ends where it began", "another end")
        self._open = False

    def code(self, chances: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """See `Coder`."""
        if not len(chances):
            return np.zeros(0, np.uint8)
        if not self._open:
            self._next_block()
        found = self._serial(chances) if self._lanes == 1 else self._parallel(chances)
        self._given += len(chances)
        if self._given >= _BLOCK:
            self._end_block()
        return found

    def _serial(self, chances: np.ndarray) -> np.ndarray:
        x, at, words = self._x, self._at, self._list
        found = bytearray(len(chances))
        try:
            for i, p in enumerate(chances.tolist()):
                low = x & 0xFFFF
                if low < p:
                    found[i] = 1
                    x = p * (x >> 16) + low
                else:
                    x = (ONE - p) * (x >> 16) + low - p
                if x < _LOW:
                    x = x << 16 | words[at]
                    at += 1
        except IndexError:
            raise damaged("a block holds all its words", "an early end") from None
        self._x, self._at = x, at
        return np.frombuffer(found, np.uint8)

    def _parallel(self, chances: np.ndarray) -> np.ndarray:
        found = np.empty(len(chances), np.uint8)
        for first in range(0, len(chances), self._lanes):
            p = chances[first : first + self._lanes]
            x = self._states[: len(p)]
            low, high = x & 0xFFFF, x >> 16
            one = low < p
            x = np.where(one, p * high + low, (ONE - p) * high + low - p)
            short = np.flatnonzero(x < _LOW)
            words = self._words[self._at : self._at + len(short)]
            if len(words) != len(short):
                raise damaged("a block holds all its words", "an early end")
            self._at += len(short)
            x[short] = x[short] << 16 | words
            self._states[: len(p)] = x
            found[first : first + self._lanes] = one
        return found

    def raw(self, count: int, bits: np.ndarray | None) -> np.ndarray:
        """See `Coder`."""
        size = (count + 7) // 8
        part = self._raw[self._raw_at : self._raw_at + size]
        if len(part) != size:
            raise damaged("a container holds all its raw bits", "an early end")
        self._raw_at += size
        return np.unpackbits(part)[:count]

    def finish(self) -> None:
        """Checks that everything was used.

        Raises:
            CorruptFileError: something is left, or the last block did not end as it should.
        """
        if self._open:
            self._end_block()
        if self._coded.left or self._raw_at != len(self._raw):
            raise damaged("a container holds nothing beyond its values", "more bytes")
