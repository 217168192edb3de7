"""`tfc.fold_batchnorm`: the same outputs with fewer layers, and reasons where there are not."""

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
    left_alone,
    scramble,
)

import tfcompress as tfc
from tfcompress.errors import ModelTypeError

layers = keras.layers
bn = layers.BatchNormalization


def fold(model, tolerance=3e-6):
    scramble(model)
    with left_alone(model):
        folded = tfc.fold_batchnorm(model)
    assert_same_outputs(model, folded, tolerance)
    return folded


LAYERS = {  # layer, shape of its input, axis of BatchNormalization behind it
    "Conv1D": (lambda **o: layers.Conv1D(5, 3, padding="causal", **o), (9, 4), -1),
    "Conv2D": (lambda **o: layers.Conv2D(6, 3, strides=2, padding="same", **o), (7, 8, 4), 3),
    "Conv2D grouped": (lambda **o: layers.Conv2D(6, 3, groups=2, **o), (5, 5, 4), -1),
    "Conv3D": (lambda **o: layers.Conv3D(3, 2, **o), (3, 4, 5, 2), -1),
    "Conv1DTranspose": (lambda **o: layers.Conv1DTranspose(5, 3, strides=4, **o), (7, 4), -1),
    "Conv2DTranspose": (
        lambda **o: layers.Conv2DTranspose(5, 3, padding="same", **o),
        (4, 4, 3),
        -1,
    ),
    "Conv3DTranspose": (lambda **o: layers.Conv3DTranspose(3, 2, **o), (2, 3, 3, 2), -1),
    "DepthwiseConv1D": (
        lambda **o: layers.DepthwiseConv1D(3, depth_multiplier=2, **o),
        (9, 4),
        2,
    ),
    "DepthwiseConv2D": (
        lambda **o: layers.DepthwiseConv2D(3, depth_multiplier=3, **o),
        (6, 6, 4),
        -1,
    ),
    "SeparableConv1D": (lambda **o: layers.SeparableConv1D(5, 3, padding="same", **o), (9, 4), -1),
    "SeparableConv2D": (
        lambda **o: layers.SeparableConv2D(5, 3, depth_multiplier=2, **o),
        (6, 6, 4),
        -1,
    ),
    "Dense": (lambda **o: layers.Dense(5, **o), (7, 3), -1),
}


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_into_the_layer_before(name, use_bias):
    build, shape, axis = LAYERS[name]
    model = chain(shape, layers.ReLU(), build(use_bias=use_bias), bn(axis=axis), layers.ReLU())
    folded = fold(model)
    assert "BatchNormalization" not in classes(folded)
    assert len(folded.layers) == len(model.layers) - 1
    ((action, reason),) = entries(folded).values()
    assert (action, reason) == ("folded", f"into '{model.layers[2].name}'")


AFTER = {  # padding "valid", or none at stake
    "Conv1D": (lambda: layers.Conv1D(5, 3, activation="relu"), (9, 4)),
    "Conv2D": (lambda: layers.Conv2D(6, 3, strides=2, use_bias=False), (7, 8, 4)),
    "Conv2D grouped": (lambda: layers.Conv2D(6, 3, groups=2), (5, 5, 4)),
    "Conv2D 1x1 same": (lambda: layers.Conv2D(6, 1, strides=2, padding="same"), (5, 5, 4)),
    "Conv3D": (lambda: layers.Conv3D(3, 2), (3, 4, 5, 2)),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4)),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=3), (6, 6, 4)),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2), (6, 6, 4)),
    "Dense": (lambda: layers.Dense(5, activation="tanh"), (7, 3)),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cde->abde", (7, 2, 3), bias_axes="e"), (7, 4)),
    "EinsumDense, dots": (lambda: layers.EinsumDense("...x,xy->...y", 5), (2, 3, 4)),
    "EinsumDense, each its own": (lambda: layers.EinsumDense("abc,bcd->abd", (3, 5)), (3, 4)),
}


@pytest.mark.parametrize("name", AFTER)
def test_into_the_layer_after(name):
    build, shape = AFTER[name]
    folded = fold(chain(shape, layers.ReLU(), bn(), build()))
    assert "BatchNormalization" not in classes(folded)


