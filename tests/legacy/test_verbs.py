"""`legacy.prune`, `cluster`, `quantize_aware` and `strip` beside tfmot itself."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from keras2_networks import randomized
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (  # noqa: E501
    default_8bit_cluster_preserve_quantize_scheme as clusters_kept,
)
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (  # noqa: E501
    default_8bit_prune_preserve_quantize_scheme as zeros_kept,
)

import tfcompress as tfc
from tfcompress.legacy.packages import keras2, tfmot

tk, mot = keras2(), tfmot()
layers = tk.layers
X = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype("float32")
Y = np.arange(32) % 3


def network():
    """Convolution, BatchNorm, depthwise, and a layer that tfmot cannot quantize."""
    tk.backend.clear_session()
    i = layers.Input((6, 6, 2))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, name="conv")(i))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.LayerNormalization(name="layer_norm")(x)
    return randomized(tk.Model(i, layers.Dense(3, "softmax", name="last")(layers.Flatten()(x))))


def small_network():
    tk.backend.clear_session()
    i = layers.Input((6, 6, 2))
    x = layers.Flatten()(layers.Conv2D(8, 3, activation="relu", name="conv")(i))
    return randomized(tk.Model(i, layers.Dense(3, "softmax", name="last")(x)))


def trained(model, callbacks=None):
    tk.utils.set_random_seed(0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, 4, 1, verbose=0, shuffle=False, callbacks=callbacks)
    return model


def answers(model):
    return np.asarray(model(X, training=False))


def wrapped_directly(model, kinds, wrap):
    """As tfmot's guides do it."""
    return tk.models.clone_model(
        model, clone_function=lambda layer: wrap(layer) if type(layer) in kinds else layer
    )


def same(ours, theirs):
    pairs = zip(ours.weights, theirs.weights, strict=True)
    return all((a.numpy() == b.numpy()).all() for a, b in pairs)


