"""`tfcompress unpack`: what `tfcompress pack` packed, bit for bit."""

from __future__ import annotations

import argparse

from tfcompress.cli.console import Console, kilobytes
from tfcompress.errors import ConfigError

HELP = "unpack what `tfcompress pack` packed"
DESCRIPTION = (
    "Gives back the original file bit for bit, or an error: a damaged container, or one that "
    "claims to hold more than --max-size, leaves no file behind."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("file", help="the container")
    parser.add_argument("--out", help="file to write; FILE without .tfcp if left out")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument(
        "--max-size", type=int, default=2 << 30, help="largest original to accept, bytes"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.parcel.pack import unpack

    out = options.out or options.file.removesuffix(".tfcp")
    if out == options.file:
        raise ConfigError(f"`--out` must name the file to write. Received: {options.file!r} alone")
    with console.progress() as progress:
        progress.start("unpacking")
        path = unpack(options.file, out=out, overwrite=options.overwrite, max_size=options.max_size)
    size = path.stat().st_size
    console.say(f"wrote {path}: {kilobytes(size)}")
    console.result({"path": str(path), "raw": size})
    return 0
