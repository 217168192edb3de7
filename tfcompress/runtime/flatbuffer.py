"""A small, bounds-checked FlatBuffers reader that needs nothing but NumPy.

A FlatBuffer is a web of relative offsets. A reader that trusts them can be sent anywhere in memory,
or round in circles; this one checks every offset against the file before it follows it, and charges
every step to a budget, so that a file whose offsets overlap cannot ask for more work than an honest
file could. Nothing is copied: vectors of numbers are read-only NumPy views of the file.

Source: https://flatbuffers.dev/internals/ (the binary format).
"""

from __future__ import annotations

import struct
from typing import Final, NoReturn

import numpy as np

from tfcompress.errors import CorruptFileError

MAX_STEPS: Final = 250_000
"""Steps that one file may cost: a table is one, and what is copied out counts by its length.

An honest file of 15,000 operators needs fewer; a hostile one is stopped after about a second.
"""

_BYTES_OF_STEP: Final = 4
"""The fewest bytes that one step of an honest file has to itself: a table's or an offset's."""

_VIEW_BYTES: Final = 1024  # of a vector of numbers, a step: code that comes later scans it
_STRING_BYTES: Final = 64  # a step: it is decoded, so it costs memory too
_KNOWN_SLOTS: Final = 32  # more fields than any table of the TFLite schema has
_REMEDY: Final = "The file is damaged or was never a model: download or convert it again."

_UINT16 = struct.Struct("<H")
_INT32 = struct.Struct("<i")
_UINT32 = struct.Struct("<I")
_UINT16_PAIR = struct.Struct("<HH")

_SCALARS: Final[dict[str, struct.Struct]] = {
    "bool": struct.Struct("<?"),
    "int8": struct.Struct("<b"),
    "uint8": struct.Struct("<B"),
    "int32": _INT32,
    "uint32": _UINT32,
    "int64": struct.Struct("<q"),
    "uint64": struct.Struct("<Q"),
    "float32": struct.Struct("<f"),
}


def corrupt(rule: str, received: object) -> NoReturn:
    """Raises the error of a file that breaks the format's rules.

    Args:
        rule: what holds in every sound file, as a sentence without its full stop.
        received: what this file has instead.

    Raises:
        CorruptFileError: always.

    Example:
        >>> corrupt("A model has at least one subgraph", "0 subgraphs")
        Traceback (most recent call last):
        ...
        tfcompress.errors.CorruptFileError: A model has at least one subgraph. Received: ...
    """
    raise CorruptFileError(f"{rule}. Received: {received}. {_REMEDY}")


