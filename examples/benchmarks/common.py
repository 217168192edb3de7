"""What the benchmark scripts share: data, a Markdown table, options."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def benchmark_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="minutes: fewer epochs and models")
    parser.add_argument("--json", "--out", dest="out", help="file for the figures as JSON")
    return parser


def options(description: str) -> argparse.Namespace:
    return benchmark_parser(description).parse_args()


def data_file(name: str) -> Path:
    """A file of the data folder named by TFCOMPRESS_DATA."""
    path = Path(os.environ.get("TFCOMPRESS_DATA", ".")) / name
    if not path.is_file():
        sys.exit(f"{name} is not in TFCOMPRESS_DATA={os.environ.get('TFCOMPRESS_DATA')!r}")
    return path


def fashion_mnist() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(n, 28, 28, 1) float32 in 0..1, labels; training and test set."""
    with np.load(data_file("fashion_mnist.npz")) as data:
        return (
            data["x_train"][..., None].astype("float32") / 255,
            data["y_train"],
            data["x_test"][..., None].astype("float32") / 255,
            data["y_test"],
        )


def kept_at(folder: str | Path, name: str, suffix: str) -> Path:
    """Where a row, or a file of it, is kept for a run that goes on with `--resume`."""
    return Path(folder) / ("".join(c if c.isalnum() else "_" for c in name) + suffix)


def keep(path: Path, row: Any) -> None:
    """Writes a row as a whole, or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(row))
    os.replace(partial, path)


def keep_model(model: Any, path: Path) -> None:
    """Saves a Keras model as a whole, or not at all."""
    partial = path.with_name(f"partial_{path.name}")
    model.save(partial)
    os.replace(partial, path)


def selected(names: Iterable[str], only: str) -> list[str]:
    """The names that hold `only`, what `--only` was given; ends the script where none does."""
    known = list(names)
    found = [name for name in known if only in name]
    if not found:
        sys.exit(f"--only {only!r} names none of {known}")
    return found


def markdown(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def zipped(content: bytes) -> int:
    return len(gzip.compress(content, 9))


def signal_to_noise(actual: np.ndarray, expected: np.ndarray) -> float:
    """10 log10 of signal power over error power, in dB."""
    error = np.square(np.asarray(actual, "float64") - expected).mean()
    return float(10 * np.log10(np.square(np.asarray(expected, "float64")).mean() / error))


def finish(result: dict[str, Any], out: str | None) -> None:
    if out:
        Path(out).write_text(json.dumps(result, indent=2, default=float) + "\n")
