"""A small pipeline, and runs of it that are killed: `python pipeline_runs.py FOLDER`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np

import tfcompress as tfc

STEPS = [
    {
        "prune": {
            "sparsity": 0.5,
            "pooling": "global",
            "train": {"epochs": 3, "learning_rate": 0.01, "batch_size": 32},
        }
    },
    {
        "quantize": {
            "train": {
                "epochs": 2,
                "learning_rate": 0.001,
                "batch_size": 32,
                "distill": {"temperature": 2.0},
            }
        }
    },
    {"convert": {"precision": "int8"}},
    {"pack": {"slim": True}},
]


def examples():
    """Points in 8 dimensions, and on which side of a curve they lie."""
    x = np.random.default_rng(0).normal(size=(160, 8)).astype("float32")
    return x, (x[:, 0] * x[:, 1] + x[:, 2] > 0).astype("int32")


def network():
    """Dense layers, with dropout, which draws random numbers."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8,), name="point"),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dropout(0.2, name="drop"),
            layers.Dense(2, name="scores"),
        ],
        name="network",  # Keras would number it, by what was made before
    )


def run(out, steps=STEPS, **options):
    """The pipeline."""
    return tfc.Pipeline(steps).run(network(), examples(), out, progress=False, **options)


def digests(folder):
    """SHA-256 of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def spawn(out):
    """Starts a run in a child, and gives its process number."""
    child = os.fork()
    if child == 0:
        try:
            run(out)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def killed_when(out, pattern):
    """A run that is killed as soon as there is such a file: whether it was."""
    child = spawn(out)
    while True:
        if any(Path(out).glob(pattern)):
            os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.WIFSIGNALED(status)
        time.sleep(0.002)


# In the order in which they come to be: a step's file is there before the journal says so.
MOMENTS = [
    ".training/1_prune/training.save",
    "stages/2_quantize.keras",
    "model_int8.tflite",
    "report.html",
]

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    killed = [killed_when(folder, moment) for moment in MOMENTS]
    code = os.waitstatus_to_exitcode(os.waitpid(spawn(folder), 0)[1])
    print(json.dumps({"killed": killed, "code": code}))
