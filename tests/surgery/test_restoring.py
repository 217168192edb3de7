"""Shrinking with data: what is left is fitted to what was."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from surgery_support import assert_same_outputs, chain, examples, left_alone, outputs, scramble

import tfcompress as tfc
from tfcompress.errors import DataError
from tfcompress.surgery.linear_parts import linear_part

layers = keras.layers
L = layers


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (L.Dense(5), (7,)),
        (L.Dense(5, activation="relu"), (3, 2, 7)),
        (L.Conv1D(5, 3, 2, "causal"), (9, 4)),
        (L.Conv1D(5, 4, dilation_rate=2), (12, 4)),
        (L.Conv2D(5, 3, padding="same"), (6, 5, 4)),
        (L.Conv2D(5, (2, 3), (2, 1), "same", use_bias=False), (7, 8, 4)),
        (L.Conv2D(5, (3, 2), (1, 3)), (7, 8, 4)),
        (L.Conv2D(5, 3, padding="same", dilation_rate=(1, 2)), (7, 8, 4)),
        (L.Conv3D(3, 2, 2, "same"), (5, 4, 3, 2)),
        (L.SeparableConv2D(5, 3, 2, "same", depth_multiplier=2), (7, 8, 4)),
        (L.SeparableConv1D(5, 3, dilation_rate=2), (9, 4)),
        (L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), (6, 4)),
        (L.EinsumDense("...x,xy->...y", 5, bias_axes="y"), (3, 6, 4)),
        (L.EinsumDense("abcd,cde->abe", (None, 5), bias_axes="e"), (6, 3, 4)),
        (L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), (6, 4)),
        (L.EinsumDense("abc,bd->adc", (5, None)), (6, 4)),
    ],
)
def test_rows_times_matrix_are_what_the_layer_computes(layer, shape):
    model = scramble(chain(shape, layer))
    x = examples(model, 4)
    part = linear_part(layer, (4, *shape))
    activation, layer.activation = layer.activation, None
    expected = np.asarray(layer(x))
    layer.activation = activation
    rows = part.rows(x, np.arange(4 * part.count))
    found = rows @ part.matrix + (0 if part.bias is None else part.bias)
    if "adc" in getattr(layer, "equation", ""):
        expected = expected.transpose(0, 2, 1)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=0, atol=1e-5)
    before = layer.get_weights()
    part.assign(part.matrix, part.bias)
    for one, two in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(two, one)


@pytest.mark.parametrize(
    "layer",
    [L.Conv2D(4, 3, groups=2), L.DepthwiseConv2D(3), L.Conv2DTranspose(4, 3), L.ReLU()],
)  # fmt: skip
def test_others_have_no_linear_part(layer):
    chain((6, 6, 4), layer)
    assert linear_part(layer, (1, 6, 6, 4)) is None


def doubled(layer, axis, *, bias=True):
    """Gives a layer 8 channels of which the last 4 are multiples of the first."""
    kernel, *rest = layer.get_weights()
    first = np.take(kernel, range(4), axis)
    factors = np.array([0.5, 2.0, 1.5, 0.25]).reshape(
        [4 if n == axis else 1 for n in range(kernel.ndim)]
    )
    weights = [np.concatenate([first, first * factors], axis)]
    if rest:
        b = rest[0][:4]
        weights.append(np.concatenate([b, b * factors.ravel()]))
    layer.set_weights(weights)


READERS = {
    "dense": ((10,), lambda: L.Dense(8, activation="relu"), [lambda: L.Dense(3)], 1),
    "dense on sequences": ((5, 6), lambda: L.Dense(8, activation="relu"), [lambda: L.Dense(3)], 1),
    "conv 1d": (
        (9, 3), lambda: L.Conv1D(8, 3, activation="relu"), [lambda: L.Conv1D(3, 3, 2, "causal")], 2
    ),
    "conv 2d": (
        (8, 8, 3), lambda: L.Conv2D(8, 3, activation="relu"),
        [lambda: L.MaxPooling2D(), lambda: L.Conv2D(3, 2, padding="same")], 3,
    ),
    "conv 2d without bias": (
        (8, 8, 3), lambda: L.Conv2D(8, 3, activation="relu"),
        [lambda: L.AveragePooling2D(2), lambda: L.Conv2D(3, 2, 2, use_bias=False)], 3,
    ),
    "conv 3d": (
        (4, 4, 4, 2), lambda: L.Conv3D(8, 2, activation="relu"), [lambda: L.Conv3D(3, 2)], 4
    ),
    "flattened": (
        (6, 6, 3), lambda: L.Conv2D(8, 3, activation="relu"),
        [lambda: L.Flatten(), lambda: L.Dense(3)], 3,
    ),
    "einsum": (
        (5, 6), lambda: L.EinsumDense("abc,cd->abd", (None, 8), activation="relu", bias_axes="d"),
        [lambda: L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d")], 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_what_other_channels_can_stand_for_is_made_up_for(kind):
    shape, first, rest, axis = READERS[kind]
    maker = first()
    model = scramble(chain(shape, maker, *(make() for make in rest)))
    doubled(maker, axis)
    x = examples(model, 300)
    with left_alone(model):
        # The larger twins stand for the smaller ones, which go.
        options = {"target": "parameters", "round_to": 4, "importance": _first_half(axis)}
        plain = tfc.shrink(model, 0.45, **options)
        fitted = tfc.shrink(model, 0.45, data=x, **options)
    assert any("Fitted" in note for note in fitted.compression_report.notes)
    (wanted,), (lost,), (found,) = (outputs(m, x) for m in (model, plain, fitted))
    scale = np.abs(wanted).max()
    assert np.abs(lost - wanted).max() > 0.05 * scale
    # What the ridge holds back.
    assert np.abs(found - wanted).max() < 0.02 * np.abs(lost - wanted).max()


def _first_half(axis):
    def importance(filters):
        return np.arange(len(filters), 0.0, -1)

    return importance


def test_heads_that_are_alike():
    inputs = keras.Input((6, 8))
    attention = L.MultiHeadAttention(4, 3)
    model = scramble(keras.Model(inputs, attention(inputs, inputs)))
    for dense in (attention._query_dense, attention._key_dense, attention._value_dense):
        kernel, bias = dense.get_weights()
        dense.set_weights([kernel[:, [0, 1, 0, 1]], bias[[0, 1, 0, 1]]])
    x = examples(model, 200)
    heads = {"target": "parameters", "exclude": None, "round_to": 3}

    def importance(filters):
        return (
            np.where(np.arange(len(filters)) < 2, 2.0, 1.0)
            if len(filters) == 4
            else np.full(len(filters), 9.0)
        )

    fitted = tfc.shrink(model, 0.5, importance=importance, data=x, **heads)
    assert fitted.layers[-1].num_heads == 2
    (wanted,), (found,) = outputs(model, x), outputs(fitted, x)
    assert np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()


def test_statistics_move_as_those_of_the_input_have():
    model = scramble(
        chain(
            (8, 8, 3), L.Conv2D(16, 3), L.ReLU(), L.DepthwiseConv2D(3), L.BatchNormalization(),
            L.ReLU(), L.Conv2D(8, 3, use_bias=False), L.BatchNormalization(), L.Flatten(),
            L.Dense(2),
        )
    )  # fmt: skip
    x = examples(model, 200)
    smaller = tfc.shrink(model, 0.4, data=x, round_to=2)

    def normalised(one):
        inner = keras.Model(one.inputs, one.layers[7].output)
        values = np.asarray(inner(x, training=False)).reshape(-1, inner.output.shape[-1])
        return values.mean(0), values.std(0)

    kept = smaller.layers[6].filters
    assert kept < 8
    # Of the channels that are left, mean and spread are those that they had.
    before = {tuple(np.round(w, 5)) for w in np.stack(normalised(model), 1)}
    after = [tuple(np.round(w, 5)) for w in np.stack(normalised(smaller), 1)]
    near = [min(np.abs(np.array(a) - np.array(b)).max() for b in before) for a in after]
    assert max(near) < 1e-3


def test_channels_that_are_0_change_nothing():
    model = scramble(
        chain(
            (8, 8, 3), L.Conv2D(16, 3), L.BatchNormalization(), L.ReLU(), L.Conv2D(8, 3),
            L.BatchNormalization(), L.Flatten(), L.Dense(2),
        )
    )  # fmt: skip
    conv, norm = model.layers[1], model.layers[2]
    zero = np.arange(16) < 6
    conv.set_weights([np.where(zero, 0, w) for w in conv.get_weights()])
    norm.set_weights(
        [np.where(zero, 0, w) if n != 3 else w for n, w in enumerate(norm.get_weights())]
    )
    smaller = tfc.shrink(
        model,
        0.3,
        data=examples(model, 64),
        round_to=2,
        exclude=model.layers[4],
        target="parameters",
    )
    assert smaller.layers[1].filters < 16
    assert_same_outputs(model, smaller)
    assert any("0 layers" in note for note in smaller.compression_report.notes)


def test_layers_that_are_called_twice_stay():
    inputs = keras.Input((6,))
    shared = L.Dense(6, activation="relu")
    x = L.Dense(6, activation="relu")(inputs)
    model = scramble(keras.Model(inputs, L.Dense(2)(shared(shared(x)))))
    smaller = tfc.shrink(model, 0.4, data=examples(model, 50), round_to=1)
    kept = smaller.layers[2].kernel.shape[0]
    old = np.asarray(model.layers[2].kernel)
    new = np.asarray(smaller.layers[2].kernel)
    rows = [np.flatnonzero(np.isclose(old, v).any(1)).tolist() for v in new[:, 0]]
    assert kept < 6 and all(rows)


def test_restore_can_be_declined():
    model = scramble(chain((8,), L.Dense(16, activation="relu"), L.Dense(2)))
    x = examples(model, 50)
    options = {"importance": "activation", "data": x, "round_to": 1}
    plain = tfc.shrink(model, 0.5, restore=False, **options)
    kept = set(np.asarray(plain.layers[-1].kernel).ravel().tolist())
    assert kept <= set(np.asarray(model.layers[-1].kernel).ravel().tolist())
    fitted = tfc.shrink(model, 0.5, **options)
    assert not set(np.asarray(fitted.layers[-1].kernel).ravel().tolist()) <= kept


def test_forms_of_data():
    first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    hidden = L.Dense(16, activation="relu")(L.Concatenate()([first, second]))
    model = scramble(keras.Model([first, second], L.Dense(2)(hidden)))
    x = examples(model, 60)
    named = {"a": x[0], "b": x[1]}
    pair = (x, np.zeros(60))
    forms = [x, pair, named, [([*x], np.zeros(60))], [pair], [named], iter([pair]), iter([named])]
    found = [tfc.shrink(model, 0.5, data=form, round_to=1).get_weights() for form in forms]
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        return self.batches[number]


def test_data_without_an_end():
    model = scramble(chain((6,), L.Dense(16, activation="relu"), L.Dense(2)))
    x, y = examples(model, 64), np.ones((64, 2), "float32")
    endless = tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat()
    for importance in ("taylor", "activation"):
        options = {"importance": importance, "loss": "mse", "round_to": 1}
        with pytest.raises(DataError, match="must end"):
            tfc.shrink(model, 0.5, data=endless, **options)
        tfc.shrink(model, 0.5, data=endless.take(2), **options)
    with pytest.raises(DataError, match="must end"):
        tfc.rank_blocks(model, endless, loss="mse")


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_batches_serve_the_importance_and_the_fit(importance):
    model = scramble(chain((6,), L.Dense(16, activation="relu"), L.Dense(2)))
    x, y = examples(model, 64), np.ones((64, 2), "float32")
    batches = [(x[:32], y[:32]), (x[32:], y[32:])]
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    options = {"importance": importance, "loss": "mse", "round_to": 1}
    found = [
        tfc.shrink(model, 0.5, data=data, **options)
        for data in (
            *((x, y), batches, [list(one) for one in batches], iter(batches), dataset),
            *(lambda: iter(batches), Batches(batches)),
        )
    ]
    for other in found[1:]:
        assert any("Fitted" in note for note in other.compression_report.notes)
        for one, two in zip(found[0].get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)


def test_of_an_endless_generator_no_more_is_taken_than_is_worth_it():
    model = scramble(chain((6,), L.Dense(16, activation="relu"), L.Dense(2)))
    batch = examples(model, 512)
    smaller = tfc.shrink(model, 0.5, data=itertools.repeat(batch), round_to=1)
    assert any("Fitted" in note for note in smaller.compression_report.notes)


BAD = [np.ones((4, 3)), np.zeros((0, 8)), 3, [np.ones((4, 8))] * 2, [], [1.0, 2.0], [[1.0], [2.0]]]
BAD += [np.full((4, 8), np.nan), np.ones((4, 8, 1)), np.ones(8)]


@pytest.mark.parametrize("data", BAD)
def test_data_that_does_not_fit(data):
    model = scramble(chain((8,), L.Dense(16, activation="relu"), L.Dense(2)))
    with pytest.raises(DataError, match="Received"):
        tfc.shrink(model, 0.5, data=data, round_to=1)


def test_numbers_that_overflow_leave_no_trace():
    model = scramble(chain((8,), L.Dense(16), L.BatchNormalization(), L.ReLU(), L.Dense(2)))
    try:
        smaller = tfc.shrink(model, 0.5, data=examples(model, 20) * 1e38, round_to=1)
    except DataError:
        return
    assert all(np.isfinite(w).all() for w in smaller.get_weights())


@pytest.mark.parametrize("data", [np.ones(1), np.full(1, np.nan)])
def test_images_that_do_not_fit(data):
    model = scramble(
        chain((8, 8, 3), L.Conv2D(8, 3), L.ReLU(), L.Conv2D(8, 3), L.Flatten(), L.Dense(2))
    )
    images = np.broadcast_to(data.ravel()[0], (4, 8, 6 if np.isfinite(data).all() else 8, 3))
    for verb in (tfc.separate, tfc.factorize):
        with pytest.raises(DataError, match="Received"):
            verb(model, data=images)


def deep():
    inputs = keras.Input((10, 10, 3))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    for number in range(2):
        y = L.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv_{number}")(x)
        y = L.ReLU(name=f"relu_{number}")(L.BatchNormalization(name=f"norm_{number}")(y))
        y = L.Conv2D(8, 3, padding="same", name=f"second_{number}")(y)
        x = L.Add(name=f"add_{number}")([y, x])
    x = L.Dense(12, activation="relu", name="wide")(L.GlobalAveragePooling2D()(x))
    return scramble(keras.Model(inputs, L.Dense(3)(x)))


VERBS = {
    "separate": lambda model, data: tfc.separate(model, data=data),
    "separate in two terms": lambda model, data: tfc.separate(model, terms=2, data=data),
    "factorize": lambda model, data: tfc.factorize(model, rank=3, data=data),
    "drop_layers": lambda model, data: tfc.drop_layers(model, "*_1", data=data),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_other_verbs_come_closer_with_data(verb):
    model = deep()
    x, other = examples(model, 200), examples(model, 50, seed=1)
    with left_alone(model):
        plain, fitted = VERBS[verb](model, None), VERBS[verb](model, x)
    (wanted,), (one,), (two,) = (outputs(m, other) for m in (model, plain, fitted))
    assert np.square(two - wanted).mean() < 0.5 * np.square(one - wanted).mean()
    assert any("Fitted" in note for note in fitted.compression_report.notes)
    assert [w.shape for w in plain.weights] == [w.shape for w in fitted.weights]


class Head(L.Dense):
    """Cannot be copied: its config gives `units`, which it does not take."""

    def __init__(self, **options):
        super().__init__(4, **options)


class Norm(L.BatchNormalization):
    """Cannot be copied either."""

    def __init__(self, size, **options):
        super().__init__(**options)


def test_layers_that_both_models_share_stay():
    inputs = keras.Input((6,))
    x = L.Dense(6, activation="relu", name="cut")(L.Dense(6, name="first")(inputs))
    model = scramble(keras.Model(inputs, L.Dense(2, name="last")(Head()(Norm(6)(x)))))
    before = [np.asarray(w) for w in model.weights]
    found = tfc.drop_layers(model, "cut", data=examples(model, 100))
    for one, two in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(two), one)
    assert found.layers[-2] is model.layers[-2] and found.layers[-3] is model.layers[-3]
    assert "1 layers" in found.compression_report.notes[-1]


class OwnCall(L.Dense):
    def call(self, inputs):
        return keras.ops.sin(super().call(inputs))


class OwnConvolution(L.Conv2D):
    """Standardises its kernel, in the place that Keras offers for it."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - keras.ops.mean(kernel, (0, 1, 2)))


