"""`tfc.shrink`: the share that was asked for, on networks that train, save, load and convert."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from channel_networks import NETWORKS, bn_relu, conv
from surgery_support import (
    assert_same_outputs,
    assert_trains_saves_converts,
    chain,
    entries,
    examples,
    outputs,
    scramble,
)

import tfcompress as tfc
from tfcompress.errors import ConfigError, DataError, ModelTypeError, ScopeError

layers, ops = keras.layers, keras.ops


def network(width=24):
    inputs = keras.Input((12, 12, 3))
    plain = {"use_bias": False}
    x = bn_relu(conv(width, **plain)(inputs))
    y = bn_relu(conv(2 * width, **plain)(x))
    x = layers.Add()([x, bn_relu(conv(width, **plain)(y))])
    x = layers.Concatenate()([x, bn_relu(conv(width, 1, **plain)(x))])
    x = bn_relu(layers.DepthwiseConv2D(3, strides=2, **plain)(x))
    x = layers.Flatten()(conv(width, 1, activation="relu")(x))
    return scramble(keras.Model(inputs, layers.Dense(5)(x)))


def saved(model, smaller, target="multiply_adds"):
    return 1 - getattr(tfc.complexity(smaller), target) / getattr(tfc.complexity(model), target)


def widths(model):
    return [
        getattr(layer, "filters", None) or layer.units
        for layer in model._flatten_layers()
        if hasattr(layer, "filters") or hasattr(layer, "units")
    ]


@pytest.mark.parametrize("pooling", ["global", "layer"])
@pytest.mark.parametrize("target", ["multiply_adds", "parameters"])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_the_share_that_was_asked_for(ratio, target, pooling):
    model = network()
    before = [np.array(v) for v in model.weights]
    smaller = tfc.shrink(model, ratio, target=target, pooling=pooling, round_to=2)
    assert abs(saved(model, smaller, target) - ratio) < 0.04
    reached = smaller.compression_report.settings["reached"]
    assert reached == pytest.approx(saved(model, smaller, target), abs=1e-4)
    for one, two in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("round_to", [1, 8, 16])
def test_widths_are_multiples(round_to):
    smaller = tfc.shrink(network(64), 0.5, round_to=round_to)
    assert all(width % round_to == 0 for width in widths(smaller)[:-1])
    assert abs(saved(network(64), smaller) - 0.5) < 0.05


@pytest.mark.parametrize("ratio", [0.02, 0.03, 0.05, 0.08, 0.1, 0.12])
def test_live_channels_stay_while_silent_ones_come_close(ratio):
    """The gate's four neurons cost next to nothing: they are not given away for half a point."""
    inputs = keras.Input((8, 8, 3))
    x = conv(12, name="conv", activation="relu")(inputs)
    gate = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x))
    gate = layers.Dense(12, activation="sigmoid", name="gate")(gate)
    model = scramble(keras.Model(inputs, conv(6)(x * layers.Reshape((1, 1, 12))(gate))))
    for name in ("conv", "gate"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[..., :3], bias[:3] = 0, 0
        model.get_layer(name).set_weights([kernel, bias])
    assert_same_outputs(model, tfc.shrink(model, ratio, round_to=1), 1e-5)


def test_grouped_widths_are_multiples_too():
    model = chain(
        (8, 8, 3), conv(64), conv(64, groups=4), layers.GroupNormalization(4), conv(96), conv(4)
    )
    smaller = tfc.shrink(model, 0.5)
    for layer in smaller.layers[1:-1]:
        assert getattr(layer, "filters", 8) % 8 == 0
    assert abs(saved(model, smaller) - 0.5) < 0.05


IMPORTANCES = {
    "magnitude": "magnitude", "magnitude_l1": "magnitude_l1", "bn_gamma": "bn_gamma",
    "taylor": "taylor",
    "activation": "activation", "geometric_median": "geometric_median", "random": "random",
    "function": lambda filters: np.abs(filters).max(1),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPORTANCES)
def test_every_importance_tells_noise_from_signal(name):
    """Half of the channels are all but silent; each importance but chance takes those."""
    model = chain(
        (8, 8, 3), conv(16), layers.BatchNormalization(), layers.ReLU(),
        conv(16), layers.BatchNormalization(), layers.ReLU(),
        layers.GlobalAveragePooling2D(), layers.Dense(3),
    )  # fmt: skip
    scramble(model)
    quiet = np.arange(16) % 2 == 1
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            layer.set_weights([w * np.where(quiet, 1e-3, 1.0) for w in layer.get_weights()])
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros(16))
            layer.moving_variance.assign(np.ones(16))
            layer.beta.assign(np.where(quiet, 0.0, 0.3))
            layer.gamma.assign(np.where(quiet, 1e-3, 1.0))
    x = examples(model, 40)
    y = np.random.default_rng(0).normal(size=(40, 3))
    smaller = tfc.shrink(
        model, 0.7, importance=IMPORTANCES[name], data=(x, y), loss="mse", round_to=4,
        pooling="layer",
    )  # fmt: skip
    assert widths(smaller) == [8, 8, 3]
    if name != "random":
        np.testing.assert_array_equal(
            np.array(smaller.layers[1].kernel), np.array(model.layers[1].kernel)[..., ~quiet]
        )
        np.testing.assert_array_equal(
            np.array(smaller.layers[-1].kernel), np.array(model.layers[-1].kernel)[~quiet]
        )


