"""Plots, with matplotlib where it is installed."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ConfigError
from tfcompress.files import write_bytes
from tfcompress.schedules import Schedule, as_schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 400


def plot_schedule(
    schedule: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    steps: int | None = None,
    measured: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> Figure:
    """Draws how sparse the model shall be at which step, as the masks will follow it.

    The masks change at every `frequency`-th step only, so the curve has stairs.

    Args:
        schedule: a schedule, a function `step -> sparsity`, or a dict name -> schedule (or None,
            which is left out), as `PruningCallback` takes it.
        path: where to write the figure (`.png`, `.svg`, `.pdf`); None to only return it.
        steps: the steps to draw; None for a tenth beyond the last end step.
        measured: name -> (step, sparsity) of a training, drawn as points.

    Returns:
        The matplotlib figure.

    Raises:
        ConfigError: matplotlib is not installed, no schedule, a schedule without an end and no
            `steps`, or a file name that matplotlib has no format for.

    Example:
        >>> tfc.plot_schedule(tfc.PolynomialDecay(0.0, 0.8, 0, 1000), "schedule.png")
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "Plots need matplotlib, which is not installed: pip install matplotlib"
        ) from error
    curves = _named(schedule)
    last = _last_step(list(curves.values()), steps)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for index, (name, one) in enumerate(curves.items()):
        at = _steps(one, last)
        values = [100 * share for share in _held(one, at)]
        axes.plot(at, values, drawstyle="steps-post", label=name, color=f"C{index}")
    for index, (name, points) in enumerate((measured or {}).items()):
        axes.plot(
            [step for step, _ in points],
            [100 * share for _, share in points],
            ".",
            label=f"{name}, measured",
            color=f"C{index + len(curves)}",
        )
    axes.set(xlabel="step (updates of the optimizer)", ylabel="zeros, %", xlim=(0, last))
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3)
    axes.legend()
    if path is not None:
        _save(figure, Path(path))
    return figure


def _named(schedule: Any) -> dict[str, Schedule]:
    if isinstance(schedule, Mapping):
        curves = {str(n): as_schedule(s) for n, s in schedule.items() if s is not None}
        if not curves:
            raise ConfigError(f"There must be a schedule to draw. Received: {schedule!r}")
        return curves
    one = as_schedule(schedule)
    return {type(one).__name__: one}


def _last_step(schedules: list[Schedule], steps: int | None) -> int:
    if steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"`steps` must be a whole number >= 1. Received: {steps!r}")
        return steps
    ends = [max(s.end_step, s.begin_step) for s in schedules]
    if all(s.end_step == -1 and s.begin_step == 0 for s in schedules):
        raise ConfigError(
            "The schedule has no end step: say with `steps` how many to draw. "
            f"Received: {schedules[0]}"
        )
    return max(1, round(max(ends) * 1.1))


def _steps(schedule: Schedule, last: int) -> list[int]:
    """The steps at which the masks change, thinned out to what a figure can show, and the ends."""
    due, before = [], None
    for step in range(last + 1):
        if schedule.due(step, before):
            due.append(step)
            before = step
    stride = max(1, len(due) // _POINTS)
    return sorted({0, *due[::stride], *due[-1:], last})


def _held(schedule: Schedule, steps: list[int]) -> list[float]:
    """The sparsity of the masks at each step: that of the last update."""
    held, before, values = 0.0, None, []
    for step in steps:
        if schedule.due(step, before):
            held, before = schedule(step), step
        values.append(held)
    return values


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    kind = path.suffix.lstrip(".").lower() or "png"
    supported = figure.canvas.get_supported_filetypes()
    if kind not in supported:
        raise ConfigError(
            f"The plot's file name must end in one of {', '.join(sorted(supported))}. "
            f"Received: {path}"
        )
    figure.savefig(buffer, format=kind, dpi=150)
    write_bytes(path, buffer.getvalue(), overwrite=True)