SCHEDULE = tfc.PolynomialDecay(0.0, 0.75, 0, 6, frequency=2)
KINDS = (layers.Conv2D, layers.Dense)
PATTERNS = {
    "unstructured": ({}, KINDS),
    "2:4": ({"sparsity_m_by_n": (2, 4)}, KINDS),
    "1:4": ({"sparsity_m_by_n": (3, 4)}, KINDS),
    "block:4x1:max": ({"block_size": (4, 1), "block_pooling_type": "MAX"}, (layers.Dense,)),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pruned_weights_and_masks_are_those_of_tfmot_to_the_bit(pattern):
    options, kinds = PATTERNS[pattern]
    make = network if pattern == "unstructured" else small_network
    source = make()
    before = source.get_weights()
    ours = trained(tfc.legacy.prune(source, SCHEDULE, pattern=pattern))  # adds the callback itself
    assert all((a == b).all() for a, b in zip(before, source.get_weights(), strict=True))

    schedule = mot.sparsity.keras.PolynomialDecay(0.0, 0.75, 0, 6, frequency=2)
    theirs = wrapped_directly(
        make(),
        kinds,
        lambda layer: mot.sparsity.keras.prune_low_magnitude(layer, schedule, **options),
    )
    theirs = trained(theirs, [mot.sparsity.keras.UpdatePruningStep()])
    assert same(ours, theirs)
    assert same(tfc.legacy.strip(ours), mot.sparsity.keras.strip_pruning(theirs))
    expected = {"unstructured": 0.75, "2:4": 0.5, "1:4": 0.75, "block:4x1:max": 0.75}[pattern]
    kernel = tfc.legacy.strip(ours).get_layer("last").kernel.numpy()
    assert (kernel == 0).mean() == pytest.approx(expected, abs=0.03)


def test_pruned_and_brought_to_keras_3():
    pruned = trained(tfc.legacy.prune(network(), SCHEDULE, exclude="conv"))
    entries = {entry.name: entry for entry in pruned.compression_report.entries}
    assert {name for name, entry in entries.items() if entry.action == "pruned"} == {"last"}
    assert entries["conv"].reason == "excluded" and entries["depthwise"].reason
    new = tfc.legacy.to_keras3(pruned)
    np.testing.assert_allclose(answers(new), answers(pruned), atol=1e-6)
    found = tfc.sparsity(new)
    assert found["conv"] == 0 and found["last"] == pytest.approx(0.75, abs=0.01)
    assert any("pruning" in note for note in new.compression_report.notes)


def test_each_layer_by_its_own_schedule():
    schedules = {"last": None, "conv*": tfc.ConstantSparsity(0.5, 0, frequency=1)}
    pruned = trained(tfc.legacy.prune(small_network(), schedules))
    zeros = tfc.sparsity(tfc.legacy.to_keras3(pruned))
    assert zeros["conv"] == 0.5 and zeros["last"] == 0
    once = trained(tfc.legacy.prune(small_network(), tfc.OneShot(0.25, 0), include=layers.Dense))
    assert tfc.sparsity(tfc.legacy.to_keras3(once))["last"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("init", "per_channel", "train"),
    [("kmeans++", False, True), ("linear", True, True), ("density", False, False)],
)
def test_clusters_are_those_of_tfmot_to_the_bit(init, per_channel, train):
    starts = {"kmeans++": "KMEANS_PLUS_PLUS", "linear": "LINEAR", "density": "DENSITY_BASED"}
    options = {
        "number_of_clusters": 4,
        "cluster_centroids_init": mot.clustering.keras.CentroidInitialization[starts[init]],
        "cluster_per_channel": per_channel,
    }
    tk.utils.set_random_seed(3)
    ours = tfc.legacy.cluster(small_network(), 4, init=init, per_channel=per_channel)
    tk.utils.set_random_seed(3)
    theirs = wrapped_directly(
        small_network(), KINDS, lambda layer: cluster.cluster_weights(layer, **options)
    )
    if train:
        ours, theirs = trained(ours), trained(theirs)
    plain = tfc.legacy.strip(ours)
    assert same(plain, mot.clustering.keras.strip_clustering(theirs))
    kernel = plain.get_layer("conv").kernel.numpy()
    if per_channel:
        assert max(len(np.unique(kernel[..., c])) for c in range(8)) <= 4
    else:
        assert len(np.unique(kernel)) <= 4
    new = tfc.legacy.to_keras3(ours)
    np.testing.assert_allclose(answers(new), answers(ours), atol=1e-6)


@pytest.fixture(scope="module")
def small():
    """Pruned by half and clustered to 5 values."""
    plain = tfc.legacy.strip(trained(tfc.legacy.prune(network(), tfc.OneShot(0.5, 1))))
    zeros = {name: plain.get_layer(name).kernel.numpy() == 0 for name in ("conv", "last")}
    clustered = tfc.legacy.strip(trained(tfc.legacy.cluster(plain, 5)))
    for name, mask in zeros.items():  # zeros stay
        assert (clustered.get_layer(name).kernel.numpy()[mask] == 0).all()
    return clustered


SCHEMES = {
    (): lambda: mot.quantization.keras.default_8bit.Default8BitQuantizeScheme(),
    ("sparsity",): zeros_kept.Default8BitPrunePreserveQuantizeScheme,
    ("clusters",): lambda: clusters_kept.Default8BitClusterPreserveQuantizeScheme(False),
    ("sparsity", "clusters"): lambda: clusters_kept.Default8BitClusterPreserveQuantizeScheme(True),
}


@pytest.mark.parametrize("preserve", SCHEMES, ids=str)
def test_quantize_aware_models_are_those_of_tfmot_to_the_bit(small, preserve):
    ours = tfc.legacy.quantize_aware(small, preserve=preserve)
    copy = tk.models.clone_model(small)
    copy.set_weights(small.get_weights())
    annotate = mot.quantization.keras.quantize_annotate_layer
    annotated = tk.models.clone_model(
        copy,
        clone_function=lambda layer: layer if layer.name == "layer_norm" else annotate(layer),
    )
    theirs = mot.quantization.keras.quantize_apply(annotated, SCHEMES[preserve]())
    ours, theirs = trained(ours), trained(theirs)
    assert same(ours, theirs)
    entries = {entry.name: entry for entry in ours.compression_report.entries}
    assert entries["layer_norm"].action == "left" and entries["last"].action == "quantized"

    kernel = tfc.legacy.strip(ours).get_layer("last").kernel.numpy()
    zeros = small.get_layer("last").kernel.numpy() == 0
    if "sparsity" in preserve:
        assert (kernel[zeros] == 0).all()
    if "clusters" in preserve:
        assert len(np.unique(kernel)) <= 6


def test_a_quantize_aware_model_becomes_the_float_model_inside_it(small):
    quantized = tfc.legacy.quantize_aware(small)  # not trained: the weights are those of `small`
    plain = tfc.legacy.strip(quantized)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in small.layers]
    np.testing.assert_allclose(answers(plain), answers(small), atol=1e-6)
    new = tfc.legacy.to_keras3(quantized)
    np.testing.assert_allclose(answers(new), answers(small), atol=1e-6)
    assert any("ranges are lost" in note for note in new.compression_report.notes)


