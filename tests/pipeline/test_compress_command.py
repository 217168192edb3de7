"""`tfcompress compress`, from files to files."""

import json

import keras
import numpy as np
import pytest
from pipeline_runs import examples, network

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.model_files import load_training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    model = network()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), ["accuracy"])
    model.save(folder / "net.keras")
    x, y = examples()
    np.savez(folder / "d.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    steps = [{"prune": {"sparsity": 0.5, "train": {"epochs": 4}}}, "convert"]
    tfc.Pipeline(steps).save(folder / "r.yaml")
    return folder


def test_from_files_to_files(folder, capsys):
    given = [str(folder / "net.keras"), "--data", str(folder / "d.npz")]
    given += ["--recipe", str(folder / "r.yaml"), "--seed", "5"]
    assert main(["compress", *given, "--epochs", "0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    out = folder / "net_compressed"
    assert told["files"] == [str(out / "model_fp32.tflite")]
    report = told["report"]
    assert report["examples"] == {"training": 120, "validation": 40}
    assert report["recipe"]["seed"] == 5
    assert len(report["histories"][0]["loss"]) == 2
    assert report["objective"]["loss"] == ["sparse_categorical_crossentropy of logits"]
    assert report["notes"] == [], "nothing had to be chosen"
    assert tfc.sparsity(keras.models.load_model(out / "model.keras"))["total"] == 0.5
    before = (out / "report.json").read_bytes()
    assert main(["compress", *given, "--epochs", "0.5"]) == 0, "it is done, and is told again"
    said = capsys.readouterr().out
    assert "1_prune" in said and "model_fp32.tflite" in said
    assert (out / "report.json").read_bytes() == before
    assert main(["compress", *given]) == 2
    assert "the recipe is another now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        (["--recipe", "tiny"], 2, "one of balanced, fast, small"),
        (["--epochs", "0"], 2, "above 0"),
        (["--save-freq", "never"], 2, "--save-freq takes epoch"),
        (["--data", "none.npz"], 2, "No such file"),
        (["--loss", "huber_ish"], 2, "names that Keras knows"),
        (["--loss", "categorical_crossentropy"], 3, "must fit the model's outputs"),
    ],
)
def test_what_is_refused(folder, tmp_path, capsys, changed, code, said):
    given = ["--data", str(folder / "d.npz"), "--out", str(tmp_path), *changed]
    given = [str(folder / "net.keras"), "--recipe", str(folder / "r.yaml"), *given]
    assert main(["compress", *given]) == code
    assert said in capsys.readouterr().err


def test_training_data_in_files(tmp_path):
    image = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    x = np.arange(96, dtype="uint8").reshape(6, 4, 4)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(6))
    (got, labels), test = load_training(str(tmp_path / "d.npz"), image)
    assert got.shape == (6, 4, 4, 1) and got.dtype == np.float32 and test is None
    np.testing.assert_array_equal(got[..., 0], x.astype("float32") / np.float32(255))
    np.testing.assert_array_equal(labels, np.arange(6))

    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    two = keras.Model([a, b], keras.layers.Concatenate(name="c")([a, b]))
    np.savez(tmp_path / "two.npz", a=np.ones((5, 2)), b=np.ones((5, 3)), c=np.ones((5, 5)))
    (got, labels), test = load_training(str(tmp_path / "two.npz"), two)
    assert set(got) == {"a", "b"} and set(labels) == {"c"} and test is None
    np.savez(tmp_path / "no.npz", z=np.ones(3))
    with pytest.raises(tfc.DataError, match="must hold x_train and y_train"):
        load_training(str(tmp_path / "no.npz"), image)
