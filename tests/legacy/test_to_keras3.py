"""tf_keras models as Keras 3 models: outputs, names, flags; what cannot be brought over."""

import itertools
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras2_networks import NETWORKS, randomized
from support import data_folder

import tfcompress as tfc
from tfcompress.legacy import comparison
from tfcompress.legacy.building import Builder, Built
from tfcompress.legacy.inputs import random_inputs
from tfcompress.legacy.packages import keras2

tk = keras2()
layers = tk.layers


def outputs(model, inputs):
    """Flat, as arrays, in the order of dict keys."""
    found = model(inputs, training=False)
    return [np.asarray(value) for value in tf.nest.flatten(found)]


def closeness(old, new, inputs):
    """The largest difference of any output, relative to its largest value."""
    pairs = zip(outputs(old, inputs), outputs(new, inputs), strict=True)
    worst = 0.0
    for a, b in pairs:
        assert a.shape == b.shape and (a.dtype == b.dtype or a.dtype.kind == "i")
        if a.dtype.kind == "f":
            a, b = a.astype("float64"), b.astype("float64")
            worst = max(worst, np.abs(a - b).max() / np.abs(a).max())
        else:
            assert (a == b).all()
    return worst


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_keras_2(name):
    tk.backend.clear_session()
    make, inputs = NETWORKS[name]
    old = randomized(make())
    new = tfc.legacy.to_keras3(old)
    assert isinstance(new, keras.Model)
    tolerance = 1e-2 if name == "mixed precision" else 2e-6
    assert closeness(old, new, inputs()) <= tolerance
    counted = [w for w in old.weights if getattr(w, "dtype", tf.int64).is_floating]
    if name != "preprocessing":  # what these learn is among their options in Keras 3
        assert new.count_params() == sum(int(np.prod(w.shape)) for w in counted)
        assert len(new.trainable_weights) == len(old.trainable_weights)


def test_the_new_model_saves_and_loads_in_keras_3(tmp_path):
    make, inputs = NETWORKS["functions"]
    new = tfc.legacy.to_keras3(randomized(make()))
    new.save(tmp_path / "new.keras")
    assert closeness(new, keras.models.load_model(tmp_path / "new.keras"), inputs()) == 0


