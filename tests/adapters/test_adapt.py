"""What `tfc.adapt` trains, what stays bit for bit, and what merging keeps."""

import gc
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.transforms.low_rank import LowRank
from tfcompress.transforms.sharing import shares_values
from tfcompress.transforms.wrapper import wrappers

X = np.random.default_rng(0).random((32, 8, 8, 3)).astype("float32")
Y = np.arange(32) % 5
HALF = tfc.ConstantSparsity(0.5, begin_step=0)


def network(seed=0):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="scores")(x))


def pruned():
    model = network()
    pruner = tfc.Pruner(model, HALF)
    pruner.step(0)
    pruner.finish()
    return model


@pytest.fixture(scope="module")
def source():
    return pruned()


@pytest.fixture(scope="module")
def quantized(source):
    return tfc.quantize_aware(source, calibration_data=X, preserve="sparsity")


def trained(model, epochs=2):
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0)
    return model


def weights(model):
    return {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.weights}


def changed(before, after):
    return {path for path in before if not np.array_equal(before[path], after[path])}


# method -> what may change of the network's own weights
CASES = {
    "lora": {"conv/kernel", "up/kernel", "scores/kernel"},
    "biases": {"norm/beta", "depthwise/bias", "up/bias", "scores/bias", "norm/moving_mean",
               "norm/moving_variance"},
    "norms": {"norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance"},
    "last": {"scores/kernel", "scores/bias"},
}  # fmt: skip


@pytest.mark.parametrize("method", CASES)
def test_only_what_is_asked_trains_and_zeros_stay(source, method):
    before = weights(source)
    adapted = tfc.adapt(source, method)
    assert np.array_equal(adapted(X), source(X)), "it begins as it was"
    trained(adapted)
    assert not np.array_equal(adapted(X), source(X))
    plain = tfc.strip(adapted)
    assert changed(before, weights(plain)) == CASES[method]
    assert weights(source).keys() == before.keys() and not changed(before, weights(source))
    for path, value in before.items():
        if path.endswith("kernel"):
            assert np.array_equal(weights(plain)[path] == 0, value == 0), path
    assert not wrappers(plain)
    assert [w.trainable for w in plain.weights] == [w.trainable for w in source.weights]
    assert [layer.trainable for layer in plain.layers] == [
        layer.trainable for layer in source.layers
    ]


def test_what_is_added_is_the_product_and_the_merged_model_the_same(source):
    adapted = trained(tfc.adapt(source, rank=3, lora_alpha=6.0))
    plain = tfc.strip(adapted)
    assert np.array_equal(adapted(X), plain(X))
    np.testing.assert_allclose(
        adapted.predict(X, verbose=0), plain.predict(X, verbose=0), rtol=1e-5, atol=1e-7
    )
    for wrapper in wrappers(adapted):
        for variable, own in wrapper.kernels:
            if not isinstance(own[0], LowRank):
                continue
            kernel = variable.numpy().astype(np.float64)
            a, b = (np.asarray(v, np.float64) for v in own[0].variables)
            product = 2.0 * a @ b  # lora_alpha / rank
            if wrapper.name == "up":  # (h, w, out, in): the outputs are not last
                product = product.reshape(*kernel.shape[:2], kernel.shape[3], -1)
                product = product.transpose(0, 1, 3, 2)
            wanted = np.where(kernel != 0, kernel + product.reshape(kernel.shape), 0)
            found = plain.get_layer(wrapper.name).kernel.numpy()
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)
    details = {e.name: e.details for e in adapted.compression_report.changed}
    assert {name: d["rank"] for name, d in details.items()} == {"conv": 3, "up": 3, "scores": 3}
    reasons = {e.name: e.reason for e in adapted.compression_report.left}
    assert "depthwise" in reasons["depthwise"] and reasons["norm"] == "frozen"


def test_batchnorm_of_which_nothing_trains_works_as_in_inference(source):
    adapted = tfc.adapt(source, "lora")
    assert np.array_equal(adapted(X, training=True), source(X, training=False))


