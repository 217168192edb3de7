"""Running, inspecting and benchmarking where only NumPy and a runtime are installed."""

import subprocess
import sys
import venv
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc

ROOT = Path(__file__).resolve().parent.parent

BOARDS = {"ai-edge-litert": ["ai-edge-litert>=2"]}
if sys.version_info < (3, 12):  # the last tflite-runtime has no wheel for a later Python
    BOARDS["tflite-runtime"] = ["tflite-runtime==2.14.0", "numpy<2"]


@pytest.fixture(scope="module")
def files(small_model, float_file, int8_file, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    x = images[0][:20]
    np.save(folder / "x.npy", x)
    np.save(folder / "expected.npy", small_model.predict(x, verbose=0))
    (folder / "float.tflite").write_bytes(float_file.read_bytes())
    (folder / "int8.tflite").write_bytes(int8_file.read_bytes())
    # Its operators are of versions that tflite-runtime 2.14 does not know.
    inputs = keras.Input((64,))
    new = keras.Model(inputs, keras.layers.Dense(64)(inputs))
    tfc.convert(new, "dynamic", path=folder / "new.tflite")
    decoder = tfc.models.gpt_decoder(20, 16, width=8, heads=2, blocks=1)
    tfc.convert_decoder(decoder, prefill=4, path=folder / "decoder.tflite")
    text = list(tfc.generate(folder / "decoder.tflite", [1, 2, 3, 4, 5, 6], max_new_tokens=8))
    np.save(folder / "text.npy", text)
    return folder


@pytest.mark.parametrize("runtime", BOARDS)
def test_a_board_needs_numpy_and_a_runtime_only(runtime, files, tmp_path):
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *BOARDS[runtime]], check=True, capture_output=True)
    subprocess.run([*pip, "--no-deps", ROOT], check=True, capture_output=True)
    done = subprocess.run(
        [python, ROOT / "tests" / "board_check.py", runtime, files],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks passed" in done.stdout
