import json

import pytest
from runtime import tflite_samples

from tfcompress.cli.main import main


@pytest.fixture(scope="module")
def split_file(tmp_path_factory):
    """An int8 file whose SOFTMAX is left."""
    path = tmp_path_factory.mktemp("inspect") / "split.tflite"
    path.write_bytes(tflite_samples.CONVERTERS["int8"]())
    return path


def test_table(capsys, split_file):
    assert main(["inspect", str(split_file)]) == 0
    out = capsys.readouterr().out
    assert "8 of 9 operators placed, in 2 partitions" in out
    assert "DEPTHWISE_CONV_2D" in out and "here it is int8" in out
    assert "SOFTMAX (#7): Leave it out of the model" in out
    assert "quantization" not in out
    assert main(["inspect", str(split_file), "--tensors"]) == 0
    assert "quantization" in capsys.readouterr().out


def test_json_and_out(capsys, split_file, tmp_path):
    out = tmp_path / "report.json"
    assert main(["inspect", str(split_file), "--json", "--out", str(out)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads(out.read_text())
    assert value["fully_placed"] is False
    assert [op["name"] for op in value["operators"] if not op["placed"]] == ["SOFTMAX"]


def test_require_fully_placed(capsys, split_file, int8_file):
    assert main(["inspect", str(split_file), "--require-fully-placed"]) == 1
    assert main(["inspect", str(split_file), "--require-fully-placed", "--json"]) == 1
    assert main(["inspect", str(int8_file), "--require-fully-placed"]) == 0


def test_errors(capsys, split_file, tmp_path):
    assert main(["inspect", str(tmp_path / "missing.tflite")]) == 2
    assert main(["inspect", str(split_file), "--target", "npu"]) == 2
    assert main(["inspect", str(split_file), "--out", str(tmp_path / "none" / "x.json")]) == 2
    assert "'xnnpack'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["inspect"])
    assert end.value.code == 2
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(split_file.read_bytes()[:1000])
    assert main(["inspect", str(broken)]) == 3
    assert "tfcompress inspect:" in capsys.readouterr().err


def test_gpu_target_and_exit_codes(capsys, float_file, tmp_path):
    from one_operator import Graph, Op, T

    assert main(["inspect", str(float_file), "--target", "gpu", "--require-fully-placed"]) == 0
    assert "gpu: 5 of 5 operators placed" in capsys.readouterr().out
    left = tmp_path / "left.tflite"
    graph = Graph({"x": T([1, 4]), "y": T([1, 4])}, [Op("ZEROS_LIKE", ["x"], ["y"])])
    left.write_bytes(graph.build())
    assert main(["inspect", str(left), "--target", "gpu", "--require-fully-placed"]) == 1
    assert "no kernel for the operator ZEROS_LIKE" in " ".join(capsys.readouterr().out.split())