@pytest.mark.parametrize("name", ["magnitude", "magnitude_l1"])
def test_the_two_norms_differ_where_few_weights_are_large(name):
    """One weight of 2 has the larger L2 norm, nine of 0.5 have the larger L1 norm."""
    model = chain((8, 8, 1), conv(8, name="first"), conv(2))
    kernel = np.zeros((3, 3, 1, 8), "float32")
    kernel[..., :4], kernel[1, 1, 0, 4:] = 0.5, 2.0
    model.get_layer("first").kernel.assign(kernel)
    left = tfc.shrink(model, 0.5, importance=name, round_to=4).get_layer("first").kernel
    np.testing.assert_array_equal(left, kernel[..., :4] if "l1" in name else kernel[..., 4:])


@pytest.mark.parametrize("sequential", [False, True])
def test_taylor_takes_the_loss_that_the_model_is_compiled_with(sequential):
    model = NETWORKS["sequential"]() if sequential else network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = (examples(model, 8), np.arange(8) % 3)
    assert saved(model, tfc.shrink(model, 0.3, importance="taylor", data=data, round_to=1)) > 0.25


def redundant():
    """Two convolutions of 16 channels, of which twelve of the first hardly count."""
    model = chain((8, 8, 3), conv(16), layers.ReLU(), conv(16), layers.ReLU(), conv(4))
    scramble(model)
    kernel = np.array(model.layers[1].kernel)
    kernel[..., 4:] *= 1e-3
    model.layers[1].kernel.assign(kernel)
    return model


def test_a_floor_keeps_its_share_of_every_layer():
    model = redundant()
    first, second, _ = widths(tfc.shrink(model, 0.5, round_to=1, floor=0.6))
    assert 10 <= first <= second
    with pytest.raises(ConfigError, match="or the floor"):
        tfc.shrink(model, 0.9, round_to=1, floor=0.6)


def test_channels_without_batchnorm_stay_under_bn_gamma():
    model = chain((8, 8, 3), conv(16), layers.BatchNormalization(), conv(16), conv(4))
    smaller = tfc.shrink(model, 0.3, importance="bn_gamma", round_to=1)
    assert widths(smaller)[1:] == [16, 4]


def test_global_pooling_takes_more_from_redundant_layers():
    model = redundant()
    smaller = tfc.shrink(model, 0.5, round_to=1)
    first, second, _ = widths(smaller)
    assert first < 8 < second


