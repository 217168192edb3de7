"""A run's report as one HTML page that loads nothing."""

from __future__ import annotations

from typing import Any

from tfcompress.pipeline.recipe import dump
from tfcompress.pipeline.report import PipelineReport
from tfcompress.reporting.page.document import document
from tfcompress.reporting.page.markup import Markup, element
from tfcompress.reporting.page.tables import Cell, table, words

_TITLE = "A model compressed step by step"


def page(report: PipelineReport) -> str:
    """The whole page."""
    names = list(dict.fromkeys(name for row in report.rows for name in row.metrics))
    heads = [("step", "text"), *((name, "") for name in names)]
    heads += [(head, "") for head in report.table()[0][len(names) + 1 :]]
    shown = [
        (cells[0], [Cell(text, value) for text, value in zip(cells[1:], _values(row, names),
                                                              strict=True)])
        for row, cells in zip(report.rows, report.table()[1], strict=True)
    ]  # fmt: skip
    main = [
        element("h2", "Overview", id="overview", tabindex=-1),
        table("After each step", heads, shown),
        element(
            "p",
            f"Trained on {report.examples['training']:,} examples, measured on "
            f"{report.examples['validation']:,}. Bytes of a Keras model are those of its weights.",
        ),
        [element("p", note) for note in report.notes],
        [_step(number, own) for number, own in enumerate(report.reports, 1) if own is not None],
        element("h2", "Recipe"),
        element("pre", element("code", dump(report.recipe["seed"], report.recipe["steps"]))),
        element("h2", "Versions"),
        element(
            "dl",
            [
                element("div", element("dt", name), element("dd", version))
                for name, version in report.versions.items()
            ],
        ),
    ]
    return document(_TITLE, [element("header", element("h1", _TITLE)), element("main", main)])


def _values(row: Any, names: list[str]) -> list[float | None]:
    figures = [row.parameters, row.multiply_adds, row.zeros, row.size, row.zipped]
    return [*(row.metrics.get(name) for name in names), *figures]


def _step(number: int, report: Any) -> list[Markup | None]:
    rows = []
    for entry in [*report.changed, *report.left]:
        figures = ", ".join(f"{name} {_short(value)}" for name, value in entry.details.items())
        cells = [words(entry.kind), words(entry.action), words(figures, "prose")]
        rows.append((entry.name, [*cells, words(entry.reason, "prose")]))
    heads = [("layer", "text"), ("class", "text"), ("what", "text"), ("figures", "text")]
    heads.append(("why", "text"))
    return [
        element("h2", f"Step {number}: {report.verb}"),
        element("p", ", ".join(f"{name}: {value}" for name, value in report.settings.items())),
        *(element("p", note) for note in report.notes),
        table(f"Layers in step {number}", heads, rows) if rows else None,
    ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
