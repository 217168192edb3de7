"""Bytes of any kind, by the best of the general methods that every Python has."""

from __future__ import annotations

import lzma
import zlib
from typing import Any, Final

from tfcompress.parcel.wire import Cursor, damaged, varint

_STORED, _DEFLATE, _LZMA = 0, 1, 2  # from _LZMA on: the method's number less _LZMA is the setting
_SETTINGS: Final = ((3, 0, 2), (0, 2, 2), (4, 0, 0), (1, 3, 3))
"""LZMA's literal context, literal position and position bits, to choose from."""
_DICTIONARY: Final = 1 << 26


def squeeze(content: bytes, *, thorough: bool = True) -> bytes:
    """The content by the method that makes it smallest, with what is needed to undo it.

    Args:
        content: any bytes.
        thorough: try all settings; else the fast method and one other.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    candidates = [(_STORED, content), (_DEFLATE, packer.compress(content) + packer.flush())]
    for number in range(len(_SETTINGS) if thorough else 1):
        coded = lzma.compress(content, lzma.FORMAT_RAW, filters=_filters(number, len(content)))
        candidates.append((_LZMA + number, coded))
    method, coded = min(candidates, key=lambda candidate: (len(candidate[1]), candidate[0]))
    return varint(len(content)) + bytes([method]) + varint(len(coded)) + coded


def expand(cursor: Cursor, limit: int) -> bytes:
    """The content that `squeeze` took.

    Args:
        cursor: where it begins.
        limit: most bytes that it may be.

    Raises:
        CorruptFileError: it is damaged, or larger.
    """
    size = cursor.varint()
    method = cursor.take(1)[0]
    coded = cursor.take(cursor.varint())
    if size > limit:
        raise damaged(f"a part has at most {limit} bytes here", size)
    try:
        if method == _STORED:
            content = bytes(coded)
        elif method == _DEFLATE:
            content = zlib.decompressobj(-15).decompress(coded, size + 1)
        elif method < _LZMA + len(_SETTINGS):
            filters = _filters(method - _LZMA, size)
            content = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(
                coded, size + 1
            )
        else:
            raise damaged("a method is known", method)
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise damaged("compressed bytes can be expanded", error) from None
    if len(content) != size:
        raise damaged(f"a part has the {size} bytes that it says", len(content))
    return content


def _filters(number: int, size: int) -> list[dict[str, Any]]:
    lc, lp, pb = _SETTINGS[number]
    dictionary = min(max(1 << (size - 1 if size else 0).bit_length(), 4096), _DICTIONARY)
    chosen = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}
    return [{**chosen, "lc": lc, "lp": lp, "pb": pb}]