@pytest.mark.parametrize("name", NETWORKS)
def test_every_graph_shape(name, tmp_path):
    model = scramble(NETWORKS[name]())
    smaller = tfc.shrink(model, 0.4, round_to=1)
    assert abs(saved(model, smaller) - 0.4) < 0.15  # few channels: coarse steps
    x = examples(smaller)
    smaller.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one, two in zip(outputs(smaller, x), outputs(loaded, x), strict=True):
        np.testing.assert_array_equal(one, two)


def test_trains_saves_converts(tmp_path):
    assert_trains_saves_converts(tfc.shrink(network(), 0.5, round_to=2), tmp_path)


@pytest.mark.parametrize("name", ["attention", "split"])
def test_converts(name):
    smaller = tfc.shrink(scramble(NETWORKS[name]()), 0.5, round_to=1)
    x = examples(smaller)
    expected = np.asarray(smaller(x, training=False))
    found = tfc.convert(smaller).predict(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


APPLICATIONS = ("MobileNetV2", "ResNet50V2", "EfficientNetB0")


@pytest.mark.parametrize("name", APPLICATIONS)
def test_known_networks(name):
    model = getattr(keras.applications, name)(input_shape=(32, 32, 3), weights=None, classes=10)
    smaller = tfc.shrink(model, 0.5)
    assert abs(saved(model, smaller) - 0.5) < 0.02
    assert np.isfinite(smaller(np.ones((1, 32, 32, 3)), training=False)).all()


def test_a_transformer_with_embeddings_and_norms(tmp_path):
    inputs = keras.Input((10,), dtype="int32")
    places = ops.cumsum(ops.ones_like(inputs), axis=1) - 1
    x = layers.Embedding(50, 32)(inputs) + layers.Embedding(10, 32)(places)
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
        y = layers.Dense(32)(layers.Dropout(0.1)(layers.Dense(64, activation="gelu")(x)))
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    outputs = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling1D()(x))
    model = scramble(keras.Model(inputs, outputs))
    smaller = tfc.shrink(model, 0.5, round_to=4)
    assert abs(saved(model, smaller) - 0.5) < 0.05
    told = {e.kind: e.details for e in smaller.compression_report.changed}
    assert {"Embedding", "MultiHeadAttention", "Dense"} <= set(told)
    smaller.save(tmp_path / "model.keras")
    x = np.arange(30).reshape(3, 10)
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), smaller(x))


def test_barriers_are_told_and_keep_their_channels():
    class Mixing(layers.Layer):
        def call(self, x):
            return ops.flip(x, -1)

    class OwnDense(layers.Dense):
        def call(self, x):
            return super().call(x[..., ::-1])

    inputs = keras.Input((8, 8, 3))
    x = conv(16, name="free")(inputs)
    x = conv(16, name="before")(x)
    x = conv(16, name="after")(Mixing(name="mixing")(x))
    x = OwnDense(8, name="own")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    smaller = tfc.shrink(model, 0.25)
    told = entries(smaller)
    assert told["free"][0] == "shrunk"
    assert told["mixing"] == ("left", "what Mixing does to single channels is not known")
    assert "call() of its own" in told["own"][1]
    assert told["before"][0] == told["after"][0] == told["last"][0] == "left"
    assert "which keeps all of its own" in told["before"][1]


def test_include_and_exclude():
    model = chain(
        (8, 8, 3), conv(16, name="a"), layers.ReLU(), conv(16, name="b"), conv(16, name="c"),
        conv(2, name="d"),
    )  # fmt: skip
    assert widths(tfc.shrink(model, 0.3, include="a", round_to=1))[1:] == [16, 16, 2]
    smaller = tfc.shrink(model, 0.3, exclude=["b"], round_to=1)
    assert widths(smaller)[1] == 16
    assert entries(smaller)["b"] == ("left", "excluded")
    with pytest.raises(ScopeError):
        tfc.shrink(model, 0.3, include="nothing")


def test_flags_and_seeds_stay():
    model = chain((8, 8, 3), conv(16), layers.Dropout(0.5, seed=3), conv(16), conv(2))
    model.layers[1].trainable = False
    smaller = tfc.shrink(model, 0.4, round_to=1)
    assert not smaller.layers[1].trainable and smaller.layers[3].trainable
    assert smaller.layers[2].seed == 3


