"""`tfc.cluster` on whole models; what holds for each layer is in tests/transforms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress import registry
from tfcompress.transforms.wrapper import wrappers

layers = keras.layers


def network(dense=None):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Flatten(),
            layers.Dense(13, name="hidden", **(dense or {})),
            layers.Dense(3, name="head"),
        ]
    )


def data():
    generator = np.random.default_rng(0)
    return generator.normal(size=(64, 8, 8, 2)).astype("float32"), generator.integers(0, 3, 64)


def fit(model, epochs=2, optimizer="adam", **options):
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    model.compile(optimizer, loss, **options)
    model.fit(*data(), epochs=epochs, verbose=0, shuffle=False)
    return model


def kernels(model):
    return {
        path: keras.ops.convert_to_numpy(registry.kernels(layer)[0])
        for path, layer in registry.walk(model)
        if registry.kernels(layer)
    }


def transform(model, name):
    (found,) = [w for w in wrappers(model) if w.name == name]
    return found.kernels[0][1][0]


@pytest.fixture(scope="module")
def sparse():
    """A model, half of whose weights are zero."""
    model = network()
    pruner = tfc.Pruner(model, tfc.ConstantSparsity(0.5, begin_step=0))
    pruner.step(0)
    pruner.finish()
    return model


@pytest.fixture(scope="module")
def trained(sparse):
    """What became of it in clusters of five, trained."""
    return fit(tfc.cluster(sparse, 5))


@pytest.mark.parametrize("init", ["kmeans++", "linear", "density", "random"])
def test_every_kernel_has_so_many_values(init):
    model = network()
    before = kernels(model)
    clustered = tfc.cluster(model, 5, init=init)
    after = kernels(tfc.strip(clustered))
    for name in ("conv", "hidden", "head"):
        assert len(np.unique(after[name])) == 5
        # Each value is the mean of those it stands for.
        for value in np.unique(after[name]):
            members = before[name][after[name] == value]
            assert members.mean() == pytest.approx(value, abs=1e-6)
    np.testing.assert_array_equal(after["depthwise"], before["depthwise"])
    for name, kernel in kernels(model).items():
        np.testing.assert_array_equal(kernel, before[name])
    report = clustered.compression_report
    assert [e.name for e in report.changed] == ["conv", "hidden", "head"]
    assert {e.details["clusters"] for e in report.changed} == {5}
    error = ((after["conv"] - before["conv"]) ** 2).sum() / (before["conv"] ** 2).sum()
    assert report.changed[0].details["error"] == pytest.approx(error, rel=1e-4)
    assert "depthwise" in str(report.left) and "no kernel" in str(report.left)


def test_every_channel_has_so_many_values():
    model = network()
    clustered = tfc.cluster(model, 4, per_channel=True, include=["conv", "depthwise", "hidden"])
    after = kernels(tfc.strip(clustered))
    assert {len(np.unique(channel)) for channel in after["conv"].reshape(-1, 6).T} == {4}
    assert {len(np.unique(channel)) for channel in after["hidden"].T} == {4}
    assert {len(np.unique(channel)) for channel in after["depthwise"].reshape(9, -1).T} == {4}
    assert len(np.unique(after["conv"])) > 20
    assert {e.details["clusters"] for e in clustered.compression_report.changed} == {4}


def test_channels_that_are_equal_do_not_hang_together():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(2, name="it", use_bias=False)(inputs))
    model.set_weights([np.float32([[1, 1], [1, 1], [2, 2], [2, 2], [9, 9]])])
    clustered = tfc.cluster(model, 3, per_channel=True)
    assert transform(clustered, "it").count == 6
    assert transform(tfc.cluster(model, 3), "it").count == 3


def test_a_centroid_has_the_sum_of_its_weights_gradients():
    """Whole numbers throughout, so that sums in any order are exact."""
    generator = np.random.default_rng(0)
    inputs = keras.Input((40,))
    model = keras.Model(inputs, layers.Dense(30, name="it", use_bias=False)(inputs))
    kernel = generator.integers(-3, 4, (40, 30)).astype("float32")
    model.set_weights([kernel])
    x = generator.integers(-9, 10, (16, 40)).astype("float32")
    seen = generator.integers(-9, 10, (16, 30)).astype("float32")
    of_weights = x.T @ seen
    for clusters, zero in ((7, False), (7, True)):
        clustered = tfc.cluster(model, clusters, preserve_sparsity=zero)
        own = transform(clustered, "it")
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(clustered(x) * seen)
        (gradient,) = tape.gradient(loss, [v.value for v in clustered.trainable_variables])
        values = own.centroids.numpy()
        assert sorted(values) == [v for v in range(-3, 4) if v or not zero]
        expected = [of_weights[kernel == value].sum() for value in values]
        np.testing.assert_array_equal(gradient, expected)


def test_rows_of_an_embedding_bring_the_gradient_of_their_centroids():
    inputs = keras.Input((2,), dtype="int32")
    model = keras.Model(inputs, layers.Embedding(4, 3, name="it")(inputs))
    table = np.float32([[1, 2, 1], [2, 2, 2], [1, 1, 1], [2, 1, 2]])
    model.set_weights([table])
    clustered = tfc.cluster(model, 2)
    x = np.int32([[0, 3], [0, 1]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(clustered(x))
    (gradient,) = tape.gradient(loss, [v.value for v in clustered.trainable_variables])
    rows = table[x.reshape(-1)]
    np.testing.assert_array_equal(gradient, [(rows == 1).sum(), (rows == 2).sum()])
    clustered.compile("adam", "mse")
    clustered.fit(x, np.ones((2, 2, 3)), verbose=0)
    assert len(np.unique(kernels(tfc.strip(clustered))["it"])) == 2


def test_only_values_train_and_zeros_stay(sparse, trained):
    before, after = kernels(tfc.strip(tfc.cluster(sparse, 5))), kernels(tfc.strip(trained))
    for name in ("conv", "hidden", "head"):
        assert len(np.unique(after[name])) == 5
        np.testing.assert_array_equal(after[name] == 0, before[name] == 0)
        assert (after[name] == 0).mean() >= 0.5
        assert not np.array_equal(after[name], before[name])
        for value in np.unique(before[name]):  # who was together still is
            assert len(np.unique(after[name][before[name] == value])) == 1
    assert tfc.sparsity(trained) == tfc.sparsity(sparse)
    assert len(trained.trainable_weights) == len(sparse.trainable_weights)


def test_stripped_it_computes_the_same_and_trains_as_before(sparse, trained):
    x, _ = data()
    plain = tfc.strip(trained)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), trained.predict(x, verbose=0))
    assert not wrappers(plain)
    again, before = ([w.name for w in m.trainable_weights] for m in (plain, sparse))
    assert again == before


def test_saved_and_loaded_it_goes_on_the_same_way(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert str(again.compression_report) == str(trained.compression_report)
    other = keras.models.load_model(tmp_path / "model.keras")
    for model in (again, other):
        model.fit(*data(), epochs=1, verbose=0, shuffle=False)
    for one, two in zip(again.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    for name, kernel in kernels(tfc.strip(again)).items():
        if name != "depthwise":
            assert len(np.unique(kernel)) == 5
            assert not np.array_equal(kernel, kernels(tfc.strip(trained))[name])


def test_the_regularizer_sees_the_shared_weights():
    own = keras.regularizers.L1L2(0.01, 0.1)
    clustered = tfc.cluster(network({"kernel_regularizer": own}), 3)
    kernel = kernels(tfc.strip(clustered))["hidden"]
    (loss,) = clustered.losses
    assert float(loss) == pytest.approx(float(own(kernel)))
    with tf.GradientTape() as tape:
        (loss,) = clustered.losses
    centroids = transform(clustered, "hidden").centroids
    gradient = tape.gradient(loss, centroids.value).numpy()
    counts = [(kernel == value).sum() for value in centroids.numpy()]
    expected = counts * (0.01 * np.sign(centroids.numpy()) + 0.2 * centroids.numpy())
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_frozen_and_free_again_the_kernels_still_do_not_train():
    clustered = tfc.cluster(network(), 3)
    names = [w.path for w in clustered.trainable_weights]
    clustered.trainable = False
    assert not clustered.trainable_weights
    clustered.trainable = True
    assert [w.path for w in clustered.trainable_weights] == names
    assert sum(name.endswith("centroids") for name in names) == 3


def test_under_xla_and_with_another_optimizer():
    clustered = fit(tfc.cluster(network(), 3), optimizer="sgd", jit_compile=True)
    assert len(np.unique(kernels(tfc.strip(clustered))["hidden"])) == 3


def test_on_two_devices_it_trains_as_on_one(replicas):
    def small():
        inputs = keras.Input((8, 8, 2))
        keras.utils.set_random_seed(1)
        hidden = layers.Dense(9, activation="relu", name="hidden")(layers.Flatten()(inputs))
        return tfc.cluster(keras.Model(inputs, layers.Dense(3, name="head")(hidden)), 4)

    start, alone = kernels(tfc.strip(small())), fit(small())
    with replicas.scope():
        clustered = small()
        optimizer = keras.optimizers.Adam()
    fit(clustered, optimizer=optimizer)
    one, other = kernels(tfc.strip(alone)), kernels(tfc.strip(clustered))
    for name in ("hidden", "head"):
        assert len(np.unique(other[name])) == 4
        assert np.abs(one[name] - start[name]).min() > 1e-4
        np.testing.assert_allclose(other[name], one[name], atol=1e-6)


def test_what_cannot_share_is_left_and_told():
    model = network({"kernel_constraint": "non_neg"})
    model.get_layer("head").kernel.assign(np.zeros((13, 3)))
    report = tfc.cluster(model, 3, include=["conv", "hidden", "head"]).compression_report
    reasons = {entry.name: entry.reason for entry in report.left}
    assert "constraint" in reasons["hidden"] and "zero" in reasons["head"]
    assert reasons["depthwise"] == "not included"


def test_wrong_use_is_told(sparse):
    model = network()
    for count in (0, -3, 2.5, True, "8"):
        with pytest.raises(tfc.ConfigError, match=r"number_of_clusters.*Received"):
            tfc.cluster(model, count)
    with pytest.raises(tfc.ConfigError, match=r"init.*Received: 'best'"):
        tfc.cluster(model, 3, init="best")
    with pytest.raises(tfc.ScopeError, match="conv_9"):
        tfc.cluster(model, 3, include="conv_9")
    with pytest.raises(tfc.ScopeError, match="layer with a kernel"):
        tfc.cluster(model, 3, include="norm")
    with pytest.raises(tfc.ConfigError, match="at least 2"):
        tfc.cluster(sparse, 1)
    clustered = tfc.cluster(model, 3)
    with pytest.raises(tfc.ConfigError, match="wrapped already"):
        tfc.cluster(clustered, 3)
    with pytest.raises(tfc.ModelTypeError, match="not built"):
        tfc.cluster(keras.Sequential([layers.Dense(3)]), 3)
    with pytest.raises(tfc.ConfigError, match="no layer to prune"):
        tfc.Pruner(clustered, tfc.ConstantSparsity(0.5, begin_step=0), include="hidden")
