"""`tfc.separate`: the closest separable convolution, and never a dearer one."""

from __future__ import annotations

import itertools

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
    outputs,
    scramble,
)

import tfcompress as tfc
from tfcompress.errors import ConfigError, ModelTypeError, ScopeError
from tfcompress.surgery.budget import cheapest_errors
from tfcompress.surgery.separate import closest_separable

layers = keras.layers
DepthwiseConv2D = keras.layers.DepthwiseConv2D


def make_separable(layer, terms=1, seed=0):
    """Gives a convolution a kernel that is a sum of `terms` separable ones."""
    generator = np.random.default_rng(seed)
    *positions, inputs, filters = layer.kernel.shape
    spatial = generator.normal(size=(*positions, inputs, terms))
    mixing = generator.normal(size=(inputs, terms, filters))
    layer.kernel.assign(np.einsum("...it,ito->...io", spatial, mixing) / 5)


CONVOLUTIONS = {
    "Conv2D": (lambda: layers.Conv2D(12, 3, activation="relu"), (9, 9, 4)),
    "Conv2D same, strided": (
        lambda: layers.Conv2D(12, (3, 5), strides=2, padding="same", use_bias=False),
        (8, 9, 4),
    ),
    "Conv2D dilated": (lambda: layers.Conv2D(12, 3, dilation_rate=2, padding="same"), (8, 8, 4)),
    "Conv2D one column": (lambda: layers.Conv2D(12, (7, 1)), (9, 3, 4)),
    "Conv1D": (lambda: layers.Conv1D(12, 5, strides=2, padding="same"), (20, 4)),
    "Conv1D causal": (lambda: layers.Conv1D(12, 5, dilation_rate=2, padding="causal"), (20, 4)),
}


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_separable_kernel_is_found_exactly(name, terms):
    build, shape = CONVOLUTIONS[name]
    model = scramble(chain(shape, build(), layers.Dense(3)))
    make_separable(model.layers[1], terms)
    separated = tfc.separate(model, terms=terms)
    assert_same_outputs(model, separated)
    assert any(name.startswith(("SeparableConv", "DepthwiseConv")) for name in classes(separated))
    assert ("Concatenate" in classes(separated)) == (terms > 1)
    (entry,) = separated.compression_report.changed
    assert entry.details["error"] < 1e-6
    counted = tfc.complexity(model).multiply_adds - tfc.complexity(separated).multiply_adds
    assert counted == entry.details["multiply_adds_before"] - entry.details["multiply_adds"] > 0


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), inputs=st.integers(1, 3),
    filters=st.integers(1, 5), terms=st.integers(1, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_separable_kernel_is_closer(rows, columns, inputs, filters, terms, seed):
    generator = np.random.default_rng(seed)
    kernel = generator.normal(size=(rows, columns, inputs, filters))
    depthwise, pointwise, error = closest_separable(kernel, terms)
    mixing = pointwise.reshape(inputs, terms, filters)
    found = np.einsum("rcit,ito->rcio", depthwise, mixing)
    assert np.linalg.norm(kernel - found) / np.linalg.norm(kernel) == pytest.approx(error, abs=1e-9)
    # With one side fixed the other is a least-squares problem: neither can be bettered.
    for i in range(inputs):
        matrix, side = kernel[:, :, i].reshape(-1, filters), depthwise[:, :, i].reshape(-1, terms)
        best = side @ np.linalg.lstsq(side, matrix, rcond=None)[0]
        other = (mixing[i].T @ np.linalg.lstsq(mixing[i].T, matrix.T, rcond=None)[0]).T
        np.testing.assert_allclose(found[:, :, i].reshape(-1, filters), best, atol=1e-9)
        np.testing.assert_allclose(found[:, :, i].reshape(-1, filters), other, atol=1e-9)
    # Nor by starting elsewhere: a random separable kernel, fitted, is no closer.
    start = generator.normal(size=(inputs, rows * columns, terms))
    matrices = np.moveaxis(kernel, 2, 0).reshape(inputs, -1, filters)
    fitted = start @ np.linalg.pinv(start) @ matrices
    assert np.linalg.norm(matrices - fitted) >= np.linalg.norm(kernel - found) - 1e-9


def test_more_terms_are_closer():
    model = scramble(chain((9, 9, 4), layers.Conv2D(64, 3)))
    errors = []
    for terms in range(1, 8):
        separated = tfc.separate(model, terms=terms)
        (entry,) = separated.compression_report.changed
        errors.append(entry.details["error"])
        x = examples(model)
        far = np.linalg.norm(outputs(model, x)[0] - outputs(separated, x)[0])
        assert far / np.linalg.norm(outputs(model, x)[0]) == pytest.approx(errors[-1], rel=0.3)
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 7


@pytest.mark.parametrize("terms", [1, 2])
def test_settings_are_kept(terms):
    convolution = layers.Conv2D(
        16, 3, strides=2, padding="same", activation="relu", name="conv", trainable=False,
        kernel_regularizer=keras.regularizers.L2(0.01), bias_regularizer=keras.regularizers.L1(0.1),
        kernel_constraint=keras.constraints.MaxNorm(2),
    )  # fmt: skip
    model = scramble(chain((8, 8, 4), convolution, layers.Flatten(), layers.Dense(2)))
    separated = tfc.separate(model, terms=terms)
    new = separated.get_layer("conv")
    if terms == 1:
        assert type(new) is layers.SeparableConv2D
        depthwise, pointwise = [new], new.pointwise_regularizer
    else:
        assert type(new) is layers.Conv2D and new.kernel.shape == (1, 1, 8, 16)
        depthwise = [layer for layer in separated.layers if isinstance(layer, DepthwiseConv2D)]
        assert len(depthwise) == 2 and not any(layer.use_bias for layer in depthwise)
        pointwise = new.kernel_regularizer
        assert new.strides == (1, 1) and new.kernel_constraint is None
    for layer in depthwise:
        assert (layer.strides, layer.padding, layer.trainable) == ((2, 2), "same", False)
        assert float(layer.depthwise_regularizer.l2) == pytest.approx(0.01)
        assert layer.activation is keras.activations.relu or layer is not new
    assert float(pointwise.l2) == pytest.approx(0.01) and not new.trainable
    assert float(new.bias_regularizer.l1) == pytest.approx(0.1)
    assert new.activation is keras.activations.relu
    assert "constraint" in entries(separated)["conv"][1]


@pytest.mark.parametrize("strides", [1, 2])
def test_trains_saves_converts(tmp_path, strides):
    convolution = layers.Conv2D(16, 3, strides=strides)
    model = scramble(chain((8, 8, 4), convolution, layers.Flatten(), layers.Dense(2)))
    assert_trains_saves_converts(tfc.separate(model, terms=2), tmp_path)


def test_strided_terms_are_fitted_and_trained_in_integers():
    """Terms that go side by side behind the strides; one grid for all in int8."""
    convolutions = layers.Conv2D(16, 3, strides=2), layers.ReLU(), layers.Conv1D(24, 5, strides=3)
    flat = layers.Reshape((9, 16))
    model = chain((8, 8, 4), *convolutions[:2], flat, convolutions[2], layers.Dense(2))
    model = scramble(model)
    x = examples(model, 64)
    plain, fitted = (tfc.separate(model, terms=2, data=data) for data in (None, x))
    wanted = outputs(model, x)[0]
    far = [np.linalg.norm(outputs(made, x)[0] - wanted) for made in (plain, fitted)]
    assert far[1] < 0.9 * far[0]
    assert sum(isinstance(layer, DepthwiseConv2D) for layer in fitted.layers) == 2
    assert sum(isinstance(layer, layers.DepthwiseConv1D) for layer in fitted.layers) == 2
    qmodel = tfc.quantize_aware(fitted, calibration_data=x)
    tfc.convert(qmodel, "int8", verify=x)


def test_nested_shared_several_inputs_and_sequential():
    inner = keras.Sequential([keras.Input((8, 4)), layers.Conv1D(16, 3, name="c")], name="inner")
    conv = layers.Conv2D(16, 3, name="conv")
    a, b, c = keras.Input((8, 8, 4)), keras.Input((8, 8, 4)), keras.Input((8, 4))
    model = keras.Model([a, b, c], [layers.Add()([conv(a), conv(b)]), inner(c)])
    scramble(model)
    for layer in (conv, inner.layers[0]):
        make_separable(layer)
    separated = tfc.separate(model)
    assert_same_outputs(model, separated)
    assert sorted(classes(separated)) == ["Add", "SeparableConv1D", "SeparableConv2D"]
    assert type(separated.get_layer("inner")) is keras.Sequential
    found = {
        e.name: e.details["multiply_adds_before"] for e in separated.compression_report.changed
    }
    assert found == {"conv": 2 * 36 * 36 * 16, "inner/c": 6 * 12 * 16}


def test_several_terms_in_sequential_models(tmp_path):
    """A Sequential model cannot hand an input on several times: it becomes a Functional one."""
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(16, 3, name="c")], name="inner")
    parts = [keras.Input((8, 8, 4)), inner, layers.Conv2D(16, 3), layers.Flatten(), layers.Dense(2)]
    model = scramble(keras.Sequential(parts, name="outer"))
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
    exact = model.get_layer("inner").layers[0], model.layers[1]
    for layer in exact:
        make_separable(layer, 2)
    for data in (None, x):
        separated = tfc.separate(model, terms=2, data=data)
        assert_same_outputs(model, separated)
        assert len(separated.compression_report.changed) == 2
        assert any("Functional" in note for note in separated.compression_report.notes)
        assert separated.name == "outer" and separated.get_layer("inner").name == "inner"
    assert_trains_saves_converts(separated, tmp_path)