EINSUMS = {  # equation, output shape, bias axes, shape of the input, axis
    "last": ("abc,cd->abd", (None, 5), "d", (7, 4), -1),
    "heads": ("abc,cde->abde", (7, 2, 3), "de", (7, 4), 2),
    "no bias": ("abc,cde->abde", (7, 2, 3), None, (7, 4), 2),
    "bias on another axis": ("abc,cde->abde", (7, 2, 3), "d", (7, 4), 3),
    "dots in front": ("...x,xyz->...yz", (2, 3), "z", (5, 4), -2),
    "dots behind": ("ab...,bc->ac...", 5, "c", (4, 3, 2), 1),
    "dots behind, no bias": ("ab...,bc->ac...", 5, None, (4, 3), 1),
    "each its own": ("abc,bcd->abd", (3, 5), "d", (3, 4), 1),
}


@pytest.mark.parametrize("name", EINSUMS)
def test_into_an_einsum_dense(name):
    equation, output, bias_axes, shape, axis = EINSUMS[name]
    layer = layers.EinsumDense(equation, output, bias_axes=bias_axes)
    folded = fold(chain(shape, layers.ReLU(), layer, bn(axis=axis)))
    assert classes(folded) == ["ReLU", "EinsumDense"]


BETWEEN = {  # what stands between the two, and the shape in front
    "dropout": ([layers.Dropout(0.5), layers.Activation("linear")], (7, 4)),
    "places of dropout": ([layers.SpatialDropout2D(0.5), layers.GaussianNoise(1.0)], (6, 6, 4)),
    "means": ([layers.AveragePooling2D(3, 2, padding="same")], (6, 6, 4)),
    "one mean": ([layers.GlobalAveragePooling1D(keepdims=True), layers.Dropout(0.1)], (6, 4)),
    "larger": ([layers.UpSampling2D(2, interpolation="bilinear")], (3, 3, 4)),
    "cut": ([layers.Cropping1D(1), layers.AveragePooling1D(2)], (8, 4)),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", BETWEEN)
def test_through_what_makes_no_difference(name, behind):
    between, shape = BETWEEN[name]
    parts = [layers.Dense(5), *between, bn()] if behind else [bn(), *between, layers.Dense(5)]
    model = chain(shape, layers.ReLU(), *parts, layers.ReLU())
    folded = fold(model)
    assert "BatchNormalization" not in classes(folded)
    ((action, reason),) = entries(folded).values()
    assert action == "folded"
    assert all(f"through '{layer.name}'" in reason for layer in between)


@pytest.mark.parametrize("pool", [layers.MaxPooling2D(2), layers.GlobalMaxPooling2D()])
@pytest.mark.parametrize("behind", [False, True])
def test_through_maxima_where_no_scale_is_negative(pool, behind):
    for sign in (1, -1):
        again = type(pool).from_config(pool.get_config())
        parts = [layers.Dense(5), again, bn()] if behind else [bn(), again, layers.Dense(5)]
        model = scramble(chain((6, 6, 4), *parts, layers.ReLU()))
        norm = next(one for one in model.layers if isinstance(one, bn))
        norm.gamma.assign(np.abs(norm.gamma))
        norm.gamma.assign(np.append(norm.gamma[:-1], sign * norm.gamma[-1]))
        folded = tfc.fold_batchnorm(model)
        assert_same_outputs(model, folded)
        ((action, reason),) = entries(folded).values()
        assert action == ("folded" if sign > 0 else "left")
        assert sign > 0 or "would be minima" in reason


def test_flattened_places_take_a_scale_each():
    model = chain((4, 3, 5), bn(), layers.MaxPooling2D((2, 1)), layers.Dropout(0.5),
                  layers.Flatten(), layers.Dense(6, activation="relu"), bn(axis=1))  # fmt: skip
    scramble(model)
    model.layers[1].gamma.assign(np.abs(model.layers[1].gamma))
    folded = tfc.fold_batchnorm(model)
    assert_same_outputs(model, folded)
    assert [action for action, _ in entries(folded).values()] == ["folded", "left"]
    model = chain((4, 6), layers.ReLU(), bn(axis=1), layers.Reshape((24,)), layers.Dense(3))
    assert "BatchNormalization" not in classes(fold(model))


def test_several_readers_and_norms_behind_dropout():
    inputs = keras.Input((6, 8))
    drop, dense = layers.Dropout(0.3), layers.Dense(4, name="dense")
    x = bn()(layers.ReLU()(inputs))
    both = [dense(drop(x)), dense(layers.Dropout(0.1)(x))]
    assert "BatchNormalization" not in classes(fold(keras.Model(inputs, both)))
    both = [dense(drop(x)), layers.Dense(4)(x)]
    assert "several layers" in left(keras.Model(inputs, both))
    model = chain((6, 8), layers.Dense(5, use_bias=False), layers.Dropout(0.1), bn(),
                  layers.Identity(), bn(), layers.ReLU())  # fmt: skip
    assert "BatchNormalization" not in classes(fold(model, 1e-5))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_what_makes_floats_of_integers_stays(dtype):
    inputs = keras.Input((6, 6, 3), dtype=dtype)
    model = scramble(keras.Model(inputs, layers.Conv2D(4, 3)(bn()(inputs))))
    folded = tfc.fold_batchnorm(model)
    x = np.random.default_rng(0).integers(0, 2, (3, 6, 6, 3)).astype(dtype)
    np.testing.assert_array_equal(folded(x), model(x))
    assert "makes floats" in next(iter(entries(folded).values()))[1]


def test_a_nested_model_that_would_be_left_empty_saves(tmp_path):
    inner = keras.Sequential([bn()])
    folded = fold(chain((4,), layers.Dense(4), inner, layers.ReLU()))
    assert "BatchNormalization" not in classes(folded)
    folded.save(tmp_path / "model.keras")
    assert_same_outputs(folded, keras.models.load_model(tmp_path / "model.keras"))
    keras.models.clone_model(folded)


def test_a_nested_model_that_is_called_in_training_stays():
    inner = keras.Sequential([keras.Input((4,)), bn(), layers.ReLU()])
    inputs = keras.Input((4,))
    x = inner(layers.Dense(4, name="dense")(inputs), training=True)
    model = scramble(keras.Model(inputs, layers.Dense(2)(x)))
    assert "training=True" in str(tfc.fold_batchnorm(model).compression_report)
    kernel, bias = model.get_layer("dense").get_weights()
    kernel[:, :2], bias[:2] = 0, 0
    model.get_layer("dense").set_weights([kernel, bias])
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    smaller = tfc.remove_dead(model)
    np.testing.assert_allclose(smaller(x), model(x), rtol=0, atol=1e-5)


def test_other_dtypes_between():
    mean = layers.AveragePooling2D(2, dtype="mixed_float16")
    assert "computes in float16" in left(chain((6, 6, 3), layers.Dense(4), mean, bn()))


@pytest.mark.parametrize("masked", [False, True])
def test_means_over_words(masked):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=masked)(inputs)
    x = layers.GlobalAveragePooling1D()(bn()(layers.ReLU()(x)))
    model = scramble(keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.2)(x))))
    folded = tfc.fold_batchnorm(model)
    words = np.random.default_rng(0).integers(0, 4, (5, 6))
    np.testing.assert_allclose(folded(words), model(words), rtol=0, atol=3e-6)
    ((action, reason),) = entries(folded).values()
    assert action == ("left" if masked else "folded"), reason


