"""The example scripts run as a user would run them."""

import json
import subprocess
import sys
from pathlib import Path

import keras

from tfcompress.pruning.masks import zeros_for

PRUNED = ("Conv2D", "Dense")  # depthwise layers are left alone
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(script, *arguments, cwd):
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prune_with_callback(tmp_path):
    printed = run("prune_with_callback.py", "--epochs", 4, cwd=tmp_path)
    assert "pruned.keras written" in printed
    model = keras.models.load_model(tmp_path / "pruned.keras")
    kernels = [layer.kernel for layer in model.layers if type(layer).__name__ in PRUNED]
    zeros = sum(int((kernel.numpy() == 0).sum()) for kernel in kernels)
    assert zeros == zeros_for(0.8, sum(kernel.numpy().size for kernel in kernels))


def test_convert_for_android(tmp_path):
    printed = run("convert_for_android.py", cwd=tmp_path)
    files = sorted(path.name for path in (tmp_path / "android").iterdir())
    assert [name.rsplit("_", 1)[1] for name in files] == [
        "fp16.tflite",
        "fp32.tflite",
        "int8.tflite",
    ]
    assert printed.count("runs on TensorFlow Lite") == 3


def test_benchmark_tflite(tmp_path, float_file, int8_file):
    printed = run(
        "benchmark_tflite.py", float_file, int8_file, "--runs", 2, "--out", "r.json", cwd=tmp_path
    )
    assert "fastest: " in printed
    assert len(json.loads((tmp_path / "r.json").read_text())["rows"]) == 4
