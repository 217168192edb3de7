"""The numbers of a file, coded after each other by the models that fit them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from tfcompress.parcel import palette, plain, small, wide
from tfcompress.parcel.entropy import Coder, Decoder, Encoder, Tape
from tfcompress.parcel.mixing import Mixer
from tfcompress.parcel.regions import KNOWN, Known, Map, Region
from tfcompress.parcel.scan import Scan
from tfcompress.parcel.wire import Cursor, damaged

_BYTES, _SMALL, _PALETTE, _WIDE, _FEW, _FOLLOWS = range(6)
_SMALL_TYPES: Final = ("int8", "uint8", "bool", "int4")
_LARGE: Final = 1 << 24
"""Bytes from which on a tensor is coded without trying ways: what was tried is held in memory."""
_State = tuple[tuple[np.ndarray, ...], ...]
_KINDS: Final = ("scales", "zeros", "constant")


@dataclass(frozen=True)
class _Item:
    """Regions that are coded as one: short lists of one kind are joined."""

    regions: tuple[Region, ...]

    @property
    def size(self) -> int:
        return sum(region.size for region in self.regions)


def _items(found: Map, known: dict[int, Known]) -> Iterator[_Item]:
    """What is coded, in order: what follows from others after them."""
    lists: dict[tuple[int, str, int], list[Region]] = {}
    for region in found.regions:
        if region.role != "bytes" and region.dtype in KNOWN and region.scan.rows == 1:
            rule = known[region.start].rule if region.start in known else ""
            key = (_KINDS.index(region.role), region.dtype, ("", "range", "product").index(rule))
            lists.setdefault(key, []).append(region)
    for key in sorted(lists):
        if key[2]:  # each for itself: it may follow from others
            yield from (_Item((region,)) for region in lists[key])
        else:
            yield _Item(tuple(lists[key]))
    joined = {region.start for regions in lists.values() for region in regions}
    yield from (_Item((region,)) for region in found.regions if region.start not in joined)


class _Models:
    """The models, which learn from one tensor for the next."""

    def __init__(self, coder: Coder) -> None:
        self.mixers = (
            Mixer(coder, small.INPUTS, small.SETS),
            Mixer(coder, wide.INPUTS, wide.SETS),
        )
        self.small = small.SmallCoder(self.mixers[0])
        self.wide = wide.WideCoder(self.mixers[1])

    def set(self, coder: Coder) -> None:
        for mixer in self.mixers:
            mixer.coder = coder

    def state(self) -> _State:
        return tuple(mixer.state() for mixer in self.mixers)

    def restore(self, state: _State) -> None:
        for mixer, part in zip(self.mixers, state, strict=True):
            mixer.restore(part)


@dataclass(frozen=True)
class _Way:
    """One way of coding an item.

    Attributes:
        cost: bytes.
        head: what the plan says of it.
        code: codes it.
        tape: what it coded when it was tried.
        after: what the models had learned then.
    """

    cost: float
    head: bytes
    code: Callable[[], object]
    tape: Tape | None
    after: _State


def encode(content: bytes, found: Map) -> tuple[bytes, bytes, bytes, bytes]:
    """Codes the numbers of a file.

    Args:
        content: the file.
        found: its regions.

    Returns:
        How each was coded; those that go with the plain bytes; the coded decisions; the raw bits.
    """
    coder = Encoder()
    models = _Models(coder)
    known = {entry.start: entry for entry in found.known}
    plan, rest = bytearray(), bytearray()
    for item in _items(found, known):
        first = item.regions[0]
        data = b"".join(content[r.start : r.start + r.size] for r in item.regions)
        if first.start in known and known[first.start].scales(content, first.size) == data:
            plan.append(_FOLLOWS)
            continue
        way = None if first.role == "bytes" else _best(item, data, models)
        if way is None or _smaller_as_bytes(data, way.cost):
            plan.append(_BYTES)
            rest += data
            continue
        plan += way.head
        if way.tape is None:
            models.set(coder)
            way.code()
        else:
            way.tape.replay(coder)
            models.restore(way.after)
    coded, raw = coder.finish()
    return bytes(plan), bytes(rest), coded, raw


def _best(item: _Item, data: bytes, models: _Models) -> _Way | None:
    """The way that costs least; of a large item the first, which is not tried."""
    best, before = None, models.state()
    for head, code in _ways(item, data, models):
        if item.size > _LARGE:
            return _Way(0.0, head, code, None, before)
        tape = Tape()
        models.set(tape)
        code()
        way = _Way(tape.bits / 8 + len(head), head, code, tape, models.state())
        if best is None or way.cost < best.cost:
            best = way
        models.restore(before)
    return best


def _smaller_as_bytes(data: bytes, cost: float) -> bool:
    """Whether deflate or LZMA makes less of it; LZMA is only asked where deflate comes near."""
    deflated = len(zlib.compress(data, 6))
    if deflated < cost:
        return True
    near = 1.3 if len(data) < 1 << 20 else 1.05
    return deflated < near * cost and len(plain.squeeze(data, thorough=False)) < cost


def decode(target: memoryview, found: Map, plan: Cursor, rest: Cursor, coder: Decoder) -> None:
    """Puts the numbers of a file in their places.

    Args:
        target: the file, its regions blank.
        found: its regions.
        plan: how each was coded.
        rest: those that went with the plain bytes.
        coder: the others.

    Raises:
        CorruptFileError: the container is damaged.
    """
    models = _Models(coder)
    known = {entry.start: entry for entry in found.known}
    for item in _items(found, known):
        data = _decoded(target, item, known, plan, rest, models)
        if len(data) != item.size:
            raise damaged(f"a piece has the {item.size} bytes of its place", len(data))
        at = 0
        for region in item.regions:
            target[region.start : region.start + region.size] = data[at : at + region.size]
            at += region.size
    coder.finish()


def _decoded(
    target: memoryview,
    item: _Item,
    known: dict[int, Known],
    plan: Cursor,
    rest: Cursor,
    models: _Models,
) -> bytes:
    method = plan.take(1)[0]
    first = item.regions[0]
    if method == _BYTES:
        return bytes(rest.take(item.size))
    if method == _FOLLOWS and first.start in known:
        return known[first.start].scales(target, first.size)
    if method in (_SMALL, _PALETTE) and first.dtype in _SMALL_TYPES:
        middle, width = plan.take(2)
        found = palette.Palette.read(plan, first.scan.rows) if method == _PALETTE else None
        if width > 8:
            raise damaged("a magnitude has at most 8 bits", width)
        values = models.small.code(first.scan, width, None)
        if found is not None:
            values = found.values(values, first.scan)
        return _stored(values + _signed(middle), first.dtype)
    if method == _FEW and first.dtype in KNOWN:
        itemsize = first.size // first.scan.size
        words = np.frombuffer(plan.take((plan.take(1)[0] + 1) * itemsize), f"<u{itemsize}")
        places = models.small.code(first.scan, _few_width(len(words)), None).astype(np.int64)
        if int(places.max(initial=0)) >= len(words) or int(places.min(initial=0)) < 0:
            raise damaged("a value has a place in its palette", "a place beyond it")
        return bytes(words[places].tobytes())
    if method == _WIDE and first.dtype in KNOWN:
        scan, group = _joined(item)
        layout = wide.Layout.read(plan)
        return models.wide.code(scan, first.dtype, group, layout, None)
    raise damaged("a method fits the type of the values", (method, first.dtype))


def _ways(
    item: _Item, data: bytes, models: _Models
) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Each way of coding an item: what the plan says of it, and what codes it."""
    first = item.regions[0]
    if first.dtype in _SMALL_TYPES:
        values = _expanded(data, first)
        if values is None:
            return
        middle = 0
        if first.dtype != "int4":
            middle = int(np.bincount(values + 128, minlength=256).argmax()) - 128
        values = _wrapped(values - middle)
        width = _width(values)
        head = bytes([_SMALL, middle & 0xFF, width])
        yield head, lambda: models.small.code(first.scan, width, values)
        found = palette.of_channels(values, first.scan)
        if found is not None:
            head = bytes([_PALETTE, middle & 0xFF, found.width]) + found.packed()
            places = found.places(values, first.scan)
            yield head, lambda: models.small.code(first.scan, found.width, places)
        return
    words = np.frombuffer(data, f"<u{first.size // first.scan.size}")
    distinct = palette.of_tensor(words) if len(item.regions) == 1 else None
    if distinct is not None:
        order = np.argsort(distinct)
        places = order[np.searchsorted(distinct, words, sorter=order)].astype(np.int16)
        head = bytes([_FEW, len(distinct) - 1]) + distinct.tobytes()
        yield head, lambda: models.small.code(first.scan, _few_width(len(distinct)), places)
        return
    scan, group = _joined(item)
    layout = wide.layout_of(data, first.dtype, _KINDS.index(first.role))
    head = bytes([_WIDE]) + layout.packed()
    yield head, lambda: models.wide.code(scan, first.dtype, group, layout, data)