def test_layers_that_tfmot_cannot_handle_are_left_and_said():
    i = layers.Input((6, 4))
    inner = tk.Sequential([layers.Input((4,)), layers.Dense(4, name="inside")], name="inner")
    x = layers.MultiHeadAttention(2, 2, name="attention")(i, i)
    x = layers.Conv1D(4, 2, name="conv")(x)
    x = layers.LSTM(3, name="lstm")(x) + layers.Lambda(lambda t: t[:, 0, :3], name="code")(x)
    model = tk.Model(i, inner(layers.Dense(4, name="dense")(x)))
    found = {}
    for verb, arguments in (("prune", (SCHEDULE,)), ("cluster", (4,)), ("quantize_aware", ())):
        made = getattr(tfc.legacy, verb)(model, *arguments)
        found[verb] = {entry.name for entry in made.compression_report.left if entry.reason}
        made(np.zeros((2, 6, 4), "float32"))
    assert found["prune"] == found["cluster"] == {"attention"}
    assert found["quantize_aware"] == {"attention", "conv", "lstm", "inner/inside"}


def test_mistakes_are_errors_of_ours(small):
    for schedule in (tfc.RigL(0.5, 0, 10), tfc.ExponentialDecay(0, 0.5, 0, 10), lambda step: 0.5):
        with pytest.raises(tfc.ConfigError, match="tfmot"):
            tfc.legacy.prune(small, schedule)
    with pytest.raises(tfc.ScopeError):
        tfc.legacy.prune(small, SCHEDULE, include="nothing*")
    with pytest.raises(tfc.ConfigError, match="no layer"):
        tfc.legacy.prune(small, SCHEDULE, include="depthwise")
    with pytest.raises(tfc.ConfigError, match="pattern"):
        tfc.legacy.prune(small, SCHEDULE, pattern="3of4")
    for count in (1, 2.5, True):
        with pytest.raises(tfc.ConfigError, match="number_of_clusters"):
            tfc.legacy.cluster(small, count)
    for init in ("best", ["best"]):
        with pytest.raises(tfc.ConfigError, match="init"):
            tfc.legacy.cluster(small, 4, init=init)
    for flag in ("per_channel", "preserve_sparsity"):
        with pytest.raises(tfc.ConfigError, match=flag):
            tfc.legacy.cluster(small, 4, **{flag: "yes"})
    with pytest.raises(tfc.ConfigError, match="fewer weights than clusters"):
        tfc.legacy.cluster(small, 10**6)
    with pytest.raises(tfc.ConfigError, match="scheme"):
        tfc.legacy.quantize_aware(small, "int8-w4")
    for preserve in (["zeros"], 3, ["sparsity", ["clusters"]]):
        with pytest.raises(tfc.ConfigError, match="preserve"):
            tfc.legacy.quantize_aware(small, preserve=preserve)
    pruned = tfc.legacy.prune(small, SCHEDULE)
    for again in (tfc.legacy.quantize_aware, lambda model: tfc.legacy.cluster(model, 4)):
        with pytest.raises(tfc.ConfigError, match="strip"):
            again(pruned)


def test_kernels_that_are_too_small_for_blocks_or_clusters_are_left():
    first, second = layers.Dense(4, name="first"), layers.Dense(2, name="second")
    model = tk.Sequential([layers.Input((6,)), first, second])
    pruned = tfc.legacy.prune(model, SCHEDULE, pattern="block:2x2")
    assert [entry.name for entry in pruned.compression_report.left] == ["second"]
    pruned.compile("sgd", "mse")
    pruned.fit(np.ones((4, 6)), np.ones((4, 2)), verbose=0)  # died of the second one
    clustered = tfc.legacy.cluster(model, 10)  # of 24 weights, and of 8
    assert [entry.name for entry in clustered.compression_report.left] == ["second"]


def test_a_single_word_is_what_to_preserve(small):
    report = tfc.legacy.quantize_aware(small, preserve="sparsity").compression_report
    assert report.settings["preserve"] == ["sparsity"]


def test_a_given_callback_is_not_added_twice_and_saved_files_load(tmp_path):
    pruned = tfc.legacy.prune(small_network(), SCHEDULE)
    given = mot.sparsity.keras.UpdatePruningStep()
    trained(pruned, [given])
    assert int(pruned.get_layer("prune_low_magnitude_last").pruning_step.numpy()) == 8
    pruned.save(tmp_path / "pruned.h5")
    new = tfc.legacy.to_keras3(tmp_path / "pruned.h5")
    np.testing.assert_allclose(answers(new), answers(pruned), atol=1e-6)


def test_tfmot_leaves_tf_keras_and_the_environment_as_they_were():
    code = """
import os
import keras, tensorflow as tf
import tfcompress as tfc
from tfcompress.legacy.packages import tfmot
tfmot()
assert tf.keras.Model is keras.Model
assert "TF_USE_LEGACY_KERAS" not in os.environ
"""
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(tfc.ConfigError, match="pip install tf-keras"):
        tfc.legacy.to_keras3(3)


def test_converted_as_tfmots_guide_does_it():
    quantized = trained(tfc.legacy.quantize_aware(small_network()))
    converter = tf.lite.TFLiteConverter.from_keras_model(quantized)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    found = tfc.TFLiteModel(converter.convert()).predict(X)
    assert np.abs(found - answers(quantized)).max() < 0.05
