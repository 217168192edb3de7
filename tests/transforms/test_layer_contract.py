"""What holds for every kind of layer that can be wrapped."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from layer_kinds import KINDS, data_for

import tfcompress as tfc
from tfcompress import registry
from tfcompress.pruning.masks import zeros_for
from tfcompress.transforms.wrapper import wrappers

# Where each test of all kinds would cost minutes, those that are least like each other.
VARIED = [
    "dense",
    "embedding and masked recurrence",
    "attention",
    "lstm with states",
    "nested",
    "user's own",
]
varied = pytest.mark.parametrize("kind", VARIED)
SCHEDULE = tfc.PolynomialDecay(0.0, 0.6, 0, 4, frequency=2)


@pytest.fixture(params=KINDS, ids=list(KINDS))
def kind(request):
    return request.param


def plain(kind, policy="float32"):
    make, shape = KINDS[kind]
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    try:
        return make(), *data_for(shape)
    finally:
        keras.config.set_dtype_policy("float32")


def pruned_from(model):
    return tfc.prune(model, SCHEDULE, include=lambda layer: bool(registry.kernels(layer)))


def fit(model, x, y, epochs=2, compile=True, **options):
    if compile:
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), **options)
    model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, shuffle=False)
    return model


def stepped(model):
    """The model pruned to the end of its schedule, without training."""
    pruned = pruned_from(model)
    pruner = tfc.Pruner(pruned)
    pruner.step(4)
    pruner.finish()
    return pruned


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x))


def kernels(model):
    return {
        f"{path} {index}": keras.ops.convert_to_numpy(kernel)
        for path, layer in registry.walk(model)
        for index, kernel in enumerate(registry.kernels(layer))
    }


def assert_exact(model):
    for name, kernel in kernels(model).items():
        assert (kernel == 0).sum() == zeros_for(0.6, kernel.size), name


def test_wrapping_changes_nothing_that_is_seen(kind):
    model, x, _ = plain(kind)
    pruned = pruned_from(model)
    np.testing.assert_array_equal(outputs(pruned, x), outputs(model, x))
    assert [(path, type(layer)) for path, layer in registry.walk(pruned)] == [
        (path, type(layer)) for path, layer in registry.walk(model)
    ]
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    assert tfc.sparsity(pruned) == tfc.sparsity(model)
    assert pruned.output_shape == model.output_shape
    assert pruned.count_params() >= model.count_params()
    assert wrappers(pruned) and not wrappers(model)
    assert len(pruned.trainable_weights) == len(model.trainable_weights)
    assert len(pruned(x[:2], training=True)) == 2


def test_plain_fit_reaches_the_exact_target_and_strip_keeps_the_outputs(kind):
    model, x, y = plain(kind)
    before = model.get_weights()
    pruned = fit(pruned_from(model), x, y)
    assert_exact(pruned)
    plain_again = tfc.strip(pruned)
    assert_exact(plain_again)
    np.testing.assert_array_equal(outputs(plain_again, x), outputs(pruned, x))
    assert not wrappers(plain_again)
    assert not any(
        "tfcompress" in type(layer).__module__ for layer in plain_again._flatten_layers()
    )
    assert [type(layer) for layer in plain_again.layers] == [type(layer) for layer in model.layers]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old, "the original has changed")


@varied
def test_training_is_that_of_the_callback(kind):
    """The same seed, data and schedule: the same weights, whether wrapped or in place."""
    model, x, y = plain(kind)
    pruned = pruned_from(model)
    keras.utils.set_random_seed(7)
    fit(pruned, x, y)
    callback = tfc.PruningCallback(SCHEDULE, include=lambda layer: bool(registry.kernels(layer)))
    keras.utils.set_random_seed(7)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=[callback])
    for name, kernel in kernels(model).items():
        np.testing.assert_allclose(kernels(pruned)[name], kernel, atol=1e-6, err_msg=name)


def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    model, x, _ = plain(kind)
    pruned = stepped(model)
    pruned.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(again, x), outputs(pruned, x))
    for old, new in zip(pruned.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert tfc.sparsity(again)["total"] == tfc.sparsity(pruned)["total"]


# Not those with dropout: Keras does not save the state of a layer's seed.
@pytest.mark.parametrize("kind", ["dense", "embedding and masked recurrence", "nested"])
def test_saved_and_loaded_it_goes_on_the_same_way(kind, tmp_path):
    model, x, y = plain(kind)
    pruned = fit(pruned_from(model), x, y, epochs=1)
    pruned.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    keras.utils.set_random_seed(5)
    fit(pruned, x, y, epochs=1, compile=False)
    keras.utils.set_random_seed(5)
    fit(again, x, y, epochs=1, compile=False)
    assert_exact(again)
    for old, new in zip(kernels(pruned).values(), kernels(again).values(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)


def test_config_round_trip_and_clone(kind):
    model, x, _ = plain(kind)
    pruned = stepped(model)
    clones = [type(pruned).from_config(pruned.get_config()), keras.models.clone_model(pruned)]
    for clone in clones:
        clone.set_weights(pruned.get_weights())
        np.testing.assert_array_equal(outputs(clone, x), outputs(pruned, x))
        assert len(wrappers(clone)) == len(wrappers(pruned))


def clustered_and_trained(kind, policy="float32", **options):
    """The model in clusters of three, after a step of training; its kernels before that; inputs."""
    import tensorflow as tf

    model, x, _ = plain(kind, policy)
    every = [path for path, layer in registry.walk(model) if registry.kernels(layer)]
    clustered = tfc.cluster(model, 3, include=every, **options)
    assert [entry.name for entry in clustered.compression_report.changed] == every
    held = kernels(tfc.strip(clustered))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.cast(clustered(x), "float32") ** 2)
    trained = clustered.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in trained])
    assert all(gradient is not None for gradient in gradients)
    keras.optimizers.SGD(0.5).apply(gradients, trained)
    return clustered, held, x


def test_clustered_its_values_train_and_stay_few(kind, tmp_path):
    clustered, held, x = clustered_and_trained(kind)
    clustered.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(again, x), outputs(clustered, x))
    plain_again = tfc.strip(clustered)
    np.testing.assert_array_equal(outputs(plain_again, x), outputs(clustered, x))
    assert not wrappers(plain_again)
    for name, kernel in kernels(plain_again).items():
        assert not np.array_equal(kernel, held[name]), name
        assert len(np.unique(kernel)) == len(np.unique(held[name])) == 3, name
        for value in np.unique(held[name]):  # those that were together are
            assert len(np.unique(kernel[held[name] == value])) == 1, name


@varied
def test_clustered_by_channel_in_mixed_precision(kind):
    clustered, held, x = clustered_and_trained(kind, "mixed_bfloat16", per_channel=True)
    plain_again = tfc.strip(clustered)
    np.testing.assert_array_equal(outputs(plain_again, x), outputs(clustered, x))
    for path, layer in registry.walk(plain_again):
        for index, variable in enumerate(registry.kernels(layer)):
            kernel = keras.ops.convert_to_numpy(variable)
            assert not np.array_equal(kernel, held[f"{path} {index}"]), path
            roles = registry.axes(layer, variable)
            outer = [i for i, role in enumerate(roles) if role == "o"]
            if isinstance(layer, keras.layers.Embedding):
                outer = []  # one set for the table
            rows = np.moveaxis(kernel, outer, range(len(outer)))
            rows = rows.reshape(int(np.prod([kernel.shape[i] for i in outer])), -1)
            assert max(len(np.unique(row)) for row in rows) <= 3, path


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(kind, policy):
    model, x, _ = plain(kind, policy)
    np.testing.assert_array_equal(outputs(pruned_from(model), x), outputs(model, x))
    pruned = stepped(model)
    assert outputs(pruned, x).dtype == outputs(model, x).dtype
    assert_exact(pruned)
    np.testing.assert_array_equal(outputs(tfc.strip(pruned), x), outputs(pruned, x))


@varied
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_training_in_mixed_precision(kind, policy):
    model, x, y = plain(kind, policy)
    assert_exact(fit(pruned_from(model), x, y))


def test_gradients_reach_masked_weights_and_no_others_change(kind):
    import tensorflow as tf

    model, x, _ = plain(kind)
    pruned = pruned_from(model)
    pruner = tfc.Pruner(pruned)
    pruner.step(4)
    for wrapper in wrappers(pruned):
        for variable, transforms in wrapper.kernels:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.cast(pruned(x), "float32") ** 2)
            gradient = tape.gradient(loss, variable.value)
            if isinstance(gradient, tf.IndexedSlices):
                gradient = tf.convert_to_tensor(gradient)
            masked = ~keras.ops.convert_to_numpy(transforms[0].mask)
            assert masked.any() and np.isfinite(gradient).all()
            # Rows of an embedding that no input asks for have none.
            assert np.abs(gradient.numpy()[masked]).max() > 0, variable.path


def test_state_inside_is_kept_as_without_the_wrapper(kind):
    """Seeds, running statistics, counters: updated once by each call, wrapped or not."""
    model, x, _ = plain(kind)
    pruned = pruned_from(model)
    inner = dict(registry.walk(pruned))
    for path, layer in registry.walk(model):
        for one, other in zip(layer._seed_generators, inner[path]._seed_generators, strict=True):
            np.testing.assert_array_equal(one.state.numpy(), other.state.numpy())
    for _ in range(2):
        np.testing.assert_array_equal(
            pruned(x, training=True).numpy(), model(x, training=True).numpy()
        )
    losses = [float(loss) for loss in model.losses]
    assert sorted(float(loss) for loss in pruned.losses) == pytest.approx(sorted(losses))
    for path, layer in registry.walk(model):
        if layer._layers:
            continue  # what it holds comes by itself
        own = layer.non_trainable_variables, inner[path].non_trainable_variables
        for one, other in zip(*own, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy(), path)


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 3}])
@pytest.mark.parametrize("kind", ["conv2d", "attention", "nested", "user's own"])
def test_jit_and_many_steps_at_once(kind, options):
    model, x, y = plain(kind)
    pruned = fit(pruned_from(model), x, y, epochs=3, **options)
    assert_exact(pruned)


@pytest.mark.parametrize("kind", ["conv2d", "lstm with states"])
def test_a_stripped_model_converts(kind):
    model, x, y = plain(kind)
    pruned = fit(pruned_from(model), x, y)
    tflite = tfc.convert(tfc.strip(pruned))
    np.testing.assert_allclose(tflite.predict(x[:4]), outputs(pruned, x[:4]), atol=1e-5)


@pytest.mark.parametrize("first", ["keras", "tfcompress"])
def test_loading_needs_no_more_than_the_import(tmp_path, first):
    model, x, y = plain("conv2d")
    pruned = fit(pruned_from(model), x, y, epochs=1)
    pruned.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    second = {"keras": "tfcompress", "tfcompress": "keras"}[first]
    code = (
        f"import {first}, {second}, numpy as np\n"
        "model = keras.models.load_model('model.keras')\n"
        "model.fit(np.load('x.npy'), np.load('y.npy'), batch_size=8, verbose=0)\n"
        "print(tfcompress.sparsity(model)['it'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    size = model.get_layer("it").kernel.shape.num_elements()
    assert float(done.stdout.split()[-1]) == zeros_for(0.6, size) / size
