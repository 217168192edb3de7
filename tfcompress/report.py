"""`CompressionReport`: what a verb did to which layer, what it left alone, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfcompress.files import write_json
from tfcompress.tables import aligned


@dataclass(frozen=True)
class Entry:
    """One layer, tensor or operator that a verb has looked at.

    Attributes:
        name: its name, with the names of the models that hold it, such as `"encoder/dense"`.
        kind: its class or operator name.
        action: what was done ("pruned", "converted"), or "left" where nothing was.
        reason: why it was left, or a remark.
        details: figures, such as `{"sparsity": 0.8}`.
    """

    name: str
    kind: str
    action: str
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class CompressionReport:
    """What a verb did.

    Attributes:
        verb: `"prune"`, `"convert"`, ...
        settings: the arguments that shaped it.
        entries: one for each layer looked at.
        notes: sentences on the whole.
    """

    verb: str
    settings: dict[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, kind: str, action: str, reason: str = "", **details: Any) -> None:
        """Adds an entry."""
        self.entries.append(Entry(name, kind, action, reason, details))

    @property
    def changed(self) -> list[Entry]:
        """Entries that something was done to."""
        return [entry for entry in self.entries if entry.action != "left"]

    @property
    def left(self) -> list[Entry]:
        """Entries left alone."""
        return [entry for entry in self.entries if entry.action == "left"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CompressionReport:
        """The inverse of `to_dict`."""
        return cls(**{**values, "entries": [Entry(**entry) for entry in values["entries"]]})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report as JSON."""
        return write_json(path, self.to_dict())

    def __str__(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        lines = [f"{self.verb}: {settings}" if settings else self.verb]
        lines += [f"  {line}" for line in self.notes]
        lines += aligned(_rows(self.changed), "  ")
        if self.left:
            lines.append("left as it was:")
            lines += aligned(_rows(self.left), "  ")
        return "\n".join(lines)


def _rows(entries: Iterable[Entry]) -> list[list[str]]:
    return [[e.name, e.kind, e.action, _details(e.details), e.reason] for e in entries]


def _details(details: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in details.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
