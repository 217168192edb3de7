"""Channel groups: taking out channels whose values are 0 leaves the outputs as they are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from channel_networks import NETWORKS, PARTS, conv, network, silence
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_support import assert_same_outputs, chain, entries, outputs, scramble

import tfcompress as tfc
from tfcompress.report import CompressionReport
from tfcompress.surgery.channels.analysis import UNFORESEEN, Analysis
from tfcompress.surgery.channels.atoms import Kept
from tfcompress.surgery.channels.cost import Cost
from tfcompress.surgery.channels.units import families
from tfcompress.surgery.shrink import without

layers, ops = keras.layers, keras.ops


def remove_some(model, share=0.5, seed=0):
    """Channels of every family silenced, and the model without them."""
    scramble(model, seed)
    found = Analysis(model)
    assert not any(UNFORESEEN in record.barrier for record in found.records.values())
    generator = np.random.default_rng(seed)
    gone = np.zeros(found.classes.max() + 1, bool)
    for family in families(found):
        count = len(family.units)
        chosen = generator.permutation(family.units)[: min(round(share * count), count - 1)]
        gone[chosen] = True
    silence(found, gone)
    smaller = without(model, found, gone, CompressionReport("shrink"))
    cost, real, kept = Cost(model, found), tfc.complexity(smaller), Kept(found.classes, gone)
    assert cost.of("multiply_adds", kept) == real.multiply_adds
    assert cost.of("parameters", kept) == real.parameters
    return smaller, gone


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_silent_channels_are_not_missed(name, seed):
    model = NETWORKS[name]()
    before = tfc.complexity(model)
    smaller, gone = remove_some(model, 0.3 + 0.3 * seed, seed)
    assert gone.any()
    assert tfc.complexity(smaller).parameters < before.parameters
    assert_same_outputs(model, smaller, 1e-5)
    assert {layer.name for layer in smaller._flatten_layers()} == {
        layer.name for layer in model._flatten_layers()
    }


@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=5),
    widths=st.lists(st.sampled_from([2, 4, 6]), min_size=6, max_size=6),
    flat=st.booleans(), several=st.booleans(), share=st.floats(0.2, 0.9), seed=st.integers(0, 99),
)  # fmt: skip
def test_silent_channels_of_random_networks(parts, widths, flat, several, share, seed):
    model = network(parts, widths, flat, several)
    smaller, _ = remove_some(model, share, seed)
    assert_same_outputs(model, smaller, 1e-5)


@pytest.mark.parametrize("shape", [(-1, 64), (-1, 8, 32), (-1, 8, 8, 4)])
def test_a_reshape_of_the_batch_keeps_its_channels(shape):
    """Places or channels folded into the batch: each becomes an example of its own."""
    inputs = keras.Input((8, 8, 3))
    x = conv(16, name="last")(conv(4, name="first")(inputs))
    model = scramble(keras.Model(inputs, layers.Dense(2)(ops.reshape(x, shape))))
    assert not tfc.remove_dead(model).compression_report.changed
    smaller = tfc.shrink(model, 0.3, round_to=1)
    assert smaller.get_layer("first").filters < smaller.get_layer("last").filters == 16
    assert ("left", "it reshapes the batch") in entries(smaller).values()


class Fixed(layers.Conv2D):
    """Its config holds arguments that its `__init__` does not take."""

    def __init__(self, filters, **options):
        super().__init__(filters, 3, padding="same", **options)


class Stubborn(layers.Dense):
    """It has as many units as it likes."""

    def __init__(self, **options):
        super().__init__(**{**options, "units": 8})


class Capped(layers.ReLU):
    def __init__(self, **options):
        super().__init__(6.0, **options)


class Standardised(layers.Conv2D):
    """Weight standardisation: what a channel weighs hangs on all that are read."""

    def convolution_op(self, inputs, kernel):
        mean = ops.mean(kernel, (0, 1, 2), keepdims=True)
        deviation = ops.std(kernel, (0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, (kernel - mean) / (deviation + 1e-5))


class Plain(layers.Conv2D):
    """A subclass that does as its class does."""


def doubled(x):
    """An activation that Keras cannot find again by its name."""
    return 2 * x


SUBCLASSES = {
    "activation": (lambda: conv(8, activation=doubled), "cannot be rebuilt"),
    "fixed": (lambda: Fixed(8), "cannot be rebuilt"),
    "stubborn": (Stubborn, "in another size"),
    "capped": (Capped, "cannot be rebuilt"),
    "standardised": (lambda: Standardised(8, 3, padding="same"), "convolution_op"),
}


def with_dead_channels(made):
    model = scramble(chain((8, 8, 3), conv(12, name="first"), made, conv(8, name="last"), conv(2)))
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., :4], bias[:4] = 0, 0
    model.get_layer("first").set_weights([kernel, bias])
    return model


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_subclasses_that_differ_from_their_class_keep_their_channels(kind):
    make, said = SUBCLASSES[kind]
    model = with_dead_channels(make())
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    exact = tfc.remove_dead(model)
    np.testing.assert_allclose(outputs(exact, x)[0], outputs(model, x)[0], rtol=0, atol=1e-4)
    for smaller in (exact, tfc.shrink(model, 0.2, round_to=1, data=x)):
        assert smaller.get_layer("first").filters == 12
        assert said in entries(smaller)[model.layers[2].name][1]


def test_a_subclass_inside_a_wrapper():
    model = chain(
        (6, 5), layers.Dense(12, name="first"), layers.TimeDistributed(Stubborn(), name="wrapped"),
        layers.Dense(16), layers.Dense(2),
    )  # fmt: skip
    smaller = tfc.shrink(model, 0.3, round_to=1)
    assert smaller.get_layer("first").units == 12
    assert "another size" in entries(smaller)["wrapped"][1]


def test_a_model_inside_a_wrapper_that_may_mix_steps_is_told_what_to_do_with():
    mixing = layers.Lambda(lambda x: x - ops.mean(x, axis=0, keepdims=True))
    cnn = chain((6, 6, 8), conv(8, name="in_it"), mixing, layers.Flatten(), name="cnn")
    model = chain(
        (4, 6, 6, 3), layers.TimeDistributed(conv(8, name="frames")),
        layers.TimeDistributed(cnn, name="held"), layers.LSTM(16, name="lstm"), layers.Dense(2),
    )  # fmt: skip
    smaller = tfc.shrink(model, 0.02, round_to=1)
    assert smaller.get_layer("lstm").units < 16
    told = [e.reason for e in smaller.compression_report.entries if e.name == "held"]
    assert any("not known to be apart" in why for why in told)


def test_a_subclass_that_does_as_its_class_loses_channels():
    smaller = tfc.remove_dead(with_dead_channels(Plain(8, 3, padding="same")))
    assert smaller.get_layer("first").filters == 8


@pytest.mark.parametrize("axis", [1, -1])
def test_concatenation_with_a_constant_keeps_its_channels(axis):
    """As CoordConv does with coordinates."""
    shape = (1, 8, 8, 3) if axis == -1 else (1, 1, 8, 8)
    coordinates = np.linspace(-1, 1, int(np.prod(shape)), dtype="float32").reshape(shape)
    inputs = keras.Input(batch_shape=(1, 8, 8, 3))
    x = conv(8, name="last")(conv(8, name="first")(inputs))
    x = ops.concatenate([x, coordinates], axis=axis)
    model = scramble(keras.Model(inputs, conv(2)(x)))
    dead, bias = model.get_layer("last").get_weights()
    dead[..., :4], bias[:4] = 0, 0
    model.get_layer("last").set_weights([dead, bias])
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    exact = tfc.remove_dead(model)
    np.testing.assert_allclose(outputs(exact, x)[0], outputs(model, x)[0], rtol=0, atol=1e-4)
    smaller = tfc.shrink(model, 0.2, round_to=1)
    assert smaller.get_layer("first").filters < smaller.get_layer("last").filters == 8
    assert ("left", "it joins tensors with constants") in entries(smaller).values()


@pytest.mark.parametrize("kind", ["attention", "grouped", "distributed"])
def test_lora_inside_a_layer_keeps_its_channels(kind):
    inputs = keras.Input((6, 12))
    x = layers.Dense(12, name="first")(layers.Dense(16)(inputs))
    if kind == "distributed":
        inner = layers.Dense(8)
        x = layers.TimeDistributed(inner, name="held")(x)
    elif kind == "grouped":
        layer = layers.GroupQueryAttention(4, 4, 2, name="held")
        x, inner = layer(x, x), layer._query_dense
    else:
        layer = layers.MultiHeadAttention(4, 4, name="held")
        x, inner = layer(x, x), layer._query_dense
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(16)(x)))
    inner.enable_lora(2)
    smaller = tfc.shrink(model, 0.2, round_to=1)
    assert smaller.get_layer("first").units == 12
    told = [e.reason for e in smaller.compression_report.entries if e.name == "held"]
    assert any("LoRA" in why for why in told)


@keras.saving.register_keras_serializable("tests of channels")
class Orthogonal(keras.regularizers.Regularizer):
    """Of matrices of one size, as PointNet's transforms have it."""

    def __call__(self, x):
        x = ops.reshape(x, (-1, 4, 4))
        return ops.sum(ops.square(ops.matmul(x, ops.transpose(x, (0, 2, 1))) - ops.eye(4)))

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable("tests of channels")
class Small(keras.regularizers.Regularizer):
    """Of any size."""

    def __call__(self, x):
        return 1e-3 * ops.sum(ops.square(x))

    def get_config(self):
        return {}