class Reader:
    """Checked access to one FlatBuffer.

    Args:
        content: the whole file, any bytes-like object; kept alive by every view handed out.
        steps: the budget; a small file gets less, as its honest contents need less.

    Attributes:
        content: the file as a read-only view of bytes.
        size: its length in bytes.

    Example:
        >>> root = Reader(path.read_bytes()).root(b"TFL3")  # doctest: +SKIP
        >>> root.scalar(0, "uint32", 0)  # doctest: +SKIP
        3
    """

    __slots__ = ("_steps", "_vtables", "content", "size")

    def __init__(self, content: bytes | bytearray | memoryview, steps: int = MAX_STEPS) -> None:
        self.content = memoryview(content).toreadonly().cast("B")
        self.size = len(self.content)
        self._steps = min(steps, 64 + self.size // _BYTES_OF_STEP)
        self._vtables: dict[int, tuple[int, ...]] = {}

    def root(self, identifier: bytes) -> Table:
        """Returns the root table.

        Args:
            identifier: the four bytes that must follow the root offset.

        Raises:
            CorruptFileError: the file is empty, too short, or of another kind.
        """
        if self.size < 8:
            corrupt(
                f"A file of kind {identifier.decode()} has at least 8 bytes",
                "an empty file" if not self.size else f"a file of {self.size} bytes",
            )
        received = bytes(self.content[4:8])
        if received != identifier:
            corrupt(f"Bytes 4 to 7 of the file are {identifier!r}", repr(received))
        return self.table_at(_UINT32.unpack_from(self.content, 0)[0])

    def spend(self, steps: int) -> None:
        """Takes `steps` from the budget.

        Raises:
            CorruptFileError: the budget is used up: parts of the file refer to each other in a way
                that no writer produces.
        """
        self._steps -= steps
        if self._steps < 0:
            corrupt(
                "The parts of a model file are listed once each",
                f"a file of {self.size} bytes whose offsets overlap or go in circles, or which "
                "lists more parts than any real model has",
            )

    def table_at(self, position: int) -> Table:
        """Returns the table that starts at byte `position`.

        Raises:
            CorruptFileError: the table, or the vtable it names, is not inside the file.
        """
        self.spend(1)
        if not 4 <= position <= self.size - 4:
            corrupt("A table lies inside the file", f"an offset to byte {position} of {self.size}")
        start = position - _INT32.unpack_from(self.content, position)[0]
        vtable = self._vtables.get(start)
        if vtable is None:
            vtable = self._vtables[start] = self._read_vtable(start)
        if position + vtable[1] > self.size:
            corrupt(
                "A table lies inside the file",
                f"{vtable[1]} bytes at byte {position} of {self.size}",
            )
        return Table(self, position, vtable)

    def _read_vtable(self, start: int) -> tuple[int, ...]:
        """Reads a vtable: its length, the table's length, and the offset of each field."""
        if not 0 <= start <= self.size - 4:
            corrupt(
                "A table's field list lies inside the file",
                f"an offset to byte {start} of {self.size}",
            )
        length, table_length = _UINT16_PAIR.unpack_from(self.content, start)
        if length < 4 or length % 2 or start + length > self.size or table_length < 4:
            corrupt(
                "A table's field list has an even length of at least 4 bytes, inside the file",
                f"length {length} at byte {start} of {self.size}, table length {table_length}",
            )
        # Fields past the known ones are of a newer schema: reading them all would let a small file
        # with many overlapping field lists fill the memory.
        count = min(length // 2, 2 + _KNOWN_SLOTS)
        return struct.unpack_from(f"<{count}H", self.content, start)

    def follow(self, position: int) -> int:
        """Returns where the offset stored at byte `position` (inside the file) leads."""
        return position + int(_UINT32.unpack_from(self.content, position)[0])

    def span(self, position: int, width: int, what: str) -> tuple[int, int]:
        """Returns start and element count of the vector at byte `position`.

        Args:
            position: where the vector's length is stored.
            width: bytes of one element.
            what: the kind of vector, for the message.

        Raises:
            CorruptFileError: the vector does not lie inside the file.
        """
        if position > self.size - 4:
            corrupt(
                f"A {what} lies inside the file", f"an offset to byte {position} of {self.size}"
            )
        count = _UINT32.unpack_from(self.content, position)[0]
        if position + 4 + count * width > self.size:
            corrupt(
                f"A {what} lies inside the file",
                f"{count} elements of {width} bytes at byte {position} of {self.size}",
            )
        return position + 4, count


class Table:
    """One table of a FlatBuffer; its fields are read when asked for.

    Fields go by their slot: their place in the schema, where a union takes two (type, then value).
    A field that the file does not hold reads as its default, as the format has it.
    Every method raises CorruptFileError for a field that leads out of the file.

    Args:
        reader: the file.
        position: the table's first byte; checked by `Reader.table_at`.
        vtable: its field list.
    """

    __slots__ = ("_position", "_reader", "_vtable")

    def __init__(self, reader: Reader, position: int, vtable: tuple[int, ...]) -> None:
        self._reader = reader
        self._position = position
        self._vtable = vtable

    def _find(self, slot: int, width: int) -> int:
        """Returns the byte where field `slot` is, or 0 where the table leaves it out."""
        vtable = self._vtable
        if slot + 2 >= len(vtable) or not (offset := vtable[slot + 2]):
            return 0
        if offset < 4 or offset + width > vtable[1]:
            corrupt(
                "A field lies inside its table",
                f"field {slot} at offset {offset} of a table of {vtable[1]} bytes",
            )
        return self._position + offset

    def _target(self, slot: int) -> int:
        """Returns where the offset in field `slot` leads, or 0 where it is left out."""
        position = self._find(slot, 4)
        return self._reader.follow(position) if position else 0

    def has(self, slot: int) -> bool:
        """Returns whether the file holds a value for field `slot`."""
        return self._find(slot, 1) != 0

    def integer(self, slot: int, kind: str, default: int = 0) -> int:
        """Returns the whole number in field `slot`; `kind` is "int8", "uint32" and so on."""
        scalar = _SCALARS[kind]
        position = self._find(slot, scalar.size)
        return int(scalar.unpack_from(self._reader.content, position)[0]) if position else default

    def number(self, slot: int, default: float = 0.0) -> float:
        """Returns the float32 in field `slot`."""
        position = self._find(slot, 4)
        if not position:
            return default
        return float(_SCALARS["float32"].unpack_from(self._reader.content, position)[0])

    def flag(self, slot: int, default: bool = False) -> bool:
        """Returns the truth value in field `slot`."""
        return bool(self.integer(slot, "uint8", int(default)))

    def string(self, slot: int) -> str | None:
        """Returns the text in field `slot`, None where it is left out.

        Bytes that are not UTF-8 come as backslash escapes: names need not be text to be told apart.
        """
        position = self._target(slot)
        if not position:
            return None
        reader = self._reader
        start, count = reader.span(position, 1, "string")
        reader.spend(count // _STRING_BYTES)
        end = start + count
        # Native runtimes read names up to the zero byte, so without one they would read on.
        if end >= reader.size or reader.content[end]:
            corrupt("A string ends with a zero byte", f"{count} bytes at byte {start} without one")
        return str(reader.content[start:end], "utf-8", "backslashreplace")

    def data(self, slot: int) -> memoryview | None:
        """Returns the bytes in field `slot` as a view of the file, None where it is left out."""
        position = self._target(slot)
        if not position:
            return None
        start, count = self._reader.span(position, 1, "byte vector")
        return self._reader.content[start : start + count]

    def array(self, slot: int, dtype: str) -> np.ndarray | None:
        """Returns the numbers in field `slot`, None where it is left out.

        Args:
            slot: the field.
            dtype: little-endian NumPy type of one element, such as "<i4".

        Returns:
            A read-only view of the file, shape (count,).
        """
        position = self._target(slot)
        if not position:
            return None
        reader = self._reader
        element = np.dtype(dtype)
        start, count = reader.span(position, element.itemsize, "vector")
        reader.spend(1 + count * element.itemsize // _VIEW_BYTES)
        return np.frombuffer(reader.content, element, count, start)

    def integers(self, slot: int) -> tuple[int, ...] | None:
        """Returns the int32 vector in field `slot` as a tuple, None where it is left out."""
        position = self._target(slot)
        if not position:
            return None
        reader = self._reader
        start, count = reader.span(position, 4, "vector")
        reader.spend(count // 4)
        return struct.unpack_from(f"<{count}i", reader.content, start)

    def table(self, slot: int) -> Table | None:
        """Returns the table in field `slot`, None where it is left out."""
        position = self._target(slot)
        return self._reader.table_at(position) if position else None

    def tables(self, slot: int) -> list[Table]:
        """Returns the tables in the vector in field `slot`; empty where it is left out."""
        position = self._target(slot)
        if not position:
            return []
        reader = self._reader
        start, count = reader.span(position, 4, "vector of tables")
        # The length is charged before the list is made: it may claim a billion tables.
        reader.spend(count // 8)
        offsets = struct.unpack_from(f"<{count}I", reader.content, start)
        return [reader.table_at(start + 4 * i + offset) for i, offset in enumerate(offsets)]

    def union(self, slot: int) -> tuple[int, Table | None]:
        """Returns type and value of the union whose type is in field `slot`; (0, None) for none."""
        kind = self.integer(slot, "uint8")
        return (kind, self.table(slot + 1)) if kind else (0, None)