class OwnNorm(L.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(keras.ops.abs(inputs), training=training, mask=mask)


@pytest.mark.parametrize(
    "layer", [OwnCall(4, name="own"), OwnConvolution(4, 1, name="own"), OwnNorm(name="own")]
)
def test_layers_that_compute_in_their_own_way_stay(layer):
    model = scramble(
        chain((3, 3, 4), L.Conv2D(4, 1, activation="relu", name="cut"), layer, L.Dense(2))
    )
    found = tfc.drop_layers(model, "cut", data=examples(model, 100))
    for one, two in zip(layer.get_weights(), found.get_layer("own").get_weights(), strict=True):
        np.testing.assert_array_equal(two, one)


@pytest.mark.parametrize("layer", [L.Dense(4, name="own"), L.Conv2D(4, 3, name="own")])
def test_layers_with_lora_stay(layer):
    model = scramble(
        chain((9, 9, 3), L.Conv2D(16, 3, activation="relu"), L.Conv2D(6, 3, name="middle"), layer)
    )
    layer.enable_lora(2)
    with left_alone(model):
        smaller = tfc.shrink(model, 0.3, round_to=1, data=examples(model, 50))
    for one, two in zip(layer.get_weights(), smaller.get_layer("own").get_weights(), strict=True):
        np.testing.assert_array_equal(two, one)
    assert "1 layers" in smaller.compression_report.notes[-1]


@pytest.mark.parametrize("norm", [lambda: Norm(6), OwnNorm, L.BatchNormalization])
def test_means_are_fitted_where_the_statistics_behind_stay(norm):
    inputs = keras.Input((6,))
    x = L.Dense(6, name="cut")(L.Dense(6, activation="sigmoid")(inputs))
    x = L.Dense(6, use_bias=False, name="fitted")(L.ReLU()(x))
    model = scramble(keras.Model(inputs, norm()(x)))
    data = examples(model, 300)
    found = tfc.drop_layers(model, "cut", data=data)
    means = [
        np.asarray(keras.Model(one.inputs, one.get_layer("fitted").output)(data)).mean(0)
        for one in (model, found)
    ]
    stays = norm is not L.BatchNormalization
    assert (np.abs(means[1] - means[0]).max() < 0.05 * np.abs(means[0]).max()) == stays


def test_augmentation_in_the_model_is_off_while_fitting():
    """As in `predict`: nothing is lost where nothing is to be fitted."""
    augment = [layers.RandomFlip(), layers.RandomTranslation(0.2, 0.2)]
    inner = layers.Conv2D(8, 3, padding="same", activation="relu")
    model = chain(
        (8, 8, 3), *augment, inner, layers.Conv2D(8, 3), layers.Flatten(), layers.Dense(4)
    )
    scramble(model)
    kernel = np.array(inner.kernel)
    kernel[..., ::2], bias = 0, np.array(inner.bias)
    bias[::2] = 0
    inner.kernel.assign(kernel)
    inner.bias.assign(bias)
    smaller = tfc.shrink(model, 0.4, round_to=1, data=examples(model, 200), include=inner)
    assert_same_outputs(model, smaller, 1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_fitting_in_mixed_precision(policy):
    model = chain(
        (6, 6, 3), layers.Conv2D(8, 3, dtype=policy), layers.ReLU(dtype=policy),
        layers.Conv2D(8, 3, dtype=policy), layers.Flatten(), layers.Dense(4),
    )  # fmt: skip
    scramble(model)
    x = examples(model, 64)
    before = outputs(model, x)[0]

    def error(other):
        return np.abs(outputs(other, x)[0] - before).mean()

    assert error(tfc.separate(model, data=x)) < error(tfc.separate(model))


def test_features_that_vary_little_around_a_large_mean_are_fitted():
    generator = np.random.default_rng(0)
    model = scramble(chain((40,), layers.Dense(300), layers.Dense(2)))
    x = generator.normal(size=(64, 40)).astype("float32") * 0.01 + 3
    smaller = tfc.factorize(model, rank=1, include=model.layers[1].name, data=x)
    assert any("2 layers" in note for note in smaller.compression_report.notes)
    plain = tfc.factorize(model, rank=1, include=model.layers[1].name)
    off = [np.abs(np.subtract(*map(np.ravel, (outputs(m, x), outputs(model, x))))).mean()
           for m in (smaller, plain)]  # fmt: skip
    assert off[0] < off[1] / 5


class SelfAttention(layers.MultiHeadAttention):
    def build(self, shape):
        super().build(shape, shape)

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return super().call(x, x)


def test_steps_with_masks_and_attention_in_them():
    each = layers.TimeDistributed
    model = scramble(chain((6, 16), layers.Masking(), each(layers.Dense(64)), layers.LSTM(8)))
    x = examples(model, 64)
    smaller = tfc.factorize(model, rank=3, data=x)
    assert [e.kind for e in smaller.compression_report.changed] == ["Dense"]
    outputs(smaller, x)
    parts = (layers.Dense(64, name="first"), layers.Dense(16, name="mid"))
    parts += (each(SelfAttention(2, 8)), layers.Dense(3))
    model = scramble(chain((2, 5, 8), *parts))
    x = examples(model, 64)
    fitted = tfc.factorize(model, rank=4, include=["first", "mid"], data=x)
    assert any("3 layers" in note for note in fitted.compression_report.notes)


def test_what_is_called_by_several_paths_stays():
    """Fitted where it is called last, it would not fit where it was called before."""
    keras.utils.set_random_seed(0)
    single = keras.Input((10, 10, 3))
    y = keras.layers.Conv2D(8, 3, name="convolution")(single)
    frame = keras.Model(single, keras.layers.GlobalAveragePooling2D()(y), name="frame")
    steps, image = keras.Input((3, 10, 10, 3)), keras.Input((10, 10, 3))
    x = keras.layers.GlobalMaxPooling1D()(keras.layers.TimeDistributed(frame)(steps))
    x = keras.layers.Concatenate()([x, frame(image)])
    model = keras.Model([steps, image], keras.layers.Dense(3, name="last")(x))
    random = np.random.default_rng(0)
    data = [random.normal(size=(64, *t.shape[1:])).astype("float32") for t in model.inputs]
    wanted = model.predict(data, verbose=0)
    plain, fitted = (tfc.separate(model, data=one) for one in (None, data))
    for layer in plain._flatten_layers():
        if layer.name == "convolution":
            other = next(one for one in fitted._flatten_layers() if one.name == layer.name)
            for old, new in zip(layer.get_weights(), other.get_weights(), strict=True):
                np.testing.assert_array_equal(new, old)
    off = [np.square(m.predict(data, verbose=0) - wanted).mean() for m in (plain, fitted)]
    assert off[1] < off[0]
