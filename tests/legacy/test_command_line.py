"""Keras 2 files on the command line."""

import numpy as np
import pytest
from keras2_networks import randomized

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.legacy.packages import keras2

layers = keras2().layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Keras 2 file whose activation Keras 3 would take for another, and one that it refuses."""
    place = tmp_path_factory.mktemp("keras2")
    model = keras2().Sequential(
        [
            layers.Input((8, 3)),
            layers.Dense(4, "hard_sigmoid"),
            layers.LSTM(3, recurrent_activation="hard_sigmoid", unroll=True),
        ]
    )
    randomized(model).save(place / "old.h5")
    local = keras2().Sequential([layers.Input((8, 3)), layers.LocallyConnected1D(2, 3, name="odd")])
    local.save(place / "local.h5")
    x = np.random.default_rng(0).normal(0, 2, (4, 8, 3)).astype("float32")
    return place, x, np.asarray(model(x))


def test_convert_takes_a_keras_2_file(folder, capsys):
    place, x, expected = folder
    out = place / "new.tflite"
    assert main(["convert", str(place / "old.h5"), "--out", str(out)]) == 0
    np.testing.assert_allclose(tfc.TFLiteModel(out).predict(x), expected, atol=1e-5)
    told = capsys.readouterr()
    assert "old.h5: a Keras 2 model, brought to Keras 3" in told.err
    assert "outputs equal" in told.err


def test_hdf5_named_keras_as_older_versions_wrote_it(folder, tmp_path):
    place, x, expected = folder
    (tmp_path / "old.keras").write_bytes((place / "old.h5").read_bytes())
    out = tmp_path / "new.tflite"
    assert main(["convert", str(tmp_path / "old.keras"), "--out", str(out)]) == 0
    np.testing.assert_allclose(tfc.TFLiteModel(out).predict(x), expected, atol=1e-5)


def test_what_keras_3_does_not_have_is_named(folder, capsys):
    assert main(["convert", str(folder[0] / "local.h5"), "--out", str(folder[0] / "l.tflite")]) == 3
    error = capsys.readouterr().err
    assert "odd" in error and "LocallyConnected1D" in error
