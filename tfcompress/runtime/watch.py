"""`TFLiteModel.watched`: how often values hit the ends of their ranges, beside the calibration.

An int8 file clips what lies outside the ranges that its calibration data had. Data that has changed
since hits the ends more often, or less. Only NumPy is needed, so a board can watch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tfcompress.errors import ConfigError, CorruptFileError
from tfcompress.files import write_json
from tfcompress.runtime import drift, schema
from tfcompress.tables import aligned

METADATA: Final = "tfcompress_watch"
"""Name of the metadata that holds the calibration data's counts."""

WINDOW: Final = 256
FALSE_ALARM: Final = 1e-4
_SMALL = 64  # values of an example below which rows are summed in one go


@dataclass(frozen=True)
class WatchedRange:
    """One end of the range of one input or output.

    Attributes:
        tensor: `"input "` or `"output "` and its name.
        end: `"low"` or `"high"`.
        hits: values that were stored as the end of the range, or would have been beyond it.
        values: how many there were.
        calibration: share of hits in the calibration data; None where it is not known.
        probability: how likely the last window of examples would differ so from the calibration
            data by chance; None before the first one.
        drifted: whether that is too unlikely.
    """

    tensor: str
    end: str
    hits: int
    values: int
    calibration: float | None
    probability: float | None
    drifted: bool

    @property
    def share(self) -> float:
        """Share of the values that hit the end, 0 to 1; 0 where there were none."""
        return self.hits / self.values if self.values else 0.0


