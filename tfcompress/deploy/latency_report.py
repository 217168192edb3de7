"""What a benchmark has measured: rows, and the report that prints and saves them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfcompress.deploy.gpu_numbers import GpuFigures
from tfcompress.deploy.operator_times import OperatorTime
from tfcompress.files import write_json
from tfcompress.tables import aligned


@dataclass(frozen=True)
class BenchmarkRow:
    """One model in one setting.

    Attributes:
        name: the file's name.
        backend: `"xnnpack"`, `"reference"` (the runtime's builtin kernels alone) or `"gpu"`.
        threads: threads of the runtime.
        median_ms: median over the blocks of the time of one inference, in milliseconds.
        p10_ms: tenth percentile.
        p90_ms: ninetieth percentile.
        init_ms: loading, planning of memory and packing of weights, in milliseconds.
        peak_mb: memory that the model added to its process at most, in MiB.
        ratio: median over the first row's median: below 1 is faster.
        error: why it did not run, else "".
        fp16: `"native"` or `"emulated"` where float operators computed in fp16, else "".
        weight_cache: whether packed weights were read from a cache; `init_ms` is with it filled.
        placed: share of the operators that XNNPACK or the GPU took, 0 to 1, read from
            the runtime; NaN where neither was asked for or the runtime does not tell.
        left: the operators that it left, such as `"SOFTMAX #16 (scores)"`.
        operators: time of each operator, with `per_operator=True`.
        p5_ms: fifth percentile, of tools that give no tenth (Android).
        p95_ms: likewise.
        gpu: with backend `"gpu"`, the GPU's name, what it has taken, and how its numbers differ
            from the CPU's; else None.
    """

    name: str
    backend: str
    threads: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    init_ms: float
    peak_mb: float
    ratio: float
    error: str = ""
    fp16: str = ""
    weight_cache: bool = False
    placed: float = float("nan")
    left: tuple[str, ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    p5_ms: float = float("nan")
    p95_ms: float = float("nan")

    @property
    def setting(self) -> str:
        """The backend with its options, such as `"xnnpack, fp16 emulated"`."""
        return (
            self.backend
            + (f", fp16 {self.fp16}" if self.fp16 else "")
            + (", weight cache" if self.weight_cache else "")
        )

    gpu: GpuFigures | None = None


@dataclass
class BenchmarkReport:
    """What `tfc.benchmark` has measured.

    Attributes:
        rows: one for each model, backend and thread count.
        machine: processor, cores, system, runtime and its version, the GPU where one was used.
        settings: runs, warm-up runs, block length.
        notes: what to know when reading the figures, such as that the machine was busy.
    """

    rows: list[BenchmarkRow]
    machine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [
            _plain(asdict(row)) | {"gpu": row.gpu.to_dict() if row.gpu else None}
            for row in self.rows
        ]
        return {
            "rows": rows,
            "machine": self.machine,
            "settings": self.settings,
            "notes": self.notes,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report as JSON."""
        return write_json(path, self.to_dict())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells, for printing."""
        heads = ["model", "backend", "threads", "median ms", "p10", "p90", "init ms", "peak MB"]
        placed = any(r.placed == r.placed for r in self.rows)
        cells = [
            [r.name, r.setting, str(r.threads)]
            + (
                [r.error, "", "", "", "", ""]
                if r.error
                else [
                    _figures(r.median_ms),
                    _figures(r.p10_ms) if r.p10_ms == r.p10_ms else f"{_figures(r.p5_ms)} (p5)",
                    _figures(r.p90_ms) if r.p90_ms == r.p90_ms else f"{_figures(r.p95_ms)} (p95)",
                    f"{r.init_ms:.1f}",
                    f"{r.peak_mb:.1f}",
                    f"x{r.ratio:.2f}",
                ]
            )
            + (([f"{r.placed:.0%}" if r.placed == r.placed else "-"]) if placed else [])
            for r in self.rows
        ]
        return [*heads, "ratio", *(["placed"] if placed else [])], cells

    def operator_tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, headings and cells of each row's operator times, for printing."""
        heads = ["operator", "layer", "ms", "+-", "share"]
        return [
            (
                f"{r.name}, {r.setting}, {r.threads} thread{'s' if r.threads > 1 else ''}",
                heads,
                [
                    [
                        f"{o.name} #{o.index}" if o.index >= 0 else o.name,
                        o.layer,
                        f"{o.ms:.4f}",
                        f"{o.error_ms:.4f}" if o.error_ms == o.error_ms else "-",
                        f"{o.share:.1%}",
                    ]
                    for o in r.operators
                ],
            )
            for r in self.rows
            if r.operators
        ]

    def remarks(self) -> list[str]:
        """What the table has no room for: the operators that were left, and the notes."""
        lines: dict[str, None] = {}  # each once, in order
        for row in self.rows:
            if row.left:
                few = ", ".join(row.left[:5])
                more = f" and {len(row.left) - 5} more" if len(row.left) > 5 else ""
                by = "the GPU" if row.backend.endswith("gpu") else "XNNPACK"
                lines[f"{row.name}: left by {by}: {few}{more}"] = None
        return [*lines, *self.notes]

    def __str__(self) -> str:
        heads, cells = self.table()
        about = ", ".join(f"{key}: {value}" for key, value in self.machine.items())
        lines = [*aligned([heads, *cells]), about, *self.remarks()]
        for title, heads, cells in self.operator_tables():
            lines += ["", title, *aligned([heads, *cells])]
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """A value as JSON has it: no NaN, no tuples."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if value != value else value


def _figures(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