def test_open_sizes():
    inputs = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(bn_relu(conv(32)(bn_relu(conv(32)(inputs)))))
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert abs(saved(model, tfc.shrink(model, 0.5)) - 0.5) < 0.1


def test_latency_is_measured_on_files(monkeypatch):
    """Sizes of files stand for times: what is measured, and how often, is the same."""
    from tfcompress.deploy import benchmark, latency_report

    measured = []

    def fake(paths, *, runs):
        measured.append(runs)
        sizes = [path.stat().st_size for path in paths]
        rows = [latency_report.BenchmarkRow("", "", 1, n, n, n, 0, 0, 1) for n in sizes]
        return latency_report.BenchmarkReport(rows)

    monkeypatch.setattr(benchmark, "benchmark", fake)
    model = chain((8,), *(layers.Dense(64, activation="relu") for _ in range(3)), layers.Dense(2))
    smaller = tfc.shrink(model, 0.5, target="latency")
    assert 0.3 < smaller.compression_report.settings["reached"] < 0.7
    assert abs(saved(model, smaller, "parameters") - 0.5) < 0.2
    assert 1 < len(measured) < 15


BAD = {
    "ratio": {"ratio": None}, "ratio of all": {"ratio": 1.0}, "ratio bool": {"ratio": True},
    "target": {"target": "energy"}, "importance": {"importance": "luck"},
    "importance class": {"importance": int}, "round_to": {"round_to": 0},
    "round_to float": {"round_to": 2.5}, "pooling": {"pooling": "erk"},
    "floor": {"floor": 1.0}, "floor text": {"floor": "half"},
    "shape of scores": {"importance": lambda filters: filters},
    "NaN": {"importance": lambda filters: np.full(len(filters), np.nan)},
    "too much": {"ratio": 0.99, "round_to": 16},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    with pytest.raises(ConfigError, match="Received"):
        tfc.shrink(network(), **{"ratio": 0.5, **BAD[name]})


def test_bad_data():
    model = network()
    for importance in ("taylor", "activation"):
        with pytest.raises(DataError, match="Received"):
            tfc.shrink(model, 0.5, importance=importance)
        with pytest.raises(DataError, match="Received"):
            data = (np.zeros((4, 5)), np.zeros(4))
            tfc.shrink(model, 0.5, importance=importance, data=data, loss="mse")
    with pytest.raises(ConfigError, match="loss"):
        tfc.shrink(model, 0.5, importance="taylor", data=(examples(model), np.zeros(3)))


def test_bad_models():
    class Own(keras.Model):
        def call(self, x):
            return x

    for model in (3, Own(), keras.Sequential([layers.Dense(3)])):
        with pytest.raises(ModelTypeError):
            tfc.shrink(model, 0.5)


def test_taylor_takes_what_costs_most_for_what_it_is_worth():
    """Two branches that are worth the same; one has 16 times the pixels."""
    inputs = keras.Input((16, 16, 3))
    fine = layers.Conv2D(16, 3, padding="same", activation="relu", name="fine")(inputs)
    coarse = layers.AveragePooling2D(4)(inputs)
    coarse = layers.Conv2D(16, 3, padding="same", activation="relu", name="coarse")(coarse)
    both = [layers.GlobalAveragePooling2D()(x) for x in (fine, coarse)]
    head = layers.Dense(2, name="head")(layers.Concatenate()(both))
    model = scramble(keras.Model(inputs, head))
    x = examples(model, 64)
    options = {"importance": "taylor", "data": (x, np.ones((64, 2))), "loss": "mse", "round_to": 1}
    work, size = (
        {n: smaller.get_layer(n).filters for n in ("fine", "coarse")}
        for smaller in (
            tfc.shrink(model, 0.4, target=target, restore=False, **options)
            for target in ("multiply_adds", "parameters")
        )
    )
    assert work["fine"] < size["fine"] and work["coarse"] > size["coarse"]


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_whole_heads_of_attention_that_is_written_out(positions):
    """A head whose values are 0 adds nothing: it goes, and the outputs stay."""
    keras.utils.set_random_seed(0)
    sizes = {"width": 24, "heads": 3, "blocks": 2, "dropout": 0.0, "positions": positions}
    model = tfc.models.bert_encoder(30, 8, 3, **sizes)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0.1, 0.4, w.shape) for w in model.get_weights()])
    for part in ("query", "key", "value"):
        layer = model.get_layer(f"block_1_attention_{part}")
        layer.set_weights([w * np.repeat([1.0, 0.0, 1.0], 8) for w in layer.get_weights()])
    smaller = tfc.shrink(model, 0.08, include="block_1_attention_*", whole_heads=True)
    units = [smaller.get_layer(f"block_1_attention_{p}").units for p in ("query", "key", "value")]
    assert units == [16, 16, 16]
    assert smaller.get_layer("block_1_attention_value_split").target_shape == (8, 2, 8)
    assert smaller.get_layer("block_2_attention_value").units == 24
    tokens = rng.integers(1, 30, (5, 8))
    np.testing.assert_allclose(smaller(tokens), model(tokens), atol=1e-5)
    if positions == "learned":
        return
    qmodel = tfc.quantize_aware(smaller, "int8-matmul", calibration_data=tokens)
    given = tfc.convert(qmodel, "int8-matmul").predict(tokens)
    # The softmax is float, of which each library rounds the last bit in its own way.
    np.testing.assert_allclose(given, qmodel.predict(tokens, verbose=0), rtol=1e-6)


