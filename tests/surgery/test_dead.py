"""`tfc.remove_dead`: channels that make no difference go, and the outputs stay."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from channel_networks import NETWORKS, PARTS, bn_relu, conv, network, silence
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_support import assert_same_outputs, chain, entries, left_alone, scramble

import tfcompress as tfc
from tfcompress.errors import ModelTypeError
from tfcompress.surgery.channels.analysis import Analysis
from tfcompress.surgery.channels.units import families

layers, ops = keras.layers, keras.ops


def widths(model):
    return {e.name: e.details.get("channels") for e in model.compression_report.changed}


def same_and_smaller(model, tolerance=1e-5):
    with left_alone(model):
        smaller = tfc.remove_dead(model)
    assert_same_outputs(model, smaller, tolerance)
    return smaller


def silence_some(model, seed=0):
    scramble(model, seed)
    found = Analysis(model)
    generator = np.random.default_rng(seed)
    gone = np.zeros(found.classes.max() + 1, bool)
    for family in families(found):
        gone[generator.permutation(family.units)[: len(family.units) // 2]] = True
    silence(found, gone)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"recurrent", "wrapped", "filmed"}))
def test_silent_channels_go(name):
    model = NETWORKS[name]()
    silence_some(model)
    smaller = same_and_smaller(model)
    assert tfc.complexity(smaller).parameters < tfc.complexity(model).parameters


@settings(max_examples=12, deadline=None)
@given(
    parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=4),
    widths=st.lists(st.sampled_from([2, 4, 6]), min_size=6, max_size=6),
    flat=st.booleans(), several=st.booleans(), share=st.floats(0.1, 0.9), seed=st.integers(0, 99),
)  # fmt: skip
def test_random_zeros_in_random_networks(parts, widths, flat, several, share, seed):
    """Zeros where they fall: scales, filters and what is read, with constants behind them."""
    model = scramble(network(parts, widths, flat, several), seed)
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        value = np.array(variable)
        if variable.ndim > 1:
            value[..., generator.random(value.shape[-1]) < share] = 0
            value[..., generator.random(value.shape[-2]) < share / 2, :] = 0
        elif "gamma" in variable.path:
            value[generator.random(value.shape) < share] = 0
        variable.assign(value)
    same_and_smaller(model)


def test_constants_go_into_the_next_bias():
    model = scramble(chain(
        (9, 9, 3), layers.Conv2D(6, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
        layers.DepthwiseConv2D(2), layers.AveragePooling2D(2), layers.Conv2D(5, 2, use_bias=False),
        layers.Flatten(), layers.Dense(4, activation="tanh"), layers.Dense(2),
    ))  # fmt: skip
    gamma, beta = np.ones(6), np.linspace(-1, 1, 6)
    gamma[[0, 3, 4]] = 0  # constants: 0 behind the ReLU, and two above it
    model.layers[2].gamma.assign(gamma)
    model.layers[2].beta.assign(beta)
    smaller = same_and_smaller(model)
    assert smaller.layers[1].filters == 3
    assert smaller.layers[6].use_bias
    assert widths(smaller)[model.layers[1].name] == "6 -> 3"


def test_padding_keeps_constants_that_are_not_0():
    model = scramble(chain((6, 6, 3), conv(6), layers.BatchNormalization(), layers.ReLU(), conv(2)))
    gamma, beta = np.ones(6), np.full(6, 0.5)
    gamma[:3], beta[0] = 0, -0.5
    model.layers[2].gamma.assign(gamma)
    model.layers[2].beta.assign(beta)
    smaller = same_and_smaller(model)
    assert smaller.layers[1].filters == 5
    assert any("pads with" in note for note in smaller.compression_report.notes)


def test_what_only_fed_the_dead_goes_too():
    model = scramble(chain((6, 6, 3), conv(6), bn_relu, conv(5), layers.ReLU(), conv(2)))
    kernel = np.array(model.layers[-1].kernel)
    kernel[:, :, 1:] = 0
    model.layers[-1].kernel.assign(kernel)
    first = np.array(model.layers[-3].kernel)
    first[:, :, 2:, 0] = 0
    model.layers[-3].kernel.assign(first)
    smaller = same_and_smaller(model)
    assert [layer.filters for layer in smaller.layers if hasattr(layer, "filters")] == [2, 1, 2]


def test_a_layer_of_only_dead_channels_keeps_one():
    model = scramble(chain((6, 6, 3), conv(4), layers.ReLU(), conv(2)))
    model.layers[1].kernel.assign(np.zeros((3, 3, 3, 4)))
    model.layers[1].bias.assign(-np.ones(4))
    smaller = same_and_smaller(model)
    assert smaller.layers[1].filters == 1


def test_a_residual_channel_stays_while_one_of_its_makers_lives():
    inputs = keras.Input((6, 6, 3))
    x = conv(6)(inputs)
    y = conv(6)(layers.ReLU()(x))
    model = scramble(keras.Model(inputs, conv(2)(layers.ReLU()(x + y))))
    kernel = np.array(model.layers[1].kernel)
    kernel[..., :3] = 0
    model.layers[1].kernel.assign(kernel)
    assert same_and_smaller(model).layers[1].filters == 6


def test_nothing_dead():
    model = scramble(NETWORKS["residual"]())
    smaller = same_and_smaller(model)
    assert not smaller.compression_report.changed
    assert tfc.complexity(smaller).parameters == tfc.complexity(model).parameters


def test_normalisation_over_channels_keeps_them():
    model = scramble(chain((6, 5), layers.Dense(8), layers.LayerNormalization(), layers.Dense(2)))
    kernel, bias = np.array(model.layers[1].kernel), np.array(model.layers[1].bias)
    kernel[:, :4], bias[:4] = 0, 0
    model.layers[1].set_weights([kernel, bias])
    assert same_and_smaller(model).layers[1].units == 8


def dead_first(layer):
    """The first channel of a layer is 0, whatever it reads."""
    kernel, bias = np.array(layer.kernel), np.array(layer.bias)
    kernel[..., 0], bias[0] = 0, 0
    layer.set_weights([kernel, bias])


@pytest.mark.parametrize("dead", ["a", "b", "ab"])
def test_concatenation_of_rows_with_other_constants(dead):
    """Joined along another axis than channels, one is constant only if it is in all parts."""
    inputs = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(4, 3, name="a")(inputs), layers.Conv2D(4, 3, name="b")(inputs)
    joined = layers.Concatenate(axis=1)([a, b])
    model = scramble(keras.Model(inputs, layers.Conv2D(2, 3)(joined)))
    for name in dead:
        dead_first(model.get_layer(name))
    assert same_and_smaller(model).get_layer("a").filters == (3 if dead == "ab" else 4)


@pytest.mark.parametrize("dead", [[3], [11], [3, 11]])
def test_channels_that_a_reshape_parts(dead):
    """The same place in two heads is one channel behind it: constant only if both are."""
    inputs = keras.Input((5,))
    x = layers.Dense(16, name="both")(inputs)
    x = layers.Dense(3)(layers.Reshape((2, 8))(x))
    model = scramble(keras.Model(inputs, x))
    kernel, bias = model.get_layer("both").get_weights()
    kernel[:, dead], bias[dead] = 0, 0
    model.get_layer("both").set_weights([kernel, bias])
    assert same_and_smaller(model).get_layer("both").units == (14 if len(dead) == 2 else 16)


@pytest.mark.parametrize("value", [None, 0.0, 1.0])
def test_padding_with_a_value(value):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)
    model = scramble(keras.Model(inputs, layers.Conv2D(2, 3)(x)))
    dead_first(model.get_layer("conv"))
    assert same_and_smaller(model).get_layer("conv").filters == (4 if value else 3)


@pytest.mark.parametrize("fill", [0.0, 1.0])
@pytest.mark.parametrize("as_layer", [True, False])
def test_resizing_with_a_border(as_layer, fill):
    inputs = keras.Input((8, 6, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    options = {"pad_to_aspect_ratio": True, "fill_value": fill}
    x = layers.Resizing(9, 9, **options)(x) if as_layer else ops.image.resize(x, (9, 9), **options)
    model = scramble(keras.Model(inputs, layers.Conv2D(2, 3)(x)))
    dead_first(model.get_layer("conv"))
    assert same_and_smaller(model).get_layer("conv").filters == (4 if fill else 3)


class Table(layers.Layer):
    """It cannot be made from its config."""

    def __init__(self, table):
        super().__init__(name="table")
        self.table = self.add_weight(shape=(2, 2), initializer=lambda *_, **__: table)

    def call(self, x):
        return x @ self.table


class Branching(keras.Model):
    """Its own `__init__` makes its layers."""

    def __init__(self):
        inputs = keras.Input((6, 6, 3))
        x = layers.ReLU()(conv(4, name="constant")(inputs))
        x = layers.ReLU()(conv(4, name="first")(x))
        x = layers.ReLU()(conv(4, name="alive")(conv(4, name="second")(x)))
        y = layers.Softmax(name="softmax")(conv(4, name="before softmax")(x))
        y = layers.GlobalAveragePooling2D()(conv(2, name="before table")(y))
        x = conv(2, name="last")(conv(4, 1, name="constant too")(x))
        super().__init__(inputs, [Table(np.eye(2, dtype="float32"))(y), x])


def test_the_report_over_several_turns():
    """What only fed the dead goes in the second turn; the report tells of both, and of the rest."""
    model = scramble(Branching())
    for name in ("constant", "constant too"):
        dead_first(model.get_layer(name))
    kernel = np.array(model.get_layer("second").kernel)
    kernel[:, :, 0] = 0
    model.get_layer("second").kernel.assign(kernel)
    smaller = same_and_smaller(model)
    told = entries(smaller)
    assert widths(smaller) == dict.fromkeys(("constant", "first", "constant too"), "4 -> 3")
    assert told["alive"] == told["second"] == ("left", "none of its channels is dead")
    assert "Softmax looks across channels" in told["softmax"][1]
    assert "keeps all of its own" in told["before softmax"][1]
    assert "reach an output" in told["last"][1]
    assert "both models share it" in told["table"][1]
    (note,) = smaller.compression_report.notes
    assert "no longer a Branching" in note


@pytest.mark.parametrize("reduce", [ops.mean, ops.max, ops.min, ops.sum, ops.var])
def test_constants_behind_means_over_places(reduce):
    inputs = keras.Input((8, 8, 3))
    x = layers.Activation("sigmoid")(layers.Conv2D(4, 3, name="conv")(inputs))
    model = scramble(keras.Model(inputs, layers.Dense(2)(reduce(x, axis=(1, 2)))))
    dead_first(model.get_layer("conv"))
    smaller = same_and_smaller(model)
    taken = reduce in (ops.mean, ops.max, ops.min)
    assert smaller.get_layer("conv").filters == (3 if taken else 4)


@pytest.mark.parametrize(
    "reduce", [ops.sum, ops.norm, ops.mean, ops.max, ops.std, ops.median, ops.logsumexp, ops.prod]
)
def test_zeros_in_sums_over_channels(reduce):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = reduce(x, axis=-1, keepdims=True)
    model = scramble(keras.Model(inputs, layers.Conv2D(2, 3)(x)))
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., 0] = bias[0] = 0
    model.get_layer("conv").set_weights([kernel, bias])
    smaller = same_and_smaller(model)
    assert smaller.get_layer("conv").filters == (3 if reduce in (ops.sum, ops.norm) else 4)
    if reduce in (ops.logsumexp, ops.prod):
        assert any("looks across channels" in why for _, why in entries(smaller).values())
    else:
        assert tfc.shrink(model, 0.25, round_to=1).get_layer("conv").filters == 3


def test_a_norm_that_looks_for_the_smallest():
    inputs = keras.Input((4,))
    x = ops.norm(layers.Dense(5, name="dense")(inputs), ord=np.int64(-1), axis=-1)
    model = scramble(keras.Model(inputs, x))
    dead_first(model.get_layer("dense"))
    same_and_smaller(model)


def test_a_maximum_that_begins_higher():
    inputs = keras.Input((8, 8, 3))
    x = ops.max(layers.Conv2D(4, 3, name="conv")(inputs), axis=(1, 2), initial=2.0)
    model = scramble(keras.Model(inputs, layers.Dense(2)(x)))
    dead_first(model.get_layer("conv"))
    same_and_smaller(model)


def test_what_only_zeros_read_behind_a_mean_goes():
    inputs = keras.Input((8, 8, 3))
    x = ops.mean(layers.Conv2D(4, 3, name="conv")(inputs), axis=(1, 2))
    model = scramble(keras.Model(inputs, layers.Dense(2, name="dense")(x)))
    kernel = np.array(model.get_layer("dense").kernel)
    kernel[1:3] = 0
    model.get_layer("dense").kernel.assign(kernel)
    assert same_and_smaller(model).get_layer("conv").filters == 2


def test_not_a_model():
    with pytest.raises(ModelTypeError):
        tfc.remove_dead(3)


def test_the_report_of_what_is_not_looked_into():
    wrapped = layers.TimeDistributed(layers.Dense(8, activation="relu", name="inside"), name="td")
    model = scramble(
        chain((5, 6), layers.Dense(6, name="feeds"), wrapped, layers.LSTM(4, name="lstm"),
              layers.Dense(2))
    )  # fmt: skip
    for layer in (wrapped.layer, model.get_layer("feeds")):
        kernel, bias = layer.get_weights()
        kernel[:, :4], bias[:4] = 0, -1
        layer.set_weights([kernel, bias])
    told = entries(tfc.remove_dead(model))
    assert "inside another layer" in told["td/inside"][1]
    assert told["feeds"][1].startswith("4 of its channels are constant")
    assert "read each other" in told["lstm"][1]


@pytest.mark.parametrize(
    "after",
    [
        lambda x: layers.PReLU(shared_axes=[1, 2])(x),
        lambda x: ops.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)), mode="reflect"),
        lambda x: ops.pad(x + 1.5, ((0, 0), (1, 1), (2, 2), (0, 0)), mode="symmetric"),
        lambda x: layers.UnitNormalization()(x),
        lambda x: ops.normalize(x, axis=-1),
        lambda x: ops.tile(x, (1, 1, 2, 1)),
    ],
)
def test_channels_of_zeros_behind(after):
    inputs = keras.Input((8, 8, 3))
    first = layers.Conv2D(8, 3, use_bias=False)
    x = layers.Conv2D(6, 3)(after(first(inputs)))
    model = scramble(keras.Model(inputs, layers.Conv2D(2, 1)(layers.ReLU()(x))))
    kernel = np.array(first.kernel)
    kernel[..., 1::2] = 0
    first.kernel.assign(kernel)
    assert widths(same_and_smaller(model))[first.name] == "8 -> 4"


def test_what_nothing_reads_goes():
    """Channels behind a slice, or a part of a split that is left lying: all but one."""
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(conv(8, name="sliced")(inputs))
    x = conv(9, activation="relu", name="parted")(x[..., 2:6])
    model = scramble(keras.Model(inputs, conv(2)(ops.split(x, 3, axis=-1)[1])))
    smaller = same_and_smaller(model)
    assert widths(smaller) == {"sliced": "8 -> 5", "parted": "9 -> 5"}


@pytest.mark.parametrize("shape", [(1, 8, 32), (8, 32), (32,), (1, 8, 1), (1, 1, 32)])
def test_constants_along_channels_follow_them(shape):
    """As tables of positions: what is cut of them is what nothing reads any more."""
    table = np.random.default_rng(0).normal(size=shape).astype("float32")
    inputs = keras.Input((8, 5))
    x = layers.Dense(32, activation="relu", name="first")(inputs) + table
    x = ops.where(x > 0.2, x, table * np.ones((1, 8, 32), "float32"))
    inner = keras.Input((8, 32))
    last = layers.Dense(3)
    model = scramble(keras.Model(inputs, last(keras.Model(inner, ops.multiply(table, inner))(x))))
    kernel = np.array(last.kernel)
    kernel[::2] = 0
    last.kernel.assign(kernel)
    smaller = same_and_smaller(model)
    assert widths(smaller) == {"first": "32 -> 16"}
    assert tfc.shrink(model, 0.3).get_layer("first").units < 32


def test_a_layer_that_uses_the_table_of_another_goes_on_doing_so():
    tokens = keras.Input((8,), dtype="int32")
    table = layers.Embedding(50, 16)
    x = layers.Dense(16)(layers.Dense(32, activation="relu", name="free")(table(tokens)))
    model = scramble(keras.Model(tokens, Tied(table)(x)))
    ids = np.random.default_rng(0).integers(0, 50, (4, 8))
    assert model.count_params() == 50 * 16 + 2 * 16 * 32 + 16 + 32
    for same in (tfc.remove_dead(model), tfc.fold_batchnorm(model)):
        assert same.count_params() == model.count_params()
        np.testing.assert_array_equal(np.asarray(same(ids)), np.asarray(model(ids)))
    smaller = tfc.shrink(model, 0.3, target="parameters", round_to=1)
    reached = 1 - smaller.count_params() / model.count_params()
    assert reached == pytest.approx(0.3, abs=0.02)
    assert "shares weights with" in entries(smaller)[table.name][1]


@keras.saving.register_keras_serializable("tests of dead channels")
class Tied(layers.Layer):
    def __init__(self, table, **options):
        super().__init__(**options)
        self.table = table

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.table.embeddings))

    def get_config(self):
        return {**super().get_config(), "table": keras.saving.serialize_keras_object(self.table)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "table": keras.saving.deserialize_keras_object(config["table"])})


@pytest.mark.parametrize("sequential", [True, False])
def test_masks_go_into_nested_models(sequential):
    parts = [layers.LSTM(16, name="lstm"), layers.Dense(3)]
    inner = (
        keras.Sequential([keras.Input((8, 16)), *parts]) if sequential else chain((8, 16), *parts)
    )
    tokens = keras.Input((8,), dtype="int32")
    model = scramble(keras.Model(tokens, inner(layers.Embedding(50, 16, mask_zero=True)(tokens))))
    ids = np.random.default_rng(0).integers(0, 3, (4, 8))
    smaller = tfc.shrink(model, 0.3, round_to=1, data=ids)
    assert tfc.complexity(smaller).multiply_adds < 0.75 * tfc.complexity(model).multiply_adds
    assert np.asarray(smaller(ids)).shape == (4, 3)
    for same in (
        tfc.remove_dead(model),
        tfc.fold_batchnorm(model),
        tfc.factorize(model, energy=1.0),
    ):
        np.testing.assert_allclose(np.asarray(same(ids)), np.asarray(model(ids)), atol=1e-5)
