"""Kills a pipeline at random moments, lets each run go on, and compares all files byte by byte.

A small network on scikit-learn's digits goes through pruning, clustering, distilled
quantization-aware training, conversion and packing. One run is left alone; each of the others is
killed (SIGKILL) once, at a moment drawn from the whole length of a run, and started again. Linux
or macOS: the runs are forked, so that TensorFlow is imported once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import benchmark_parser, finish, markdown

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np

import tfcompress as tfc

TRAIN = {"batch_size": 64, "learning_rate": 0.003}
STEPS: list[Any] = [
    {"shrink": {"ratio": 0.25, "round_to": 4}},
    {"prune": {"sparsity": 0.7, "pooling": "global", "train": {**TRAIN, "epochs": 8}}},
    {"cluster": {"number_of_clusters": 16, "train": {**TRAIN, "epochs": 4}}},
    {"quantize": {"train": {**TRAIN, "learning_rate": 3e-4, "epochs": 4, "distill": {}}}},
    {"convert": {"precision": "int8"}},
    {"pack": {"slim": True}},
]


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.data / 16).astype("float32"), found.target


def network(x: np.ndarray, y: np.ndarray) -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.1),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), ["accuracy"])
    return model


def spawn(out: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        x, y = digits()
        tfc.Pipeline(STEPS).run(network(x, y), (x, y), out, progress=False, save_freq=5)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def finished(out: Path) -> float:
    begun = time.monotonic()
    if os.waitstatus_to_exitcode(os.waitpid(spawn(out), 0)[1]):
        sys.exit(f"the run in {out} failed")
    return time.monotonic() - begun


def kill_at(out: Path, seconds: float) -> bool:
    """Whether the run was still going on at that moment."""
    child, begun = spawn(out), time.monotonic()
    while time.monotonic() - begun < seconds:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def place(out: Path) -> str:
    """What the kill has hit."""
    try:
        done = len(json.loads((out / "journal.json").read_text())["steps"])
    except FileNotFoundError:
        return "before the first step"
    if done > len(STEPS):
        return "the report"
    verb = "the original" if done == 0 else next(iter(STEPS[done - 1]))
    saves = list((out / ".training").glob("*/training.save"))
    return f"{verb}, training" if saves else verb


def digests(out: Path) -> dict[str, str]:
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def main() -> None:
    parser = benchmark_parser(__doc__ or "")
    parser.add_argument("--kills", type=int, help="how many; 20, or 3 with --quick")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    kills = options.kills or (3 if options.quick else 20)
    moments = random.Random(options.seed)
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        whole = finished(root / "whole")
        expected = digests(root / "whole")
        print(f"left alone: {whole:.1f} s, {len(expected)} files", file=sys.stderr)
        while len(rows) < kills:
            out = root / f"run{len(rows)}"
            moment = moments.uniform(0, whole)
            if not kill_at(out, moment):
                print(f"ended before {moment:.1f} s: drawn again", file=sys.stderr)
                for path in sorted(out.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
                continue
            hit = place(out)
            rest = finished(out)
            same = digests(out) == expected
            rows.append([len(rows) + 1, f"{moment:.1f}", hit, f"{rest:.1f}", same])
            print(*rows[-1], file=sys.stderr, flush=True)
    print(markdown(["kill", "at s", "in", "s to the end", "all files equal"], rows))
    equal = sum(row[-1] for row in rows)
    print(f"\n{equal} of {kills} runs ended with the same {len(expected)} files.")
    finish({"equal": equal, "kills": kills, "files": sorted(expected), "rows": rows}, options.out)
    sys.exit(equal != kills)


if __name__ == "__main__":
    main()
