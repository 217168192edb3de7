"""Reading what the benchmark program leaves: its result file, and what it prints.

The file is a serialized `BenchmarkResult` of tflite/tools/benchmark/proto/benchmark_result.proto
(google-ai-edge/LiteRT); both generations of the program write it. Old programs of TensorFlow Lite
know no result file: there, what they print is read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tfcompress.errors import DeviceError

_NAN: Final = float("nan")
# (message, field) -> name; the fields of BenchmarkResult's messages 2 and 3.
_FIELDS: Final = {
    (2, 1): "average",
    (2, 5): "median",
    (2, 6): "p5",
    (2, 7): "p95",
    (2, 8): "init",
    (3, 2): "overall_kb",
    (3, 3): "peak_mb",
}
_TIMINGS: Final = re.compile(r"Inference timings in us: Init: ([\d.e+]+).*Inference \(avg\): (\S+)")
_COUNTS: Final = re.compile(r"count=\d+ .*")
_PEAK: Final = re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: (\S+)")
_OVERALL: Final = re.compile(r"Memory footprint delta .*overall=(\S+)")


@dataclass(frozen=True)
class Measured:
    """One run of the benchmark program.

    Attributes:
        median_ms: median of the inferences, NaN where an old program does not tell.
        average_ms: their mean.
        p5_ms: fifth percentile.
        p95_ms: ninety-fifth percentile.
        init_ms: loading and preparing, in milliseconds.
        peak_mb: memory in MiB: the peak where it was watched, else what was added in the end.
    """

    median_ms: float = _NAN
    average_ms: float = _NAN
    p5_ms: float = _NAN
    p95_ms: float = _NAN
    init_ms: float = _NAN
    peak_mb: float = _NAN


def parse_file(content: bytes) -> Measured:
    """Reads a result file.

    Raises:
        DeviceError: it is no such file, or holds no times.
    """
    values: dict[str, float] = {}
    try:
        for message, part in _fields(content):
            if message in (2, 3) and isinstance(part, bytes):
                for field, value in _fields(part):
                    name = _FIELDS.get((message, field))
                    if name and not isinstance(value, bytes):
                        values[name] = value
    except (ValueError, struct.error) as error:
        raise DeviceError(f"The benchmark's result file cannot be read: {error}.") from None
    return _checked(values, "result file")


def parse_output(text: str) -> Measured:
    """Reads what TensorFlow Lite's program prints.

    Raises:
        DeviceError: there are no times in it.
    """
    values: dict[str, float] = {}
    try:
        if found := _TIMINGS.search(text):
            values["init"] = float(found[1]) / 1e3
            values["average"] = float(found[2]) / 1e3
        if counts := _COUNTS.findall(text):  # the last is that of the timed runs
            pairs = dict(pair.split("=", 1) for pair in counts[-1].split() if "=" in pair)
            # Where all runs took the same, only that time is printed, as "curr".
            for name in ("median", "p5", "p95"):
                if name in pairs:
                    values[name] = float(pairs[name]) / 1e3
        if found := _PEAK.search(text):
            values["peak_mb"] = float(found[1])
        if found := _OVERALL.search(text):
            values["overall_kb"] = float(found[1]) * 1024
    except ValueError as error:
        raise DeviceError(f"The benchmark's output cannot be read: {error}.") from None
    return _checked(values, "output")


def _checked(values: dict[str, float], source: str) -> Measured:
    if not values.get("average", 0.0) > 0:
        raise DeviceError(f"The benchmark's {source} holds no time of an inference.")
    return Measured(
        values.get("median", _NAN),
        values["average"],
        values.get("p5", _NAN),
        values.get("p95", _NAN),
        values.get("init", _NAN),
        values.get("peak_mb", values.get("overall_kb", _NAN) / 1024),
    )


def _fields(content: bytes) -> Iterator[tuple[int, float | bytes]]:
    """The fields of a protocol buffer message: number, and value as its wire type has it."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        value: float | bytes
        if kind == 0:
            value, place = _varint(content, place)
        elif kind == 5:
            (value,) = struct.unpack_from("<f", content, place)
            place += 4
        elif kind == 1:
            (value,) = struct.unpack_from("<d", content, place)
            place += 8
        elif kind == 2:
            size, place = _varint(content, place)
            if place + size > len(content):
                raise ValueError("it is cut off")
            value, place = content[place : place + size], place + size
        else:
            raise ValueError(f"it holds a field of kind {kind}")
        yield key >> 3, value


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("it is cut off")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it holds a number of more than 64 bits")