def test_hard_sigmoid_is_that_of_keras_2(tmp_path):
    old = tk.Sequential([layers.Input((3,)), layers.Activation("hard_sigmoid")])
    old.save(tmp_path / "old.h5")
    x = np.array([[-2.4, 0.5, 2.0]], "float32")
    expected = [[0.02, 0.6, 0.9]]  # clip(0.2 x + 0.5, 0, 1)
    new = tfc.legacy.to_keras3(tmp_path / "old.h5")
    np.testing.assert_allclose(new(x), expected, atol=1e-6)
    new.save(tmp_path / "new.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "new.keras")(x), expected, 1e-6)
    # What Keras 3 makes of the same file by itself.
    by_itself = keras.models.load_model(tmp_path / "old.h5", compile=False)
    assert np.abs(np.asarray(by_itself(x)) - expected).max() > 0.05


def test_names_flags_seeds_and_policies_are_kept():
    old = tk.Sequential(
        [
            layers.Input((6,), name="start"),
            layers.Dense(4, name="block/a", kernel_regularizer=tk.regularizers.L1(0.25)),
            layers.Dropout(0.5, seed=7, name="drop"),
            layers.BatchNormalization(name="norm", trainable=False),
            layers.Dense(3, name="last", kernel_constraint="max_norm", dtype="float64"),
        ],
        name="chain",
    )
    new = tfc.legacy.to_keras3(old)
    assert isinstance(new, keras.Sequential) and new.name == "chain"
    assert [layer.name for layer in new.layers] == ["block_a", "drop", "norm", "last"]
    assert new.inputs[0].name == "start"
    assert [layer.trainable for layer in new.layers] == [True, True, False, True]
    assert new.get_layer("drop").seed == 7
    assert float(new.get_layer("block_a").kernel_regularizer.l1) == 0.25
    assert type(new.get_layer("last").kernel_constraint).__name__ == "MaxNorm"
    assert new.get_layer("last").compute_dtype == "float64"


@pytest.mark.parametrize("sequential", [True, False])
def test_names_that_keras_3_does_not_tell_apart(sequential):
    chain = [layers.Dense(4, name="a/b"), layers.Dense(3, name="a_b")]
    old = tk.Sequential([layers.Input((5,)), *chain])
    if not sequential:
        inputs = layers.Input((5,), name="a/b_2")
        old = tk.Model(inputs, chain[1](chain[0](inputs)) + 1.0)
    new = tfc.legacy.to_keras3(randomized(old))
    assert {"a_b", "a_b_2"} <= {layer.name for layer in new.layers}
    assert new.get_layer("a_b").units == 3
    assert closeness(old, new, np.ones((2, 5), "float32")) <= 2e-6


def test_padding_is_part_of_the_comparison():
    inputs = layers.Input((6,), dtype="int32")
    old = tk.Model(inputs, layers.LSTM(2)(layers.Embedding(1000, 3, mask_zero=True)(inputs)))
    (found,) = random_inputs(old)
    assert (found[-1, 3:] == 0).all() and (found != 0).any(axis=1).all()
    new = tfc.legacy.to_keras3(randomized(old))
    unmasked = keras.Model(new.inputs, new.layers[-1](new.layers[1].output * 1.0))
    with pytest.raises(tfc.VerificationError, match="Output 0"):
        comparison.check_equal(old, Built(unmasked), Builder({}), [found])


def test_tensors_inside_a_sequential_model_are_at_hand():
    old = tk.Sequential([layers.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2)])
    new = tfc.legacy.to_keras3(randomized(old))
    part = keras.Model(new.inputs, new.get_layer("a").output)
    x = np.ones((2, 4), "float32")
    assert (np.asarray(part(x)) == np.asarray(old.layers[0](x))).all()


def test_what_recurrent_layers_remember_is_not_touched():
    old = tk.Sequential([layers.Input((3, 4), batch_size=2), layers.LSTM(3, stateful=True)])
    old(np.ones((2, 3, 4), "float32"))
    before = [state.numpy() for state in old.layers[0].states]
    new = tfc.legacy.to_keras3(old)
    after = [state.numpy() for state in old.layers[0].states]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert not np.asarray(new.layers[0].states[0]).any()