def test_without_shift_padding_is_exact():
    model = chain((6, 6, 4), layers.ReLU(), bn(center=False), layers.Conv2D(3, 3, padding="same"))
    scramble(model)
    model.layers[2].moving_mean.assign(np.zeros(4))
    folded = tfc.fold_batchnorm(model)
    assert_same_outputs(model, folded)
    assert classes(folded) == ["ReLU", "Conv2D"]


@settings(max_examples=20, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 3]), per_group=st.integers(1, 3), filters=st.integers(1, 3),
    size=st.integers(1, 3), stride=st.integers(1, 2), behind=st.booleans(),
    scale=st.booleans(), center=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_grouped_convolutions(
    groups, per_group, filters, size, stride, behind, scale, center, seed
):
    layer = layers.Conv2D(filters * groups, size, strides=stride, groups=groups)
    norm = bn(scale=scale, center=center, epsilon=0.1)
    parts = [layer, norm] if behind else [norm, layer]
    model = scramble(chain((5, 5, groups * per_group), layers.ReLU(), *parts), seed)
    folded = tfc.fold_batchnorm(model)
    assert_same_outputs(model, folded, 1e-5)
    assert classes(folded) == ["ReLU", "Conv2D"]


def test_several_in_a_row_and_on_both_sides():
    model = chain(
        (7, 7, 3), bn(), layers.Conv2D(5, 3, use_bias=False), bn(), bn(epsilon=0.5), layers.ReLU(),
        bn(), layers.Conv2D(4, 3), bn(),
    )  # fmt: skip
    assert classes(fold(model, 1e-5)) == ["Conv2D", "ReLU", "Conv2D"]


