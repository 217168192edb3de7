import json

import pytest
from parcel_files import int8_network

from tfcompress.cli.main import main


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(int8_network(0.8, widths=(24, 20, 16)))
    return path


def test_there_and_back(capsys, file, tmp_path):
    assert main(["pack", str(file)]) == 0
    assert "zip -9" in capsys.readouterr().out
    packed = tmp_path / "net.tflite.tfcp"
    assert main(["pack", str(file)]) == 2  # exists
    assert main(["pack", str(file), "--overwrite", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["packed"] == packed.stat().st_size < value["zip"] < value["raw"]
    assert main(["unpack", str(packed)]) == 2  # would replace the original
    assert main(["unpack", str(packed), "--out", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["raw"] == value["raw"]
    assert (tmp_path / "b").read_bytes() == file.read_bytes()


def test_slim(capsys, file, tmp_path):
    import tfcompress as tfc

    assert main(["pack", str(file), "--slim", "--out", str(tmp_path / "c"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    content = tfc.unpack(tmp_path / "c")
    assert value["slim"] == len(content) < value["raw"] == file.stat().st_size
    assert content == tfc.slim(file).content


def test_errors(capsys, file, tmp_path):
    assert main(["pack", str(tmp_path / "none")]) == 2
    assert main(["unpack", str(file)]) == 2  # nowhere to write
    assert main(["unpack", str(file), "--out", str(tmp_path / "b")]) == 3
    assert main(["pack", str(file), "--out", str(tmp_path / "c")]) == 0
    assert (
        main(["unpack", str(tmp_path / "c"), "--out", str(tmp_path / "b"), "--max-size", "9"]) == 3
    )
    assert "max_size" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
