"""`tfc.factorize`: exact where the rank is there, closest where it is not, never dearer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_support import (
    assert_same_outputs,
    assert_trains_saves_converts,
    chain,
    classes,
    entries,
    examples,
    scramble,
)

import tfcompress as tfc
from tfcompress.errors import ConfigError, ModelTypeError, ScopeError
from tfcompress.surgery.decompositions import Spectrum, truncated_svd, tucker2

layers = keras.layers


def lower_rank(layer, rank, seed=0):
    """Gives a layer a kernel of that rank between its input and its output axes."""
    generator = np.random.default_rng(seed)
    shape = layer.kernel.shape
    if isinstance(layer, (layers.Dense, layers.EinsumDense)):
        source = layer.equation.split(",")[0] if isinstance(layer, layers.EinsumDense) else "ab"
        kernel = layer.equation.split(",")[1].split("->")[0] if source != "ab" else "bc"
        summed = "".join(one for one in kernel if one in source)
        kept = "".join(one for one in kernel if one not in source)
        sizes = dict(zip(kernel, shape, strict=True))
        one = generator.normal(size=[*(sizes[n] for n in summed), rank])
        two = generator.normal(size=[rank, *(sizes[n] for n in kept)])
        values = np.einsum(f"{summed}R,R{kept}->{kernel}", one, two)
    else:
        one = generator.normal(size=(shape[-2], rank))
        core = generator.normal(size=(*shape[:-2], rank, rank))
        two = generator.normal(size=(rank, shape[-1]))
        values = np.einsum("ir,...rs,so->...io", one, core, two)
    layer.kernel.assign(values / np.linalg.norm(values))


EXACT = {  # layer, shape of its input, classes that come out
    "Dense": (lambda: layers.Dense(20, activation="relu"), (7, 16), ["Dense"] * 2),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (7, 4, 5), bias_axes="de"),
        (7, 16),
        ["EinsumDense"] * 2,
    ),
    "EinsumDense, two axes summed": (
        lambda: layers.EinsumDense("abcd,cde->abe", (7, 20), bias_axes="e", activation="gelu"),
        (7, 4, 5),
        ["EinsumDense"] * 2,
    ),
    "EinsumDense, axes in between": (
        lambda: layers.EinsumDense("acbd,ecd->aeb", (20, 7)),
        (4, 7, 5),
        ["EinsumDense"] * 2,
    ),
    "EinsumDense, dots in front": (
        lambda: layers.EinsumDense("...x,xyz->...yz", (4, 5), bias_axes="z"),
        (3, 3, 16),
        ["EinsumDense"] * 2,
    ),
    "EinsumDense, dots behind": (
        lambda: layers.EinsumDense("ab...,bc->ac...", 20, bias_axes="c"),
        (16, 3),
        ["EinsumDense"] * 2,
    ),
    "EinsumDense, an axis summed away": (
        lambda: layers.EinsumDense("abc,cd->ad", 20, bias_axes="d"),
        (3, 16),
        ["EinsumDense"] * 2,
    ),
    "EinsumDense, open size": (
        lambda: layers.EinsumDense("abc,cd->abd", (None, 20)),
        (None, 16),
        ["EinsumDense"] * 2,
    ),
    "1x1": (
        lambda: layers.Conv2D(20, 1, strides=2, padding="same", activation="relu"),
        (7, 8, 16),
        ["Conv2D"] * 2,
    ),
    "Conv1D 1": (lambda: layers.Conv1D(20, 1), (7, 16), ["Conv1D"] * 2),
    "Conv1D": (
        lambda: layers.Conv1D(20, 5, padding="causal", dilation_rate=2),
        (20, 16),
        ["Conv1D"] * 3,
    ),
    "Conv2D": (
        lambda: layers.Conv2D(20, 3, strides=2, padding="same", activation="relu"),
        (9, 8, 16),
        ["Conv2D"] * 3,
    ),
    "Conv2D dilated": (
        lambda: layers.Conv2D(20, (3, 2), dilation_rate=(2, 1), use_bias=False),
        (9, 8, 16),
        ["Conv2D"] * 3,
    ),
    "Conv2D of few inputs": (lambda: layers.Conv2D(20, 3), (9, 8, 3), ["Conv2D"] * 2),
    "Conv2D of few outputs": (lambda: layers.Conv2D(3, 3), (9, 8, 16), ["Conv2D"] * 2),
    "Conv3D": (lambda: layers.Conv3D(20, 2), (3, 4, 5, 16), ["Conv3D"] * 3),
}


@pytest.mark.parametrize("how", [{"energy": 1.0}, {"rank": 3}])
@pytest.mark.parametrize("name", EXACT)
def test_a_low_rank_is_found_exactly(name, how):
    build, shape, expected = EXACT[name]
    model = scramble(chain(shape, layers.Activation("linear"), build()))
    lower_rank(model.layers[2], 3)
    factorized = tfc.factorize(model, **how)
    assert_same_outputs(model, factorized)
    assert classes(factorized) == ["Activation", *expected]
    assert factorized.output_shape == model.output_shape
    (entry,) = factorized.compression_report.changed
    assert entry.details["error"] < 1e-6
    saved = entry.details["multiply_adds_before"] - entry.details["multiply_adds"]
    if None not in shape:
        counted = (tfc.complexity(one).multiply_adds for one in (model, factorized))
        assert next(counted) - next(counted) == saved > 0
    assert factorized.layers[-1].name == model.layers[-1].name


@pytest.mark.parametrize("name", EXACT)
def test_full_rank_is_left(name):
    build, shape, _ = EXACT[name]
    model = scramble(chain(shape, build()))
    factorized = tfc.factorize(model, energy=1.0)
    assert_same_outputs(model, factorized, 0)
    assert all("would cost" in entry.reason for entry in factorized.compression_report.entries)
    assert not factorized.compression_report.changed


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 8), columns=st.integers(1, 8), energy=st.floats(0.01, 1.0),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_rank_is_the_smallest_that_keeps_the_energy(rows, columns, energy, seed):
    matrix = np.random.default_rng(seed).normal(size=(rows, columns))
    rank = Spectrum.of(matrix).rank(energy)

    def kept(rank):
        one, two = truncated_svd(matrix, rank)
        return np.linalg.norm(one @ two) ** 2 / np.linalg.norm(matrix) ** 2

    assert kept(rank) >= energy - 1e-9
    assert rank == 1 or kept(rank - 1) < energy + 1e-9


@settings(max_examples=20, deadline=None)
@given(
    inputs=st.integers(2, 8), outputs=st.integers(2, 30), energy=st.floats(0.3, 1.0),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_convolutions_keep_the_energy(inputs, outputs, energy, seed):
    generator = np.random.default_rng(seed)
    model = chain((6, 6, inputs), layers.Conv2D(outputs, 3))
    scales = generator.uniform(0, 1, (inputs, outputs)) ** 4
    model.layers[1].kernel.assign(generator.normal(size=(3, 3, inputs, outputs)) * scales)
    for entry in tfc.factorize(model, energy=energy).compression_report.changed:
        assert entry.details["energy"] >= energy - 1e-6
        assert entry.details["multiply_adds"] < entry.details["multiply_adds_before"]


def test_hooi_is_no_worse_than_hosvd():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 12, 10))
    first, core, last = tucker2(kernel, (4, 5))
    made = np.einsum("ir,...rs,so->...io", first, core, last)
    u = np.linalg.svd(np.moveaxis(kernel, 2, 0).reshape(12, -1))[0][:, :4]
    v = np.linalg.svd(np.moveaxis(kernel, 3, 0).reshape(10, -1))[0][:, :5]
    hosvd = np.einsum("ij,rcjo,op->rcip", u @ u.T, kernel, v @ v.T)
    assert np.linalg.norm(kernel - made) < np.linalg.norm(kernel - hosvd)
    # Tucker factors are orthonormal; the core is the kernel seen through them.
    np.testing.assert_allclose(first.T @ first, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(last @ last.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(core, np.einsum("ir,...io,so->...rs", first, kernel, last))


def network():
    return scramble(
        chain(
            (12, 12, 3), layers.Conv2D(24, 3, name="a"), layers.ReLU(),
            layers.Conv2D(24, 3, name="b"), layers.ReLU(), layers.Conv2D(32, 1, name="c"),
            layers.Flatten(), layers.Dense(10, name="d"),
        )
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_of_the_multiply_adds(share):
    model = network()
    factorized = tfc.factorize(model, multiply_adds=share)
    before, after = (tfc.complexity(one).multiply_adds for one in (model, factorized))
    assert after <= (1 - share) * before
    # No more than it takes: a little more energy, and the share is not reached.
    energy = factorized.compression_report.settings["energy"]
    more = tfc.factorize(model, energy=energy + 1e-6)
    assert tfc.complexity(more).multiply_adds > (1 - share) * before


def test_less_energy_costs_less():
    model = network()
    costs, errors = [], []
    for energy in (0.99, 0.9, 0.7, 0.4, 0.1):
        factorized = tfc.factorize(model, energy=energy)
        costs.append(tfc.complexity(factorized).multiply_adds)
        errors.append(max((e.details["error"] for e in factorized.compression_report.changed),
                          default=0))  # fmt: skip
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] <= tfc.complexity(model).multiply_adds
    assert errors == sorted(errors)


def test_settings_are_kept():
    dense = layers.Dense(
        24, activation="relu", name="dense", trainable=False, bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.01), activity_regularizer="l1",
        kernel_constraint="non_neg",
    )  # fmt: skip
    model = scramble(chain((20,), dense, layers.Dense(2, name="dense_reduce")))
    factorized = tfc.factorize(model, rank=2, include="dense")
    first, last = factorized.layers[1:3]
    assert (first.name, last.name) == ("dense_reduce_2", "dense")
    assert (first.trainable, last.trainable) == (False, False)
    assert (first.use_bias, first.activity_regularizer) == (False, None)
    assert first.activation is keras.activations.linear
    assert last.activation is keras.activations.relu
    assert float(first.kernel_regularizer.l2) == pytest.approx(0.01)
    assert last.activity_regularizer is not None
    assert "constraint" in entries(factorized)["dense"][1]
    np.testing.assert_array_equal(last.bias, dense.bias)


def test_trains_saves_converts(tmp_path):
    factorized = tfc.factorize(network(), rank=4)
    assert len(factorized.compression_report.changed) == 4
    assert_trains_saves_converts(factorized, tmp_path)


def test_nested_shared_several_inputs_and_sequential():
    inner = keras.Sequential([keras.Input((16,)), layers.Dense(20, name="d")], name="inner")
    conv = layers.Conv2D(16, 3, name="conv")
    a, b, c = keras.Input((8, 8, 16)), keras.Input((8, 8, 16)), keras.Input((16,))
    model = scramble(keras.Model([a, b, c], [layers.Add()([conv(a), conv(b)]), inner(c)]))
    for layer in (conv, inner.layers[0]):
        lower_rank(layer, 2)
    factorized = tfc.factorize(model, energy=1.0)
    assert_same_outputs(model, factorized)
    assert sorted(classes(factorized)) == ["Add"] + ["Conv2D"] * 3 + ["Dense"] * 2
    assert type(factorized.get_layer("inner")) is keras.Sequential
    (entry,) = (e for e in factorized.compression_report.changed if e.name == "conv")
    assert entry.details["multiply_adds_before"] == 2 * 36 * 9 * 256


class Mine(layers.Dense):
    pass


LEFT = {
    "groups": (lambda: layers.Conv2D(32, 3, groups=2), (6, 6, 4), "2 groups"),
    "one's own": (lambda: Mine(16), (6, 16), "Mine has no low-rank form"),
    "each its own": (lambda: layers.EinsumDense("abc,bcd->abd", (3, 5)), (3, 4), "for each place"),
    "one side": (lambda: layers.EinsumDense("ab,cd->abcd", (3, 4, 5)), (3,), "one side only"),
    "in a layer": (
        lambda: layers.TimeDistributed(layers.TimeDistributed(layers.Dense(16))),
        (2, 5, 16),
        "calls are not known",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_with_a_reason(name):
    build, shape, reason = LEFT[name]
    model = scramble(chain(shape, build()))
    factorized = tfc.factorize(model, rank=1)
    assert_same_outputs(model, factorized, 0)
    (entry,) = factorized.compression_report.left
    assert reason in entry.reason


def test_scopes():
    model = network()
    assert entries(tfc.factorize(model, rank=2, exclude="a"))["a"] == ("left", "excluded")
    assert entries(tfc.factorize(model, rank=2, include="a"))["b"] == ("left", "not in `include`")
    named = tfc.factorize(model, rank=2, include=["a", layers.Flatten])
    assert "no low-rank form" in entries(named)[model.layers[6].name][1]
    with pytest.raises(ScopeError):
        tfc.factorize(model, include="z")


@pytest.mark.parametrize(
    "bad",
    [{"energy": 0}, {"energy": 1.1}, {"energy": "all"}, {"rank": 0}, {"rank": 2.0},
     {"multiply_adds": 0}, {"multiply_adds": 1.0}, {"rank": 2, "multiply_adds": 0.5},
     {"multiply_adds": 0.999}],
)  # fmt: skip
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match="Received"):
        tfc.factorize(network(), **bad)


def test_needs_a_graph():
    with pytest.raises(ModelTypeError):
        tfc.factorize(keras.Sequential([layers.Dense(4)]))


def table_model(mask=False):
    """Words of rank 5, two texts that share them."""
    keras.utils.set_random_seed(0)
    table = layers.Embedding(60, 16, mask_zero=mask, name="words")
    inputs = [keras.Input((6,), dtype="int32") for _ in range(2)]
    x = layers.Add()([table(one) for one in inputs])
    x = layers.GlobalAveragePooling1D()(layers.Dense(16, name="mixed")(x))
    model = keras.Model(inputs, layers.Dense(3, name="classes")(x))
    rng = np.random.default_rng(0)
    table.set_weights([rng.normal(size=(60, 5)) @ rng.normal(size=(5, 16))])
    return model, [rng.integers(0, 60, (20, 6)) for _ in inputs]


@pytest.mark.parametrize("mask", [False, True])
def test_a_table_that_is_named_becomes_a_narrow_one(mask):
    model, x = table_model(mask)
    factorized = tfc.factorize(model, energy=1.0, include=["words", "mixed"])
    (row,) = [e for e in factorized.compression_report.entries if e.name == "words"]
    assert row.action == "factorized" and row.details["parameters"] == 5 * (60 + 16)
    assert row.details["parameters_before"] == 60 * 16
    assert model.count_params() - factorized.count_params() == 60 * 16 - 5 * 76
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        factorized.predict(x, verbose=0), expected, atol=2e-5 * np.abs(expected).max()
    )
    kept = tfc.factorize(model, rank=13, include="words")  # 13 * 76 > 60 * 16
    (row,) = [e for e in kept.compression_report.entries if e.name == "words"]
    assert "988 parameters instead of 960" in row.reason


def test_tables_that_are_not_named_stay_and_take_no_part_in_a_target():
    model, _ = table_model()
    names = [e.name for e in tfc.factorize(model, energy=0.5).compression_report.entries]
    assert "words" not in names
    both = tfc.factorize(model, multiply_adds=0.3, include=["words", "mixed"])
    counts = [tfc.complexity(one).multiply_adds for one in (model, both)]
    assert counts[1] <= 0.7 * counts[0]
    alone = tfc.factorize(model, multiply_adds=0.3, include="mixed")
    assert both.compression_report.settings["energy"] == alone.compression_report.settings["energy"]


def film_model(shared=False):
    """A convolution and a Dense layer on each image of a film; shared: one of them outside too."""
    x = inputs = keras.Input((5, 8, 8, 3))
    x = layers.TimeDistributed(layers.Conv2D(12, 3, activation="relu"), name="images")(x)
    x = layers.TimeDistributed(layers.Flatten())(x)
    dense = layers.Dense(432, activation="relu", name="dense")
    x = layers.TimeDistributed(dense, name="vectors")(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = dense(x) if shared else x
    return scramble(keras.Model(inputs, layers.Dense(2)(x)))


def test_layers_in_time_distributed(tmp_path):
    model = film_model()
    convolution, dense = model.get_layer("images").layer, model.get_layer("vectors").layer
    lower_rank(convolution, 2)
    lower_rank(dense, 3)
    smaller = tfc.factorize(model, energy=1 - 1e-9)
    changed = {entry.name: entry.details for entry in smaller.compression_report.changed}
    assert list(changed) == [f"images/{convolution.name}", "vectors/dense"]
    saved = tfc.complexity(model).multiply_adds - tfc.complexity(smaller).multiply_adds
    each = [d["multiply_adds_before"] - d["multiply_adds"] for d in changed.values()]
    assert saved == sum(each) > 0
    assert_same_outputs(model, smaller)
    assert_trains_saves_converts(smaller, tmp_path)
    assert [layer.name for layer in smaller.layers if "vectors" in layer.name] == [
        "vectors_reduce",
        "vectors",
    ]
    assert type(smaller.get_layer("vectors")) is layers.Dense  # all steps at once
    one = tfc.factorize(model, rank=1, include="vectors", data=examples(model, 64))
    assert [entry.name for entry in one.compression_report.changed] == ["vectors/dense"]
    assert any("2 layers" in note for note in one.compression_report.notes)


def test_a_layer_in_time_distributed_and_outside_stays():
    model = film_model(shared=True)
    smaller = tfc.factorize(model, rank=1)
    left = {entry.name: entry.reason for entry in smaller.compression_report.left}
    assert "inside another layer" in left["vectors/dense"]
    assert [e.name for e in smaller.compression_report.changed][:1] == [
        f"images/{model.get_layer('images').layer.name}"
    ]


def test_layers_that_several_hold_stay():
    dense = layers.Dense(16, name="dense")
    x = inputs = keras.Input((2, 3, 16))
    x = layers.TimeDistributed(layers.TimeDistributed(dense))(x)
    x = layers.TimeDistributed(dense)(layers.Reshape((6, 16))(x))
    smaller = tfc.factorize(keras.Model(inputs, x), rank=1)
    assert not smaller.compression_report.changed
