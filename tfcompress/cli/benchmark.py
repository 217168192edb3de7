"""`tfcompress benchmark`: latency of `.tflite` files on this machine."""

from __future__ import annotations

import argparse

from tfcompress.cli.console import Console
from tfcompress.errors import ConfigError

HELP = "measure the latency of .tflite files"
DESCRIPTION = (
    "Measures .tflite files on this machine. The models take turns in blocks of at least 5 ms, "
    "each in a process of its own; times are of one inference."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("models", nargs="+", help=".tflite files; ratios refer to the first")
    parser.add_argument(
        "--backend", default="xnnpack", help="xnnpack, reference, gpu, or several with commas"
    )
    parser.add_argument(
        "--gpu-precision", default="fp16", help="in which a GPU computes: fp16 or fp32"
    )
    parser.add_argument(
        "--delegate", help="library of a delegate to use as the gpu in place of LiteRT's own"
    )
    parser.add_argument("--threads", default="1", help="thread counts, separated by commas")
    parser.add_argument("--runs", type=int, default=50, help="timed blocks for each model")
    parser.add_argument("--warmup", type=int, default=5, help="inferences before timing")
    parser.add_argument(
        "--runtime", default="auto", help="auto, ai-edge-litert, tflite-runtime or tensorflow"
    )
    parser.add_argument("--out", help="file for the report as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.deploy.benchmark import benchmark
    from tfcompress.files import check_writable

    try:
        threads = [int(count) for count in options.threads.split(",")]
    except ValueError:
        raise ConfigError(
            f"--threads takes whole numbers such as 1,2,4. Received: {options.threads!r}"
        ) from None
    if options.out:
        check_writable(options.out, overwrite=options.overwrite)
    with console.progress() as progress:
        progress.start("measuring")
        report = benchmark(
            options.models,
            backend=options.backend.split(","),
            threads=threads,
            runs=options.runs,
            warmup=options.warmup,
            runtime=options.runtime,
            gpu_precision=options.gpu_precision,
            delegate=options.delegate,
            progress=progress.update,
        )
    console.table(*report.table())
    console.say(", ".join(f"{key}: {value}" for key, value in report.machine.items()))
    for note in report.notes:
        console.say(note)
    console.result(report.to_dict())
    if options.out:
        report.save(options.out)
    return 0
