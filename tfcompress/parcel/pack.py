"""`tfc.pack` and `tfc.unpack`: a `.tflite` as small as it can be sent, bit for bit.

See the package's docstring for the format.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final, overload

from tfcompress.errors import ConfigError, CorruptFileError
from tfcompress.files import check_writable, read_bytes, replacing, write_bytes
from tfcompress.parcel import numbers, plain
from tfcompress.parcel.entropy import Decoder
from tfcompress.parcel.regions import Map, survey
from tfcompress.parcel.wire import Cursor, damaged, varint
from tfcompress.runtime.model import TFLiteModel

MAGIC: Final = b"TFCP"
VERSIONS: Final = (1, 2)
MAX_SIZE: Final = 2 << 30
_DIGEST: Final = 16
_AS_BYTES, _AS_MODEL = 0, 1
_RATIO, _SLACK = 4096, 1 << 20  # a container of n bytes holds at most n * _RATIO + _SLACK
_WIDTHS: Final = (1, 4, 8)


@overload
def pack(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | TFLiteModel,
) -> bytes: ...
@overload
def pack(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | TFLiteModel,
    *,
    out: str | os.PathLike[str],
    overwrite: bool = False,
) -> Path: ...
def pack(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | TFLiteModel,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> bytes | Path:
    """Packs a `.tflite` for shipping: lossless, and smaller than zip, zstandard or xz make it.

    The weights, scales and biases of the file are coded by models that learn as they go: each value
    by what its output channel, its input channel and its neighbours in the kernel hold. Scales of
    biases follow from those of weights and inputs and take no room. Any other file may be packed
    too, by the best of deflate and LZMA. The same input gives the same container, but for other
    versions of zlib and liblzma.

    It is NumPy at work, there and back: about 0.4 microseconds for each yes-or-no decision, of
    which a weight of a pruned int8 file has about three and one of a dense file nine.

    Args:
        source: path of a file, its bytes, or a `TFLiteModel`.
        out: file to write the container to.
        overwrite: whether `out` may exist.

    Returns:
        The container, or the path written; `unpack` gives the same bytes back or an error, never
        others.

    Raises:
        ConfigError: the file cannot be read, or `out` not written.

    Example:
        >>> container = tfc.pack("model.tflite")  # or tfc.pack(tfc.slim("model.tflite"))
        >>> assert tfc.unpack(container) == pathlib.Path("model.tflite").read_bytes()
    """
    if out is not None:
        check_writable(out, overwrite=overwrite)
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    elif isinstance(source, TFLiteModel):
        content = source.content
    else:
        content = read_bytes(source)
    found = _survey(content)
    bodies = [bytes([_AS_BYTES]) + plain.squeeze(content, thorough=False)] if not found else []
    if found:
        bodies.append(bytes([_AS_MODEL]) + _model_body(content, found))
        deflated = zlib.compress(content, 9)
        if len(bodies[0]) > 0.9 * len(deflated):
            bodies.append(bytes([_AS_BYTES]) + plain.squeeze(content, thorough=False))
    body = min(bodies, key=len)
    # Version 1 codes tensors that are no kernels another way, value by value.
    version = 2 if found and any(region.scan.flat for region in found.regions) else 1
    head = MAGIC + bytes([version]) + varint(len(content))
    head += blake2b(content, digest_size=_DIGEST).digest()
    short = (len(content) - _SLACK + _RATIO - 1) // _RATIO - len(head) - len(body) - 5
    container = head + varint(max(short, 0)) + bytes(max(short, 0)) + body
    container += zlib.crc32(container).to_bytes(4, "little")
    return container if out is None else write_bytes(out, container, overwrite=overwrite)


def _survey(content: bytes) -> Map | None:
    """A model's regions; None for what is no model, or whose regions do not show without them."""
    try:
        found = survey(content)
        blank = bytearray(content)
        for region in found.regions:
            blank[region.start : region.start + region.size] = bytes(region.size)
        return found if survey(blank) == found else None
    except CorruptFileError:
        return None


