"""The report on channels: before and after of each layer, and what kept its own and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tfcompress.report import CompressionReport
from tfcompress.surgery.channels.analysis import Analysis, Record
from tfcompress.surgery.channels.atoms import Kept

REACHES_OUTPUT: Final = "its channels reach an output of the model"


def tell(
    found: Analysis,
    kept: Kept,
    report: CompressionReport,
    otherwise: Callable[[Record], str],
    first: Analysis | None = None,
) -> None:
    """Adds an entry for each layer that makes channels, and for each barrier.

    Args:
        found: the atoms of the model.
        kept: what is left of them.
        report: where to tell it.
        otherwise: why channels stay that could go, for a layer that makes some.
        first: the atoms of the model before earlier turns, where there were any.
    """
    earlier = {record.path: record for record in (first or found).records.values()}
    for record in found.records.values():
        kind = type(record.operation).__name__
        before = _widths(earlier.get(record.path, record))
        now = {
            name: kept.count(axis)
            for name, (axis, _) in zip(record.names, record.made, strict=True)
        }
        counts = {name: f"{before.get(name, width)} -> {width}" for name, width in now.items()}
        if any(before.get(name, width) != width for name, width in now.items()):
            report.add(record.path, kind, "shrunk", record.barrier, **counts)
        elif record.barrier:
            report.add(record.path, kind, "left", record.barrier)
        elif record.made:
            why = found.left(record.operation) or why_kept(found, record) or otherwise(record)
            report.add(record.path, kind, "left", why)


def _widths(record: Record) -> dict[str, int]:
    pairs = zip(record.names, record.made, strict=True)
    return {name: len(axis) for name, (axis, _) in pairs}


def why_kept(found: Analysis, record: Record) -> str:
    """Why channels that a layer makes cannot go; "" where they can."""
    for axis, _ in record.made:
        if (found.classes[axis] == 0).any():
            holder = found.holder(axis[found.classes[axis] == 0])
            if holder is None:
                return REACHES_OUTPUT
            why = holder.barrier or found.left(holder.operation)
            why = f" ({why})" if why else ""
            return f"its channels reach {holder.path!r}, which keeps all of its own{why}"
    return ""