def _joined(item: _Item) -> tuple[Scan, np.ndarray]:
    if len(item.regions) == 1:
        scan = item.regions[0].scan
        return scan, np.zeros(scan.size, np.int64)
    sizes = [region.scan.size for region in item.regions]
    return Scan(1, 1, sum(sizes)), np.repeat(np.arange(len(sizes)), sizes)


def _few_width(count: int) -> int:
    return max(count - 2, 0).bit_length()


def _width(values: np.ndarray) -> int:
    return max(int(np.abs(values).max(initial=0)) - 1, 0).bit_length()


def _expanded(data: bytes, region: Region) -> np.ndarray | None:
    """Small whole numbers as int16; None where four-bit ones end in a nibble that is not 0."""
    if region.dtype != "int4":
        return np.frombuffer(data, np.int8).astype(np.int16)
    both = np.frombuffer(data, np.uint8)
    nibbles = np.stack([both & 15, both >> 4], 1).ravel().astype(np.int16)
    if nibbles[region.scan.size :].any():
        return None
    nibbles = nibbles[: region.scan.size]
    return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int16)


def _stored(values: np.ndarray, dtype: str) -> bytes:
    if dtype != "int4":
        return bytes(values.astype(np.int8).tobytes())
    nibbles = (values & 15).astype(np.uint8)
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    return bytes((nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes())


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _wrapped(values: np.ndarray) -> np.ndarray:
    """As int8 wraps around, so that 255 differences need no ninth bit."""
    return values.astype(np.int8).astype(np.int16)
