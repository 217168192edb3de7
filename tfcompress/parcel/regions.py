"""Where in a `.tflite` the numbers lie, found in the file with all of them blanked out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from tfcompress.parcel.scan import Scan, scan_of
from tfcompress.parcel.wide import FLOATS, INTEGERS
from tfcompress.parcel.wire import damaged
from tfcompress.runtime import schema

SMALLEST: Final = 16
"""Shorter pieces stay where they are: to say how they are coded would cost as much."""

_ITEM: Final = {"float16": 2, "bfloat16": 2, "float32": 4} | {
    k: v // 8 for k, v in INTEGERS.items()
}
_BIASED: Final = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "CONV_3D": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
"""Where among an operator's inputs are data, weights and bias."""


@dataclass(frozen=True)
class Region:
    """A piece of the file that holds numbers.

    Attributes:
        start: first byte.
        size: bytes.
        role: "scales", "zeros" (zero points), "constant" or "bytes" (of no known structure).
        dtype: of the numbers.
        scan: the order in which they are coded.
        width: bytes that the count before the piece counts by.
    """

    start: int
    size: int
    role: str
    dtype: str
    scan: Scan
    width: int


@dataclass(frozen=True)
class Known:
    """Scales that most likely follow from other numbers of the file.

    Attributes:
        start: where they lie, byte.
        rule: "range": the larger of -a and b, by 127; "product": a times b.
        a: where the smallest values lie, or the one scale of the data.
        b: where the largest values lie, or the scales of the weights.
    """

    start: int
    rule: str
    a: int
    b: int

    def scales(self, content: bytes | memoryview, size: int) -> bytes:
        """What they are if so, `size` bytes.

        Raises:
            CorruptFileError: they would follow from bytes beyond the file.
        """
        count = 1 if self.rule == "product" else size // 4
        if max(self.a + 4 * count, self.b + size) > len(content):
            raise damaged("scales lie in the file", "scales beyond its end")
        a = np.frombuffer(content, "<f4", count, self.a)
        b = np.frombuffer(content, "<f4", size // 4, self.b)
        with np.errstate(all="ignore"):
            found = a * b if self.rule == "product" else np.maximum(-a, b) / np.float32(127)
        return bytes(found.astype("<f4").tobytes())


@dataclass(frozen=True)
class Map:
    """A file's regions in order, none overlapping another, and what is known of them."""

    regions: tuple[Region, ...]
    known: tuple[Known, ...]


def survey(content: bytes | bytearray | memoryview) -> Map:
    """Finds the regions of a `.tflite`.

    What it finds does not depend on the bytes inside the regions.

    Raises:
        CorruptFileError: it is no `.tflite` file, or damaged.
    """
    model = schema.parse(content)
    whole = np.frombuffer(content, np.uint8)
    base = _address(whole)
    found: dict[int, Region] = {}

    def keep(region: Region) -> None:
        first = region.start - 4
        count = int.from_bytes(memoryview(content)[first : first + 4], "little") if first > 3 else 0
        if region.size >= SMALLEST and count * region.width == region.size:
            found.setdefault(region.start, region)

    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.quantization is not None:
                for region in _parameters(tensor.quantization, base):
                    keep(region)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if 0 < tensor.buffer < len(model.buffers):
                data = model.buffers[tensor.buffer]
                if data is not None and len(data):
                    keep(_constant(tensor, np.frombuffer(data, np.uint8), base))
    regions: list[Region] = []
    for start in sorted(found):
        if not regions or start - 4 >= regions[-1].start + regions[-1].size:
            regions.append(found[start])
    return Map(tuple(regions), (*_ranges(model, base), *_products(model, base)))


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _parameters(quantization: schema.Quantization, base: int) -> Iterator[Region]:
    for array in (quantization.scales, quantization.mins, quantization.maxs):
        if len(array):
            start, size = _address(array) - base, array.nbytes
            yield Region(start, size, "scales", "float32", Scan(1, 1, len(array)), 4)
    array = quantization.zero_points
    if len(array):
        start = _address(array) - base
        yield Region(start, array.nbytes, "zeros", "int64", Scan(1, 1, len(array)), 8)


def _constant(tensor: schema.Tensor, data: np.ndarray, base: int) -> Region:
    start, size, dtype = _address(data) - base, len(data), tensor.dtype
    bits = {"int8": 8, "uint8": 8, "bool": 8, "int4": 4}.get(dtype, 8 * _ITEM.get(dtype, 0))
    if not bits or 8 * size % bits:
        return Region(start, size, "bytes", "uint8", Scan(1, 1, size), 1)
    shape, dense = tensor.shape, tensor.sparsity is None
    if dense and min(shape, default=0) > 0 and (math.prod(shape) * bits + 7) // 8 == size:
        axis = tensor.quantization.axis if tensor.quantization is not None else 0
        scan = scan_of(shape, axis)
    else:
        scan = Scan(1, 1, 8 * size // bits)
    return Region(start, size, "constant", dtype, scan, 1)


def _ranges(model: schema.Model, base: int) -> Iterator[Known]:
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            found = tensor.quantization
            if found is not None and len(found.mins) == len(found.maxs) == len(found.scales) > 1:
                starts = [_address(a) - base for a in (found.scales, found.mins, found.maxs)]
                yield Known(starts[0], "range", *starts[1:])


def _products(model: schema.Model, base: int) -> Iterator[Known]:
    for graph in model.subgraphs:
        for operator in graph.operators:
            places = _BIASED.get(operator.name)
            if places is None or len(operator.inputs) <= max(places):
                continue
            indices = [operator.inputs[place] for place in places]
            if min(indices) < 0 or max(indices) >= len(graph.tensors):
                continue
            data, weights, bias = (graph.tensors[index].quantization for index in indices)
            if data is None or weights is None or bias is None or len(data.scales) != 1:
                continue
            if len(weights.scales) == len(bias.scales) > 1:
                starts = [_address(q.scales) - base for q in (bias, data, weights)]
                yield Known(starts[0], "product", *starts[1:])


KNOWN: Final = frozenset(FLOATS) | frozenset(INTEGERS)
"""Types that `wide` knows."""
