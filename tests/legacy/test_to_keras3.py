"""tf_keras models as Keras 3 models: outputs, names, flags; what cannot be brought over."""

import json
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras2_networks import NETWORKS, randomized
from support import data_folder

import tfcompress as tfc
from tfcompress.legacy import comparison
from tfcompress.legacy.building import Builder, Built
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


def test_dropout_that_is_on_at_inference_is_brought_over_and_said():
    inputs = layers.Input((6,))
    x = layers.Dropout(0.5, name="mc")(layers.Dense(50)(inputs), training=True)
    new = tfc.legacy.to_keras3(tk.Model(inputs, layers.Dense(2)(x)))
    x = np.ones((1, 6), "float32")
    assert (np.asarray(new(x)) != np.asarray(new(x))).all()
    assert any("mc" in note and "random" in note for note in new.compression_report.notes)


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


@pytest.mark.parametrize("form", ["old.h5", "old.keras", "old", "hdf5.keras"])
def test_files_of_keras_2(tmp_path, form):
    inputs = layers.Input((6, 6, 1))
    x = layers.SeparableConv2D(3, 3, activation="relu")(inputs)
    x = layers.BatchNormalization()(x) * 2.0
    old = randomized(tk.Model(inputs, layers.Dense(2)(layers.Flatten()(x[:, 1:]))))
    old.compile("adam", "mse", ["mae"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old.save(tmp_path / ("hdf5.h5" if form == "hdf5.keras" else form))
    if form == "hdf5.keras":
        (tmp_path / "hdf5.h5").rename(tmp_path / form)
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
def test_code_in_a_file_runs_only_where_allowed(tmp_path, form):
    old = tk.Sequential([layers.Input((3,)), layers.Lambda(lambda x: 2.0 * x), layers.Dense(2)])
    old.save(tmp_path / form)
    with pytest.raises(tfc.ConfigError, match="safe_mode"):
        tfc.legacy.to_keras3(tmp_path / form)
    new = tfc.legacy.to_keras3(tmp_path / form, safe_mode=False)
    assert closeness(old, new, np.ones((2, 3), "float32")) <= 2e-6


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