def _model_body(content: bytes, found: Map) -> bytes:
    plan, rest, coded, raw = numbers.encode(content, found)
    gaps, kept, end = bytearray(), bytearray(), 0
    for region in found.regions:
        gaps += varint((region.start - end) * len(_WIDTHS) + _WIDTHS.index(region.width))
        kept += content[end : region.start]
        end = region.start + region.size
    kept += content[end:]
    lengths = varint(len(found.regions)) + varint(len(gaps)) + varint(len(plan)) + varint(len(kept))
    text = plain.squeeze(lengths + bytes(gaps) + plan + bytes(kept))
    return text + plain.squeeze(rest) + varint(len(coded)) + varint(len(raw)) + coded + raw


@overload
def unpack(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    max_size: int = MAX_SIZE,
) -> bytes: ...
@overload
def unpack(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    out: str | os.PathLike[str],
    overwrite: bool = False,
    max_size: int = MAX_SIZE,
) -> Path: ...
def unpack(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    max_size: int = MAX_SIZE,
) -> bytes | Path:
    """Gives back what `pack` packed.

    The container may come from anywhere: every size in it is checked before memory is taken, and
    what comes out is what went in, by its BLAKE2 digest, or nothing. While a tensor is decoded, its
    values take up to 50 bytes each. Where containers come from strangers, pass a `max_size` that
    your models need: time and memory grow with what a container says it holds.

    Args:
        source: the container: its bytes, its path, or a file opened for reading bytes.
        out: file to write to, tensor by tensor and without holding it whole in memory; it gets its
            name when its digest has been checked.
        overwrite: whether `out` may exist.
        max_size: the largest original that is accepted, bytes.

    Returns:
        The original bytes, or the path written.

    Raises:
        CorruptFileError: the container is damaged, truncated, no container at all, or of a newer
            version, or its original is larger than `max_size`.
        ConfigError: `source` cannot be read or `out` not written.

    Example:
        >>> tfc.unpack("model.tfcp", out="model.tflite")
        PosixPath('model.tflite')
    """
    if not isinstance(max_size, int) or isinstance(max_size, bool) or max_size < 0:
        raise ConfigError(f"`max_size` must be a number of bytes. Received: {max_size!r}")
    if out is not None:
        check_writable(out, overwrite=overwrite)
    with _opened(source, max_size) as container:
        size, digest, body = _checked(container, max_size)
        version = container[4]
        if out is None:
            content = bytearray(size)
            _fill(memoryview(content), body, version)
            _verify(memoryview(content), digest)
            return bytes(content)
        with replacing(out, overwrite=overwrite) as file:
            if size:
                _reserve(file, size)
                with _mapped(file, size) as view:
                    _fill(view, body, version)
                    _verify(view, digest)
            else:
                _fill(memoryview(bytearray()), body, version)
                _verify(memoryview(bytearray()), digest)
        return Path(os.path.realpath(out))


def _reserve(file: BinaryIO, size: int) -> None:
    """Takes the room on the disk: where there is none, writing to mapped pages ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, _SLACK):
        file.write(bytes(min(_SLACK, size - start)))
    file.flush()


@contextmanager
def _mapped(file: BinaryIO, size: int) -> Iterator[memoryview]:
    """A file's bytes, to write to; the system keeps in memory what it has room for."""
    pages = mmap.mmap(file.fileno(), size)
    view = memoryview(pages)
    try:
        yield view
    finally:
        # Where an error is on its way, its traceback still holds views: they end with it.
        with suppress(BufferError):
            view.release()
            pages.close()


@contextmanager
def _opened(source: object, max_size: int) -> Iterator[memoryview]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield memoryview(source).cast("B")
    elif hasattr(source, "read"):
        content = bytearray()
        while len(content) < max_size + _SLACK:  # (asked for all at once, it would be taken)
            part = source.read(_SLACK)
            if not isinstance(part, (bytes, bytearray)):
                raise ConfigError(f"A file opened for bytes is needed. Received: {source!r:.80}")
            if not part:
                break
            content += part
        yield memoryview(content)
    else:
        yield memoryview(read_bytes(source))  # type: ignore[arg-type]