def test_one_that_is_gone_makes_way_for_another():
    model = chain((6, 6, 3), bn(), layers.AveragePooling2D(2), bn(), layers.Flatten(),
                  layers.Dense(3))  # fmt: skip
    assert classes(fold(model)) == ["AveragePooling2D", "Flatten", "Dense"]


def test_a_whole_network(tmp_path):
    model = tfc.models.mobilenet_v2((32, 32, 3), classes=4, alpha=0.35, classifier_activation=None)
    folded = fold(model, 1e-5)
    assert "BatchNormalization" not in classes(folded)
    assert tfc.complexity(folded).multiply_adds == tfc.complexity(model).multiply_adds


def test_plain_keras(tmp_path):
    model = chain(
        (8, 8, 3), layers.Conv2D(6, 3, use_bias=False), bn(), layers.ReLU(),
        layers.GlobalAveragePooling2D(), layers.Dense(3), bn(),
    )  # fmt: skip
    assert_trains_saves_converts(fold(model), tmp_path)


def test_sequential_nested_and_shared():
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(4, 3), bn(), layers.ReLU()], name="inner"
    )
    only = keras.Sequential([keras.Input((4, 4, 4)), bn()], name="only")
    a, b = keras.Input((6, 6, 3)), keras.Input((6, 6, 3))
    conv, norm = layers.Conv2D(5, 3, name="conv"), bn(name="norm")
    x, y = (norm(conv(inner(i))) for i in (a, b))
    model = keras.Model([a, b], [layers.Add()([x, y]), only(layers.Conv2D(4, 1)(inner(a)))])
    folded = fold(model)
    assert "BatchNormalization" not in classes(folded)
    assert isinstance(folded.get_layer("inner"), keras.Sequential)
    assert entries(folded)["norm"] == ("folded", "into 'conv'")
    assert (
        folded.get_layer("conv") is folded.layers[[*folded.layers].index(folded.get_layer("conv"))]
    )
    assert sum(name == "Conv2D" for name in classes(folded)) == 3


def left(model):
    """The only entry's reason."""
    folded = fold(model)
    ((action, reason),) = entries(folded).values()
    assert action == "left"
    assert "BatchNormalization" in classes(folded)
    return reason


def branching(outputs):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    y = layers.ReLU()(bn()(x))
    return keras.Model(inputs, [x, y] if outputs else layers.Add()([x, y]))


def shared_elsewhere():
    inputs = keras.Input((6, 6, 3))
    conv = layers.Conv2D(3, 1, name="conv")
    return keras.Model(inputs, conv(layers.ReLU()(bn()(conv(inputs)))))


def shared_norm():
    inputs = keras.Input((6, 6, 3))
    norm = bn()
    x, y = (layers.ReLU()(norm(layers.Conv2D(4, 1)(inputs))) for _ in range(2))
    return keras.Model(inputs, layers.Add()([x, y]))


class Mine(layers.Dense):
    def call(self, x):
        return keras.ops.square(super().call(x))


