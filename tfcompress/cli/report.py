"""`tfcompress report`: models side by side and layer by layer, in one HTML file."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from typing import Any

from tfcompress.cli.console import Console
from tfcompress.errors import CompressError, DataError

HELP = "write an HTML page about models: accuracy, size, latency, layers"
DESCRIPTION = (
    "Measures models and writes one HTML page that loads nothing from elsewhere: a plot and a "
    "table of accuracy, size and latency, each layer's weights, ranges, zeros, quantization error "
    "and time, histograms, what was skipped and why, and how to make it again. Exits with 1 where "
    "a model could not be read, or accuracy or latency is missing though asked for."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "models", nargs="+", help=".tflite files, or Keras models (converted to fp32)"
    )
    parser.add_argument(
        "--data",
        help="labelled data as for evaluate (.npz or a folder of images), or inputs alone (.npy)",
    )
    parser.add_argument("--metrics", default="accuracy", help="as for evaluate, by commas")
    parser.add_argument("--workers", type=int, default=1, help="processes for the evaluation")
    parser.add_argument("--limit", type=int, help="at most so many examples")
    parser.add_argument("--runs", type=int, default=20, help="timed blocks of 5 ms for each model")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime")
    parser.add_argument("--backend", default="xnnpack", help="xnnpack or reference")
    parser.add_argument(
        "--no-layer-times", action="store_true", help="leave the time of each layer out"
    )
    parser.add_argument("--title", default="Models compared", help="title of the page")
    parser.add_argument("--out", default="report.html", help="file for the page")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.reporting.html_report import report_with_findings

    with console.progress() as progress:
        progress.start("measuring")
        path, found = report_with_findings(
            options.models,
            None if options.data is None else _load(options.data, options.models),
            path=options.out,
            overwrite=options.overwrite,
            title=options.title,
            metrics=[name.strip() for name in options.metrics.split(",")],
            workers=options.workers,
            limit=options.limit,
            runs=options.runs,
            threads=options.threads,
            backend=options.backend,
            layer_times=not options.no_layer_times,
            command=shlex.join(["tfcompress", *sys.argv[1:]]),
            progress=progress.update,
            evaluation={},
        )
    console.say(f"wrote {path}")
    skipped = []
    for model, entry in found.all_skipped:
        print(": ".join(filter(None, ("skipped", model, entry.what, entry.why))), file=sys.stderr)
        skipped.append({"model": model, **asdict(entry)})
    console.result({"path": str(path), "bytes": path.stat().st_size, "skipped": skipped})
    return 1 if any(entry.asked for _, entry in found.all_skipped) else 0


def _load(source: str, models: list[str]) -> Any:
    """Labelled data, or else inputs alone."""
    from tfcompress.model_files import load_labelled, load_representative
    from tfcompress.runtime.model import TFLiteModel, input_infos

    if source.endswith(".npy"):
        return load_representative(source)
    names, size = [], 96
    for path in models:
        if path.endswith(".tflite"):
            try:
                infos = input_infos(TFLiteModel(path).parsed)
            except CompressError:
                continue  # the report says why
            names = [info.name for info in infos]
            size = infos[0].shape[1] if len(infos[0].shape) == 4 else size
            break
    try:
        return load_labelled(source, names, size)
    except DataError:
        return load_representative(source, prefer=("x_test", "x_train", "x"))
