import warnings

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.pruning.masks import zeros_for

layers = keras.layers


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3, name="conv"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Flatten(),
            layers.Dense(13, name="hidden"),
            layers.BatchNormalization(),
            layers.Dense(3, name="head"),
        ]
    )


def deferred():
    return keras.Sequential([layers.Flatten(), layers.Dense(13, name="hidden"), layers.Dense(3)])


def nested():
    inner = keras.Sequential([layers.Flatten(), layers.Dense(13, name="hidden")], name="inner")
    inputs = keras.Input((8, 8, 2))
    return keras.Model(inputs, layers.Dense(3)(inner(inputs)))


def shared():
    inputs = keras.Input((8, 8, 2))
    layer = layers.Conv2D(2, 3, padding="same", name="twice")
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layer(layer(inputs)))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten = layers.Flatten()
        self.hidden = [layers.Dense(13, name="hidden"), layers.Dense(3)]

    def call(self, x):
        x = self.flatten(x)
        for layer in self.hidden:
            x = layer(x)
        return x


def attention():
    inputs = keras.Input((8, 8, 2))
    x = layers.Reshape((16, 8))(inputs)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LSTM(5, name="memory")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


MODELS = [sequential, deferred, nested, shared, Subclassed, attention]


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    return generator.random((64, 8, 8, 2), "float32"), generator.integers(0, 3, 64)


def compiled(make, **arguments):
    keras.utils.set_random_seed(1)
    model = make()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), **arguments)
    return model


def assert_exact(model, callback, share):
    """Every pruned layer holds exactly the zeros that the share of its size makes."""
    from tfcompress import registry

    by_path = dict(registry.walk(model))
    assert callback.report.changed
    for entry in callback.report.changed:
        for kernel in registry.kernels(by_path[entry.name]):
            value = keras.ops.convert_to_numpy(kernel)
            assert (value == 0).sum() == zeros_for(share, value.size), entry.name


@pytest.mark.parametrize("make", MODELS)
def test_target_is_exact_in_every_layer_of_any_model(make, data):
    model = compiled(make)
    callback = tfc.PruningCallback(tfc.PolynomialDecay(0.0, 0.7, 0, 6, frequency=3))
    history = model.fit(*data, batch_size=16, epochs=3, verbose=0, callbacks=[callback])
    assert_exact(model, callback, 0.7)
    assert history.history["sparsity"][-1] == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
        keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
    ],
    ids=["momentum", "weight decay", "moving average"],
)
@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_zeros_hold_after_the_end_step(data, optimizer, steps_per_execution):
    model = compiled(sequential)
    optimizer = optimizer.from_config(optimizer.get_config())
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(True),
        steps_per_execution=steps_per_execution,
    )
    callback = tfc.PruningCallback(tfc.PolynomialDecay(0.0, 0.7, 0, 4, frequency=100))
    model.fit(*data, batch_size=8, epochs=4, verbose=0, callbacks=[callback])
    assert_exact(model, callback, 0.7)


def test_zeros_hold_between_callbacks_under_xla(data):
    """Inside one execution of many steps the mask must come from the optimizer's update."""
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(tfc.sparsity(self.model)["hidden"])

    model = compiled(sequential, steps_per_execution=4, jit_compile=True)
    schedule = tfc.ConstantSparsity(0.5, 0, frequency=10_000)
    # Watch comes first: it sees the weights as the optimizer left them.
    model.fit(
        *data, batch_size=8, epochs=3, verbose=0, callbacks=[Watch(), tfc.PruningCallback(schedule)]
    )
    kernel = model.get_layer("hidden").kernel
    exact = zeros_for(0.5, int(np.prod(kernel.shape))) / np.prod(kernel.shape)
    assert seen == [exact] * len(seen) and len(seen) == 6


def test_mixed_precision(data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(sequential)
    finally:
        keras.config.set_dtype_policy("float32")
    callback = tfc.PruningCallback(tfc.ConstantSparsity(0.6, 0, frequency=2))
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    assert_exact(model, callback, 0.6)


def test_fit_leaves_constraints_and_later_training_free(data):
    model = compiled(sequential)
    limit = keras.constraints.MaxNorm(0.5)
    model.get_layer("hidden").kernel.constraint = limit
    callback = tfc.PruningCallback(tfc.OneShot(0.5, 0))
    model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    norms = np.linalg.norm(model.get_layer("hidden").get_weights()[0], axis=0)
    assert norms.max() <= 0.5 + 1e-6, "the user's own constraint was lost while pruning"
    assert model.get_layer("hidden").kernel.constraint is limit
    assert model.get_layer("conv").kernel.constraint is None
    model.fit(*data, batch_size=16, epochs=1, verbose=0)
    assert tfc.sparsity(model)["conv"] == 0.0, "a plain fit must train all weights"


def test_two_fits_go_on_where_the_first_stopped(data):
    model = compiled(sequential)
    callback = tfc.PruningCallback(tfc.PolynomialDecay(0.0, 0.8, 0, 8, frequency=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    assert any("before the pruning schedule's end_step 8" in str(w.message) for w in caught)
    model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    assert_exact(model, callback, 0.8)


def test_same_seed_gives_the_same_weights(data):
    results = []
    for _ in range(2):
        model = compiled(sequential)
        callback = tfc.PruningCallback(tfc.PolynomialDecay(0.0, 0.8, 0, 6, frequency=2))
        model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
        results.append(model.get_weights())
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


def test_pruned_weights_survive_a_keras_round_trip(data, tmp_path):
    model = compiled(sequential)
    callback = tfc.PruningCallback(tfc.OneShot(0.5, 0))
    model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert tfc.sparsity(again) == tfc.sparsity(model)
    np.testing.assert_array_equal(
        again.predict(data[0], verbose=0), model.predict(data[0], verbose=0)
    )


def test_an_interrupted_fit_can_be_ended(data):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = compiled(sequential)
    callback = tfc.PruningCallback(tfc.ConstantSparsity(0.8, 0))
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, batch_size=16, verbose=0, callbacks=[callback, Interrupt()])
    other = tfc.PruningCallback(tfc.ConstantSparsity(0.6, 0, frequency=1))
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[other])
    assert model.get_layer("hidden").kernel.constraint is None
    callback.finish()
    assert model.get_layer("hidden").kernel.constraint is None


def test_nan_weights_are_not_pruned(data):
    model = compiled(sequential)
    weights = model.get_layer("hidden").get_weights()
    weights[0][0, 0] = np.nan
    model.get_layer("hidden").set_weights(weights)
    with pytest.raises(tfc.DataError, match="diverged"):
        model.fit(*data, verbose=0, callbacks=[tfc.PruningCallback(tfc.OneShot(0.5, 0))])


def test_weights_put_back_at_the_end_are_masked_too(data):
    model = compiled(sequential)
    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True, patience=100)
    callback = tfc.PruningCallback(tfc.PolynomialDecay(0.0, 0.7, 0, 6, frequency=2))
    model.fit(*data, batch_size=16, epochs=3, verbose=0, callbacks=[stop, callback])
    assert_exact(model, callback, 0.7)