class Mine(layers.Conv2D):
    pass


@pytest.mark.parametrize("strides", [1, 2])
def test_runtimes_get_no_depth_multiplier(tmp_path, strides):
    convolution = layers.Conv2D(16, 3, strides=strides)
    model = scramble(chain((8, 8, 4), convolution, layers.Flatten(), layers.Dense(2)))
    separated = tfc.separate(model, terms=3)
    tflite = tfc.convert(separated)
    tflite.save(tmp_path / "m.tflite")
    found = {o.name: o for o in tfc.inspect(tmp_path / "m.tflite").operators}
    assert "DEPTHWISE_CONV_2D" in found and all(o.placed for o in found.values())
    kernels = [getattr(layer, "depthwise_kernel", None) for layer in separated.layers]
    kernels += [layer.kernel for layer in separated.layers if isinstance(layer, DepthwiseConv2D)]
    shapes = [tuple(kernel.shape) for kernel in kernels if kernel is not None]
    assert shapes == ([(3, 3, 12, 1)] if strides == 1 else 3 * [(3, 3, 4, 1)])


def test_a_share_chooses_the_terms():
    stack = [layers.Conv2D(16, 3, padding="same", name=f"conv{n}") for n in range(4)]
    model = scramble(chain((9, 9, 16), *stack, layers.Dense(3)))
    make_separable(model.get_layer("conv1"), 1)
    make_separable(model.get_layer("conv2"), 3, seed=1)
    whole = tfc.complexity(model).multiply_adds
    errors = []
    for share in (0.2, 0.5, 0.7):
        smaller = tfc.separate(model, multiply_adds=share)
        saved = 1 - tfc.complexity(smaller).multiply_adds / whole
        assert share <= saved < share + 0.15
        terms = {e.name: e.details["terms"] for e in smaller.compression_report.changed}
        assert terms["conv1"] == 1 and terms.get("conv2", 3) <= 3
        left = {e.name for e in smaller.compression_report.left if e.kind == "Conv2D"}
        assert sorted([*left, *terms]) == [f"conv{n}" for n in range(4)]
        errors.append(sum(e.details["error"] ** 2 for e in smaller.compression_report.changed))
    assert errors == sorted(errors) and errors[0] < 0.5
    # As cheap, the same number of terms for all is further off.
    same = tfc.separate(model, terms=2).compression_report.changed
    cost = sum(e.details["multiply_adds"] for e in same)
    rest = whole - sum(e.details["multiply_adds_before"] for e in same)
    chosen = tfc.separate(model, multiply_adds=1 - (cost + rest) / whole).compression_report
    assert sum(e.details["error"] ** 2 for e in chosen.changed) < sum(
        e.details["error"] ** 2 for e in same
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multiply_adds": 0}, "between 0 and 1"),
        ({"multiply_adds": True}, "between 0 and 1"),
        ({"multiply_adds": 0.5, "terms": 2}, "not both"),
        ({"multiply_adds": 0.95}, "with one term everywhere it is 0.8"),
    ],
)
def test_shares_that_cannot_be(arguments, message):
    model = scramble(chain((9, 9, 16), layers.Conv2D(16, 3), layers.Conv2D(32, 3)))
    with pytest.raises(ConfigError, match=message):
        tfc.separate(model, **arguments)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_allocation_of_a_budget_has_less_error(data):
    """Beside all allocations, one by one, at budgets that some price of error spends exactly."""
    points = {}
    for key in range(data.draw(st.integers(1, 3))):
        costs = sorted(data.draw(st.sets(st.integers(1, 20), min_size=1, max_size=4)))
        errors = sorted((data.draw(st.floats(0, 1)) for _ in costs), reverse=True)
        points[key] = list(zip(costs, errors, strict=True))

    def weighed(numbers):
        chosen = [points[key][number] for key, number in enumerate(numbers)]
        return sum(cost for cost, _ in chosen), sum(error for _, error in chosen)

    every = [weighed(n) for n in itertools.product(*(range(len(own)) for own in points.values()))]
    price = data.draw(st.floats(0.001, 1))
    best = [
        min(own, key=lambda point: (point[1] + price * point[0], point)) for own in points.values()
    ]
    budget = sum(cost for cost, _ in best)
    taken = cheapest_errors(points, budget)
    cost, error = weighed(taken[key] for key in points)
    assert cost <= budget
    assert error <= min(error for cost, error in every if cost <= budget) + 1e-9
    # With any budget it keeps to it, and says so where even the cheapest costs more.
    budget = data.draw(st.integers(0, 60))
    taken = cheapest_errors(points, budget)
    if min(cost for cost, _ in every) > budget:
        assert taken is None
    else:
        assert weighed(taken[key] for key in points)[0] <= budget