def test_dropout_that_is_on_at_inference_stays_on_and_is_said(tmp_path):
    inputs = layers.Input((6,))
    x = layers.Dropout(0.5, name="mc")(layers.Dense(50)(inputs), training=True)
    new = tfc.legacy.to_keras3(tk.Model(inputs, layers.Dropout(0.5)(layers.Dense(2)(x))))
    new.save(tmp_path / "new.keras")
    x = np.ones((1, 6), "float32")
    for model in (new, keras.models.load_model(tmp_path / "new.keras")):
        assert (model.predict(x, verbose=0) != model.predict(x, verbose=0)).all()
        assert (np.asarray(model(x, training=False)) != np.asarray(model(x))).all()
        assert model.get_layer("mc").layer.rate == 0.5
    assert np.count_nonzero(new(x)) == 2  # the second Dropout is off
    code = "import tfcompress, keras; keras.models.load_model('new.keras')"
    environment = {**os.environ, "PYTHONPATH": str(Path(tfc.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert any("mc" in note and "random" in note for note in new.compression_report.notes)


@pytest.mark.parametrize("nest", [False, True])
def test_statistics_of_the_batch_are_taken_and_neither_model_changes(nest):
    norm = layers.BatchNormalization(name="norm")
    inputs = layers.Input((5,))
    inner = tk.Sequential([layers.Input((5,)), layers.Dense(5), norm], name="inner")
    old = randomized(tk.Model(inputs, (inner if nest else norm)(inputs, training=True)))
    before = old.get_weights()
    new = tfc.legacy.to_keras3(old)
    assert all((a == b).all() for a, b in zip(before, old.get_weights(), strict=True))
    for a, b in zip(before, new.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    expected = old.predict(x, verbose=0)
    np.testing.assert_allclose(new.predict(x, verbose=0), expected, atol=1e-5)


def test_a_mode_that_keras_3_does_not_keep_is_said():
    inputs = layers.Input((5,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(4)(inputs), training=False)
    new = tfc.legacy.to_keras3(tk.Model(inputs, layers.Dense(2, name="last")(x)))
    notes = [note for note in new.compression_report.notes if "training=False" in note]
    assert len(notes) == 1 and "norm" in notes[0] and "fit" in notes[0]


def test_losses_of_layers_are_at_hand_as_in_keras_2():
    dense = layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l1")
    old = tk.Sequential([layers.Input((5,)), dense, layers.ActivityRegularization(l2=0.1)])
    new = tfc.legacy.to_keras3(randomized(old))
    assert all(np.isfinite(float(loss)) for loss in new.losses)
    x = np.ones((4, 5), "float32")
    old(x), new(x)
    assert float(sum(new.losses)) == pytest.approx(float(sum(old.losses)), rel=1e-5)


def test_lambda_keeps_its_mask_and_type():
    inputs = layers.Input((7,), dtype="int32")
    x = layers.Embedding(1000, 4, mask_zero=True)(inputs)
    x = layers.Lambda(
        lambda v: v * 2.0, (7, 4), mask=lambda v, mask: mask, name="code", dtype="float64"
    )(x)
    old = randomized(tk.Model(inputs, layers.LSTM(3)(x)))
    new = tfc.legacy.to_keras3(old)
    assert closeness(old, new, np.array([[1, 2, 0, 0, 0, 0, 0]])) <= 2e-6
    code = new.get_layer("code")
    assert code.compute_dtype == "float64" and code._output_shape == (7, 4)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *itertools.product(["StringLookup", "IntegerLookup"], ["one_hot", "multi_hot"]),
        *itertools.product(["StringLookup", "TextVectorization"], ["count", "tf_idf"]),
        ("TextVectorization", "multi_hot"),
    ],
)
def test_lookups_that_count(kind, mode):
    number = kind == "IntegerLookup"
    learned = [[1], [2], [2], [3]] if number else [["a b"], ["b"], ["b c"], ["a"]]
    look = getattr(layers, kind)(output_mode=mode)
    look.adapt(np.array(learned))
    inputs = layers.Input((1,), dtype="int64" if number else "string")
    old = randomized(tk.Model(inputs, [layers.Dense(2)(look(inputs)), look(inputs)]))
    new = tfc.legacy.to_keras3(old)
    x = tf.constant([[1], [2], [7]], "int64") if number else tf.constant([["a b"], ["c"], ["d"]])
    for a, b in zip(old.predict(x, verbose=0), new.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_bins_are_right_in_predict():
    old = tk.Sequential([layers.Input((2,)), layers.Discretization([-0.5, 0.0, 0.5])])
    x = np.array([[-0.7, -0.2], [0.2, 0.9]], "float32")
    assert (tfc.legacy.to_keras3(old).predict(x, verbose=0) == [[0, 1], [2, 3]]).all()


class WrongWhenCompiled(keras.layers.Layer):
    """As a layer that takes another path in `predict`."""

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)

    def call(self, x):
        return x if tf.executing_eagerly() else x + 1.0


def test_what_predict_computes_is_compared():
    old = tk.Sequential([layers.Input((2,)), layers.Activation("linear", name="own")])
    with pytest.raises(tfc.VerificationError, match="Output 0"):
        tfc.legacy.to_keras3(old, custom_objects={"Activation": WrongWhenCompiled})


def test_what_a_frozen_container_holds_is_frozen():
    inner = tk.Sequential([layers.Input((5,)), layers.Dense(4), layers.Dense(3)], name="inner")
    old = tk.Sequential([layers.Input((5,)), inner, layers.Dense(2)])
    inner.trainable = False
    inner.layers[0].trainable = True  # counts for nothing in Keras 2
    new = tfc.legacy.to_keras3(old)
    assert len(old.trainable_weights) == len(new.trainable_weights) == 2
    old.trainable = False
    old.layers[1].trainable = True
    assert len(tfc.legacy.to_keras3(old).trainable_weights) == len(old.trainable_weights) == 0


def test_shared_layers_stay_shared_and_frozen_models_frozen():
    first, second = layers.Input((5,)), layers.Input((5,))
    shared = layers.Dense(5, name="shared")
    inner = tk.Model([first, second], [shared(first) + second, shared(second)], name="inner")
    inner.trainable = False
    a, b = layers.Input((5,)), layers.Input((5,))
    old = tk.Model([a, b], layers.Dense(2)(layers.Add()(inner(inner([a, b])))))
    new = tfc.legacy.to_keras3(randomized(old))
    inside = new.get_layer("inner")
    assert not inside.trainable and len(inside.get_layer("shared").weights) == 2
    assert len(new.weights) == 4 and len(new.trainable_weights) == 2
    x = [np.random.default_rng(n).normal(size=(3, 5)).astype("float32") for n in range(2)]
    assert closeness(old, new, x) <= 2e-6


def test_everything_that_cannot_be_brought_over_is_listed_at_once():
    inputs = layers.Input((6, 4))
    spectrum = tf.signal.fft(tf.cast(inputs, "complex64"))
    local = layers.LocallyConnected1D(3, 2, name="local")(inputs)
    own = layers.Dense(2, activation=lambda x: x * x, name="own")(inputs)
    with pytest.raises(tfc.ConversionError) as caught:
        tfc.legacy.to_keras3(tk.Model(inputs, [spectrum, local, own]))
    for part in ("local", "LocallyConnected1D", "tf.signal.fft", "own", "custom_objects"):
        assert part in str(caught.value)


def test_activations_of_tensorflow_and_layers_with_weights():
    inputs = layers.Input((5,))
    names = "relu relu6 elu selu gelu silu leaky_relu softmax log_softmax sigmoid softplus tanh"
    functions = [*(getattr(tf.nn, name) for name in names.split()), "leaky_relu", "log_softmax"]
    outputs = [layers.Dense(4, activation=function)(inputs) for function in functions]
    outputs.append(layers.Activation(tf.nn.relu6)(inputs))
    old = randomized(tk.Model(inputs, outputs))
    new = tfc.legacy.to_keras3(old)
    assert closeness(old, new, np.random.default_rng(0).normal(size=(3, 5))) <= 2e-6
    learned = layers.Dense(4, activation=layers.PReLU(), name="learned")(inputs)
    with pytest.raises(tfc.ConversionError, match=r"learned.*PReLU with weights"):
        tfc.legacy.to_keras3(tk.Model(inputs, learned))


def test_an_option_that_keras_3_lacks_is_named():
    inputs = layers.Input((4, 8))
    x = layers.MultiHeadAttention(2, 4, softmax_robust_masking=True, name="robust")(inputs, inputs)
    with pytest.raises(tfc.ConversionError, match=r"robust.*softmax_robust_masking.*True"):
        tfc.legacy.to_keras3(tk.Model(inputs, x))


@tk.utils.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """Of Keras 2."""

    def __init__(self, start=1.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, shape):
        self.scale = self.add_weight("scale", (shape[-1],))

    def call(self, x):
        return x * self.scale * self.start

    def get_config(self):
        return {**super().get_config(), "start": self.start}


class Scaled3(keras.layers.Layer):
    """The same for Keras 3."""

    def __init__(self, start=1.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(shape[-1],))

    def call(self, x):
        return x * self.scale * self.start


class Unnamed(Scaled3):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],))


