"""`tfcompress verify`: whether a `.tflite` computes what its Keras model computes."""

from __future__ import annotations

import argparse

from tfcompress.cli.console import Console
from tfcompress.errors import ConfigError
from tfcompress.quiet import import_tensorflow

HELP = "compare a .tflite file with the Keras model that it was made of"
DESCRIPTION = (
    "Runs a Keras model and its .tflite file on the same inputs: same answers, identical values, "
    "a histogram of the differences in steps of the output's grid and, for models of "
    "tfc.quantize_aware, each layer on the same inputs and the first one that is off."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", help=".keras or .h5 file")
    parser.add_argument("file", help=".tflite file")
    parser.add_argument(
        "--data",
        required=True,
        help="inputs: .npy, .npz (arrays named as the inputs, x_test or x), or a folder of images",
    )
    parser.add_argument(
        "--max-lsb", type=int, help="exit with 1 where a value is off by more steps"
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        help="exit with 1 where fewer answers are the same (0 to 1, as 0.995)",
    )
    parser.add_argument("--backend", default="xnnpack", help="xnnpack or reference")
    parser.add_argument("--layers", action="store_true", help="list every layer")
    parser.add_argument("--out", help="file for the report as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.files import check_writable

    if options.min_agreement is not None and not 0 <= options.min_agreement <= 1:
        raise ConfigError(f"--min-agreement takes 0 to 1. Received: {options.min_agreement}")
    if options.max_lsb is not None and options.max_lsb < 0:
        raise ConfigError(f"--max-lsb takes a number from 0. Received: {options.max_lsb}")
    if options.out:
        check_writable(options.out, overwrite=options.overwrite)
    with console.progress() as progress:
        progress.start("loading")
        import_tensorflow()
        import tfcompress as tfc
        from tfcompress.model_files import load_model, load_representative

        model = load_model(options.model)
        data = load_representative(options.data, prefer=("x_test", "x_train", "x"))
        tflite = tfc.TFLiteModel(options.file)
        progress.start("comparing")
        report = tfc.verify(model, tflite, data, backend=options.backend)
    if console.as_json:
        console.result(report.to_dict())
    else:
        for line in report.summary():
            console.say(line)
        heads, rows = report.histogram_table()
        console.table(heads, rows, title="Differences")
        if options.layers and report.layers:
            heads, rows = report.table()
            console.table(heads, rows, title="Layers, on the same inputs")
    if options.out:
        report.save(options.out)
    missed = options.max_lsb is not None and report.max_lsb > options.max_lsb
    missed |= options.min_agreement is not None and report.agreement < options.min_agreement
    return 1 if missed else 0