LEFT = {
    "1x1": (lambda: layers.Conv2D(9, 1), (6, 6, 3), "one position"),
    "groups": (lambda: layers.Conv2D(8, 3, groups=2), (6, 6, 4), "2 groups"),
    "two strides": (lambda: layers.Conv2D(16, 3, strides=(1, 2)), (6, 6, 4), "one stride"),
    "Conv3D": (lambda: layers.Conv3D(16, 3), (6, 6, 6, 4), "three dimensions"),
    "dearer": (lambda: layers.Conv2D(2, (2, 1)), (6, 6, 4), "would cost"),
    "one's own": (lambda: Mine(16, 3), (6, 6, 4), "Mine has no separable form"),
    "in a layer": (
        lambda: layers.TimeDistributed(layers.TimeDistributed(layers.Conv1D(16, 3))),
        (2, 5, 6, 4),
        "calls are not known",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_with_a_reason(name):
    build, shape, reason = LEFT[name]
    model = scramble(chain(shape, build()))
    separated = tfc.separate(model)
    assert_same_outputs(model, separated, 0)
    (entry,) = separated.compression_report.left
    assert reason in entry.reason


def test_the_dearest_number_of_terms():
    """3x3, 8 to 8 channels: 576 weights; 17 for each of 8 channels and terms: 4 terms are 544."""
    model = scramble(chain((6, 6, 8), layers.Conv2D(8, 3)))
    assert tfc.separate(model, terms=4).compression_report.changed
    assert not tfc.separate(model, terms=5).compression_report.changed


def test_scopes():
    model = scramble(
        chain((9, 9, 4), layers.Conv2D(16, 3, name="a"), layers.Conv2D(16, 3, name="b"),
              layers.Dense(3, name="d"))
    )  # fmt: skip
    assert entries(tfc.separate(model, include="a"))["b"] == ("left", "not in `include`")
    assert entries(tfc.separate(model, exclude="a"))["a"] == ("left", "excluded")
    assert "no separable form" in entries(tfc.separate(model, include=["a", "d"]))["d"][1]
    with pytest.raises(ScopeError, match="include"):
        tfc.separate(model, include="e")


@pytest.mark.parametrize("terms", [0, -1, 1.5, True, "2"])
def test_terms_must_be_a_number_above_0(terms):
    with pytest.raises(ConfigError, match="terms"):
        tfc.separate(chain((6, 6, 3), layers.Conv2D(4, 3)), terms=terms)


def test_needs_a_graph():
    with pytest.raises(ModelTypeError):
        tfc.separate(keras.Sequential([layers.Conv2D(4, 3)]))


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", ["Conv2D", "Conv2D same, strided", "Conv1D causal"])
def test_a_convolution_of_each_image_of_a_film(name, terms, tmp_path):
    build, shape = CONVOLUTIONS[name]
    each = layers.TimeDistributed(build(), name="each")
    model = scramble(chain((5, *shape), each, layers.Flatten(), layers.Dense(3)))
    make_separable(each.layer, terms)
    separated = tfc.separate(model, terms=terms)
    (entry,) = separated.compression_report.changed
    assert entry.name == f"each/{each.layer.name}" and entry.details["error"] < 1e-6
    counted = tfc.complexity(model).multiply_adds - tfc.complexity(separated).multiply_adds
    assert counted == entry.details["multiply_adds_before"] - entry.details["multiply_adds"] > 0
    assert_same_outputs(model, separated)
    assert separated.get_layer("each").name == "each"
    assert_trains_saves_converts(separated, tmp_path)


def test_terms_of_films_with_channels_first_are_joined_along_the_channels():
    convolution = layers.Conv2D(8, 3, strides=2, padding="same", data_format="channels_first")
    model = chain((5, 4, 8, 9), layers.TimeDistributed(convolution))
    make_separable(convolution, 2)
    separated = tfc.separate(model, terms=2)
    assert separated.output_shape == model.output_shape
    (terms,) = (one for one in separated.layers if isinstance(one, layers.Concatenate))
    assert terms.axis == 2 and terms.output.shape == (None, 5, 8, 4, 5)


@pytest.mark.parametrize("strides", [1, 2])
def test_steps_with_a_mask_get_one_term(strides):
    each = layers.TimeDistributed
    parts = (layers.Masking(), each(layers.Reshape((20, 1))), each(layers.Conv1D(8, 5)))
    parts += (each(layers.Conv1D(8, 5, strides=strides), name="two"), each(layers.Flatten()))
    model = scramble(chain((6, 20), *parts, layers.LSTM(4)))
    x = examples(model, 64)
    for settings_ in ({"terms": 2}, {"multiply_adds": 0.1}):
        try:
            left = tfc.separate(model, include="two", **settings_)
        except ConfigError as error:
            assert "with one term everywhere it is 0.000" in str(error)
            continue
        (entry,) = (one for one in left.compression_report.left if one.name.startswith("two/"))
        assert "have a mask" in entry.reason
    separated = tfc.separate(model, include="two", data=x)
    assert [e.name.split("/")[0] for e in separated.compression_report.changed] == ["two"]
    outputs(separated, x)
