"""`tfc.prune` and `tfc.strip` on whole models; what holds for each layer is in tests/transforms."""

import warnings

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress import registry
from tfcompress.pruning.masks import zeros_for
from tfcompress.pruning.settings import PruningSettings
from tfcompress.transforms.wrapper import wrappers

layers = keras.layers
SCHEDULE = tfc.PolynomialDecay(0.0, 0.7, 0, 6, frequency=2)


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    return generator.random((64, 8, 8, 2), "float32"), generator.integers(0, 3, 64)


def network():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3, name="conv_1"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(4, 3, name="conv_2"),
            layers.Flatten(),
            layers.Dense(13, name="hidden"),
            layers.Dense(3, name="head"),
        ],
        name="network",
    )


@keras.saving.register_keras_serializable("tests")
class Classifier(keras.Model):
    """A subclassed model with layers in every kind of attribute."""

    def __init__(self, units=9, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.flatten = layers.Flatten()
        self.hidden = [layers.Dense(units, name="one"), layers.Dense(units, name="two")]
        self.parts = {"stack": keras.Sequential([layers.Dense(7, name="deep")], name="stack")}
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        x = self.flatten(x)
        for layer in self.hidden:
            x = layer(x)
        return self.head(self.parts["stack"](x)) * self.head.units

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
def half(step):
    return 0.5


@keras.saving.register_keras_serializable("tests")
def by_size(weights, gradients):
    return np.abs(weights)


def compiled(model, **options):
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), **options)
    return model


def fit(model, data, epochs=2, **options):
    return model.fit(*data, batch_size=16, epochs=epochs, verbose=0, shuffle=False, **options)


def test_schedules_by_layer(data):
    schedules = {
        "conv_1": tfc.OneShot(0.5, 0),
        "conv_*": tfc.PolynomialDecay(0.0, 0.8, 0, 4, frequency=2),
        "head": None,
        layers.Dense: tfc.ConstantSparsity(0.25, 0),
    }
    pruned = compiled(tfc.prune(network(), schedules))
    fit(pruned, data)
    sparsity = tfc.sparsity(pruned)
    for name, share in {"conv_1": 0.5, "conv_2": 0.8, "hidden": 0.25, "head": 0.0}.items():
        size = int(np.prod(pruned.get_layer(name).kernel.shape))
        assert sparsity[name] == zeros_for(share, size) / size
    left = {entry.name: entry.reason for entry in pruned.compression_report.left}
    assert left["head"] == "its schedule is None" and "no schedule names it" in left["depthwise"]
    assert "sparsity" in pruned.compression_report.changed[0].details


