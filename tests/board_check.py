"""What a board does with tfcompress: run in an environment that holds only NumPy and a runtime.

    python board_check.py RUNTIME FOLDER

FOLDER holds float.tflite, int8.tflite, new.tflite and x.npy, expected.npy (float outputs);
decoder.tflite and text.npy, what it goes on with.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import tfcompress as tfc
from tfcompress.cli.main import main


def check(runtime: str, folder: Path) -> None:
    for name in ("tensorflow", "keras", "rich", "sklearn", "zstandard"):
        assert importlib.util.find_spec(name) is None, f"{name} is here: this is no board"
    assert tfc.available_runtimes() == [runtime], tfc.available_runtimes()
    x, expected = np.load(folder / "x.npy"), np.load(folder / "expected.npy")

    for backend in ("xnnpack", "reference"):
        model = tfc.TFLiteModel(folder / "float.tflite")
        np.testing.assert_allclose(model.predict(x, backend=backend), expected, atol=1e-4)
        int8 = tfc.TFLiteModel(folder / "int8.tflite").predict(x, backend=backend)
        noise = np.square(int8 - expected).mean() / np.square(expected).mean()
        assert noise < 0.01, noise
    assert model.sizes.raw == (folder / "float.tflite").stat().st_size
    assert model.sizes.zstd is None

    figures = tfc.evaluate(folder / "float.tflite", (x, expected.argmax(-1)), workers=2)
    assert figures == {"accuracy": 1.0, "examples": len(x)}, figures

    text = tfc.generate(folder / "decoder.tflite", [1, 2, 3, 4, 5, 6], max_new_tokens=8)
    assert list(text) == np.load(folder / "text.npy").tolist()

    # A file that is too new for the runtime gets an error that says so.
    try:
        tfc.TFLiteModel(folder / "new.tflite").predict(np.zeros((1, 64), np.float32))
    except tfc.DeviceError as error:
        assert runtime == "tflite-runtime", error
        assert "FULLY_CONNECTED version" in str(error) and "ai-edge-litert" in str(error), error
    else:
        assert runtime == "ai-edge-litert", "tflite-runtime 2.14 should refuse this file"

    try:
        tfc.TFLiteModel((folder / "int8.tflite").read_bytes()[:-99])
    except tfc.CorruptFileError:
        pass
    else:
        raise AssertionError("a truncated file was taken")

    report = tfc.inspect(folder / "int8.tflite")
    assert any(operator.name == "CONV_2D" for operator in report.operators)
    (row,) = tfc.benchmark(folder / "int8.tflite", runs=3).rows
    assert row.median_ms > 0, row
    for command in ("inspect", "benchmark"):
        assert main([command, str(folder / "float.tflite")]) == 0
    done = subprocess.run(
        [
            Path(sys.executable).with_name("tfcompress"),
            "benchmark",
            folder / "float.tflite",
            "--runs",
            "3",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["machine"]["runtime"].startswith(runtime)
    try:
        tfc.convert
    except ImportError as error:
        raise AssertionError("the name itself must load") from error
    print(f"board with {runtime}: all checks passed")


if __name__ == "__main__":
    check(sys.argv[1], Path(sys.argv[2]))