@keras.saving.register_keras_serializable("tests")
class NormedBlock(keras.layers.Layer):
    """Holds a kernel and a normalization."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.norm = keras.layers.Dense(5), keras.layers.BatchNormalization()

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build((*shape[:-1], 5))

    def call(self, inputs, training=None):
        return self.norm(self.dense(inputs), training=training)


def moving():
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.SpectralNormalization(layers.Conv2D(4, 3, name="conv"), name="spectral")(inputs)
    x = layers.BatchNormalization(center=False, scale=False, name="plain")(x)
    x = NormedBlock(name="block")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="scores")(x))


@pytest.mark.parametrize("method", ["lora", "last"])
def test_statistics_do_not_move(method, tmp_path):
    model = moving()
    adapted = tfc.adapt(model, method)
    adapted.save(tmp_path / "m.keras")
    for made in (adapted, keras.models.load_model(tmp_path / "m.keras")):
        plain = tfc.strip(trained(made))
        paths = [weight.path for weight in model.weights]
        pairs = zip(paths, model.get_weights(), plain.get_weights(), strict=True)
        found = {path for path, before, after in pairs if not np.array_equal(before, after)}
        if method == "last":
            assert found == {"scores/kernel", "scores/bias"}
        else:  # a spectral normalization whose kernel trains goes on with it
            kernels = {path for path in paths if path.endswith("kernel")}
            assert kernels <= found <= kernels | {p for p in paths if p.endswith("vector_u")}
        assert [w.trainable for w in plain.weights] == [w.trainable for w in model.weights]
        assert all(layer.trainable for layer in plain._flatten_layers())


def test_what_is_frozen_inside_a_layer_stays_so():
    inputs = keras.Input((4,))
    block = NormedBlock(name="block")
    model = keras.Model(inputs, keras.layers.Dense(2)(block(inputs)))
    block.dense.trainable = False
    plain = tfc.strip(tfc.adapt(model, "biases"))  # of the block, the shift trains
    found = plain.get_layer("block")
    assert not found.dense.trainable and found.norm.trainable
    assert [w.trainable for w in plain.weights] == [w.trainable for w in model.weights]


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (3, 3, 16, 32), (64, 256)])
def test_kernels_whose_values_are_equal_by_chance_are_adapted(shape):
    for seed in range(10):
        kernel = keras.initializers.GlorotUniform(seed=seed)(shape).numpy()
        axes = (len(shape) - 1,)
        for values in (kernel, kernel.astype("float16").astype("float32")):
            assert not shares_values(values, axes, least=1 / 8)
        books = np.quantile(kernel, np.linspace(0, 1, 16)).astype("float32")
        clustered = books[np.abs(kernel[..., None] - books).argmin(-1)]
        assert shares_values(clustered, axes, least=1 / 8)


def test_zeros_of_a_quantize_aware_model_stay_where_nothing_else_keeps_them(source):
    qmodel = tfc.quantize_aware(source, calibration_data=X)
    adapted = trained(tfc.adapt(qmodel, "last"))
    plain = tfc.strip(adapted)
    kernel = plain.get_layer("scores").kernel.numpy().reshape(4, 5)
    np.testing.assert_array_equal(kernel == 0, source.get_layer("scores").kernel.numpy() == 0)
    assert not plain.get_layer("scores").transforms
    np.testing.assert_array_equal(plain.predict(X, verbose=0), adapted.predict(X, verbose=0))


def test_the_sparsity_of_a_quantize_aware_model(source, quantized):
    plain, found = tfc.sparsity(source), tfc.sparsity(quantized)
    assert found["scores"] == plain["scores"] > 0.4
    assert found["total"] == pytest.approx(plain["total"])


def test_the_last_layers_of_a_nested_model_with_two_heads():
    layers = keras.layers
    inner_input = keras.Input((4,))
    x = layers.Dense(3, name="body")(inner_input)
    inner = keras.Model(
        inner_input, [layers.Dense(2, name="p")(x), layers.Dense(2, name="q")(x)], name="inner"
    )
    inputs = keras.Input((4,))
    adapted = tfc.adapt(keras.Model(inputs, inner(inputs)), "last")
    assert {e.name for e in adapted.compression_report.changed} == {"inner/p", "inner/q"}


def test_a_model_of_which_all_trains(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    adapted = tfc.adapt(model, "last")
    assert adapted.compression_report.settings["trained"] == 10
    adapted.save(tmp_path / "m.keras")
    x = np.ones((2, 4), "float32")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(x), model(x))
    np.testing.assert_array_equal(tfc.strip(adapted)(x), model(x))


def test_lora_of_keras_on_an_adapted_layer():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    adapted = tfc.adapt(model)
    adapted.layers[0].enable_lora(2)
    for weight in adapted.weights:
        if "lora" in weight.path or "low_rank" in weight.path:
            weight.assign(np.full(weight.shape, 0.5, "float32"))
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    assert np.abs(adapted(x) - model(x)).max() > 0.5
    np.testing.assert_array_equal(tfc.strip(adapted)(x), adapted(x))


def test_a_new_process_loads_them_without_being_told(source, quantized, tmp_path):
    """Of .keras and of HDF5 files, once tfcompress is imported."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(center=False, scale=False)(inputs)
    x = keras.layers.Dense(5, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    models = {
        "last.keras": tfc.adapt(quantized, "last"),
        "still.keras": tfc.adapt(keras.Model(inputs, x), "lora"),
        "zeros.keras": tfc.adapt(source, "last"),
        "lora.h5": tfc.adapt(source),
        "quantized.h5": quantized,
        "sequential.h5": tfc.adapt(keras.Sequential([inputs, keras.layers.Flatten(),
                                                     keras.layers.Dense(5)])),
    }  # fmt: skip
    for name, model in models.items():
        model.save(tmp_path / name)
        np.save(tmp_path / f"{name}.npy", model.predict(X, verbose=0))
    np.save(tmp_path / "x.npy", X)
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import tfcompress, keras, numpy as np
x = np.load("x.npy")
for name in {list(models)}:
    found = keras.models.load_model(name, compile=False).predict(x, verbose=0)
    np.testing.assert_allclose(found, np.load(name + ".npy"), rtol=1e-5, atol=1e-6)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_adapted_models_save_load_and_convert(source, tmp_path):
    adapted = trained(tfc.adapt(source, ["lora", "norms"]))
    adapted.save(tmp_path / "adapted.keras")
    loaded = keras.models.load_model(tmp_path / "adapted.keras")
    assert np.array_equal(loaded(X), adapted(X))
    names = [v.path for v in adapted.trainable_variables]
    assert [v.path for v in loaded.trainable_variables] == names
    assert np.array_equal(tfc.strip(loaded)(X), tfc.strip(adapted)(X))
    tflite = tfc.convert(adapted)
    names = [tensor.name for tensor in tflite.parsed.subgraphs[0].tensors]
    assert not any("low_rank" in name for name in names)
    np.testing.assert_allclose(tflite.predict(X), adapted(X), atol=1e-6)


@pytest.mark.parametrize("method", CASES)
def test_a_quantize_aware_model_is_merged_to_the_bit(quantized, method):
    adapted = tfc.adapt(quantized, method)
    assert np.array_equal(adapted(X), quantized(X))
    trained(adapted)
    plain = tfc.strip(adapted)
    assert np.array_equal(adapted(X), plain(X))
    assert [w.trainable for w in plain.weights] == [w.trainable for w in quantized.weights]
    before, after = weights(quantized), weights(plain)
    fixed = {p for p in before if p.split("/")[-1] in ("kernel", "bias", "gamma", "beta")}
    wanted = {path.replace("norm/", "conv/") for path in CASES[method]}  # it is folded
    assert {p for p in changed(before, after) if p in fixed} == wanted & fixed
    for layer in plain.layers:
        if hasattr(layer, "effective_kernel") and layer.name != "depthwise":
            zeros = float((np.asarray(layer.effective_kernel()) == 0).mean())
            assert zeros == 0.5, layer.name


def test_its_file_computes_the_same_bits_merged_or_not(quantized, tmp_path):
    adapted = trained(tfc.adapt(quantized, "lora"))
    adapted.save(tmp_path / "adapted.keras")
    adapted = keras.models.load_model(tmp_path / "adapted.keras")
    file = tfc.convert(adapted, "int8", verify=X)
    assert np.array_equal(file.predict(X), np.asarray(adapted(X)))


def test_transformers_embeddings_and_recurrent_layers():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8, name="words")(inputs)
    x = layers.LayerNormalization(name="norm")(
        x + layers.MultiHeadAttention(2, 4, name="mha")(x, x)
    )
    x = layers.GRU(5, name="gru")(x)
    model = keras.Model(inputs, layers.Dense(3, name="scores")(x))
    tokens = np.random.default_rng(0).integers(0, 11, (16, 6))
    adapted = tfc.adapt(model, "lora", rank=2)
    done = {entry.name for entry in adapted.compression_report.changed}
    assert done >= {"words", "mha/query", "mha/key", "mha/value", "scores"} and len(done) == 7
    before = weights(model)
    adapted.compile("adam", "mse", run_eagerly=True)
    adapted.fit(tokens, np.ones((16, 3)), verbose=0)
    plain = tfc.strip(adapted)
    assert np.array_equal(adapted(tokens), plain(tokens))
    assert len(changed(before, weights(plain))) == 8  # the GRU has two


