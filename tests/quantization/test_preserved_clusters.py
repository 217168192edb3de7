"""Quantize-aware models of clustered ones: what the file's channels hold, and its bits."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress import registry
from tfcompress.transforms.centroids import Centroids
from tfcompress.transforms.mask import Mask

layers = keras.layers
CLUSTERS = 6
KERNELS = ("kernel", "embeddings", "assignments", "centroids")


def network():
    """A BatchNorm behind and one before a convolution, a shared layer, an embedding, a head."""
    keras.utils.set_random_seed(2)
    image = keras.Input((8, 8, 3), name="image")
    words = keras.Input((4,), dtype="int32", name="words")
    x = layers.Conv2D(12, 3, padding="same", use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.BatchNormalization(name="ahead")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="mixing")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, activation="relu", name="up")(x)
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    x = layers.Dense(10, activation="relu", name="dense")(x)
    rows = layers.Embedding(30, 10, name="table")(words)
    rows = layers.EinsumDense("abc,cd->abd", (4, 10), name="einsum")(rows)
    y = layers.Add()([x, layers.GlobalAveragePooling1D()(rows)])
    model = keras.Model({"image": image, "words": words}, layers.Dense(5, name="head")(y))
    generator = np.random.default_rng(0)
    for norm in (model.get_layer("norm"), model.get_layer("ahead")):
        shape = norm.gamma.shape
        norm.set_weights([generator.uniform(0.5, 2, shape) for _ in range(4)])
    return model


def data(count=48):
    generator = np.random.default_rng(1)
    image = generator.normal(size=(count, 8, 8, 3)).astype("float32")
    words = generator.integers(0, 30, (count, 4)).astype("int32")
    return {"image": image, "words": words}, generator.integers(0, 5, count)


def stored(tflite):
    """Each kernel of the file: integers (channels, rest)."""
    found = {}
    for tensor in tflite.parsed.subgraphs[0].tensors:
        values = tflite.parsed.data(tensor) if tensor.buffer else None
        if tensor.dtype == "int8" and values is not None and values.ndim > 1:
            scales = tensor.quantization.scales
            axis = tensor.quantization.axis if len(scales) > 1 else None
            rows = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0)
            found[tensor.name] = rows.reshape(len(rows), -1)
    return found


def most(tflite):
    return max(len(np.unique(row)) for rows in stored(tflite).values() for row in rows)


def trained(model, preserve):
    x, y = data()
    qmodel = tfc.quantize_aware(model, calibration_data=x, preserve=preserve)
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    qmodel.compile(keras.optimizers.Adam(3e-3), loss)
    qmodel.fit(x, y, epochs=3, verbose=0)
    return qmodel


def test_trained_each_channel_holds_so_many_zeros_stay_and_the_file_is_exact(tmp_path):
    model, (x, y) = network(), data()
    pruner = tfc.Pruner(model, tfc.ConstantSparsity(0.6, begin_step=0))
    pruner.step(0)
    pruner.finish()
    clustered = tfc.cluster(model, CLUSTERS)
    qmodel = tfc.quantize_aware(clustered, calibration_data=x, preserve=("sparsity", "clusters"))
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    qmodel.compile(keras.optimizers.Adam(3e-3), loss)
    before = qmodel.get_weights()
    qmodel.fit(x, y, epochs=3, verbose=0)
    names = [weight.name for weight in qmodel.trainable_weights]
    assert names.count("centroids") == 7 and not {"kernel", "embeddings"} & {*names}
    for weight, old, new in zip(qmodel.weights, before, qmodel.get_weights(), strict=True):
        changed = not np.array_equal(old, new)
        assert changed == (weight.name == "centroids") or weight.name not in KERNELS, weight.path
    qmodel.save(tmp_path / "model.keras")
    qmodel = keras.models.load_model(tmp_path / "model.keras")
    tflite = tfc.convert(qmodel, "int8", verify=x)
    np.testing.assert_array_equal(tflite.predict(x), qmodel.predict(x, verbose=0))
    kernels = stored(tflite)
    assert len(kernels) >= 7
    assert most(tflite) <= CLUSTERS
    wanted = sum(
        int((layer.get_weights()[0] == 0).sum())
        for layer in model.layers
        if registry.kernels(layer)
    )
    assert sum(int((rows == 0).sum()) for rows in kernels.values()) >= wanted > 500


def test_whatever_the_weights_become_each_channel_holds_so_many():
    """Each channel its own values, and all that trains changed at random."""
    x, _ = data()
    clustered = tfc.cluster(network(), CLUSTERS, per_channel=True)
    qmodel = tfc.quantize_aware(clustered, calibration_data=x, preserve="clusters")
    generator = np.random.default_rng(3)
    for variable in qmodel.trainable_variables:
        variable.assign(variable + generator.normal(0, 0.05, variable.shape))
    assert most(tfc.convert(qmodel, "int8")) <= CLUSTERS


def test_converted_without_training_each_channel_holds_so_many():
    x, _ = data()
    plain = tfc.strip(tfc.cluster(network(), CLUSTERS))
    tflite = tfc.convert(plain, "int8", representative_data=x)
    assert most(tflite) <= CLUSTERS
    (kept,) = [note for note in tflite.report.notes if "share" in note]
    in_file = max(len(np.unique(rows)) for rows in stored(tflite).values())
    assert str(CLUSTERS) in kept and str(in_file) in kept
    exact = tfc.convert(plain)
    tensors = exact.parsed.subgraphs[0].tensors
    kernels = [exact.parsed.data(t) for t in tensors if t.buffer and len(t.shape) > 1]
    # BatchNorm is folded into the one before it: then these are its channels' values.
    rows = [row for k in kernels if k is not None and len(k) > 1 for row in k.reshape(len(k), -1)]
    assert len(rows) > 70 and max(len(np.unique(row)) for row in rows) <= CLUSTERS


def test_only_what_is_shared_gets_centroids():
    """Beside them, kernels of many values train freely, and sparse ones keep their zeros."""
    model = network()
    model = tfc.strip(tfc.cluster(model, CLUSTERS, include="dense"))
    up = model.get_layer("up").kernel
    up.assign(np.where(np.arange(8) % 2, up, 0))
    x, _ = data(8)
    qmodel = tfc.quantize_aware(model, calibration_data=x, preserve=("sparsity", "clusters"))
    kinds = {
        layer.name: [type(transform) for transform in getattr(layer, "transforms", ())]
        for layer in qmodel.layers
    }
    assert kinds["dense"] == [Centroids] and kinds["up"] == [Mask] and kinds["conv"] == []
    entries = {entry.name: entry.details for entry in qmodel.compression_report.entries}
    assert entries["dense"]["centroids"] == CLUSTERS and "centroids" not in entries["conv"]


def test_wrong_use_is_told():
    with pytest.raises(tfc.ConfigError, match=r"preserve.*clusters.*Received"):
        tfc.quantize_aware(network(), preserve="cluster")


def test_layers_that_stay_float_are_told():
    inputs = keras.Input((4, 2))
    x = keras.layers.LSTM(8, name="memory")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="scores")(x))
    clustered = tfc.cluster(model, 4)
    found = tfc.quantize_aware(clustered, preserve=["sparsity", "clusters"])
    (note,) = (n for n in found.compression_report.notes if "stays float" in n)
    assert "memory" in note and "nothing keeps its shared values" in note
    assert not any(
        "stays float" in n for n in tfc.quantize_aware(clustered).compression_report.notes
    )
