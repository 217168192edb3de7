"""A quantize-aware model has the original's output names, and what was frozen stays frozen."""

import keras
import numpy as np
import pytest
from support import randomize

import tfcompress as tfc

layers = keras.layers


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")


def two_heads():
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(inputs))
    chances = layers.Dense(4, activation="softmax", name="chances")(x)
    return keras.Model(inputs, [chances, layers.Dense(1, name="size")(x)])


def nested_heads():
    inputs = keras.Input((8, 8, 3))
    head = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)], name="far")
    near = layers.Dense(2, activation="sigmoid", name="near")(layers.Flatten()(inputs))
    return keras.Model(inputs, [head(inputs), near])


def sequential():
    return keras.Sequential([
        keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3, activation="softmax", name="out"),
    ])  # fmt: skip


@pytest.mark.parametrize("build", [two_heads, nested_heads, sequential])
def test_outputs_keep_their_names(build, x, tmp_path):
    model = build()
    qmodel = tfc.quantize_aware(model, calibration_data=x)
    names = getattr(model, "output_names", ["out"])
    for made in (qmodel, tfc.strip(tfc.adapt(qmodel, "last"))):
        assert made.output_names == names
    qmodel.save(tmp_path / "model.keras")
    qmodel = keras.models.load_model(tmp_path / "model.keras")
    assert qmodel.output_names == names
    tflite = tfc.convert(qmodel, "int8")
    assert tflite.report.settings["identical"] == 1
    if len(names) > 1:
        assert set(tflite.predict(x)) == set(names)


def test_losses_by_name_work_as_before(x):
    qmodel = tfc.quantize_aware(two_heads(), calibration_data=x)
    qmodel.compile("sgd", loss={"chances": "sparse_categorical_crossentropy", "size": "mse"})
    qmodel.fit(x, {"chances": np.zeros(16), "size": np.zeros((16, 1))}, verbose=0)


def with_backbone():
    inputs = keras.Input((8, 8, 3))
    y = layers.Conv2D(8, 3, use_bias=False, name="convolution")(inputs)
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(y))
    backbone = keras.Model(inputs, layers.Conv2D(6, 3, name="second")(y), name="backbone")
    x = given = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(backbone(x))
    return randomize(keras.Model(given, layers.Dense(2, name="head")(x)))


FROZEN = {
    "backbone": {"convolution/kernel", "norm", "second/kernel", "second/bias"},
    "norm": {"norm"},
    "convolution": {"convolution/kernel"},
    "second": {"second/kernel", "second/bias"},
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_frozen_stays_as_it_is(name, x, tmp_path):
    model = with_backbone()
    backbone = model.get_layer("backbone")
    (backbone if name == "backbone" else backbone.get_layer(name)).trainable = False
    qmodel = tfc.quantize_aware(model, calibration_data=x)
    qmodel.save(tmp_path / "model.keras")
    for made in (qmodel, keras.models.load_model(tmp_path / "model.keras")):
        before = {v.path: np.array(v) for v in made.variables}
        made.compile(keras.optimizers.SGD(0.1), "mse")
        made.fit(x, np.ones((16, 2)), epochs=2, verbose=0)
        changed = {
            "norm" if path.split("/")[-1] in ("gamma", "beta", "moving_mean", "moving_variance")
            else "/".join(path.split("/")[-2:]).replace("backbone.", "")
            for path, old in before.items()
            if not np.array_equal(old, next(v for v in made.variables if v.path == path))
        }  # fmt: skip
        every = FROZEN["backbone"] | {"head/kernel", "head/bias"}
        assert changed & every == every - FROZEN[name]
    assert tfc.convert(made, "int8").report.settings["identical"] == 1