def test_models_of_other_verbs_and_scopes(source):
    driven = tfc.prune(network(), HALF)
    trained(driven, epochs=1)
    plain = tfc.strip(tfc.adapt(driven, "lora"))
    assert tfc.sparsity(plain) == tfc.sparsity(tfc.strip(driven))
    adapted = tfc.adapt(source, "last", include="up", exclude="norm")
    assert [e.name for e in adapted.compression_report.changed] == ["up"]
    named = tfc.adapt(source, "lora", include="depthwise")
    assert [e.name for e in named.compression_report.changed] == ["depthwise"]
    shared = tfc.adapt(tfc.cluster(network(), 4, include="scores"), "lora")
    assert "share values" in {e.name: e.reason for e in shared.compression_report.left}["scores"]
    with pytest.raises(tfc.ConfigError, match="wrapped"):
        tfc.prune(adapted, HALF)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"method": "prompt"}, tfc.ConfigError),
        ({"method": []}, tfc.ConfigError),
        ({"method": None}, tfc.ConfigError),
        ({"method": 3}, tfc.ConfigError),
        ({"rank": 0}, tfc.ConfigError),
        ({"lora_alpha": -1.0}, tfc.ConfigError),
        ({"lora_alpha": float("nan")}, tfc.ConfigError),
        ({"lora_alpha": float("inf")}, tfc.ConfigError),
        ({"include": "none"}, tfc.ScopeError),
        ({"method": "norms", "exclude": "norm"}, tfc.ConfigError),
    ],
)
def test_wrong_arguments(source, options, error):
    with pytest.raises(error):
        tfc.adapt(source, **options)


