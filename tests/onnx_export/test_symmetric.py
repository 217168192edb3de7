"""Symmetric grids: as TensorRT asks, and the .tflite computes the same bits."""

import keras
import networks
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.quantization.layers import known

layers = keras.layers


@pytest.fixture(scope="module")
def model_and_images():
    """A residual network with a gate, whose sigmoid has a grid of its own in int8."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    gate = layers.Conv2D(4, 1, activation="sigmoid", name="gate")(x)
    x = layers.Add()([layers.Multiply()([x, gate]), layers.Conv2D(4, 3, padding="same")(x)])
    x = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    images = np.random.default_rng(0).normal(0.5, 1, (40, 8, 8, 3)).astype("float32")
    return keras.Model(inputs, x), images


def grids(model):
    sources = [layer.output_source for layer in model.layers if hasattr(layer, "output_source")]
    return [known(source) for source in sources if source is not None]


@pytest.mark.parametrize("method", ["moving_average", "lsq"])
def test_symmetric_schemes(model_and_images, method):
    model, x = model_and_images
    scheme = tfc.QuantizationScheme(symmetric=True, range_method=method)
    quantized = tfc.quantize_aware(model, scheme, calibration_data=x)
    for weight in quantized.trainable_variables:  # as training moves learned scales
        if weight.name == "scale_root":
            weight.assign(1.07)
    assert all(float(grid.zero_point) == 0 for grid in grids(quantized))
    reasons = {entry.name: entry.reason for entry in quantized.compression_report.entries}
    assert "symmetric" in reasons["gate"]
    tflite = tfc.convert(quantized, "int8")
    np.testing.assert_array_equal(tflite.predict(x), quantized(x, training=False))
    result = tfc.to_onnx(quantized, target="tensorrt", batch_size=None, data=x)
    assert [v for v in result.violations if v.refused] == []
    assert result.report.settings["tensorrt_refuses"] == 0
    assert result.report.settings["max_steps"] <= 2


def test_one_grid_for_all_layers():
    with pytest.raises(tfc.ConfigError, match="`symmetric` is one for the whole model"):
        tfc.QuantizationScheme(overrides={"a": tfc.QuantizationScheme(symmetric=True)})
    with pytest.raises(tfc.ConfigError, match="True or False"):
        tfc.QuantizationScheme(symmetric="yes")


def test_a_float_pool_before_a_quantized_layer():
    """The converter moved the grid behind it to before it, and rounded its input."""
    model = networks.chain((6, 6, 3), layers.Conv2D(4, 3, padding="same"),
                           layers.PReLU(alpha_initializer="ones"), layers.AveragePooling2D(2),
                           layers.Conv2D(2, 1))  # fmt: skip
    x = np.random.default_rng(0).normal(0, 1, (40, 6, 6, 3)).astype("float32")
    quantized = tfc.quantize_aware(model, calibration_data=x)
    same = tfc.convert(quantized, "int8").predict(x) == quantized(x, training=False).numpy()
    assert same.mean() > 0.999


def test_command(capsys, tmp_path, model_and_images):
    model, x = model_and_images
    np.save(tmp_path / "x.npy", x)
    path = tmp_path / "net.keras"
    model.save(path)
    out = tmp_path / "out"
    assert main(["convert", str(path), "--to", "onnx", "--out", str(out), "--json"]) == 0
    assert '"largest_difference"' in capsys.readouterr().out
    found = tfc.OnnxModel(out / "net.onnx").predict(x)
    np.testing.assert_allclose(found, model(x, training=False), atol=1e-5)
    assert main(["convert", str(path), "--to", "onnx", "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", str(path), "--to", "onnx", "--precision", "int8"]) == 2
    # Zero points that are not 0: what TensorRT refuses, by layer.
    tfc.quantize_aware(model, calibration_data=x).save(path)
    arguments = ["--to", "onnx", "--target", "tensorrt", "--data", str(tmp_path / "x.npy")]
    assert main(["convert", str(path), *arguments]) == 1
    printed = capsys.readouterr().out
    assert "'gate'" in printed and "zero points must be 0" in printed
    assert (tmp_path / "net.onnx").exists()
