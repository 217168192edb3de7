"""`PipelineReport`: what each step of a run made of the model."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfcompress.files import write_json
from tfcompress.report import CompressionReport
from tfcompress.tables import aligned


@dataclass(frozen=True)
class StepRow:
    """A model or file, and what it is worth.

    Attributes:
        name: the step, such as `"2_prune"`, or `"0_original"`; for files the file's name.
        step: number of the step that made it.
        metrics: loss and metrics on the validation data; None for one that is no number.
        parameters: of a Keras model; None for files, and for quantize-aware models, which hold
            grids and masks as well.
        multiply_adds: of one example; likewise, and where nobody knows.
        zeros: share of zeros in the kernels of a Keras model; likewise.
        size: bytes of the file; of a Keras model, of its weights as they are stored; likewise.
        zipped: the same after gzip -9.
    """

    name: str
    step: int
    metrics: dict[str, float | None]
    parameters: int | None
    multiply_adds: int | None
    zeros: float | None
    size: int | None
    zipped: int | None


@dataclass
class PipelineReport:
    """What a run did. It holds no times and no paths: equal runs have equal reports.

    Attributes:
        recipe: the recipe, as it is written.
        objective: outputs, losses and metrics, by name.
        examples: how many there were to train and to validate on.
        rows: the original, each step's model, each file.
        reports: of each step, what its verb did to which layer and what it left and why; None
            where it says nothing.
        histories: of each step, figures of each epoch of its training.
        notes: what was chosen.
        versions: of the libraries.
    """

    recipe: dict[str, Any]
    objective: dict[str, Any]
    examples: dict[str, int]
    rows: list[StepRow] = field(default_factory=list)
    reports: list[CompressionReport | None] = field(default_factory=list)
    histories: list[dict[str, list[float | None]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[StepRow]:
        """The rows of files."""
        return [r for r in self.rows if r.parameters is None and r.size is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PipelineReport:
        """The inverse of `to_dict`."""
        rows = [StepRow(**row) for row in values["rows"]]
        reports = [own and CompressionReport.from_dict(own) for own in values["reports"]]
        return cls(**{**values, "rows": rows, "reports": reports})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report as JSON."""
        return write_json(path, self.to_dict())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows, as text."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.metrics))
        heads = ["step", *names, "parameters", "multiply-adds", "zeros", "bytes", "zipped"]
        rows = [
            [
                row.name,
                *(_figure(row.metrics.get(name), "{:.4f}") for name in names),
                _figure(row.parameters, "{:,}"),
                _figure(row.multiply_adds, "{:,}"),
                _figure(row.zeros, "{:.1%}"),
                _figure(row.size, "{:,}"),
                _figure(row.zipped, "{:,}"),
            ]
            for row in self.rows
        ]
        return heads, rows

    def __str__(self) -> str:
        heads, rows = self.table()
        lines = [*aligned([heads, *rows]), *self.notes]
        for number, report in enumerate(self.reports, 1):
            if report is not None:
                lines += ["", f"step {number}, {report}"]
        return "\n".join(lines)


def _figure(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)
