"""Data and small models that many tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis
import numpy as np
import pytest
from support import data_folder, randomize, software_gpu_driver

if software_gpu_driver() is not None:  # before any child process is started
    os.environ.setdefault("VK_DRIVER_FILES", str(software_gpu_driver()))

# Tests check what is right, never how long it takes.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_collection_modifyitems(items):
    """The longest test comes first, so that no process waits for it in the end."""
    items.sort(key=lambda item: item.name != "test_examples_run_in_order")


@pytest.fixture(scope="session")
def gpu_adapter():
    """The GPU that the tests run on: a software driver, or what VK_DRIVER_FILES names."""
    if "VK_DRIVER_FILES" not in os.environ:
        pytest.fail(
            "The tests of the GPU need a driver: apt-get install --no-install-recommends "
            "chromium-common libvulkan1, or set VK_DRIVER_FILES to a Vulkan driver's .json file."
        )
    from tfcompress.runtime.gpu import accelerator

    return accelerator()


@pytest.fixture(scope="session")
def images():
    """2,000 real images (n, 28, 28, 1) in 0..1 and their labels: Fashion-MNIST, or digits."""
    folder = data_folder()
    if folder is not None:
        with np.load(folder / "fashion_mnist.npz") as data:
            return data["x_train"][:2000, ..., None].astype("float32") / 255, data["y_train"][:2000]
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.kron(digits.images / 16, np.ones((3, 3)))
    return np.pad(x, ((0, 0), (2, 2), (2, 2)))[..., None].astype("float32"), digits.target


@pytest.fixture(scope="session")
def small_model():
    """A convolutional network (28, 28, 1) -> 10 with BatchNorm statistics that are not trivial."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(16, 1)(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(10, name="scores")(x)
    return randomize(keras.Model(inputs, outputs, name="small"))


@pytest.fixture(scope="session")
def float_file(small_model, tmp_path_factory):
    """`small_model` as a float32 .tflite on disk."""
    import tfcompress as tfc

    path = tmp_path_factory.mktemp("files") / "float.tflite"
    tfc.convert(small_model, "fp32", path=path)
    return path


@pytest.fixture(scope="session")
def int8_file(small_model, images, tmp_path_factory):
    """`small_model` as an int8 .tflite with float32 inputs and outputs on disk."""
    import tfcompress as tfc

    path = tmp_path_factory.mktemp("files") / "int8.tflite"
    tfc.convert(small_model, "int8", representative_data=images[0][:100], path=path)
    return path