class Wrong(Scaled3):
    def call(self, x):
        return super().call(x) + 1e-3


def test_classes_of_ones_own():
    old = randomized(tk.Sequential([layers.Input((4,)), Scaled(3.0, name="own")]))
    with pytest.raises(tfc.ConversionError, match="custom_objects"):
        tfc.legacy.to_keras3(old)
    x = np.ones((2, 4), "float32")
    for cls in (Scaled3, Unnamed):
        new = tfc.legacy.to_keras3(old, custom_objects={"Scaled": cls})
        assert (np.asarray(new(x)) == np.asarray(old(x))).all()
    with pytest.raises(tfc.VerificationError, match="'own'"):
        tfc.legacy.to_keras3(old, custom_objects={"Scaled": Wrong})


def test_wrong_wiring_is_seen_though_each_layer_is_right():
    inputs = layers.Input((4,))
    old = randomized(tk.Model(inputs, layers.Dense(4, name="b")(layers.Dense(4, name="a")(inputs))))
    new = tfc.legacy.to_keras3(old)
    first, second = new.layers[1:]
    start = keras.Input((4,))
    crossed = keras.Model(start, first(second(start)))
    with pytest.raises(tfc.VerificationError, match="Output 0"):
        comparison.check_equal(old, Built(crossed), Builder({}), [np.ones((2, 4), "float32")])