def test_a_layer_called_alone_and_in_a_wrapper_stays():
    shared = layers.Dense(8, name="shared")
    steps, single = keras.Input((5, 8)), keras.Input((8,))
    alone = layers.BatchNormalization()(shared(layers.Dense(8)(single)))
    wrapped = layers.TimeDistributed(shared, name="time_distributed")(layers.Dense(8)(steps))
    both = layers.GlobalAveragePooling1D()(wrapped) + alone
    model = scramble(keras.Model([steps, single], layers.Dense(3)(layers.Dense(16)(both))))
    smaller = tfc.shrink(model, 0.1, round_to=1)
    assert smaller.get_layer("shared").units == 8
    assert entries(smaller)["shared"][1] == "it shares weights with 'time_distributed'"
    assert outputs(smaller, examples(smaller))[0].shape == (3, 3)


class Unforeseen(keras.layers.Dense):
    """Whatever its channels are, following them goes wrong."""


def test_a_call_that_is_not_foreseen_is_a_barrier(monkeypatch):
    from tfcompress.surgery.channels import handlers

    def wrong(call, found):
        raise IndexError("nobody thought of that")

    monkeypatch.setitem(handlers._table(), Unforeseen, wrong)
    model = scramble(
        chain((6,), layers.Dense(8), Unforeseen(8, name="wrong"), layers.Dense(8), layers.Dense(2))
    )
    smaller = tfc.shrink(model, 0.1, round_to=1)
    assert entries(smaller)["wrong"] == ("left", "its channels could not be followed (IndexError)")


def test_initializers_that_fit_one_size():
    table = keras.initializers.Constant(np.arange(80.0).reshape(10, 8))
    kernel = keras.initializers.Constant(np.ones((3, 3, 8, 8)))
    tokens = keras.Input((6,), dtype="int32")
    images = keras.Input((6, 6, 8))
    x = layers.Embedding(10, 8, embeddings_initializer=table)(tokens)
    x = layers.Dense(8, bias_initializer=keras.initializers.Constant(np.arange(8.0)))(x)
    y = conv(8, kernel_initializer=kernel, name="conv")(images)
    y = layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(2), name="bn")(y)
    y = layers.GlobalAveragePooling2D()(conv(8)(layers.ReLU()(y)))
    both = layers.GlobalAveragePooling1D()(x) + y
    model = scramble(keras.Model([tokens, images], layers.Dense(3)(both)))
    kept = tfc.shrink(model, 0.4, round_to=1).get_layer("bn")
    assert kept.get_config()["gamma_initializer"]["config"] == {"value": 2}
    for smaller in (tfc.separate(model), tfc.factorize(model, rank=2), tfc.remove_dead(model)):
        given = [np.ones((2, 6), int), np.ones((2, 6, 6, 8))]
        assert outputs(smaller, given)[0].shape == (2, 3)