@pytest.mark.parametrize("name", ["activity_regularizer", "kernel_regularizer"])
def test_a_penalty_of_one_size_keeps_its_channels(name):
    def made(penalty, **more):
        inputs = keras.Input((8,))
        x = layers.Dense(16, name="free", **{name: Small()})(inputs)
        x = layers.Dense(16, name="held", **{name: penalty})(x)
        return scramble(keras.Model(inputs, layers.Dense(2)(layers.Dense(16)(x))))

    smaller = tfc.shrink(made(Orthogonal()), 0.1, round_to=1)
    assert smaller.get_layer("held").units == 16
    assert "Orthogonal takes one size alone" in entries(smaller)["held"][1]
    assert np.isfinite(float(sum(smaller.losses)))
    assert tfc.shrink(made(Small()), 0.4, round_to=1).get_layer("held").units < 16


@pytest.mark.parametrize("activation", [ops.relu, ops.gelu, tf.nn.relu, tf.nn.leaky_relu, ops.tanh])
def test_activations_of_other_modules(activation):
    """`ops.gelu`, the approximate one, is called as Keras's exact one is."""
    model = chain(
        (8, 8, 3), conv(8, activation=activation, name="last"), layers.Activation(activation),
        layers.Conv2D(6, 1, activation=activation), layers.BatchNormalization(), conv(2),
    )  # fmt: skip
    model = scramble(model)
    kernel, bias = model.get_layer("last").get_weights()
    kernel[..., :4], bias[:4] = 0, 0
    model.get_layer("last").set_weights([kernel, bias])
    smaller = tfc.remove_dead(model)
    assert smaller.get_layer("last").filters == 4
    assert_same_outputs(model, smaller, 3e-6)
    assert tfc.shrink(model, 0.4, round_to=1).get_layer("last").filters < 8
    for other in (tfc.fold_batchnorm(model), tfc.factorize(model, energy=1.0)):
        assert_same_outputs(model, other, 3e-6)