def _checked(container: memoryview, max_size: int) -> tuple[int, bytes, Cursor]:
    if bytes(container[:4]) != MAGIC:
        raise damaged(f"the first bytes are {MAGIC!r}", repr(bytes(container[:4])))
    if len(container) < 10:
        raise damaged("there are at least 10 bytes", len(container))
    cursor = Cursor(container[4:-4])
    version = cursor.take(1)[0]
    if version not in VERSIONS:
        raise damaged(f"the format's version is one of {VERSIONS}", version)
    if zlib.crc32(container[:-4]).to_bytes(4, "little") != bytes(container[-4:]):
        raise damaged("the last four bytes are the checksum of the others", "another checksum")
    size = cursor.varint()
    if size > max_size:
        raise CorruptFileError(
            f"The original must have at most max_size={max_size:,} bytes. Received: a container of "
            f"{size:,}. Pass a larger max_size if you trust where it comes from."
        )
    if size > len(container) * _RATIO + _SLACK:
        raise damaged(f"{len(container)} bytes do not stand for a file that large", size)
    digest = bytes(cursor.take(_DIGEST))
    cursor.take(cursor.varint())
    return size, digest, cursor


def _fill(target: memoryview, body: Cursor, version: int) -> None:
    """Puts the original in `target`."""
    form = body.take(1)[0]
    if form == _AS_BYTES:
        content = plain.expand(body, len(target))
        if len(content) != len(target) or body.left:
            raise damaged(f"the original has {len(target)} bytes", len(content))
        target[:] = content
        return
    if form != _AS_MODEL:
        raise damaged("a form is known", form)
    # Gaps and plan are small beside what they describe, but a tiny file may be nothing else.
    text = Cursor(plain.expand(body, 2 * len(target) + _SLACK))
    rest = Cursor(plain.expand(body, len(target)))
    coded, raw = body.varint(), body.varint()
    decoder = Decoder(body.take(coded), body.take(raw))
    count, gaps, plan, kept = (text.varint() for _ in range(4))
    places = Cursor(text.take(gaps))
    plan_cursor = Cursor(text.take(plan))
    skeleton = Cursor(text.take(kept))
    _place(target, count, places, skeleton)
    found = survey(target)
    if len(found.regions) != count:
        raise damaged(f"the model has the {count} regions it says", len(found.regions))
    if version == 1 and any(region.scan.flat for region in found.regions):
        raise damaged("a tensor of version 1 is coded as a kernel", "one that is too large for it")
    numbers.decode(target, found, plan_cursor, rest, decoder)
    if body.left or text.left or rest.left or plan_cursor.left or places.left:
        raise damaged("nothing follows the last part", "more bytes")


def _place(target: memoryview, count: int, places: Cursor, skeleton: Cursor) -> None:
    """Puts what is no region in its place; a region's length is told by the bytes before it."""
    end = 0
    for _ in range(count):
        gap, width = divmod(places.varint(), len(_WIDTHS))
        start = end + gap
        if start > len(target) or start < 4:
            raise damaged("a region lies in the file", f"one at byte {start} of {len(target)}")
        target[end:start] = skeleton.take(gap)
        end = start + int.from_bytes(target[start - 4 : start], "little") * _WIDTHS[width]
        if end > len(target):
            raise damaged("a region lies in the file", f"its end at {end} of {len(target)}")
    if skeleton.left != len(target) - end:
        raise damaged("the parts fill the file", f"{skeleton.left} for {len(target) - end}")
    target[end:] = skeleton.take(skeleton.left)


def _verify(content: memoryview, digest: bytes) -> None:
    if blake2b(content, digest_size=_DIGEST).digest() != digest:
        raise damaged("the digest is that of the original", "another digest")