def test_what_keeps_the_channels_is_told_where_the_ratio_cannot_be_had():
    model = chain((6, 8), layers.Dense(8), layers.Softmax(), layers.Dense(2))
    with pytest.raises(ConfigError, match=r"stay because of 'softmax\w*' \(Softmax looks"):
        tfc.shrink(model, 0.3, round_to=1)
    x = inputs = keras.Input((6, 8))
    x = shown = layers.Dense(8, name="shown")(x)
    model = keras.Model(inputs, [layers.Dense(2, name="scores")(x), shown])
    with pytest.raises(ConfigError, match="stay because of 'shown' "):
        tfc.shrink(model, 0.3, round_to=1)


def test_sizes_that_a_nested_model_leaves_open():
    """They are those of what it is called on."""
    inner = keras.Sequential(
        [keras.Input((None, None, 3)), conv(16), conv(16), layers.GlobalAveragePooling2D()]
    )
    inputs = keras.Input((32, 32, 3))
    model = scramble(
        keras.Model(inputs, layers.Dense(10, name="head")(layers.Dense(64)(inner(inputs))))
    )
    work = 32 * 32 * 9 * (3 * 16 + 16 * 16) + 16 * 64 + 64 * 10
    before = tfc.complexity(model)
    assert before.multiply_adds == work and len(before.notes) == 1
    smaller = tfc.shrink(model, 0.5, round_to=1)
    assert tfc.complexity(smaller).multiply_adds == pytest.approx(work / 2, rel=0.05)
    with pytest.raises(ConfigError, match=r"at most 0\.00"):
        tfc.shrink(model, 0.3, include="head")


def test_data_with_weights_of_examples_and_bad_values():
    model = scramble(chain((6, 6, 3), conv(8), layers.ReLU(), layers.Flatten(), layers.Dense(2)))
    x = examples(model, 8)
    batches = [(x, np.zeros((8, 2)), np.ones(8))]
    options = {"importance": "taylor", "loss": "mse", "round_to": 1}
    one = tfc.shrink(model, 0.4, data=batches, **options)
    two = tfc.shrink(model, 0.4, data=(x, np.zeros((8, 2)), np.ones(8)), **options)
    np.testing.assert_array_equal(outputs(one, x)[0], outputs(two, x)[0])
    for importance in ("taylor", "activation"):
        options["importance"] = importance
        with pytest.raises(DataError, match="NaN or infinity"):
            tfc.shrink(model, 0.4, data=(x * np.nan, np.zeros((8, 2))), **options)
    with pytest.raises(ConfigError, match="seed"):
        tfc.shrink(model, 0.4, importance="random", seed="a")
    assert len(tfc.ShrinkSchedule(np.int64(2), ratio=np.float32(0.3)).shares) == 2


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "activation"])
def test_heads_that_share_keys_go_together(importance):
    inputs = keras.Input((6, 12))
    x = layers.GroupQueryAttention(8, 8, 4, name="heads")(inputs, inputs)
    model = scramble(keras.Model(inputs, layers.Dense(2)(x)))
    data = (examples(model, 16), np.zeros((16, 6, 2)))
    options = {"importance": importance, "data": data, "loss": "mse", "restore": False}
    smaller = tfc.shrink(model, 0.5, **options).get_layer("heads")
    assert (smaller.num_query_heads, smaller.num_key_value_heads, smaller.head_dim) == (4, 2, 8)