@pytest.mark.parametrize("form", ["old.h5", "old.keras", "old", "hdf5.keras", "zip.h5"])
def test_files_of_keras_2(tmp_path, form):
    inputs = layers.Input((6, 6, 1))
    x = layers.SeparableConv2D(3, 3, activation="relu")(inputs)
    x = layers.BatchNormalization()(x) * 2.0
    old = randomized(tk.Model(inputs, layers.Dense(2)(layers.Flatten()(x[:, 1:]))))
    old.compile("adam", "mse", ["mae"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = {"hdf5.keras": "hdf5.h5", "zip.h5": "zip.keras"}.get(form, form)
        old.save(tmp_path / written)
    (tmp_path / written).rename(tmp_path / form)
    new = tfc.legacy.to_keras3(tmp_path / form)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype("float32")
    assert closeness(old, new, x) <= 2e-6
    assert isinstance(new.optimizer, keras.optimizers.Adam)
    assert keras.losses.get(new.loss) is keras.losses.mean_squared_error


def test_files_that_are_none(tmp_path, small_model):
    small_model.save(tmp_path / "three.keras")
    with pytest.raises(tfc.ModelTypeError, match="Keras 3"):
        tfc.legacy.to_keras3(tmp_path / "three.keras")
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\nbroken")
    (tmp_path / "empty.keras").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("broken.h5", "empty.keras", "folder"):
        with pytest.raises(tfc.ModelTypeError, match=name):
            tfc.legacy.to_keras3(tmp_path / name)
    with pytest.raises(tfc.ConfigError, match="nowhere"):
        tfc.legacy.to_keras3("nowhere.h5")


@pytest.mark.parametrize("form", ["old.h5", "old.keras"])
@pytest.mark.parametrize("safe_mode", [True, False])
def test_files_whose_config_is_broken(tmp_path, form, safe_mode):
    tk.Sequential([layers.Input((3,)), layers.Dense(2)]).save(tmp_path / form)
    if form == "old.h5":
        with h5py.File(tmp_path / form, "a") as file:
            file.attrs["model_config"] = "{no json"
    else:
        with zipfile.ZipFile(tmp_path / form) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(tmp_path / form, "w") as archive:
            for name, content in (parts | {"config.json": b"{no json"}).items():
                archive.writestr(name, content)
    with pytest.raises(tfc.ModelTypeError, match=form):
        tfc.legacy.to_keras3(tmp_path / form, safe_mode=safe_mode)


def test_masks_that_are_inputs_leave_something():
    i, mask = layers.Input((7, 4)), layers.Input((7, 7), dtype="bool")
    x = layers.MultiHeadAttention(2, 3)(i, i, attention_mask=mask, use_causal_mask=True)
    tfc.legacy.to_keras3(randomized(tk.Model([i, mask], x)))


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_inputs_that_keras_3_does_not_have(kind):
    inputs = layers.Input((5,), name="odd", **{kind: True})
    with pytest.raises(tfc.ConversionError, match=f"odd.*{kind.title()}TensorSpec"):
        tfc.legacy.to_keras3(tk.Model(inputs, layers.Lambda(lambda x: x)(inputs)))


def test_the_reason_of_keras_is_told():
    causal = layers.SeparableConv1D(4, 3, padding="causal", name="causal")
    with pytest.raises(tfc.ConversionError, match=r"causal \(SeparableConv1D\).*padding"):
        tfc.legacy.to_keras3(tk.Sequential([layers.Input((7, 4)), causal]))


@pytest.mark.parametrize("form", ["old.h5", "old.keras"])
def test_code_in_a_file_runs_only_where_allowed(tmp_path, form):
    old = tk.Sequential([layers.Input((3,)), layers.Lambda(lambda x: 2.0 * x), layers.Dense(2)])
    old.save(tmp_path / form)
    with pytest.raises(tfc.ConfigError, match="safe_mode"):
        tfc.legacy.to_keras3(tmp_path / form)
    new = tfc.legacy.to_keras3(tmp_path / form, safe_mode=False)
    assert closeness(old, new, np.ones((2, 3), "float32")) <= 2e-6


def compiled_alike(**how):
    """The optimizer and loss of the new model, which trains, and both models' losses on data."""
    old = tk.Sequential([layers.Input((5,)), layers.Dense(2)])
    old.compile(**how)
    new = tfc.legacy.to_keras3(old)
    y = np.array([0.0, 1, 1]) if "sparse" in str(new.loss.name) else ONE[:, :2]
    expected = old.evaluate(ONE, y, verbose=0)
    np.testing.assert_allclose(new.evaluate(ONE, y, verbose=0), expected, rtol=1e-5)
    new.fit(ONE, y, verbose=0)
    return new


SCHEDULES = tk.optimizers.schedules


@pytest.mark.parametrize(
    "schedule",
    [
        SCHEDULES.ExponentialDecay(0.1, 10, 0.9),
        SCHEDULES.PiecewiseConstantDecay([1], [0.1, 0.2]),
        SCHEDULES.CosineDecay(0.1, 10, warmup_target=0.2, warmup_steps=3),
        SCHEDULES.PolynomialDecay(0.1, 10),
        SCHEDULES.InverseTimeDecay(0.1, 10, 0.5),
        SCHEDULES.CosineDecayRestarts(0.1, 3),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_of_learning_rates(schedule):
    new = compiled_alike(optimizer=tk.optimizers.Adam(schedule), loss=tk.losses.Huber(0.1))
    for step in range(6):
        found = float(new.optimizer._learning_rate(step))
        assert found == pytest.approx(float(schedule(step)), rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        tk.losses.SparseCategoricalCrossentropy(from_logits=True),
        tk.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1),
        tk.losses.MeanSquaredError(reduction="sum"),
        tk.losses.CosineSimilarity(axis=0),
    ],
    ids=lambda loss: loss.name,
)
def test_losses_keep_their_options(loss):
    compiled_alike(optimizer="adam", loss=loss)


def test_optimizers_of_older_versions():
    old = tk.optimizers.legacy.SGD(0.1, decay=0.5)
    new = compiled_alike(optimizer=old, loss=tk.losses.MeanAbsoluteError())
    assert float(new.optimizer._learning_rate(2)) == pytest.approx(0.1 / (1 + 0.5 * 2))
    scaled = tk.mixed_precision.LossScaleOptimizer(tk.optimizers.SGD(0.1, momentum=0.9))
    new = compiled_alike(optimizer=scaled, loss=tk.losses.MeanAbsoluteError())
    assert type(new.optimizer).__name__ == "LossScaleOptimizer"
    assert new.optimizer.inner_optimizer.momentum == 0.9


ONE = np.ones((3, 5), "float32")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.full((3, 5), np.nan, "float32"), "NaN"),
        (np.ones((0, 5), "float32"), "at least one"),
        (np.ones((3, 4), "float32"), r"\(None, 5\).*\(3, 4\)"),
        ([ONE, ONE], "arrays"),
        ({"other": ONE}, "input"),
        ("text", "text"),
        (iter([ONE]), "next"),
        (tf.data.Dataset.from_tensors(ONE), "next"),
    ],
)
def test_data_that_does_not_fit(data, match):
    old = tk.Sequential([layers.Input((5,)), layers.Dense(2)])
    with pytest.raises(tfc.DataError, match=match):
        tfc.legacy.to_keras3(old, data=data)