LEFT = {
    "an activation": (
        lambda: chain((5, 4), layers.Dense(4, activation="relu", name="d"), bn(), layers.ReLU()),
        "'d' ends in an activation",
    ),
    "padding": (
        lambda: chain(
            (6, 6, 3), layers.ReLU(), bn(), layers.Conv2D(4, 3, padding="same", name="c")
        ),
        "zeros that 'c' pads with",
    ),
    "causal padding": (
        lambda: chain((6, 3), layers.ReLU(), bn(), layers.Conv1D(4, 3, padding="causal", name="c")),
        "zeros that 'c' pads with",
    ),
    "ZeroPadding2D": (
        lambda: chain((6, 6, 3), layers.ReLU(), bn(), layers.ZeroPadding2D(), layers.Conv2D(4, 3)),
        "would need its shift too",
    ),
    "dropout that is always on": (
        lambda: keras.Model(
            i := keras.Input((4,)), layers.Dense(3)(layers.Dropout(0.5)(bn()(i), training=True))
        ),
        "is called with training=True",
    ),
    "channels that are reshaped": (
        lambda: chain((4, 6), layers.Dense(6), layers.Flatten(), bn(), layers.ReLU()),
        "reshapes the channels",
    ),
    "a read mean": (
        lambda: keras.Model(
            i := keras.Input((4, 3)),
            [p := layers.AveragePooling1D(2)(layers.Dense(3)(i)), layers.ReLU()(bn()(p))],
        ),
        "is read elsewhere too",
    ),
    "transposed": (
        lambda: chain((6, 6, 3), layers.ReLU(), bn(), layers.Conv2DTranspose(4, 3, name="t")),
        "at the border of 't'",
    ),
    "another reader": (lambda: branching(False), "what 'conv' gives is read elsewhere too"),
    "an output": (lambda: branching(True), "what 'conv' gives is read elsewhere too"),
    "a layer called elsewhere": (shared_elsewhere, "'conv' is called elsewhere too"),
    "a shared norm": (shared_norm, "several layers"),
    "another axis": (
        lambda: chain((6, 4, 3), layers.ReLU(), layers.Dense(5, name="d"), bn(axis=1)),
        "normalises axis 1, and the channels of 'd' are axis 3",
    ),
    "einsum's batch axis": (
        lambda: chain((7, 4), layers.EinsumDense("abc,cd->abd", (7, 5), name="e"), bn(axis=1)),
        "none of the kernel's of 'e'",
    ),
    "a class of one's own": (
        lambda: chain((7, 4), Mine(5), bn(), layers.ReLU()),
        "Mine could take it in is not known",
    ),
    "only the input": (lambda: chain((7, 4), bn()), "before it: the model's input"),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_with_a_reason(name):
    build, reason = LEFT[name]
    assert reason in left(build())


def test_training_and_lora_and_inside_a_layer():
    inputs = keras.Input((5, 4))
    live = keras.Model(inputs, bn(name="live")(layers.Dense(3)(inputs), training=True))
    assert "training=True" in entries(tfc.fold_batchnorm(live))["live"][1]
    lora = chain((5, 4), layers.Dense(3, name="dense"), bn(), layers.ReLU())
    lora.get_layer("dense").enable_lora(2)
    assert "LoRA" in left(lora)
    inside = chain((2, 5, 4), layers.TimeDistributed(layers.TimeDistributed(bn(name="inside"))))
    (entry,) = tfc.fold_batchnorm(inside).compression_report.left
    assert "calls are not known" in entry.reason


def test_frozen_layers_stay_frozen():
    model = chain((5, 4), layers.Dense(3, name="d", trainable=False), bn(), layers.Dense(2))
    assert not fold(model).get_layer("d").trainable


def test_needs_a_graph():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ModelTypeError, match="Functional"):
        tfc.fold_batchnorm(Own())
    with pytest.raises(ModelTypeError):
        tfc.fold_batchnorm(keras.Sequential([bn()]))


def test_another_precision_stays():
    inputs = keras.Input((4,))
    x = layers.Dense(3, dtype="mixed_float16")(inputs)
    model = keras.Model(inputs, layers.BatchNormalization(dtype="float32", name="norm")(x))
    folded = tfc.fold_batchnorm(model)
    assert folded.output.dtype == model.output.dtype == "float32"
    assert "computes in float16, and it in float32" in entries(folded)["norm"][1]