def test_checkpoints_hold_the_zeros(data, tmp_path):
    model = compiled(sequential)
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    callback = tfc.PruningCallback(tfc.OneShot(0.7, 0))
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[save, callback])
    for epoch in (1, 2):
        saved = tfc.sparsity(keras.models.load_model(tmp_path / f"{epoch}.keras"))
        assert saved == tfc.sparsity(model)


def test_include_exclude_and_report(data):
    model = compiled(sequential)
    callback = tfc.PruningCallback(
        tfc.OneShot(0.5, 0), include=["conv*", layers.Dense, "depthwise"], exclude="head"
    )
    model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    assert {e.name for e in callback.report.changed} == {"conv", "depthwise", "hidden"}
    reasons = {e.name: e.reason for e in callback.report.left}
    assert reasons["head"] == "excluded"
    assert tfc.sparsity(model)["head"] == 0.0


def test_depthwise_is_left_alone_and_said_so(data):
    model = compiled(sequential)
    callback = tfc.PruningCallback(tfc.OneShot(0.5, 0))
    model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    (entry,) = [e for e in callback.report.left if e.name == "depthwise"]
    assert "accuracy" in entry.reason


def test_naming_a_holder_means_what_it_holds(data):
    model = compiled(attention)
    callback = tfc.PruningCallback(tfc.OneShot(0.5, 0), include="attention")
    model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    assert {e.name for e in callback.report.changed} == {
        f"attention/{name}" for name in ("query", "key", "value", "attention_output")
    }


def test_own_layers_through_the_registry(data):
    class Scaled(keras.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=(shape[-1], 3), name="weight")

        def call(self, x):
            return x @ self.weight

    model = compiled(lambda: keras.Sequential([layers.Flatten(), Scaled(name="own")]))
    with pytest.raises(tfc.ConfigError, match="no layer to prune"):
        model.fit(*data, verbose=0, callbacks=[tfc.PruningCallback(tfc.OneShot(0.5, 0))])
    tfc.register_layer(Scaled, kernels=("weight",))
    callback = tfc.PruningCallback(tfc.OneShot(0.5, 0))
    model.fit(*data, verbose=0, callbacks=[callback])
    assert_exact(model, callback, 0.5)


def test_typo_in_a_pattern_names_the_likely_layer(data):
    model = compiled(sequential)
    callback = tfc.PruningCallback(tfc.OneShot(0.5, 0), include="hiden")
    with pytest.raises(tfc.ScopeError, match="Did you mean 'hidden'"):
        model.fit(*data, verbose=0, callbacks=[callback])


def test_keras_2_model_is_named_as_such(data):
    import tf_keras

    model = tf_keras.Sequential([tf_keras.layers.Flatten(), tf_keras.layers.Dense(3)])
    with pytest.raises(tfc.ModelTypeError, match=r"legacy\.to_keras3"):
        tfc.sparsity(model)
    with pytest.raises(tfc.ModelTypeError, match=r"legacy\.to_keras3"):
        tfc.PruningCallback(tfc.OneShot(0.5, 0)).set_model(model)


def test_pruner_in_a_custom_loop(data):
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = sequential()
    optimizer = keras.optimizers.Adam(0.01)
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    pruner = tfc.Pruner(model, tfc.PolynomialDecay(0.0, 0.7, 0, 6, frequency=2))

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for start in range(0, 64, 8):
        train_step(data[0][start : start + 8], data[1][start : start + 8])
        pruner.step(optimizer.iterations)
    pruner.finish()
    for name in ("conv", "hidden", "head"):
        kernel = model.get_layer(name).get_weights()[0]
        assert (kernel == 0).sum() == zeros_for(0.7, kernel.size)
    assert all(
        layer.kernel.constraint is None for layer in model.layers if hasattr(layer, "kernel")
    )