class Watched:
    """Counts of one model, which add up over calls until `reset`.

    The examples come in windows of 256. At the end of each, the share of values at either end of
    each range, example by example, is compared with that of the calibration data by a rank test.
    If nothing has changed, one window in 10,000 (`FALSE_ALARM`, all ranges together) is alarmed.
    Examples count as independent: of a video, watch one frame in a while.

    Args:
        content: bytes of the file.
        parsed: the same, parsed.

    Attributes:
        examples: examples seen.
        windows: full windows seen.
        alarms: those of them that differed from the calibration data.

    Raises:
        ConfigError: no input or output is quantized.
        CorruptFileError: the calibration data's counts in the file are damaged.

    Example:
        >>> model.predict(images, watch=True)
        >>> if model.watched.drifted:
        ...     print(model.watched)
    """

    def __init__(self, content: bytes, parsed: schema.Model) -> None:
        self._ends = _ends(parsed)
        if not self._ends:
            raise ConfigError(
                "Only a file with quantized inputs or outputs has ranges to watch. Received: a "
                "float one. Convert with precision 'int8' or 'int16x8'."
            )
        self._file = hashlib.sha256(content).hexdigest()[:16]
        self._baseline = _read_baseline(parsed, list(self._ends))
        self.reset()

    def reset(self) -> None:
        """Counts from zero again."""
        self.examples = self.windows = self.alarms = 0
        self._hits = {key: np.zeros(2, np.int64) for key in self._ends}
        self._values = dict.fromkeys(self._ends, 0)
        self._bins = {key: np.zeros((2, drift.BINS), np.int64) for key in self._ends}
        self._last: dict[str, list[float]] = {}
        self._left = 0  # examples of the window that is not full
        self._shares = {key: np.zeros((0, 2)) for key in self._ends}  # theirs
        # What calls have counted, added up only when somebody asks: a call should cost little.
        self._new: dict[str, list[Any]] = {key: [] for key in self._ends}
        self._size = dict.fromkeys(self._ends, 1)

    def see(
        self, count: int, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> None:
        """Counts examples.

        Args:
            count: how many there are.
            inputs: real values by name, (count, ...).
            outputs: likewise.
        """
        if not count:
            return
        for key, (low, high) in self._ends.items():
            name = key[key.index(" ") + 1 :]
            array = inputs[name] if key[0] == "i" else outputs[name]
            if array.ndim == 0 or len(array) != count:
                continue  # not by example
            self._size[key] = array.size // count
            if count == 1:
                hits: Iterable[Any] = [
                    (np.count_nonzero(array <= low), np.count_nonzero(array >= high))
                ]
            else:
                rows = array.reshape(count, -1)
                hits = zip(_count(rows <= low), _count(rows >= high), strict=True)
            self._new[key].extend(hits)
        self.examples += count
        self._left += count
        if self._left >= WINDOW:
            self._close_windows()

    def _add_up(self) -> None:
        for key, new in self._new.items():
            if new:
                hits = np.array(new, np.int64)
                new.clear()
                self._hits[key] += hits.sum(0)
                self._values[key] += len(hits) * self._size[key]
                shares = hits / max(self._size[key], 1)
                self._shares[key] = np.concatenate([self._shares[key], shares])

    def _close_windows(self) -> None:
        self._add_up()
        full = self._left // WINDOW
        alarmed = np.zeros(full, bool)
        for key, shares in self._shares.items():
            if not len(shares):
                continue
            for number in range(full):
                window = shares[number * WINDOW : (number + 1) * WINDOW]
                counts = np.stack([drift.bins(window[:, end]) for end in (0, 1)])
                self._bins[key] += counts
                if self._baseline is None:
                    continue
                known = self._baseline["tensors"][key]["bins"]
                found = [drift.probability(known[end], counts[end]) for end in (0, 1)]
                alarmed[number] |= min(found) < self._level
                self._last[key] = found
            self._shares[key] = shares[full * WINDOW :]
        self.windows += full
        self.alarms += int(alarmed.sum())
        self._left -= full * WINDOW

    @property
    def _level(self) -> float:
        # Any of them may alarm (Bonferroni). The other 2: so far out, where hits are rare, the
        # test's normal approximation alarms up to twice as often (measured, 100 examples).
        return FALSE_ALARM / (2 * len(self._ends)) / 2

    @property
    def drifted(self) -> bool | None:
        """Whether the last window of examples differs from the calibration data.

        None where nothing can be said: before the first window, and where the file does not know
        its calibration data (`calibrated`).
        """
        if not self.calibrated or not self.windows:
            return None
        return any(row.drifted for row in self.ranges)

    @property
    def calibrated(self) -> bool:
        """Whether the file holds the calibration data's counts (`tfc.watch_baseline`)."""
        return self._baseline is not None

    @property
    def ranges(self) -> list[WatchedRange]:
        """Both ends of each range."""
        self._add_up()
        rows = []
        for key in self._ends:
            known = self._baseline["tensors"][key]["shares"] if self._baseline else (None, None)
            last = self._last.get(key, [None, None])
            for end, name in enumerate(("low", "high")):
                p = last[end]
                hits = int(self._hits[key][end])
                off = p is not None and p < self._level
                rows.append(WatchedRange(key, name, hits, self._values[key], known[end], p, off))
        return rows

    def merge(self, other: Watched | Mapping[str, Any]) -> None:
        """Adds what another device has counted.

        Args:
            other: of the same file, or its `to_dict()`. Examples of a window that is not full are
                counted, but not tested.

        Raises:
            ConfigError: it is of another file, or no counts at all.
        """
        values = other.to_dict() if isinstance(other, Watched) else other
        if not isinstance(values, Mapping):
            raise ConfigError(
                "`other` must be what a model has watched, or its to_dict(). Received: "
                f"{type(other).__name__}"
            )
        if values.get("file") != self._file:
            raise ConfigError(
                "Only counts of the same file can be merged. Received: counts of "
                f"{values.get('file')!r} for {self._file!r}"
            )
        self._add_up()
        try:  # all of it, or nothing
            totals = {n: getattr(self, n) + values[n] for n in ("examples", "windows", "alarms")}
            tensors = [(key, self._with(key, found)) for key, found in values["tensors"].items()]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                "`other` must be as to_dict() gives it. Received: counts that are damaged "
                f"({type(error).__name__}: {error})"
            ) from error
        for name, total in totals.items():
            setattr(self, name, total)
        for key, (hits, count, bins, last) in tensors:
            self._hits[key], self._values[key], self._bins[key] = hits, count, bins
            if last is not None:
                self._last[key] = last

    def _with(self, key: str, found: Mapping[str, Any]) -> tuple[Any, int, Any, Any]:
        """A tensor's counts with those of another device added."""
        last = found["last"]
        if last is not None:
            mine = self._last.get(key, [1.0, 1.0])
            last = [min(a, b) for a, b in zip(mine, last, strict=True)]
        return (
            self._hits[key] + np.asarray(found["hits"], np.int64),
            self._values[key] + found["values"],
            self._bins[key] + np.asarray(found["bins"], np.int64),
            last,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and `merge`."""
        self._add_up()
        return {
            "file": self._file,
            "examples": self.examples,
            "windows": self.windows,
            "alarms": self.alarms,
            "drifted": self.drifted,
            "calibrated": self.calibrated,
            "tensors": {
                key: {
                    "hits": self._hits[key].tolist(),
                    "values": self._values[key],
                    "bins": self._bins[key].tolist(),
                    "last": self._last.get(key),
                }
                for key in self._ends
            },
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the counts as JSON."""
        return write_json(path, self.to_dict())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells, for printing."""
        heads = ["tensor", "end", "values", "at the end", "calibration", "by chance", "drifted"]
        return heads, [
            [
                row.tensor,
                row.end,
                f"{row.values:,}",
                f"{row.share:.4%}",
                "" if row.calibration is None else f"{row.calibration:.4%}",
                "" if row.probability is None else f"{row.probability:.2g}",
                "yes" if row.drifted else "no" if row.probability is not None else "",
            ]
            for row in self.ranges
        ]

    def __str__(self) -> str:
        heads, rows = self.table()
        said = f"{self.examples:,} examples, {self.windows:,} full windows of {WINDOW}"
        if not self.calibrated:
            said += (
                ". The file does not know its calibration data, so nothing can be said of drift: "
                "make it with tfc.watch_baseline(file, calibration_data)"
            )
        else:
            said += f", {self.alarms:,} of them unlike the calibration data"
            if self.windows:
                said += f" ({FALSE_ALARM:.2%} would be by chance). "
                said += "The data has drifted." if self.drifted else "The last one is like it."
        return "\n".join([said, *aligned([heads, *rows])])

    def baseline(self) -> bytes:
        """The counts so far as the metadata that `tfc.watch_baseline` writes."""
        self._add_up()
        tensors = {}
        for key in self._ends:
            rest = self._shares[key]
            counts = self._bins[key] + np.stack([drift.bins(rest[:, end]) for end in (0, 1)])
            shares = self._hits[key] / max(self._values[key], 1)
            sparse = [{int(i): int(row[i]) for i in np.flatnonzero(row)} for row in counts]
            tensors[key] = {"shares": shares.tolist(), "bins": sparse}
        return json.dumps({"examples": self.examples, "tensors": tensors}).encode()


def _count(hits: np.ndarray) -> Iterable[int]:
    """True values of each row; counting a row of bytes at a time is several times faster."""
    return hits.sum(1).tolist() if hits.shape[1] <= _SMALL else map(np.count_nonzero, hits)


def _ends(parsed: schema.Model) -> dict[str, tuple[np.float32, np.float32]]:
    """For each quantized input and output the real values from which on it is at an end."""
    from tfcompress.runtime.model import input_infos, output_infos

    graph = parsed.subgraphs[0]
    inside: dict[int, int] = {}  # a float tensor at the border -> the quantized one within
    for operator in graph.operators:
        if operator.name == "QUANTIZE":
            inside[operator.inputs[0]] = operator.outputs[0]
        elif operator.name == "DEQUANTIZE":
            inside[operator.outputs[0]] = operator.inputs[0]
    found = {}
    for side, infos in (("input", input_infos(parsed)), ("output", output_infos(parsed))):
        for info in infos:
            border = graph.tensors[info.index]
            tensor = graph.tensors[inside.get(info.index, info.index)]
            if border.dtype not in ("float32", tensor.dtype):
                tensor = border
            grid = tensor.quantization
            if grid is None or len(grid.scales) != 1 or tensor.dtype not in _INTEGERS:
                continue
            limits, scale = np.iinfo(tensor.dtype), float(grid.scales[0])
            zero = int(grid.zero_points[0]) if len(grid.zero_points) else 0
            low, high = limits.min - zero + 0.5, limits.max - zero - 0.5
            found[f"{side} {info.name}"] = (np.float32(low * scale), np.float32(high * scale))
    return found


_INTEGERS = ("int8", "uint8", "int16")


def _read_baseline(parsed: schema.Model, keys: list[str]) -> dict[str, Any] | None:
    if METADATA not in parsed.metadata:
        return None
    try:
        stored = json.loads(parsed.metadata[METADATA])
        for key in keys:
            entry = stored["tensors"][key]
            dense = np.zeros((2, drift.BINS), np.int64)
            for row, counts in zip(dense, entry["bins"], strict=True):
                for place, count in counts.items():
                    row[int(place)] = int(count)
            entry["bins"] = dense
            entry["shares"] = [float(share) for share in entry["shares"]]
            if (dense < 0).any() or len(entry["shares"]) != 2:
                raise ValueError("counts below 0")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise CorruptFileError(
            f"The file's metadata {METADATA!r} must hold counts of its calibration data "
            f"({type(error).__name__}: {error}). Write it again with tfc.watch_baseline."
        ) from error
    found: dict[str, Any] = stored
    return found