STEPS = ["Conv1D", "Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense"]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_steps_of_time_distributed(name, wrapped):
    """A film through a layer and BatchNormalization, of each step or of the whole."""
    build, shape, _ = LAYERS[name]
    each = layers.TimeDistributed(build(use_bias=False), name="each")
    norm = layers.TimeDistributed(bn(), name="norm") if wrapped else bn(name="norm")
    folded = fold(chain((3, *shape), each, norm, layers.ReLU()))
    assert classes(folded)[:3:2] == ["TimeDistributed", "ReLU"]
    assert "BatchNormalization" not in classes(folded)
    ((action, reason),) = entries(folded).values()
    assert (action, reason) == ("folded", "into 'each'")
    assert not tfc.fold_batchnorm(folded).compression_report.entries


def test_norms_of_steps_into_what_is_behind(tmp_path):
    parts = (layers.TimeDistributed(bn()), layers.TimeDistributed(layers.Conv2D(5, 3)))
    folded = fold(chain((3, 6, 6, 4), *parts))
    assert classes(folded) == ["TimeDistributed", "Conv2D"]
    assert_trains_saves_converts(folded, tmp_path)


def test_norms_through_what_makes_no_difference_to_steps():
    each = layers.TimeDistributed
    parts = (each(layers.Conv2D(5, 3)), each(layers.Dropout(0.5)), layers.Dropout(0.5))
    parts += (each(layers.AveragePooling2D(2)), each(bn()), layers.ReLU())
    folded = fold(chain((3, 8, 8, 4), *parts))
    assert classes(folded)[-1] == "ReLU" and "BatchNormalization" not in classes(folded)
    flat = (layers.ReLU(), bn(), each(layers.Flatten()), each(layers.Dense(4)))
    folded = fold(chain((3, 4, 4, 2), *flat))
    assert "BatchNormalization" not in classes(folded)


def test_steps_that_cannot():
    dense = layers.Dense(4, name="dense")
    x = inputs = keras.Input((3, 4))
    x = layers.TimeDistributed(dense, name="steps")(x)
    x = bn(name="norm")(x)
    model = keras.Model(inputs, dense(x[:, 0]))
    action, reason = entries(fold(model))["norm"]
    assert action == "left" and "what 'steps' holds is called elsewhere too" in reason
    along = chain((3, 4), layers.TimeDistributed(layers.Dense(4), name="steps"), bn(axis=1))
    (reason,) = {why for _, why in entries(fold(along)).values()}
    assert "it normalises axis 1, along which 'steps' goes" in reason
    both = bn()
    x = inputs = keras.Input((3, 4))
    x = layers.TimeDistributed(both)(layers.Dense(4)(x))
    model = keras.Model(inputs, layers.TimeDistributed(both)(layers.ReLU()(x)))
    assert {action for action, _ in entries(fold(model)).values()} == {"left"}


def test_norms_that_are_held_and_called_fold_no_less_than_before():
    norm = bn(name="both")
    x = inputs = keras.Input((3, 4))
    a = norm(layers.Dense(4, name="d1")(x))
    model = keras.Model(inputs, layers.TimeDistributed(norm, name="td")(layers.ReLU()(a)))
    folded = fold(model)
    assert entries(folded)["both"] == ("folded", "into 'd1'")
    assert folded.get_layer("td").layer is not norm


def test_steps_in_other_precisions_stay():
    policy = "mixed_float16"
    each = layers.TimeDistributed(layers.Dense(16, dtype=policy), dtype=policy)
    norm = layers.TimeDistributed(bn(name="norm", dtype="float32"), dtype=policy)
    model = scramble(chain((3, 8), each, norm))
    folded = tfc.fold_batchnorm(model)
    assert folded.output.dtype == model.output.dtype
    (reason,) = {why for _, why in entries(folded).values()}
    assert "computes in float16, and it in float32" in reason


def test_masked_steps():
    each = layers.TimeDistributed
    parts = (layers.Masking(), each(bn()), each(layers.Dense(4)), each(layers.Dropout(0.5)))
    folded = fold(chain((5, 6), *parts, each(bn()), layers.LSTM(3)))
    assert "BatchNormalization" not in classes(folded)
