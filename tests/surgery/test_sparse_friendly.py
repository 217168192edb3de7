"""`tfc.sparse_friendly`: what is rewritten computes the same, and its file is really sparse."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from sparse_networks import depthwise, head, network, pointwise, prune, stem
from support import randomize

import tfcompress as tfc
from tfcompress import models, registry
from tfcompress.errors import ModelTypeError, VerificationError
from tfcompress.graph.calls import Calls
from tfcompress.graph.copying import copy_model
from tfcompress.runtime.sparse_rules import violations
from tfcompress.surgery.exact_padding import _Axis, padding_replacements


def rewrite(model):
    """The rewritten model and its report; no warning is an error."""
    report = tfc.CompressionReport("sparse_friendly")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return tfc.sparse_friendly(model, report=report), report


def rewritten(report):
    return {entry.name for entry in report.changed}


def images(model, count=3):
    generator = np.random.default_rng(7)
    values = [generator.normal(size=(count, *t.shape[1:])).astype("float32") for t in model.inputs]
    return values if len(values) > 1 else values[0]


def assert_same_outputs(model, other, tolerance=2e-5):
    x = images(model)
    expected, found = (keras.tree.flatten(m(x, training=False)) for m in (model, other))
    for one, two in zip(map(np.asarray, expected), map(np.asarray, found), strict=True):
        assert one.shape == two.shape
        np.testing.assert_allclose(two, one, rtol=0, atol=tolerance * np.abs(one).max())


def really_sparse(model):
    generator = np.random.default_rng(3)
    for layer in model._flatten_layers(include_self=False):
        for kernel in registry.kernels(layer):
            if tuple(kernel.shape[:2]) == (1, 1):
                kernel.assign(kernel * (generator.random(kernel.shape) < 0.2))
    tflite = tfc.convert(model, sparse=True)
    assert tflite.report.settings["sparse"] is True, tflite.report.notes
    assert tfc.inspect(tflite, target="xnnpack-sparse").fully_placed


def bn_relu(x):
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def same(x, size=3, **options):
    options = {"strides": 2, "padding": "same", "use_bias": False, "name": "odd", **options}
    return bn_relu(layers.DepthwiseConv2D(size, **options)(x))


def padded(pads, size=3, **options):
    def build(x):
        x = layers.ZeroPadding2D(pads, name="odd_pad")(x)
        return bn_relu(layers.DepthwiseConv2D(size, strides=2, name="odd", **options)(x))

    return build


def keepdims_head(x):
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Conv2D(24, 1, use_bias=False, name="features")(x)
    x = layers.Activation("hard_silu")(layers.BatchNormalization(axis=3)(x))
    x = layers.Dropout(0.3)(x)
    x = layers.Conv2D(5, 1, padding="same", name="scores")(x)
    return layers.Softmax()(layers.Reshape((5,))(x))


def pooled_head(x):
    x = layers.AveragePooling2D(x.shape[1:3])(x)
    return layers.Dense(5)(layers.Flatten()(x))


def gate(x):
    factors = layers.Reshape((1, 1, x.shape[-1]))(layers.GlobalAveragePooling2D()(x))
    factors = layers.Conv2D(8, 1, activation="relu")(factors)
    factors = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(factors)
    return layers.Multiply()([x, factors])


def separable(x):
    return layers.SeparableConv2D(32, 3, strides=2, padding="same", name="odd")(x)


EXACT = {  # what stands in the middle, the head, the shape: all end up sparse
    "same, even": (same, head, (32, 32, 3)),
    "same, even and odd": (same, head, (32, 34, 3)),
    "same, odd and even": (same, head, (30, 36, 3)),
    "same, even sizes of 2": (lambda x: same(same(x), name="second"), head, (16, 16, 3)),
    "2x2": (lambda x: same(x, 2), head, (32, 32, 3)),
    "1x1": (lambda x: same(x, 1), head, (32, 32, 3)),
    "with a bias": (lambda x: same(x, use_bias=True), head, (32, 32, 3)),
    "zeros behind": (padded(((0, 1), (0, 1))), head, (32, 32, 3)),
    "zeros in front": (padded(((1, 0), (1, 0))), head, (32, 32, 3)),
    "zeros of rows and columns": (padded(((0, 1), (1, 1))), head, (32, 34, 3)),
    "two zeros in front": (padded(((2, 0), (2, 0))), head, (32, 32, 3)),
    "zeros and same": (padded(((0, 1), (0, 0)), padding="same", size=2), head, (30, 36, 3)),
    "2x2 at stride 1": (lambda x: same(x, 2, strides=1), head, (32, 32, 3)),
    "valid at stride 1": (
        lambda x: bn_relu(layers.DepthwiseConv2D(3, name="odd")(layers.ZeroPadding2D(1)(x))),
        head,
        (32, 32, 3),
    ),
    "separable": (separable, head, (32, 32, 3)),
    "keepdims head": (lambda x: x, keepdims_head, (32, 32, 3)),
    "pooled head": (lambda x: x, pooled_head, (32, 48, 3)),
    "reshaped gate": (gate, head, (32, 32, 3)),
    "all of it": (lambda x: gate(same(x)), keepdims_head, (64, 32, 3)),
    "nothing": (lambda x: x, head, (32, 32, 3)),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_rewrites_qualify(name):
    middle, end, shape = EXACT[name]
    model = randomize(network(middle, end=end, shape=shape, sparsity=0), seed=len(name))
    before = [np.array(value) for value in model.get_weights()]
    friendly, report = rewrite(model)
    assert friendly is not model and friendly.name == model.name
    assert report.settings["qualifies"] and not report.left, str(report)
    assert_same_outputs(model, friendly)
    really_sparse(friendly)
    for one, two in zip(before, model.get_weights(), strict=True):  # the original is left alone
        np.testing.assert_array_equal(one, two)


def test_a_model_that_qualifies_is_copied_as_it_is():
    model = randomize(models.mobilenet((32, 32, 3), 10, alpha=0.1, sparse_friendly=True))
    friendly, report = rewrite(model)
    assert report.changed == [] and report.settings["qualifies"]
    assert [w.shape for w in friendly.weights] == [w.shape for w in model.weights]
    assert {id(w) for w in friendly.weights}.isdisjoint({id(w) for w in model.weights})
    assert_same_outputs(model, friendly, 1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_depthwise_layers_of_any_kind(seed):
    """Whatever is made of them, outputs stay, and what is made has the form of the rules."""
    generator = np.random.default_rng(seed)
    changed = 0
    for _ in range(25):
        rows, columns, size = (int(n) for n in generator.integers((5, 5, 1), (12, 12, 6)))
        stride, padding = int(generator.integers(1, 3)), str(generator.choice(["same", "valid"]))
        pads = generator.integers(0, 3, (2, 2)).tolist()
        inputs = keras.Input((rows, columns, 3))
        x = layers.ZeroPadding2D(pads)(inputs) if generator.random() < 0.6 else inputs
        x = layers.DepthwiseConv2D(size, strides=stride, padding=padding, name="odd")(x)
        model = keras.Model(inputs, x)
        replacements = padding_replacements(Calls(model))
        copy = copy_model(model, replacements=replacements).model
        assert_same_outputs(model, copy, 1e-6)
        if id(model.get_layer("odd")) in replacements:
            changed += 1
            layer = copy.get_layer("odd")
            assert layer.kernel_size in ((3, 3), (5, 5))
            assert layer.padding == ("same" if stride == 1 else "valid")
    assert changed


def test_where_a_kernel_fits():
    """`_Axis.place` against every kernel, stride and size, by the sums themselves."""
    for kernel in range(1, 6):
        for stride in (1, 2):
            for before in range(4):
                for size in range(4, 9):
                    for after in range(3):
                        w, x = np.arange(1.0, kernel + 1), np.arange(1.0, size + 1) ** 2
                        padded_x = np.pad(x, (before, after))
                        outputs = (len(padded_x) - kernel) // stride + 1
                        expected = convolve(padded_x, w, stride)
                        axis = _Axis(size, kernel, stride, before, outputs)
                        for side in (3, 5):
                            place = axis.place(side)
                            larger = np.zeros(side)
                            if place is None:
                                continue
                            larger[place : place + kernel] = w
                            found = convolve(np.pad(x, side // 2), larger, stride)
                            np.testing.assert_array_equal(found, expected)


def convolve(x, w, stride):
    starts = range(0, len(x) - len(w) + 1, stride)
    return np.array([x[i : i + len(w)] @ w for i in starts])


# -- what cannot be rewritten ---------------------------------------------------------------------


LEFT = {  # model: the layer that is left, words of the reason
    "first convolution": (
        lambda: network(start=lambda x: stem(x, padding=0)),
        "conv2d",
        "no rewrite that keeps the outputs exists",
    ),
    "odd in both directions": (
        lambda: network(same, shape=(34, 30, 3)),
        "odd",
        "image of 17x15",
    ),
    "5x5, same": (lambda: network(lambda x: same(x, 5)), "odd", "ZeroPadding2D(2)"),
    "too few outputs": (
        lambda: network(lambda x: layers.DepthwiseConv2D(3, name="odd")(x)),
        "odd",
        "padding='same'",
    ),
    "depth multiplier": (lambda: network(lambda x: same(x, depth_multiplier=2)), "odd", "depth_m"),
    "pooling": (lambda: network(layers.MaxPooling2D(name="odd")), "odd", "MAX_POOL_2D"),
    "head without flatten": (
        lambda: network(
            end=lambda x: layers.Conv2D(5, 1, name="odd")(
                layers.GlobalAveragePooling2D(keepdims=True)(x)
            )
        ),
        "odd",
        "this output is an image",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_exact_is_left_and_reported(name):
    make, layer, words = LEFT[name]
    model = randomize(make())
    report = tfc.CompressionReport("sparse_friendly")
    with pytest.warns(UserWarning, match="does not qualify"):
        friendly = tfc.sparse_friendly(model, report=report)
    assert_same_outputs(model, friendly)
    assert report.settings["qualifies"] is False
    reasons = {entry.name: entry.reason for entry in report.left}
    assert any(layer in found and words in reason for found, reason in reasons.items()), reasons


def test_keras_applications_mobilenet_keeps_only_its_first_convolution():
    model = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=7)
    friendly, report = rewrite(randomize(model))
    assert_same_outputs(model, friendly)
    assert [entry.name for entry in report.left] == ["conv1"]
    assert rewritten(report) >= {"conv_dw_2", "conv_dw_12", "conv_preds"}
    assert friendly.get_layer("conv_dw_2").kernel_size == (5, 5)


def test_the_remedy_for_an_image_of_two_odd_sides_is_exact():
    """One row of zeros more, and symmetric zeros: what "same" computes there."""
    conv = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")
    inputs = keras.Input((31, 33, 3))
    model = keras.Model(inputs, head(pointwise(conv(inputs))))
    (found,) = tfc.inspect(tfc.convert(model), target="xnnpack-sparse").violations[:1]
    assert found.rule == "first convolution" and "an image of one row more" in found.remedy
    larger = keras.Input((32, 33, 3))
    valid = layers.Conv2D(8, 3, strides=2, activation="relu")
    copy = keras.Model(larger, valid(layers.ZeroPadding2D(1)(larger)))
    valid.set_weights(conv.get_weights())
    x = images(model)
    expected = keras.Model(inputs, conv.output).predict(x, verbose=0)
    padded_x = np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))
    np.testing.assert_allclose(copy.predict(padded_x, verbose=0), expected, atol=1e-6)
    judged = keras.Model(larger, head(pointwise(copy.output)))
    assert violations(tfc.convert(judged).parsed, structural_only=True) == []


def test_zeros_that_others_read_too_are_left():
    def middle(x):
        x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
        first = layers.DepthwiseConv2D(3, strides=2, name="odd")(x)
        return layers.Add()([first, layers.DepthwiseConv2D(3, strides=2, name="other")(x)])

    model = randomize(network(middle))
    friendly, report = rewrite(model)
    assert_same_outputs(model, friendly)
    assert not {"odd", "other"} & rewritten(report)


def test_an_output_of_the_zeros_is_kept():
    inputs = keras.Input((8, 8, 3))
    zeros = layers.ZeroPadding2D(((0, 1), (0, 1)))(inputs)
    model = keras.Model(inputs, [zeros, layers.DepthwiseConv2D(3, strides=2)(zeros)])
    assert_same_outputs(model, rewrite(model)[0])


# -- kinds of models ------------------------------------------------------------------------------


def test_shared_layers_stay_shared():
    shared = layers.DepthwiseConv2D(3, strides=2, padding="same", name="odd")
    inputs = keras.Input((32, 32, 3))
    x = pointwise(depthwise(stem(inputs)), 64)
    x = layers.Add()([shared(x), shared(pointwise(x, 64))])
    model = randomize(keras.Model(inputs, head(x)))
    friendly, report = rewrite(model)
    assert rewritten(report) == {"odd"}
    assert_same_outputs(model, friendly)
    really_sparse(friendly)
    twice = shared(shared(keras.Input((8, 8, 64))))  # calls outside the model do not count
    assert twice.shape == (None, 2, 2, 64)


def test_nested_models():
    inner = keras.Input((16, 16, 8))
    body = keras.Model(inner, same(pointwise(inner, 64)), name="body")
    row = keras.Sequential(
        [
            keras.Input((8, 8, 64)),
            layers.DepthwiseConv2D(3, strides=2, padding="same", name="odd"),
            layers.Conv2D(64, 1, activation="relu"),
        ],
        name="row",
    )
    inputs = keras.Input((32, 32, 3))
    model = randomize(keras.Model(inputs, keepdims_head(row(body(stem(inputs))))))
    friendly, report = rewrite(model)
    assert {"body/odd", "row/odd"} <= rewritten(report)
    assert isinstance(friendly.get_layer("row"), keras.Sequential)
    assert_same_outputs(model, friendly)
    really_sparse(friendly)


def test_sequential_stays_sequential_and_saves(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3), name="image"),
            layers.ZeroPadding2D(1),
            layers.Conv2D(8, 3, strides=2, activation="relu6"),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.Conv2D(256, 1, activation="relu"),
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Conv2D(4, 1),
            layers.Flatten(),
        ]
    )
    friendly, _ = rewrite(model)
    assert isinstance(friendly, keras.Sequential)
    assert friendly.inputs[0].name == "image"
    assert_same_outputs(model, friendly)
    friendly.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_same_outputs(friendly, again, 1e-7)
    really_sparse(friendly)


def test_several_inputs_and_outputs_keep_their_structure():
    inputs = {"a": keras.Input((16, 16, 3), name="a"), "b": keras.Input((16, 16, 3), name="b")}
    x = layers.Add()([same(inputs["a"], name="one"), same(inputs["b"], name="two")])
    model = keras.Model(inputs, {"scores": head(x), "mean": layers.GlobalAveragePooling2D()(x)})
    friendly, report = rewrite(model)
    assert set(friendly.output) == {"scores", "mean"} and set(friendly.input) == {"a", "b"}
    assert {"one", "two"} <= rewritten(report)
    x = {name: np.random.default_rng(0).random((2, 16, 16, 3)) for name in "ab"}
    for name, value in model.predict(x, verbose=0).items():
        np.testing.assert_allclose(friendly.predict(x, verbose=0)[name], value, atol=1e-6)


class Unrebuilt(layers.Layer):
    """A layer whose config does not rebuild it."""

    def __init__(self, factor):
        super().__init__(name="own")
        self.factor = self.add_weight(shape=(), initializer="ones")
        self.factor.assign(factor)

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {"name": self.name}


class Forgetful(layers.Layer):
    """A layer whose config forgets what it computes."""

    def __init__(self, factor=1.0, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {"name": self.name}


def test_a_layer_that_cannot_be_rebuilt_is_shared_and_reported():
    own = Unrebuilt(0.5)
    model = randomize(network(lambda x: own(same(x))))
    friendly, report = rewrite(model)
    assert friendly.get_layer("own") is own
    assert any("both models share it" in entry.reason for entry in report.left)
    assert "odd" in rewritten(report)
    assert_same_outputs(model, friendly)


def test_a_layer_whose_config_lies_is_an_error():
    with pytest.raises(VerificationError, match="complete its get_config"):
        rewrite(network(lambda x: Forgetful(0.5)(x), end=layers.GlobalAveragePooling2D()))


def test_compiled_with_a_loss_that_does_not_serialize():
    model = network(same)
    model.compile("sgd", loss=lambda y, p: keras.ops.mean(y - p))
    friendly, _ = rewrite(model)
    assert model.compiled and not friendly.compiled


def test_mixed_precision_and_trainable_are_kept():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.DepthwiseConv2D(3, strides=2, padding="same", dtype="mixed_float16", name="odd"),
            layers.Conv2D(4, 1, trainable=False, dtype="mixed_float16"),
        ]
    )
    friendly, _ = rewrite(model)
    layer = friendly.get_layer("odd")
    assert layer.compute_dtype == "float16" and layer.kernel_size == (5, 5)
    assert not friendly.layers[-1].trainable


def test_sizes_that_are_open():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, head(same(pointwise(stem(inputs)))))
    _, report = rewrite(model)
    assert "odd" not in rewritten(report)
    assert any("could not be judged" in note for note in report.notes)
    _, report = rewrite(keras.Model(inputs, head(pointwise(stem(inputs)))))
    assert "qualifies" not in report.settings
    given = tfc.CompressionReport("sparse_friendly")
    model = keras.Model(inputs, head(pointwise(stem(inputs))))
    tfc.sparse_friendly(model, report=given, input_shapes=(32, 32, 3))
    assert given.settings["qualifies"]


def test_what_is_no_graph_of_layers_is_an_error():
    class Net(keras.Model):
        def call(self, x):
            return x

    for model in (Net(), keras.Sequential([layers.Dense(2)])):
        with pytest.raises(ModelTypeError, match="Functional"):
            tfc.sparse_friendly(model)
    with pytest.raises(ModelTypeError):
        tfc.sparse_friendly("model.keras")


def test_report_can_be_read(tmp_path):
    _, report = rewrite(prune(network(same, end=keepdims_head)))
    text = str(report)
    assert "kernel 5x5, 2 zeros on every side" in text
    assert "Dense(24) with the same weights" in text
    assert report.save(tmp_path / "report.json").stat().st_size > 100
