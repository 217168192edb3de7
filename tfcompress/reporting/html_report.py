"""`tfc.html_report`: models side by side and layer by layer, in one HTML file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcompress import progress as bars
from tfcompress.deploy.metrics import Custom
from tfcompress.errors import ConfigError
from tfcompress.files import check_writable, write_bytes
from tfcompress.reporting.collect import collect
from tfcompress.reporting.findings import Findings
from tfcompress.reporting.page.document import page
from tfcompress.runtime import adapter


def html_report(
    models: Any,
    data: Any = None,
    *,
    path: str | os.PathLike[str] = "report.html",
    overwrite: bool = False,
    title: str = "Models compared",
    metrics: str | Custom | Sequence[str | Custom] | Mapping[str, Any] = ("accuracy",),
    workers: int = 1,
    limit: int | None = None,
    runs: int = 20,
    threads: int = 1,
    backend: str = "xnnpack",
    layer_times: bool = True,
    command: str | None = None,
    progress: bool | Callable[[float | None], None] = True,
    **evaluation: Any,
) -> Path:
    """Measures models and writes what was found as one HTML page that loads nothing.

    The page has a plot and a table of accuracy, size and latency; for each model its layers with
    weights, ranges, zeros, quantization error and time, histograms of the weights, and what was
    skipped and why; and how to make the page again. It can be read in light and dark, on a phone,
    by keyboard and with a screen reader, and without scripts.

    Args:
        models: a model or several: `.tflite` paths, `TFLiteModel`s, and Keras models or their
            files, which are converted to fp32. The first float32 one is what the quantization error
            of the others is measured against, where their tensors have the same names, as files
            of `tfc.convert` have.
        data: labelled data as for `tfc.evaluate`, or inputs alone (then without accuracy); it must
            be such that it can be read several times. None for neither accuracy nor errors.
        path: the page.
        overwrite: allow `path` to exist.
        title: the page's title.
        metrics: as for `tfc.evaluate`; the first one is plotted.
        workers: processes for the evaluation.
        limit: at most so many examples.
        runs: timed blocks of 5 ms for each model, and again for each operator.
        threads: threads of the runtime, for latency.
        backend: `"xnnpack"` or `"reference"`.
        layer_times: time each operator too.
        command: what to show as the way to make the page again; None for the call in Python.
        progress: show a bar where the terminal allows it, or a function called with the share done.
        evaluation: further arguments of `tfc.evaluate`, such as `decode` or `resume`.

    Returns:
        The page's path. `tfcompress.reporting.collect` gives the same as plain data.

    Raises:
        ConfigError: no model, an argument out of its range, or a path that cannot be written.
        DataError: data that can be read only once.
        CompressError: the only model cannot be read; of several, the page says so.

    Example:
        >>> tfc.html_report(["fp32.tflite", "int8.tflite"], (x_test, y_test), path="report.html")

    Source: SQNR as in `tfcompress.runtime.noise`; times of operators as in `tfc.benchmark`.
    """
    written, _ = report_with_findings(
        models,
        data,
        path=path,
        overwrite=overwrite,
        title=title,
        metrics=metrics,
        workers=workers,
        limit=limit,
        runs=runs,
        threads=threads,
        backend=backend,
        layer_times=layer_times,
        command=command,
        progress=progress,
        evaluation=evaluation,
    )
    return written


def report_with_findings(
    models: Any,
    data: Any,
    *,
    path: str | os.PathLike[str],
    overwrite: bool,
    title: str,
    metrics: Any,
    workers: int,
    limit: int | None,
    runs: int,
    threads: int,
    backend: str,
    layer_times: bool,
    command: str | None,
    progress: bool | Callable[[float | None], None],
    evaluation: Mapping[str, Any],
) -> tuple[Path, Findings]:
    """`html_report`, with all that the page says as plain data beside the page's path."""
    target = check_writable(path, overwrite=overwrite)
    items = list(models) if isinstance(models, (list, tuple)) else [models]
    for name, value in (("runs", runs), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"`{name}` must be a whole number >= 1. Received: {value!r}")
    if backend not in adapter.BACKENDS:
        raise ConfigError(
            f"`backend` must be one of {adapter.BACKENDS}: a report measures on the processor, "
            f"tfc.benchmark on a GPU. Received: {backend!r}"
        )
    with bars.shown(progress is True) as bar:
        bar.start("measuring")
        found = collect(
            items,
            data,
            title=title,
            metrics=metrics,
            workers=workers,
            limit=limit,
            runs=runs,
            threads=threads,
            backend=backend,
            layer_times=layer_times,
            evaluation=evaluation,
            progress=progress if callable(progress) else bar.update,
        )
    found.commands.append(command or _call(items, data, path, metrics, runs, threads, backend))
    return write_bytes(target, page(found).encode(), overwrite=overwrite), found


def _call(
    items: list[Any], data: Any, path: Any, metrics: Any, runs: int, threads: int, backend: str
) -> str:
    shown = ", ".join(
        repr(os.fspath(item)) if isinstance(item, (str, os.PathLike)) else "model" for item in items
    )
    given = "" if data is None else "data, "
    return (
        "import tfcompress as tfc\n"
        f"tfc.html_report([{shown}], {given}path={os.fspath(path)!r}, metrics={metrics!r}, "
        f"runs={runs}, threads={threads}, backend={backend!r})"
    )
