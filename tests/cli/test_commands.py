import json
import os
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.pruning.masks import zeros_for


def test_help_and_version(capsys):
    for arguments in (["--help"], ["demo", "--help"], ["convert", "--help"], ["benchmark", "-h"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        assert "usage: tfcompress" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == tfc.__version__


def test_help_loads_neither_tensorflow_nor_rich_is_needed():
    code = (
        "import sys; sys.modules['rich'] = None\n"
        "from tfcompress.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("False"), done.stderr


def test_usage_errors_exit_with_2(capsys, float_file):
    with pytest.raises(SystemExit) as end:
        main(["squash"])
    assert end.value.code == 2
    assert main(["benchmark", str(float_file), "--threads", "many"]) == 2
    assert main(["benchmark", "missing.tflite"]) == 2
    assert "No such file: 'missing.tflite'" in capsys.readouterr().err


def test_failures_exit_with_3(capsys, tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"not a model" * 100)
    assert main(["benchmark", str(path)]) == 3
    assert "tfcompress benchmark:" in capsys.readouterr().err


def test_a_defect_of_ours_exits_with_3_and_not_with_1(capsys, monkeypatch, float_file):
    def broken(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("tfcompress.deploy.inspection.inspect", broken)
    assert main(["inspect", str(float_file)]) == 3
    said = capsys.readouterr().err
    assert "Traceback" in said and "ZeroDivisionError: ours" in said
    assert said.splitlines()[-1].startswith("tfcompress inspect: unexpected ZeroDivisionError.")
    assert "defect" in said.splitlines()[-1] and "report" in said.splitlines()[-1]


def test_benchmark_table_json_and_file(capsys, float_file, int8_file, tmp_path):
    out = tmp_path / "report.json"
    files = [str(float_file), str(int8_file)]
    assert main(["benchmark", *files, "--runs", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "median ms" in printed and "int8" in printed and "x1.00" in printed
    assert len(json.loads(out.read_text())["rows"]) == 2
    assert main(["benchmark", *files, "--runs", "2", "--json", "--threads", "1,2"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 4


def test_plain_text_where_rich_is_missing(capsys, float_file, monkeypatch):
    from tfcompress.cli import console

    monkeypatch.setattr(console, "HAVE_RICH", False)
    assert main(["benchmark", str(float_file), "--runs", "2"]) == 0
    assert "median ms" in capsys.readouterr().out


@pytest.fixture
def keras_file(small_model, tmp_path):
    path = tmp_path / "net.keras"
    small_model.save(path)
    return path


def test_convert_one(capsys, keras_file, small_model, images):
    assert main(["convert", str(keras_file)]) == 0
    x = images[0][:4]
    tflite = tfc.TFLiteModel(keras_file.with_suffix(".tflite"))
    np.testing.assert_allclose(tflite.predict(x), small_model.predict(x, verbose=0), atol=1e-4)
    assert "net.tflite" in capsys.readouterr().out
    assert main(["convert", str(keras_file)]) == 2, "an existing file is not replaced unasked"
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", str(keras_file), "--overwrite", "--precision", "fp16"]) == 0


def test_a_command_that_is_terminated_leaves_nothing(keras_file, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [sys.executable, "-m", "tfcompress.cli.main", "convert", str(keras_file)]
    running = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.PIPE
    )
    while not list(folder.glob("tfcompress-*")):
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.05)
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode == 143
    assert not list(folder.glob("tfcompress-*"))
    assert not keras_file.with_suffix(".tflite").exists()


def test_convert_several_with_data(capsys, keras_file, images, tmp_path):
    np.savez(tmp_path / "d.npz", x_train=images[0][:50])
    arguments = ["--precision", "fp32,int8", "--data", str(tmp_path / "d.npz"), "--io", "int8"]
    out = tmp_path / "out"
    assert main(["convert", str(keras_file), *arguments, "--out", str(out), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [r["report"]["settings"]["precision"] for r in results] == ["fp32", "int8"]
    int8 = tfc.TFLiteModel(out / "net_int8.tflite")
    assert int8.float_tensors == []
    assert int8.session().inputs[0].dtype == np.int8


@pytest.mark.parametrize("kind", ["h5", "saved_model"])
def test_convert_other_formats(kind, small_model, images, tmp_path):
    path = tmp_path / f"net.{kind}"
    if kind == "saved_model":
        small_model.export(path, verbose=False)
    else:
        small_model.save(path)
    out = tmp_path / "net.tflite"
    assert main(["convert", str(path), "--out", str(out)]) == 0
    x = images[0][:4]
    found = tfc.TFLiteModel(out).predict(x)
    np.testing.assert_allclose(found, small_model.predict(x, verbose=0), atol=1e-4)


def test_convert_errors(capsys, keras_file, tmp_path):
    cases = {
        ("--precision", "int7"): (2, "int7"),
        ("--precision", "int8"): (3, "representative_data"),
        ("--precision", "int8", "--data", "no.npz"): (2, "No such file"),
        ("--out", str(tmp_path / "x.tflite"), "--precision", "fp32,fp16"): (2, "folder"),
        ("--target", "tensorrt"): (2, "--to onnx"),
    }
    for arguments, (code, message) in cases.items():
        assert main(["convert", str(keras_file), *arguments]) == code, arguments
        assert message in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "no.keras")]) == 2
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"nothing")
    assert main(["convert", str(broken)]) == 3
    assert "damaged" in capsys.readouterr().err
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("config.json", "{}")
    assert main(["convert", str(broken)]) == 3
    assert "cannot load" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["convert", str(tmp_path / "empty")]) == 2
    assert not list(tmp_path.glob("*.tflite"))


def test_nothing_is_replaced_unasked_and_all_files_are_written_or_none(
    capsys, keras_file, float_file, tmp_path
):
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(float_file.read_bytes())
    for command in ("inspect", "benchmark"):
        assert main([command, str(copy), "--out", str(copy)]) == 2
    assert copy.read_bytes() == float_file.read_bytes()
    np.save(tmp_path / "bad.npy", np.zeros((3, 2)))
    out = tmp_path / "out"
    arguments = ["--precision", "fp32,int8", "--data", str(tmp_path / "bad.npy")]
    assert main(["convert", str(keras_file), *arguments, "--out", str(out)]) == 3
    assert list(out.iterdir()) == []
    assert main(["convert", str(keras_file), "--io", "int8", "--out", str(out)]) == 2
    (out / "model.keras").write_text("precious")
    assert main(["demo", "--out", str(out)]) == 2
    assert (out / "model.keras").read_text() == "precious"
    capsys.readouterr()


def test_rows_of_files_with_one_name_can_be_told_apart(float_file, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.tflite").write_bytes(float_file.read_bytes())
    files = [tmp_path / "a" / "m.tflite", tmp_path / "b" / "m.tflite"]
    assert [row.name for row in tfc.benchmark(files, runs=2).rows] == [str(f) for f in files]


def write_images(folder, classes, count):
    for label in range(classes):
        inner = folder / f"class_{label}"
        inner.mkdir(parents=True)
        for number in range(count):
            pixels = np.full((12, 12, 3), 40 + 150 * label, "uint8")
            pixels[number % 12] = 255
            keras.utils.save_img(inner / f"{number}.png", pixels, scale=False)


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_demo(capsys, tmp_path, source):
    arguments = ["--out", str(tmp_path / "out"), "--epochs", "2"]
    if source == "folder":
        write_images(tmp_path / "images", 2, 20)
        arguments += ["--data", str(tmp_path / "images"), "--image-size", "16"]
    assert main(["demo", *arguments]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["name"] for row in report["files"]] == [
        "float32, not pruned",
        "float32, pruned",
        "float16, pruned",
        "int8, pruned",
    ]
    for row in report["files"]:
        assert row["name"] in printed
        path = tmp_path / "out" / row["file"]
        assert path.stat().st_size == row["bytes"]
        assert row["zipped_bytes"] < row["bytes"]
        assert row["xnnpack_ms"] > 0 and row["reference_ms"] > 0
    # What the report says of accuracy is what the files do.
    model = keras.models.load_model(tmp_path / "out" / "model.keras")
    pruned = [e["name"] for e in report["pruning"]["entries"] if e["action"] == "pruned"]
    kernels = [model.get_layer(name).kernel.numpy() for name in pruned]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert zeros == zeros_for(0.8, sum(kernel.size for kernel in kernels))
    assert report["files"][1]["accuracy"] == pytest.approx(report["keras_accuracy"], abs=0.02)


def test_demo_errors(capsys, tmp_path):
    out = str(tmp_path / "out")
    assert main(["demo", "--sparsity", "1.2", "--out", out]) == 2
    assert main(["demo", "--epochs", "1", "--out", out]) == 2
    assert main(["demo", "--data", "no.npz", "--out", out]) == 2
    np.savez(tmp_path / "bad.npz", x=np.zeros(3))
    assert main(["demo", "--data", str(tmp_path / "bad.npz"), "--out", out]) == 3
    assert "Missing: ['x_train'" in capsys.readouterr().err