def test_pooling_goes_on_over_the_same_kernels_after_loading(data, tmp_path):
    """Global pooling of two groups, saved in the middle of the schedule: as without the save."""
    schedules = {
        "conv_*": tfc.PolynomialDecay(0.0, 0.6, 0, 8, frequency=2),
        layers.Dense: tfc.PolynomialDecay(0.0, 0.8, 0, 8, frequency=2),
    }
    pruned = compiled(tfc.prune(network(), schedules, pooling="global", criterion="taylor"))
    with pytest.warns(UserWarning, match="before the pruning schedule's end_step"):
        fit(pruned, data, epochs=1)
    pruned.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for model in (pruned, again):
        fit(model, data)
    for one, other in zip(pruned.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    kernels = dict(registry.walk(again))
    for names, share in ((("conv_1", "conv_2"), 0.6), (("hidden", "head"), 0.8)):
        values = [keras.ops.convert_to_numpy(kernels[name].kernel) for name in names]
        zeros, size = sum((v == 0).sum() for v in values), sum(v.size for v in values)
        assert zeros == zeros_for(share, size)
        assert (values[0] == 0).mean() != (values[1] == 0).mean()


def test_interrupted_sums_of_gradients_are_saved_too(data, tmp_path):
    """Between two mask updates the sums of a criterion are state like any other."""
    schedule = tfc.RigL(0.5, 0, 100, frequency=6)
    pruned = compiled(tfc.prune(network(), schedule, criterion="movement"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(pruned, data, epochs=1)
        pruned.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        for model in (pruned, again):
            fit(model, data, epochs=1)
    for one, other in zip(pruned.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_checkpoints_of_a_driven_fit(data, tmp_path):
    pruned = compiled(tfc.prune(network(), SCHEDULE))
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    fit(pruned, data, callbacks=save)
    other = tfc.prune(network(), SCHEDULE)
    other.load_weights(tmp_path / "2.weights.h5")
    assert tfc.sparsity(other) == tfc.sparsity(pruned)


def test_a_given_callback_is_used_and_the_history_has_the_sparsity(data):
    pruned = compiled(tfc.prune(network(), SCHEDULE))
    callback = tfc.PruningCallback()
    history = fit(pruned, data, callbacks=[callback])
    assert callback.report.changed
    assert history.history["sparsity"][-1] == pytest.approx(0.7, abs=0.01)
    other = tfc.PruningCallback(tfc.OneShot(0.9, 0))
    pruned = compiled(tfc.prune(network(), SCHEDULE))
    fit(pruned, data, callbacks=[other])
    assert tfc.sparsity(pruned)["hidden"] == pytest.approx(0.9, abs=0.01)


def test_resume_stays_last(data, tmp_path):
    pruned = compiled(tfc.prune(network(), SCHEDULE))
    fit(pruned, data, callbacks=[tfc.Resume(tmp_path / "run")])
    assert tfc.sparsity(pruned)["conv_1"] == pytest.approx(0.7, abs=0.01)


def test_custom_loop(data):
    import tensorflow as tf

    pruned = tfc.prune(network(), SCHEDULE)
    optimizer = keras.optimizers.Adam()
    pruner = tfc.Pruner(pruned, optimizer=optimizer)
    loss_of = keras.losses.SparseCategoricalCrossentropy(True)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, pruned(x, training=True))
        variables = pruned.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(8):
            step(*data)
            pruner.step(optimizer.iterations)
    pruner.finish()
    assert pruner.sparsity == pytest.approx(0.7, abs=0.01)


def test_training_without_a_driver_warns_once(data):
    inputs = keras.Input((8, 8, 2))
    pruned = tfc.prune(network(), SCHEDULE)
    pruned.name = "alone"
    outer = compiled(keras.Model(inputs, pruned(inputs)))
    with pytest.warns(UserWarning, match="PruningCallback") as caught:
        fit(outer, data)
    assert len([w for w in caught if "tfc.prune wrapped" in str(w.message)]) == 1
    # With one it is pruned like any model.
    fit(compiled(outer), data, callbacks=[tfc.PruningCallback()])
    assert tfc.sparsity(outer)["alone/hidden"] == pytest.approx(0.7, abs=0.01)
    plain = tfc.strip(outer)
    assert not wrappers(plain)
    np.testing.assert_array_equal(plain(data[0]).numpy(), outer(data[0]).numpy())


def test_subclassed(data, tmp_path):
    keras.utils.set_random_seed(1)
    model = Classifier(8)
    model(data[0][:1])
    before = model.get_weights()
    pruned = tfc.prune(model, SCHEDULE, exclude="head")
    assert isinstance(pruned, Classifier) and isinstance(pruned.hidden[0].layer, layers.Dense)
    np.testing.assert_array_equal(pruned(data[0]).numpy(), model(data[0]).numpy())
    fit(compiled(pruned), data)
    sparsity = tfc.sparsity(pruned)
    assert sparsity["head"] == 0.0 and sparsity["one"] == pytest.approx(0.7, abs=0.01)
    assert sparsity["stack/deep"] == pytest.approx(0.7, abs=0.01)
    pruned.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert tfc.sparsity(again) == sparsity
    fit(again, data, epochs=1)
    assert tfc.sparsity(again) == sparsity
    plain = tfc.strip(pruned)
    assert type(plain) is Classifier and not wrappers(plain)
    np.testing.assert_array_equal(plain(data[0]).numpy(), pruned(data[0]).numpy())
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_custom_layer_that_cannot_be_rebuilt_is_left_and_said(data):
    class Odd(layers.Dense):
        def __init__(self, units, secret, **kwargs):
            super().__init__(units, **kwargs)

    inputs = keras.Input((8, 8, 2))
    x = Odd(5, "secret", name="odd")(layers.Flatten()(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    before = model.get_layer("odd").kernel.numpy()
    pruned = tfc.prune(model, SCHEDULE)
    report = pruned.compression_report
    assert [entry.name for entry in report.changed] == ["head"]
    assert "belongs to both models" in str(report) and "'odd'" in str(report)
    tfc.Pruner(pruned).step(6)
    np.testing.assert_array_equal(model.get_layer("odd").kernel.numpy(), before)
    with pytest.warns(UserWarning, match="odd"):
        tfc.strip(pruned)
    only = keras.Model(inputs, Odd(3, "secret")(layers.Flatten()(inputs)))
    with pytest.raises(tfc.ConfigError, match="PruningCallback"):
        tfc.prune(only, SCHEDULE)


def test_a_train_step_of_ones_own_and_its_reload(data, tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Stepper(keras.Model):
        def train_step(self, batch):
            return {**super().train_step(batch), "own": 1.0}

    inputs = keras.Input((8, 8, 2))
    model = Stepper(inputs, layers.Dense(3, name="head")(layers.Flatten()(inputs)))
    pruned = compiled(tfc.prune(model, SCHEDULE))
    assert fit(pruned, data).history["own"] == [1.0, 1.0]
    pruned.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, Stepper)
    assert fit(again, data, epochs=1).history["own"] == [1.0]
    assert type(tfc.strip(again)) is Stepper


def test_the_report_outlives_the_file(data, tmp_path):
    pruned = tfc.prune(network(), SCHEDULE)
    pruned.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.compression_report == pruned.compression_report


def test_strip_of_a_plain_model_is_an_equal_copy(data):
    model = network()
    copy = tfc.strip(model)
    assert copy is not model and type(copy) is type(model)
    np.testing.assert_array_equal(copy(data[0]).numpy(), model(data[0]).numpy())


def test_stripped_models_load_without_tfcompress(data, tmp_path):
    import subprocess
    import sys

    pruned = compiled(tfc.prune(network(), SCHEDULE))
    fit(pruned, data)
    tfc.strip(pruned).save(tmp_path / "plain.keras")
    code = (
        "import keras, sys; m = keras.models.load_model('plain.keras'); "
        "assert 'tfcompress' not in sys.modules; print(m.get_layer('hidden').kernel.numpy().size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_users_own_functions(data, tmp_path):
    pruned = compiled(tfc.prune(network(), half, criterion=by_size))
    fit(pruned, data)
    pruned.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    fit(again, data, epochs=1)
    assert tfc.sparsity(again)["hidden"] == pytest.approx(0.5, abs=0.01)
    unregistered = tfc.prune(network(), lambda step: 0.5)
    fit(compiled(unregistered), data, epochs=1)
    assert tfc.sparsity(unregistered)["hidden"] == pytest.approx(0.5, abs=0.01)
    assert not wrappers(tfc.strip(unregistered))
    with pytest.raises(tfc.ConfigError, match="register_keras_serializable"):
        unregistered.save(tmp_path / "other.keras")


@pytest.mark.parametrize(
    "arguments",
    [
        {"schedule": tfc.ConstantSparsity(0.5, 10, 200, frequency=7)},
        {"schedule": tfc.ExponentialDecay(0.1, 0.8, 0, 50)},
        {"schedule": tfc.OneShot(0.5, 3), "pattern": "2:4"},
        {"schedule": tfc.RigL(0.5, 0, 100, fraction=0.2)},
        {"schedule": SCHEDULE, "pattern": "block:2x4:max", "criterion": "snip"},
        {"schedule": SCHEDULE, "pooling": "global", "floor": 0.2, "cap": 0.9},
        {"schedule": half, "criterion": by_size},
    ],
    ids=lambda arguments: repr(arguments["schedule"])[:20],
)
def test_settings_round_trip(arguments):
    import json

    settings = PruningSettings(**arguments)
    config = json.loads(json.dumps(settings.get_config()))
    again = PruningSettings.from_config(config)
    assert again.describe() == settings.describe()
    assert again.get_config() == settings.get_config()


def test_wrong_use_is_told():
    model = network()
    pruned = tfc.prune(model, SCHEDULE)
    with pytest.raises(tfc.ConfigError, match="wrapped already"):
        tfc.prune(pruned, SCHEDULE)
    with pytest.raises(tfc.ScopeError, match="conv_9"):
        tfc.prune(model, SCHEDULE, include="conv_9")
    with pytest.raises(tfc.ScopeError, match=r"nothing_\*"):
        tfc.prune(model, {"nothing_*": SCHEDULE})
    with pytest.raises(tfc.ConfigError, match="pattern"):
        tfc.prune(model, SCHEDULE, pattern="4:2")
    with pytest.raises(tfc.ConfigError, match=r"schedule.*None"):
        tfc.prune(model, None)
    with pytest.raises(tfc.ConfigError, match=r"tfc.prune.*schedule=None"):
        tfc.Pruner(model)
    with pytest.raises(tfc.ConfigError, match="pattern='2:4'"):
        tfc.Pruner(pruned, pattern="2:4")
    with pytest.raises(tfc.ConfigError, match="exclude='head'"):
        tfc.PruningCallback(exclude="head")
    with pytest.raises(tfc.ModelTypeError, match="not built"):
        tfc.prune(keras.Sequential([layers.Dense(2)]), SCHEDULE)
    with pytest.raises(tfc.ModelTypeError, match=r"keras\.Model"):
        tfc.strip("model")


def test_copies_and_pickles_of_a_pruned_model(data):
    import copy
    import pickle

    pruned = tfc.prune(network(), SCHEDULE)
    tfc.Pruner(pruned).step(6)
    for other in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned))):
        assert type(other) is type(pruned) and tfc.sparsity(other) == tfc.sparsity(pruned)
        np.testing.assert_array_equal(other(data[0]).numpy(), pruned(data[0]).numpy())


def test_a_wrapped_model_converts_as_it_is(data):
    pruned = tfc.prune(network(), SCHEDULE)
    tfc.Pruner(pruned).step(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # exporting is no training
        tflite = tfc.convert(pruned)
    np.testing.assert_allclose(tflite.predict(data[0][:4]), pruned(data[0][:4]), atol=1e-5)


def test_attributes_can_be_read_through_the_wrapper():
    pruned = tfc.prune(network(), SCHEDULE)
    wrapper = pruned.get_layer("hidden")
    assert wrapper.units == 13 and wrapper.kernel is wrapper.layer.kernel
    with pytest.raises(AttributeError, match="no_such_thing"):
        wrapper.no_such_thing
    wrapper.trainable = False
    assert not wrapper.layer.trainable and not wrapper.trainable_weights
