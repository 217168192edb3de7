"""The reader against FlatBuffers written by the official builder, and by hand against it."""

from __future__ import annotations

import struct

import flatbuffers
import numpy as np
import pytest

from tfcompress.errors import CorruptFileError
from tfcompress.runtime.flatbuffer import MAX_STEPS, Reader, Table

IDENTIFIER = b"TEST"


def build(fill) -> bytes:
    """A buffer whose root table `fill(builder)` makes."""
    builder = flatbuffers.Builder(64)
    builder.Finish(fill(builder), IDENTIFIER)
    return bytes(builder.Output())


def root(content: bytes) -> Table:
    return Reader(content).root(IDENTIFIER)


def scalars(builder):
    builder.StartObject(9)
    builder.PrependInt8Slot(0, -5, 0)
    builder.PrependUint8Slot(1, 250, 0)
    builder.PrependInt32Slot(2, -70000, 0)
    builder.PrependUint32Slot(3, 4_000_000_000, 0)
    builder.PrependInt64Slot(4, -(2**40), 0)
    builder.PrependUint64Slot(5, 2**63, 0)
    builder.PrependFloat32Slot(6, 0.25, 0)
    builder.PrependBoolSlot(7, True, False)
    return builder.EndObject()


def test_scalars_read_as_written_and_absent_ones_as_their_default():
    table = root(build(scalars))
    kinds = ["int8", "uint8", "int32", "uint32", "int64", "uint64"]
    assert [table.integer(slot, kind, 99) for slot, kind in enumerate(kinds)] == [
        -5,
        250,
        -70000,
        4_000_000_000,
        -(2**40),
        2**63,
    ]
    assert table.number(6) == 0.25
    assert table.flag(7) is True
    assert table.integer(8, "int32", 7) == 7  # in the field list, without a value
    assert table.integer(30, "int32", -7) == -7  # past the field list
    assert table.number(8, 1.5) == 1.5
    assert table.flag(8, True) is True
    assert table.has(7)
    assert not table.has(8)


def vectors(builder):
    text = builder.CreateString("Grüße")
    raw = builder.CreateByteVector(b"\x00\x01\xff")
    numbers = builder.CreateNumpyVector(np.array([1.5, -2.5], np.float32))
    shape = builder.CreateNumpyVector(np.array([1, -1, 3], np.int32))
    empty = builder.CreateNumpyVector(np.array([], np.int32))
    builder.StartObject(6)
    for slot, offset in enumerate((text, raw, numbers, shape, empty)):
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return builder.EndObject()


def test_vectors_read_as_written_without_a_copy():
    content = build(vectors)
    table = root(content)
    assert table.string(0) == "Grüße"
    assert table.data(1) == b"\x00\x01\xff"
    numbers = table.array(2, "<f4")
    assert numbers is not None
    assert numbers.tolist() == [1.5, -2.5]
    assert np.shares_memory(numbers, np.frombuffer(content, np.uint8))
    assert not numbers.flags.writeable
    assert table.integers(3) == (1, -1, 3)
    assert table.integers(4) == ()
    for read in (table.string, table.data, table.integers, table.table):
        assert read(5) is None
    assert table.array(5, "<f4") is None
    assert table.tables(5) == []


def test_a_writable_buffer_is_not_written_through():
    numbers = root(bytearray(build(vectors))).array(2, "<f4")
    assert numbers is not None
    assert not numbers.flags.writeable


def nested(builder):
    leaves = []
    for value in (10, 20, 30):
        builder.StartObject(1)
        builder.PrependInt32Slot(0, value, 0)
        leaves.append(builder.EndObject())
    builder.StartVector(4, len(leaves), 4)
    for leaf in reversed(leaves):
        builder.PrependUOffsetTRelative(leaf)
    vector = builder.EndVector()
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.PrependUint8Slot(1, 3, 0)
    builder.PrependUOffsetTRelativeSlot(2, leaves[1], 0)
    return builder.EndObject()


