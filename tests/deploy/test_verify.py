import json

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.cli.main import main


@pytest.fixture(scope="module")
def trained(small_model, images):
    return tfc.quantize_aware(small_model, calibration_data=images[0][:100])


@pytest.fixture(scope="module")
def file(trained):
    return tfc.convert(trained, "int8")


def test_identical_output_and_layers(trained, file, images):
    report = tfc.verify(trained, file, images[0][:150])
    assert (report.examples, report.agreement, report.identical) == (150, 1, 1)
    assert (report.within_one_lsb, report.max_lsb, report.mean_error) == (1, 0, 0)
    assert report.histogram == {0: 1500}
    assert report.first_divergence is None
    assert "All 6 quantized layers" in str(report)


def test_the_layer_that_is_off_is_named_with_the_cause(trained, file, images):
    changed = keras.models.clone_model(trained)
    changed.set_weights(trained.get_weights())
    layer = next(own for own in changed.layers if type(own).__name__ == "QuantizedLinear"
                 and own.kind == "depthwise")  # fmt: skip
    layer.kernel.assign(-layer.kernel.numpy())
    report = tfc.verify(changed, file, images[0][:100])
    assert report.identical < 1 and report.max_lsb > 0
    assert report.first_divergence.name == layer.name
    assert "other weights" in report.first_divergence.cause
    # On the same inputs, only this layer is off; from the start, all that follow are.
    assert [row.name for row in report.layers if row.identical < 1] == [layer.name]
    after = report.layers[[row.name for row in report.layers].index(layer.name) + 1]
    assert after.identical == 1 and after.identical_so_far < 1
    assert layer.name in str(report)
    assert sum(report.histogram.values()) == 1000


def test_layers_of_attention_are_found_by_name_and_shape():
    """Its projections have names that the exporter numbers, as Keras numbers layers."""
    inputs = keras.Input((10, 16))
    x = keras.layers.MultiHeadAttention(2, 8)(inputs, inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))
    data = np.random.default_rng(0).normal(size=(32, 10, 16)).astype("float32")
    qmodel = tfc.quantize_aware(model, calibration_data=data)
    report = tfc.verify(qmodel, tfc.convert(qmodel, "int8"), data)
    assert report.identical == 1.0
    assert len(report.layers) > 8
    off = [layer for layer in report.layers if layer.identical_so_far < 1]
    assert not off, off
    assert report.first_divergence is None


def test_any_model_and_file_can_be_compared(small_model, float_file, int8_file, images):
    same = tfc.verify(small_model, float_file, images[0][:100])
    assert same.agreement == 1 and same.identical > 0.99 and same.max_lsb == 0
    rough = tfc.verify(small_model, int8_file, (images[0][:100], images[1][:100]))
    assert 0 < rough.identical < 1 and rough.max_lsb >= 1
    assert rough.layers == [] and "quantize_aware" in rough.notes[0]


def test_several_inputs_and_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = keras.layers.Concatenate()([keras.layers.Dense(4)(a), keras.layers.Dense(2)(b)])
    model = keras.Model([a, b], [keras.layers.Dense(1, name="one")(x), x])
    generator = np.random.default_rng(0)
    data = {"a": generator.normal(size=(60, 4)), "b": generator.normal(size=(60, 3))}
    qmodel = tfc.quantize_aware(model, calibration_data=data)
    report = tfc.verify(qmodel, tfc.convert(qmodel, "int8"), data)
    assert report.identical == 1 and sum(report.histogram.values()) == 60 * 7
    assert all(layer.identical == 1 for layer in report.layers)


def test_convert_refuses_what_does_not_hold(trained, small_model, images, tmp_path, monkeypatch):
    x = images[0][:50]
    good = tfc.convert(trained, "int8", verify=x, path=tmp_path / "good.tflite")
    assert good.report.settings["identical"] == 1
    from tfcompress.deploy import verify as module

    real = module.compare_outputs

    def spoiled(tflite, ours, file):
        return real(tflite, ours, {k: np.roll(v, 1, -1) for k, v in file.items()})

    monkeypatch.setattr(module, "compare_outputs", spoiled)
    with pytest.raises(tfc.VerificationError, match="every value identical"):
        tfc.convert(trained, "int8", verify=x, path=tmp_path / "bad.tflite")
    assert not (tmp_path / "bad.tflite").exists()
    with pytest.raises(tfc.VerificationError, match=r"99\.9%"):
        tfc.convert(small_model, verify=x)


def test_an_export_that_is_off_says_so_without_being_asked(trained, monkeypatch):
    from tfcompress.deploy import verify as module

    real = module.compare_outputs

    def spoiled(tflite, ours, file):
        return real(tflite, ours, {k: np.roll(v, 1, -1) for k, v in file.items()})

    monkeypatch.setattr(module, "compare_outputs", spoiled)
    report = tfc.convert(trained, "int8").report
    assert report.settings["identical"] < 1
    assert any("does not compute exactly" in note for note in report.notes)


def test_command(trained, file, images, tmp_path, capsys):
    model, tflite, data = tmp_path / "q.keras", tmp_path / "q.tflite", tmp_path / "x.npz"
    trained.save(model)
    file.save(tflite)
    np.savez(data, x_test=images[0][:40])
    arguments = ["verify", str(model), str(tflite), "--data", str(data)]
    assert main([*arguments, "--max-lsb", "0", "--min-agreement", "1", "--layers"]) == 0
    printed = capsys.readouterr().out
    assert "100.000% same answer" in printed and "conv2d" in printed
    assert main([*arguments, "--json", "--out", str(tmp_path / "r.json")]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] == 1
    assert json.loads((tmp_path / "r.json").read_text())["layers"]
    trained_on = keras.models.load_model(model)
    kernel = next(
        own for own in trained_on.layers if type(own).__name__ == "QuantizedLinear"
    ).kernel
    kernel.assign(-kernel.numpy())
    trained_on.save(model)
    assert main([*arguments, "--max-lsb", "0"]) == 1
    assert "The first layer that is off" in capsys.readouterr().out
    assert main([*arguments, "--min-agreement", "2"]) == 2
    assert main(["verify", str(model), str(tmp_path / "no.tflite"), "--data", str(data)]) == 2


def test_errors(small_model, trained, file, images):
    with pytest.raises(tfc.DataError):
        tfc.verify(trained, file, np.zeros((3, 5)))
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises((tfc.ConfigError, tfc.DataError)):
        tfc.verify(other, file, np.zeros((3, 4)))
    with pytest.raises(tfc.CorruptFileError):
        tfc.verify(trained, b"not a model" * 50, images[0][:5])
    with pytest.raises(tfc.ModelTypeError):
        tfc.verify(None, file, images[0][:5])