def test_heads_by_what_they_give():
    """Whose values are small goes, whatever its weights behind them."""
    inputs = keras.Input((6, 12))
    x = layers.MultiHeadAttention(4, 8, name="heads")(inputs, inputs)
    model = scramble(keras.Model(inputs, layers.Dense(2)(x)))
    layer = model.get_layer("heads")
    value, output = layer._value_dense, layer._output_dense
    kept = np.array([1, 0.01, 1, 0.01])
    value.kernel.assign(np.array(value.kernel) * kept[:, None])
    value.bias.assign(np.array(value.bias) * kept[:, None])
    output.kernel.assign(np.array(output.kernel) / kept[:, None, None])
    smaller = tfc.shrink(
        model, 0.45, importance="activation", data=examples(model, 16), restore=False
    ).get_layer("heads")
    assert smaller.num_heads == 2
    np.testing.assert_array_equal(smaller._value_dense.kernel, np.array(value.kernel)[:, [0, 2]])


def test_zeros_go_before_what_counts():
    """Where rounding leaves a gap to the ratio, dead channels fill it, and no others."""
    inputs = keras.Input((16,))
    x = layers.Reshape((4, 4, 32))(layers.Dense(512, use_bias=False)(inputs))
    for _ in range(2):
        x = conv(16, use_bias=False)(layers.UpSampling2D()(x))
    model = keras.Model(inputs, conv(1)(x))
    for layer in model.layers[:-1]:
        if hasattr(layer, "kernel"):
            kernel = np.array(layer.kernel)
            kernel[..., 1::2] = 0
            layer.kernel.assign(kernel)
    for ratio in (0.15, 0.2, 0.25, 0.3, 0.4, 0.5):
        smaller = tfc.shrink(model, ratio, round_to=1)
        assert smaller.compression_report.settings["reached"] == pytest.approx(ratio, abs=0.05)
        assert_same_outputs(model, smaller, 1e-5)


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_what_only_products_read_is_scored(importance):
    """Two tables whose rows are multiplied, and queries and keys."""
    users, things = (keras.Input((), dtype="int32") for _ in range(2))
    rows = [layers.Embedding(20, 16)(one) for one in (users, things)]
    model = scramble(keras.Model([users, things], layers.Dot(axes=1)(rows)))
    ids = [np.arange(64) % 20, np.arange(64) % 7]
    options = {"importance": importance, "loss": "mse", "round_to": 1}
    smaller = tfc.shrink(
        model, 0.5, target="parameters", data=(ids, np.ones((64, 1))), restore=False, **options
    )
    assert smaller.count_params() == model.count_params() // 2
    if importance == "taylor":  # with this loss: |2 (output - target) x product|, summed
        off = np.abs(np.asarray(model(ids)) - 1)
        products = (off * np.abs(rows_of(model, ids))).sum(0)
        kept = np.sort(np.argsort(products)[8:])
        table = model.layers[2].embeddings.numpy()[:, kept]
        np.testing.assert_array_equal(smaller.layers[2].embeddings.numpy(), table)
    inputs = keras.Input((8, 16))
    q, k, v = (layers.Dense(n)(inputs) for n in (32, 32, 8))
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))))
    model = scramble(keras.Model(inputs, layers.Dense(4)(ops.matmul(scores, v))))
    x = examples(model, 32)
    smaller = tfc.shrink(model, 0.4, data=(x, np.zeros((32, 8, 4))), **options)
    assert smaller.compression_report.settings["reached"] == pytest.approx(0.4, abs=0.03)


def rows_of(model, ids):
    """Products of the rows, channel by channel."""
    one, two = (layer.embeddings.numpy() for layer in model.layers[2:4])
    return one[ids[0]] * two[ids[1]]


def test_two_families_are_weighed_against_each_other():
    actor = keras.Sequential([keras.Input((3,)), *(layers.Dense(n) for n in (32, 32, 1))])
    report = tfc.shrink(actor, 0.5).compression_report
    assert report.settings["reached"] == pytest.approx(0.486, abs=1e-3)
    alone = keras.Sequential([keras.Input((10, 12)), layers.LSTM(32), layers.Dense(12)])
    report = tfc.shrink(alone, 0.5).compression_report
    assert any("round_to=8" in note for note in report.notes)