def test_tables_and_unions():
    table = root(build(nested))
    assert [leaf.integer(0, "int32") for leaf in table.tables(0)] == [10, 20, 30]
    kind, value = table.union(1)
    assert kind == 3
    assert value is not None
    assert value.integer(0, "int32") == 20
    assert table.union(3) == (0, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"TFL", "a file of 3 bytes"),
        (b"\x08\0\0\0TFL2", "Bytes 4 to 7.*TFL2"),
        (b"# Read me\n\nThis is text, not a model.", "Bytes 4 to 7"),
        (struct.pack("<I4s", 0, IDENTIFIER), "offset to byte 0 of 8"),
        (struct.pack("<I4s", 2**32 - 1, IDENTIFIER), "offset to byte 4294967295"),
        (struct.pack("<I4si", 8, IDENTIFIER, 2**31 - 1), "field list lies inside"),
        (struct.pack("<I4si", 8, IDENTIFIER, -(2**31)), "field list lies inside"),
        (struct.pack("<I4siHH", 8, IDENTIFIER, -4, 3, 4), "length 3"),
        (struct.pack("<I4siHH", 8, IDENTIFIER, -4, 200, 4), "length 200"),
        (struct.pack("<I4siHH", 8, IDENTIFIER, -4, 4, 2), "table length 2"),
        (struct.pack("<I4siHH", 8, IDENTIFIER, -4, 4, 200), "200 bytes at byte 8"),
    ],
)
def test_a_bad_header_is_refused_with_what_was_received(content, message):
    with pytest.raises(CorruptFileError, match=message) as caught:
        root(content)
    assert "Received: " in str(caught.value)
    assert "download or convert it again" in str(caught.value)


def one_field(offset: int, payload: bytes = b"") -> bytes:
    """A root table at byte 16 whose only field, an offset, is at byte 20; then the payload."""
    header = struct.pack("<I4sHHHxx", 16, IDENTIFIER, 6, 8, 4)
    return header + struct.pack("<iI", 8, offset) + payload


@pytest.mark.parametrize(
    "read",
    [
        lambda table: table.string(0),
        lambda table: table.data(0),
        lambda table: table.array(0, "<f4"),
        lambda table: table.integers(0),
        lambda table: table.tables(0),
        lambda table: table.table(0),
    ],
)
@pytest.mark.parametrize("offset", [5, 2**16, 2**31, 2**32 - 1])
def test_an_offset_out_of_the_file_is_refused(read, offset):
    with pytest.raises(CorruptFileError, match="lies inside the file"):
        read(root(one_field(offset)))


@pytest.mark.parametrize("count", [3, 2**20, 2**31, 2**32 - 1])
def test_a_vector_longer_than_the_file_is_refused_without_making_it(count):
    table = root(one_field(4, struct.pack("<II", count, 0)))
    for read in (
        table.integers,
        table.tables,
        lambda slot: table.array(slot, "<i8"),
    ):
        with pytest.raises(CorruptFileError, match=f"{count} elements"):
            read(0)


def test_a_string_without_its_zero_byte_is_refused():
    assert root(one_field(4, struct.pack("<I", 3) + b"abc\0")).string(0) == "abc"
    for tail in (b"abc", b"abcd"):
        with pytest.raises(CorruptFileError, match="ends with a zero byte"):
            root(one_field(4, struct.pack("<I", 3) + tail)).string(0)


def test_a_string_that_is_not_text_is_escaped():
    assert root(one_field(4, struct.pack("<I", 2) + b"\xff!\0")).string(0) == "\\xff!"


def test_a_field_outside_its_table_is_refused():
    for offset in (2, 6, 7):
        content = struct.pack("<I4sHHHxxiI", 16, IDENTIFIER, 6, 8, offset, 8, 0)
        with pytest.raises(CorruptFileError, match="inside its table"):
            root(content).integer(0, "int32")


def test_a_circle_of_tables_ends_at_the_budget():
    # The vector's two elements both lead back to the root table at byte 16.
    content = one_field(4, struct.pack("<III", 2, 2**32 - 12, 2**32 - 16))
    with pytest.raises(CorruptFileError, match="inside the file"):
        root(content).tables(0)  # offsets are unsigned: they lead forward only

    # A table that holds a vector that holds another such table, 30 deep, twice each: 2**30 visits.
    def deep(builder):
        builder.StartObject(1)
        table = builder.EndObject()
        for _ in range(30):
            builder.StartVector(4, 2, 4)
            builder.PrependUOffsetTRelative(table)
            builder.PrependUOffsetTRelative(table)
            vector = builder.EndVector()
            builder.StartObject(1)
            builder.PrependUOffsetTRelativeSlot(0, vector, 0)
            table = builder.EndObject()
        return table

    def visit(table: Table) -> int:
        return 1 + sum(visit(inner) for inner in table.tables(0))

    with pytest.raises(CorruptFileError, match="overlap or go in circles"):
        visit(root(build(deep)))


def test_the_budget_grows_with_the_file_up_to_its_limit():
    content = build(nested)
    reader = Reader(content)
    reader.spend(len(content) // 4)
    with pytest.raises(CorruptFileError, match="listed once each"):
        reader.spend(65)
    large = Reader(bytes(8 * MAX_STEPS))
    large.spend(MAX_STEPS)
    with pytest.raises(CorruptFileError, match="listed once each"):
        large.spend(1)
