"""What the benchmarks of generated text share: which files are made, and how their model trains."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import keras
from common import benchmark_parser

PRECISION_NAMES = (
    "fp32",
    "fp16",
    "dynamic",
    "dynamic-int4",
    "dynamic-int4-blocks",
    "weight-int8",
    "weight-int4",
)


def keeping_parser(description: str, name: str) -> argparse.ArgumentParser:
    """A parser with `--keep DIR`, by default that name's folder in the user's cache."""
    parser = benchmark_parser(description)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, default=cache / "tfcompress" / name,
        help="where the trained model and a training under way are kept",
    )  # fmt: skip
    return parser


def kept_folder(arguments: argparse.Namespace) -> Path:
    """The folder of this form of the run, made if it does not exist."""
    folder = arguments.keep / ("quick" if arguments.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compile_for_tokens(
    model: keras.Model, rate: float, steps: int, *, warmup: int, alpha: float,
    beta_2: float = 0.999, ignore_class: int | None = None,
) -> None:  # fmt: skip
    """Compiles for next tokens, by Adam: the rate rises over `warmup` steps, falls as a cosine.

    Args:
        model: that gives scores.
        rate: the highest learning rate.
        steps: of the whole training, of which warming up takes a tenth at most.
        warmup: steps.
        alpha: share of the rate that is left at the end.
        beta_2: of Adam.
        ignore_class: token that does not count.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 20, steps, alpha=alpha, warmup_target=rate, warmup_steps=min(warmup, steps // 10)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignore_class)
    # XLA doubles the training time of such a model on a CPU.
    model.compile(keras.optimizers.Adam(schedule, beta_2=beta_2), loss, jit_compile=False)


def to_fp32(rows: list[dict[str, Any]], row: dict[str, Any], key: str) -> str:
    """How many times the fp32 file's speed a row has."""
    base = next(row for row in rows if row["file"] == "fp32")
    return f"x{row[key] / base[key]:.2f}"
