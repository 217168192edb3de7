"""`tfcompress evaluate`: accuracy and other figures of `.tflite` files on labelled data."""

from __future__ import annotations

import argparse
import importlib
import operator
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from tfcompress.cli.console import Console
from tfcompress.errors import ConfigError

HELP = "measure the accuracy of .tflite files on labelled data"
DESCRIPTION = (
    "Runs .tflite files on labelled data, in several processes if asked, and prints accuracy, "
    "top-k, F1, errors, BLEU or ROUGE. With --resume, a run that was killed goes on where it was. "
    "With --text, files of tfc.convert_decoder: the perplexity of a text."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("models", nargs="+", help=".tflite files")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument(
        "--data",
        help="labelled data: .npz (x_test and y_test, x and y, or arrays named as the inputs and "
        "outputs), or a folder with a folder of images per class",
    )
    data.add_argument("--text", metavar="FILE", help="a text, for language models")
    parser.add_argument(
        "--tokenizer",
        help='of --text: tokenizer.json of the tokenizers library, a JSON file {"characters": '
        '"abc"}, or the word bytes',
    )
    parser.add_argument(
        "--metrics",
        default="accuracy",
        help="separated by commas: accuracy, top_5 (any number), f1, f1_weighted, f1_micro, "
        "f1_binary, cross_entropy, perplexity, mae, mse, rmse, bleu, rouge",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that run side by side")
    parser.add_argument("--batch", type=int, help="examples per run; the file's own if left out")
    parser.add_argument("--limit", type=int, help="at most so many examples")
    parser.add_argument("--backend", default="xnnpack", help="xnnpack or reference")
    parser.add_argument("--threshold", type=float, help="of an output of one unit")
    parser.add_argument("--ignore-label", type=int, help="class index that is not counted")
    parser.add_argument(
        "--decode", metavar="MODULE:FUNCTION", help="turns token ids into text, for bleu and rouge"
    )
    parser.add_argument("--resume", metavar="FOLDER", help="keep predictions there and go on")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="METRIC>=VALUE",
        help="exit with 1 where a file misses it (or METRIC<=VALUE); may be repeated",
    )
    parser.add_argument("--out", help="file for the figures as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.files import check_writable, write_json
    from tfcompress.runtime.model import TFLiteModel

    conditions = [_condition(text, _figures(options)) for text in options.require]
    if options.text is not None:
        _check_text(options)
    if options.out:
        check_writable(options.out, overwrite=options.overwrite)
    decode = _function(options.decode) if options.decode else None
    models = [TFLiteModel(path) for path in options.models]
    rows: list[dict[str, Any]] = []
    with console.progress() as progress:
        for path, model in zip(options.models, models, strict=True):
            progress.start(f"evaluating {model.name}"[:34])
            if options.text is not None:
                figures = _foretold(model, options)
            else:
                figures = _labelled(model, options, decode, progress.update)
            rows.append({"file": path, **figures})
    names = list(dict.fromkeys(name for row in rows for name in row))
    console.table(names, [[_cell(row.get(name)) for name in names] for row in rows])
    console.result(rows)
    if options.out:
        write_json(options.out, rows)
    return 0 if all(condition(row) for condition in conditions for row in rows) else 1


def _labelled(
    model: Any, options: argparse.Namespace, decode: Any, progress: Callable[[float | None], None]
) -> dict[str, float]:
    """The figures on labelled data."""
    from tfcompress.deploy.evaluate import evaluate
    from tfcompress.model_files import load_labelled
    from tfcompress.runtime.model import input_infos

    infos = input_infos(model.parsed)
    size = infos[0].shape[1] if len(infos[0].shape) == 4 else 96
    return evaluate(
        model,
        load_labelled(options.data, [info.name for info in infos], size),
        metrics=[name.strip() for name in options.metrics.split(",")],
        workers=options.workers,
        batch=options.batch,
        limit=options.limit,
        backend=options.backend,
        threshold=options.threshold,
        ignore_label=options.ignore_label,
        decode=decode,
        resume=options.resume,
        progress=progress,
    )


def _check_text(options: argparse.Namespace) -> None:
    """Checks that what was asked belongs to --text."""
    if not options.tokenizer:
        raise ConfigError("--text needs --tokenizer: the model's, for text is not token ids.")
    if options.limit is not None and options.limit < 2:
        raise ConfigError(f"--limit is at least 2 tokens with --text. Received: {options.limit}")
    usual = {"metrics": "accuracy", "workers": 1}
    names = ("metrics", "workers", "batch", "threshold", "ignore_label", "decode", "resume")
    others = [name for name in names if getattr(options, name) != usual.get(name)]
    if others:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ConfigError(f"--text measures perplexity, without {listed}, which belong to --data.")


def _foretold(model: Any, options: argparse.Namespace) -> dict[str, float]:
    """How well a language model foretells a text."""
    from tfcompress.files import read_bytes
    from tfcompress.generation.perplexity import perplexity
    from tfcompress.generation.tokenizers import load_tokenizer

    try:
        text = read_bytes(options.text).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--text is a text file in UTF-8. Received: {options.text!r} ({error})"
        ) from None
    tokens = load_tokenizer(options.tokenizer).encode(text)[: options.limit]
    return perplexity(model, tokens, backend=options.backend, progress=False)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _figures(options: argparse.Namespace) -> list[str]:
    """Names of the figures that are going to be measured, without those of outputs before them."""
    if options.text is not None:
        return ["perplexity", "cross_entropy", "tokens"]
    names = [name.strip() for name in options.metrics.split(",")]
    if "rouge" in names:
        names += ["rouge1", "rouge2", "rougeL"]
    return [*names, "examples"]


def _condition(text: str, figures: list[str]) -> Callable[[dict[str, Any]], bool]:
    found = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*([-+.\deE]+)\s*", text)
    try:
        name, sign, value = found[1], found[2], float(found[3])  # type: ignore[index]
    except (TypeError, ValueError):
        raise ConfigError(
            f"--require takes a metric and a bound, as accuracy>=0.9. Received: {text!r}"
        ) from None
    # Before the work, as far as that is known: outputs' names are not.
    if not any(name == figure or name.endswith(f"_{figure}") for figure in figures):
        raise ConfigError(
            f"--require names a metric that is measured: {figures}. Received: {name!r}"
        )
    compare = operator.ge if sign == ">=" else operator.le

    def holds(row: dict[str, Any]) -> bool:
        if name not in row:
            raise ConfigError(
                f"--require names a metric that is measured: {sorted(set(row) - {'file'})}. "
                f"Received: {name!r}"
            )
        return bool(compare(row[name], value))

    return holds


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    # As with `python -m`; it stays, for what the function itself may import when it is called.
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            "--decode takes MODULE:FUNCTION that Python can import, from the current folder too. "
            f"Received: {name!r} ({type(error).__name__}: {error})"
        ) from error
    if not callable(found):
        raise ConfigError(f"--decode takes a function. Received: {name!r}, {type(found).__name__}")
    return found
