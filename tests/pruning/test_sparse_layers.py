"""`tfc.xnnpack_sparse_layers`: the layers that become sparse 1x1 convolutions of the file."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from sparse_networks import excite, head, network, pointwise, stem
from support import randomize

import tfcompress as tfc
from tfcompress import models, registry
from tfcompress.errors import ModelTypeError
from tfcompress.runtime.sparse_rules import pointwise as pointwise_of


def names(found):
    return [layer.name for layer in found]


def check_against_the_file(model, found):
    """Zeros in one layer make one kernel of the file all but zero, and no others."""
    before = [convolution.kernel for convolution in pointwise_of(tfc.convert(model).parsed)]
    changed = []
    for layer in found:
        (variable,) = registry.kernels(layer)
        kernel = np.asarray(variable)
        variable.assign(kernel * (np.arange(kernel.size).reshape(kernel.shape) % 2))
        after = [convolution.kernel for convolution in pointwise_of(tfc.convert(model).parsed)]
        changed += [i for i, pair in enumerate(zip(before, after, strict=True)) if differ(*pair)]
        variable.assign(kernel)
    assert sorted(changed) == list(range(len(before)))


def differ(first, second):
    return not np.allclose(first, second, rtol=1e-5, atol=1e-7)


def test_mobilenet():
    model = randomize(models.mobilenet((32, 32, 3), 10, alpha=0.1, sparse_friendly=True))
    assert names(tfc.xnnpack_sparse_layers(model)) == [f"conv_pw_{i}" for i in range(1, 14)]


def test_squeeze_and_excite_and_a_dense_head():
    model = randomize(network(excite, sparsity=0))
    found = tfc.xnnpack_sparse_layers(model)
    assert len(found) == 4
    assert all(layer.kernel_size == (1, 1) for layer in found)
    check_against_the_file(model, found)


def nested():
    inner = keras.Input((16, 16, 8))
    x = layers.Conv2D(24, 1, use_bias=False, name="same_name")(inner)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    body = keras.Model(inner, x, name="body")
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 1, name="same_name")(body(stem(inputs)))
    return randomize(keras.Model(inputs, head(x)))


def test_nested_models():
    model = nested()
    found = tfc.xnnpack_sparse_layers(model)
    paths = {id(layer): path for path, layer in registry.walk(model)}
    assert [paths[id(layer)] for layer in found] == ["body/same_name", "same_name"]
    check_against_the_file(model, found)


def test_a_subclassed_model_and_a_separable_layer():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.pad = layers.ZeroPadding2D(1)
            self.first = layers.Conv2D(8, 3, strides=2, activation="relu")
            self.block = layers.SeparableConv2D(12, 3, padding="same", name="block")
            self.mean = layers.GlobalAveragePooling2D()
            self.out = layers.Dense(3)

        def call(self, x):
            return self.out(self.mean(self.block(self.first(self.pad(x)))))

    model = Net()
    model(np.zeros((1, 32, 32, 3), "float32"))
    assert names(tfc.xnnpack_sparse_layers(model)) == ["block"]


def test_a_shared_layer_comes_once_and_equal_kernels_are_told_apart():
    inputs = keras.Input((32, 32, 3))
    shared = layers.Conv2D(8, 1, name="shared")
    twins = [layers.Conv2D(8, 1, kernel_initializer="ones", name=f"twin_{i}") for i in (1, 2)]
    x = shared(shared(stem(inputs)))
    for twin in twins:
        x = layers.ReLU(6.0)(twin(x))
    model = keras.Model(inputs, head(x))
    assert names(tfc.xnnpack_sparse_layers(model)) == ["shared", "twin_1", "twin_2"]


@pytest.mark.parametrize(
    "model",
    [
        lambda: models.mobilenet((32, 32, 3), 10, alpha=0.1),
        lambda: network(layers.MaxPooling2D()),
        lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]),
    ],
    ids=["asymmetric padding", "pooling", "dense"],
)
def test_a_model_that_does_not_qualify_has_none(model):
    assert tfc.xnnpack_sparse_layers(model()) == []


def test_open_sizes_are_given():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, head(pointwise(stem(inputs))))
    assert len(tfc.xnnpack_sparse_layers(model, input_shapes=(32, 32, 3))) == 1


def test_an_unbuilt_model_is_an_error():
    with pytest.raises(ModelTypeError, match="not built"):
        tfc.xnnpack_sparse_layers(keras.Sequential([layers.Dense(2)]))


def test_weights_stay():
    model = nested()
    before = model.get_weights()
    tfc.xnnpack_sparse_layers(model)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_as_include_of_the_pruner_the_file_is_stored_sparse():
    model = models.mobilenet((32, 32, 3), 4, alpha=0.25, sparse_friendly=True)
    found = tfc.xnnpack_sparse_layers(model)
    pruner = tfc.Pruner(model, tfc.ConstantSparsity(0.8, begin_step=0), include=found)
    pruner.step(0)
    pruner.finish()
    assert {e.name for e in pruner.report.changed} == {layer.name for layer in found}
    assert tfc.convert(model, sparse=True).report.settings["sparse"] is True
