"""What every command prints with: rich where it is installed, plain text where it is not.

A board that only runs `.tflite` files has no reason to hold rich.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from tfcompress.progress import Progress, shown
from tfcompress.tables import aligned

try:
    import rich.console
    import rich.markup
    import rich.table
except ImportError:
    HAVE_RICH = False
else:
    HAVE_RICH = True


class Console:
    """Prints tables and progress for people, or one JSON document for programs.

    Args:
        as_json: print only what `result` is given, as JSON.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out = rich.console.Console() if HAVE_RICH else None

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.as_json:
            if self._out is not None:
                self._out.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """A table for people; its first column is text, the others are right-aligned figures."""
        if self.as_json:
            return
        if self._out is not None:
            table = rich.table.Table(title=title or None, title_justify="left")
            for number, head in enumerate(heads):
                table.add_column(head, justify="left" if number == 0 else "right", overflow="fold")
            for row in rows:
                table.add_row(*(rich.markup.escape(cell) for cell in row))
            if not self._out.is_terminal:
                self._out.width = 160  # a pipe or a log file has no width to fit in
            self._out.print(table)
            return
        if title:
            print(title)
        for line in aligned([heads, *rows]):
            print(line)

    def result(self, value: Any) -> None:
        """The whole result, printed only with --json."""
        if self.as_json:
            json.dump(value, sys.stdout, indent=2, default=str)
            print()

    def progress(self) -> AbstractContextManager[Progress]:
        """A progress bar on the terminal's error stream, so that results can be piped."""
        return shown(HAVE_RICH and not self.as_json)


def kilobytes(size: int) -> str:
    """Bytes as `"158.0 kB"` (1 kB = 1000 bytes)."""
    return f"{size / 1000:,.1f} kB"


def milliseconds(value: float) -> str:
    """Three significant figures."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