def test_data_of_two_inputs():
    first, second = layers.Input((5,), name="a"), layers.Input((5,), name="b")
    old = tk.Model([first, second], layers.Dense(2)(first + second))
    for data in ([ONE, ONE], (ONE, ONE), {"b": ONE, "a": ONE}):
        tfc.legacy.to_keras3(old, data=data)
    for wrong in ([ONE, ONE[:2]], [ONE], ONE[:2]):
        with pytest.raises(tfc.DataError, match="data"):
            tfc.legacy.to_keras3(old, data=wrong)
    single = tk.Sequential([layers.Input((5,)), layers.Dense(2)])
    for data in ([ONE], ONE.tolist(), tf.constant(ONE)):
        tfc.legacy.to_keras3(single, data=data)
    with pytest.raises(tfc.ConfigError, match="custom_objects"):
        tfc.legacy.to_keras3(single, custom_objects=[1])


def test_models_whose_graph_is_not_known():
    class Own(tk.Model):
        def call(self, x):
            return x

    with pytest.raises(tfc.ModelTypeError, match="subclassed"):
        tfc.legacy.to_keras3(Own())
    with pytest.raises(tfc.ModelTypeError, match="not built"):
        tfc.legacy.to_keras3(tk.Sequential([layers.Dense(2)]))


