"""Tables that can be read by eye, by ear and on a narrow screen, and sorted where scripts run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfcompress.reporting.page.markup import Markup, element


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        text: what is read; Markup or text.
        value: what it sorts by; None for the text.
        share: length of a bar behind it, 0 to 1; None for no bar.
        kind: `""` for figures, `"text"`, or `"prose"` for what may fill several lines.
    """

    text: Any
    value: float | None = None
    share: float | None = None
    kind: str = ""


def number(value: float | None, text: str = "{:.4g}", share: float | None = None) -> Cell:
    """A figure; empty where there is none."""
    if value is None or math.isnan(value):
        return Cell("")
    shown = "exact" if math.isinf(value) else text.format(value)
    return Cell(shown, 1e308 if math.isinf(value) else value, share)


def words(text: Any, kind: str = "text") -> Cell:
    """Words."""
    return Cell(text, kind=kind)


def table(
    caption: str,
    heads: Sequence[tuple[str, str]],
    rows: Sequence[tuple[Any, Sequence[Cell]]],
    *,
    sorted_: bool = True,
) -> Markup:
    """A table whose first column names its rows.

    Args:
        caption: what it shows.
        heads: text and kind of each column, that of the names first.
        rows: name and other cells of each row.
        sorted_: whether its columns can be sorted.
    """
    head = element(
        "tr",
        [element("th", text, scope="col", class_=kind or None) for text, kind in heads],
    )
    body = [
        element("tr", element("th", name, scope="row"), [_cell(cell) for cell in cells])
        for name, cells in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", head),
            element("tbody", body),
            class_="sorted" if sorted_ and len(rows) > 1 else None,
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex=0,
    )


def _cell(cell: Cell) -> Markup:
    style = None if cell.share is None else f"--share: {100 * max(cell.share, 0):.1f}%"
    kind = cell.kind or ("bar" if style else None)
    return element("td", cell.text, class_=kind, style=style, data_value=cell.value)
