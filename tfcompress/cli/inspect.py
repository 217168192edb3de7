"""`tfcompress inspect`: what is in a `.tflite` file, and what runs in the fast kernels."""

from __future__ import annotations

import argparse

from tfcompress.cli.console import Console

HELP = "show what is in a .tflite file and which operators the fast kernels take"
DESCRIPTION = (
    "Lists the operators of a .tflite file with types, shapes and sizes, and says which of them "
    "the target's kernels run, why the others are left, and what to do about it. Only the file "
    "is read: no runtime is needed."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("file", help=".tflite file")
    parser.add_argument("--tensors", action="store_true", help="list the tensors too")
    parser.add_argument(
        "--target",
        default="xnnpack",
        help="kernels to place operators on: xnnpack, xnnpack-sparse for pruned weights on ARM, "
        "or gpu",
    )
    parser.add_argument(
        "--require-fully-placed",
        action="store_true",
        help="exit with 1 where an operator is left, or a rule of the target broken",
    )
    parser.add_argument("--out", help="file for the report as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.deploy.inspection import inspect
    from tfcompress.files import check_writable

    if options.out:
        check_writable(options.out, overwrite=options.overwrite)
    report = inspect(options.file, options.target)
    if not console.as_json:
        for line in report.summary():
            console.say(line)
        console.table(*report.table(), title="Operators")
        if options.tensors:
            console.table(*report.tensor_table(), title="Tensors")
        for line in report.advice():
            console.say(line)
    else:
        console.result(report.to_dict())
    if options.out:
        report.save(options.out)
    return 1 if options.require_fully_placed and not report.fully_placed else 0
