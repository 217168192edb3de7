"""`tfcompress compress`: a model through all steps of a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tfcompress.cli.console import Console
from tfcompress.errors import ConfigError
from tfcompress.quiet import import_tensorflow

HELP = "run a recipe: prune, shrink, cluster, distill, quantize, convert, with training between"
DESCRIPTION = (
    "Takes a Keras 3 model (.keras or .h5) through the steps of a recipe, each a verb and perhaps "
    "training, and writes the files that come out with one report. Started again after a kill, it "
    "goes on where it was and ends with the same files, byte for byte."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", help=".keras or .h5 file")
    parser.add_argument(
        "--data",
        required=True,
        help="labelled data: .npz (x_train and y_train, and perhaps x_test and y_test; x and y; or "
        "arrays named as the inputs and y or the outputs), or a folder with a folder of images "
        "per class",
    )
    parser.add_argument(
        "--recipe",
        default="balanced",
        help=".yaml or .json file, or a ready one: small, fast or balanced",
    )
    parser.add_argument("--out", help="folder for all that is made; default: beside the model")
    parser.add_argument("--seed", type=int, help="in place of the recipe's")
    parser.add_argument(
        "--epochs", type=float, default=1.0, help="so many times the recipe's epochs"
    )
    parser.add_argument("--loss", help="by Keras's name, in place of the model's own")
    parser.add_argument("--metrics", help="by Keras's names, separated by commas")
    parser.add_argument(
        "--save-freq", default="epoch", help="how often trainings are saved: epoch, or batches"
    )
    parser.add_argument(
        "--not-deterministic",
        action="store_true",
        help="for models with an operator that gives other bits each time: a run that is resumed "
        "may then end otherwise",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="remove an earlier run's files and start anew"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.pipeline.pipeline import Pipeline

    pipeline = Pipeline.load(options.recipe).scaled(options.epochs)
    if options.seed is not None:
        pipeline = Pipeline(pipeline.steps, seed=options.seed)
    save_freq = _save_freq(options.save_freq)
    source = Path(options.model)
    out = Path(options.out) if options.out else source.parent / f"{source.stem}_compressed"

    from tfcompress.cli.console import HAVE_RICH
    from tfcompress.model_files import load_model, load_training

    import_tensorflow()
    model = load_model(source, compiled=True)
    data, validation = load_training(options.data, model)
    done = pipeline.run(
        model,
        data,
        out,
        validation_data=validation,
        loss=options.loss,
        metrics=None if options.metrics is None else _names(options.metrics),
        overwrite=options.overwrite,
        progress=HAVE_RICH and not options.json,
        save_freq=save_freq,
        deterministic=not options.not_deterministic,
    )
    heads, rows = done.report.table()
    console.table(heads, rows)
    for note in done.report.notes:
        console.say(note)
    console.say(f"files, report.json and report.html are in {out}")
    result: dict[str, Any] = {"out": str(out), "files": [str(path) for path in done.files]}
    console.result({**result, "report": done.report.to_dict()})
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--metrics takes names separated by commas. Received: {text!r}")
    return names


def _save_freq(text: str) -> str | int:
    if text == "epoch":
        return text
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--save-freq takes epoch, or a number of batches. Received: {text!r}")
    return int(text)