# -- Keras's own LoRA


@pytest.fixture
def with_lora():
    model = network()
    generator = np.random.default_rng(0)
    for name in ("conv", "scores"):
        layer = model.get_layer(name)
        layer.enable_lora(2, lora_alpha=5.0)
        layer.lora_kernel_b.assign(generator.normal(0, 0.1, layer.lora_kernel_b.shape))
    return model


def test_lora_of_keras_is_merged_by_strip(with_lora):
    plain = tfc.strip(with_lora)
    np.testing.assert_allclose(plain(X), with_lora(X), rtol=1e-6, atol=1e-7)
    for name in ("conv", "scores"):
        layer = with_lora.get_layer(name)
        product = layer.lora_kernel_a.numpy() @ layer.lora_kernel_b.numpy()
        wanted = layer._kernel.numpy() + 2.5 * product
        np.testing.assert_allclose(plain.get_layer(name).kernel.numpy(), wanted, atol=1e-6)
        assert not plain.get_layer(name).lora_enabled and layer.lora_enabled
    assert [w.path for w in plain.weights] == [w.path for w in network().weights]
    assert all(v.trainable for v in plain.get_layer("scores").weights)
    assert "lora_rank" not in plain.get_layer("scores").get_config()


def test_merging_does_not_collect_the_garbage_of_the_process(with_lora, monkeypatch):
    """Keras does, whenever a layer's variable is deleted: seconds for each in a large process."""
    monkeypatch.setattr(gc, "collect", lambda *_: pytest.fail("collected"))
    assert not hasattr(tfc.strip(with_lora).get_layer("scores"), "lora_kernel_a")


def test_other_verbs_take_it(with_lora, tmp_path):
    merged = tfc.strip(with_lora)
    np.testing.assert_allclose(tfc.convert(with_lora).predict(X), merged(X), atol=1e-6)
    ours = tfc.quantize_aware(with_lora, calibration_data=X)
    kernel = merged.get_layer("scores").kernel.numpy()
    assert np.array_equal(ours.get_layer("scores").kernel.numpy().reshape(kernel.shape), kernel)
    assert tfc.sparsity(tfc.strip(tfc.prune(with_lora, HALF)))["total"] < 0.01
    clustered = tfc.strip(tfc.cluster(with_lora, 3, include="conv"))
    assert len(np.unique(clustered.get_layer("conv").kernel.numpy())) == 3
    adapted = tfc.adapt(with_lora, "biases")
    np.testing.assert_allclose(adapted(X), with_lora(X), rtol=1e-6, atol=1e-7)
