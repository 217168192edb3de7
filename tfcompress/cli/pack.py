"""`tfcompress pack`: a `.tflite` as small as it can be sent."""

from __future__ import annotations

import argparse
import zlib

from tfcompress.cli.console import Console, kilobytes

HELP = "pack a .tflite for shipping, lossless and smaller than zip"
DESCRIPTION = (
    "Packs a file into a container that `tfcompress unpack` turns back into the same bytes; "
    "weights, scales and biases are coded by models of their own."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("file", help=".tflite file; any other is packed as plain bytes")
    parser.add_argument(
        "--slim",
        action="store_true",
        help="first take out names and metadata that no runtime reads, and store equal parts once: "
        "unpack then gives that file, not the original",
    )
    parser.add_argument("--out", help="file for the container; FILE.tfcp if left out")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.files import check_writable, read_bytes
    from tfcompress.parcel.pack import pack

    out = options.out or f"{options.file}.tfcp"
    check_writable(out, overwrite=options.overwrite)
    content = read_bytes(options.file)
    raw, report = len(content), None
    if options.slim:
        from tfcompress.parcel.slim import slim

        slimmed = slim(content)
        content, report = slimmed.content, slimmed.report
        console.say(str(report))
    with console.progress() as progress:
        progress.start("packing")
        path = pack(content, out=out, overwrite=options.overwrite)
    packed, zipped = path.stat().st_size, len(zlib.compress(content, 9))
    console.say(
        f"wrote {path}: {kilobytes(raw)} -> {kilobytes(packed)} (zip -9: {kilobytes(zipped)})"
    )
    result = {"path": str(path), "raw": raw, "packed": packed, "zip": zipped}
    if report is not None:
        result |= {"slim": len(content), "report": report.to_dict()}
    console.result(result)
    return 0
