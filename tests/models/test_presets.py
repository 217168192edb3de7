"""The small networks, and every preset through a `.keras` file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress import models

# name -> parameters, of these not trainable (BatchNorm's statistics)
PARAMETERS = {
    "mobilenet_small_28": (39_914, 1_600),
    "mobilenet_small_64": (40_202, 1_600),
    "mobilenet_small_96": (144_770, 3_392),
    "mobilenet_96_025": (219_058, 5_472),
    "mobilenet_v2_96_035": (412_770, 14_080),
    "mobilenet_sparse_friendly_96": (830_562, 10_944),
    "mobilenet_v2_sparse_friendly_96": (412_770, 14_080),
    "resnet8": (78_666, 480),
    "ds_cnn": (24_908, 1_152),
    "ds_cnn_logmel": (24_778, 1_152),
}


def test_every_preset_is_listed():
    assert set(models.PRESETS) == set(PARAMETERS)


@pytest.mark.parametrize("name", models.PRESETS)
def test_preset(name, randomize, outputs, tmp_path):
    model = randomize(models.PRESETS[name]())
    frozen = sum(w.numpy().size for w in model.non_trainable_weights)
    assert (model.count_params(), frozen) == PARAMETERS[name]
    assert model.name == name
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(loaded), outputs(model))


def test_clone(randomize, outputs):
    model = randomize(models.mobilenet_small())
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(outputs(clone), outputs(model))


def test_layer_names_do_not_depend_on_what_was_built_before():
    names = [[layer.name for layer in models.mobilenet_small().layers] for _ in range(2)]
    assert names[0] == names[1]


def test_mobilenet_small_default_is_the_network_of_the_side_by_side():
    model = models.mobilenet_small()
    assert model.input_shape == (None, 28, 28, 1)
    assert model.output_shape == (None, 10)
    convs = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convs] == [16, 32, 32, 64, 64, 128, 128]
    depthwise = [x for x in model.layers if isinstance(x, keras.layers.DepthwiseConv2D)]
    assert [layer.strides[0] for layer in depthwise] == [2, 1, 2, 1, 2, 1]
    assert convs[0].strides == (1, 1) and convs[0].kernel_size == (3, 3)
    assert all(x.padding == "same" and not x.use_bias for x in [*convs, *depthwise])
    assert len([x for x in model.layers if isinstance(x, keras.layers.ReLU)]) == 13
    assert model.layers[-2].output.shape == (None, 128)


@pytest.mark.parametrize(
    ("shape", "first_stride", "last_image"),
    [
        ((8, 8, 1), 1, (1, 1, 128)),
        ((28, 28, 3), 1, (4, 4, 128)),
        ((47, 96, 1), 1, (6, 12, 128)),
        ((48, 48, 3), 2, (3, 3, 128)),
        ((64, 64, 3), 2, (4, 4, 128)),
        ((65, 65, 3), 2, (3, 3, 256)),
        ((96, 96, 3), 2, (3, 3, 256)),
    ],
)
def test_mobilenet_small_grows_with_the_image(shape, first_stride, last_image):
    model = models.mobilenet_small(shape, 3)
    assert model.get_layer("conv1").strides == (first_stride, first_stride)
    assert model.get_layer("global_pool").input.shape[1:] == last_image


def test_mobilenet_small_options():
    model = models.mobilenet_small([32, 32, 3], np.int64(4), alpha=0.5, dropout=0.25, name="net")
    assert model.name == "net"
    assert model.get_layer("conv1").filters == 8
    assert model.get_layer("dropout").rate == 0.25
    assert model.output_shape == (None, 4)


def test_the_folder_is_not_imported_under_a_second_name():
    spec = importlib.util.spec_from_file_location("models", Path(models.__file__))
    assert spec is not None and spec.loader is not None
    with pytest.raises(ImportError, match=r"tfcompress\.models"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