def test_the_trained_resnet8_of_mlperf_tiny_becomes_int8():
    folder = data_folder()
    if folder is None:
        pytest.skip("TFCOMPRESS_DATA names no folder")
    path = folder / "mlperf_tiny" / "resnet8_cifar10.h5"
    new = tfc.legacy.to_keras3(path)
    x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    assert closeness(tk.models.load_model(path, compile=False), new, x) <= 1e-5
    assert new.count_params() == 78_666


def test_a_ready_made_network():
    # The other families: examples/benchmarks/keras2_families.py
    tk.backend.clear_session()
    make = tk.applications.MobileNetV3Small
    old = randomized(make(input_shape=(32, 32, 3), weights=None, classes=4), norms_only=True)
    new = tfc.legacy.to_keras3(old)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype("float32")
    assert closeness(old, new, x) <= 1e-4
    assert new.count_params() == old.count_params()
    names = {layer.name.replace("/", "_") for layer in old.layers}
    assert names <= {operation.name for operation in new.operations}


def test_the_report_is_plain_data(tmp_path):
    old = tk.Sequential([layers.Input((3,)), layers.Dense(2, name="a")])
    report = tfc.legacy.to_keras3(old).compression_report
    path = Path(report.save(tmp_path / "report.json"))
    assert json.loads(path.read_text())["entries"][0]["name"] == "a"
