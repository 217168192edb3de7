"""A progress bar on the terminal's error stream, in Python and in the commands alike.

It needs rich and a terminal; without them nothing is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """One bar at a time, under a name."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def start(self, name: str) -> None:
        """Begins the next piece of work."""
        if self._bars is not None:
            if self._task is not None:
                self._bars.update(self._task, completed=1.0, total=1.0)
            self._task = self._bars.add_task(name, total=1.0, seen="")

    def update(self, share: float | None, seen: str = "") -> None:
        """Sets the share done, 0 to 1; None where nobody knows how much there is.

        Args:
            share: the share.
            seen: what is to be seen there now, such as an epoch's loss.
        """
        if self._bars is None or self._task is None:
            return
        if share is None:
            self._bars.update(self._task, total=None, seen=seen)
        else:
            self._bars.update(self._task, completed=share, total=1.0, seen=seen)


@contextmanager
def shown(wanted: bool = True) -> Iterator[Progress]:
    """A bar while the block runs, gone when it ends.

    Args:
        wanted: False for a `Progress` that shows nothing.

    Example:
        >>> with shown() as progress:
        ...     progress.start("measuring")
        ...     progress.update(0.5)
    """
    bars = _bars() if wanted else None
    if bars is None:
        yield Progress(None)
        return
    with bars:
        yield Progress(bars)


def _bars() -> Any:
    try:
        import rich.console
        import rich.progress
    except ImportError:
        return None
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:
        return None
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description:<34}", markup=False),
        rich.progress.BarColumn(bar_width=30),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[seen]}", markup=False),
        console=console,
        transient=True,
    )
