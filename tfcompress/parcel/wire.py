"""The smallest parts of a container: whole numbers, pieces, and the error of a damaged one."""

from __future__ import annotations

from tfcompress.errors import CorruptFileError


def damaged(rule: str, received: object) -> CorruptFileError:
    """The error of a container that breaks a rule of its format."""
    return CorruptFileError(
        f"In a packed file {rule}. Received: {received}. "
        "The container is damaged or was never one: copy or pack it again."
    )


def varint(value: int) -> bytes:
    """A whole number from 0 on, seven bits to a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Reads from bytes and never past their end.

    Args:
        content: what is read.
    """

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = memoryview(content)
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._content) - self._at

    def take(self, size: int) -> memoryview:
        """The next `size` bytes.

        Raises:
            CorruptFileError: so many are not left.
        """
        if size > self.left:
            raise damaged("every part is there in full", f"{self.left} of {size} bytes")
        self._at += size
        return self._content[self._at - size : self._at]

    def varint(self) -> int:
        """The next whole number, below 2**63."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 56:
                raise damaged("a number has at most 9 bytes", "more")
