"""Quantize-aware models as Keras models: gradients, ranges, callback, files, strategies."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import build, chain

import tfcompress as tfc
from tfcompress.quantization import grids, rounding
from tfcompress.quantization.linear_layer import QuantizedLinear
from tfcompress.quantization.model import quantized_layers
from tfcompress.quantization.ranges import GridSource

layers = keras.layers


@pytest.fixture(scope="module")
def residual():
    return build("residual")


def labels(x, classes=5):
    """Something that can be learned from the inputs."""
    return (x.mean((1, 2, 3)) * 40).astype(int) % classes


def quantized(residual, scheme="int8"):
    model, x = residual
    return tfc.quantize_aware(model, scheme, calibration_data=x), x


def compiled(qmodel, rate=1e-3, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(rate), loss, **options)
    return qmodel


SCHEMES = {
    "moving average": tfc.QuantizationScheme(),
    "lsq": tfc.QuantizationScheme(range_method="lsq"),
    "live": tfc.QuantizationScheme(batchnorm="live"),
    "4 bits": tfc.QuantizationScheme(4),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_it_learns_and_what_is_trained_ships(residual, name, tmp_path):
    qmodel, x = quantized(residual, SCHEMES[name])
    y = labels(x)
    compiled(qmodel, 3e-3)
    before = qmodel.evaluate(x, y, verbose=0)
    callback = tfc.QuantizationCallback(freeze_batchnorm=0.5, freeze_ranges=0.8)
    qmodel.fit(x, y, batch_size=30, epochs=12, verbose=0, callbacks=[callback])
    assert qmodel.evaluate(x, y, verbose=0) < before
    expected = qmodel.predict(x, verbose=0)
    tflite = tfc.convert(qmodel, "int8", verify=x)
    np.testing.assert_array_equal(tflite.predict(x), expected)
    qmodel.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    assert str(loaded.compression_report) == str(qmodel.compression_report)
    loaded.fit(x, y, batch_size=30, verbose=0)  # with its optimizer's state


def test_clone_and_checkpoint(residual, tmp_path):
    qmodel, x = quantized(residual)
    clone = keras.models.clone_model(qmodel)
    clone.set_weights(qmodel.get_weights())
    expected = qmodel.predict(x, verbose=0)
    np.testing.assert_array_equal(clone.predict(x, verbose=0), expected)
    qmodel.save_weights(tmp_path / "q.weights.h5")
    other = tfc.quantize_aware(residual[0], calibration_data=3 * x)
    assert (other.predict(x, verbose=0) != expected).any()
    other.load_weights(tmp_path / "q.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), expected)


def test_part_of_it_as_a_model_of_its_own(residual):
    qmodel, x = quantized(residual)
    inner = keras.Model(qmodel.inputs, qmodel.layers[3].output)
    assert inner.predict(x, verbose=0).shape[1:] == qmodel.layers[3].output.shape[1:]


def test_as_a_layer_of_another_model(residual):
    qmodel, x = quantized(residual)
    inputs = keras.Input((12, 12, 3))
    outer = keras.Model(inputs, qmodel(inputs) * 2.0)
    expected = 2 * qmodel.predict(x, verbose=0)
    np.testing.assert_allclose(outer.predict(x, verbose=0), expected, rtol=1e-6)


def test_gradient_is_that_of_the_float_network(residual):
    """Straight through: near the float gradient where rounding is fine, nothing cut off."""
    model, x = residual
    qmodel, _ = quantized(residual)

    def gradients(net, training):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(net(x, training=training)))
        found = tape.gradient(loss, [v.value for v in net.trainable_variables])
        return dict(zip([v.path for v in net.trainable_variables], found, strict=True))

    ours = gradients(qmodel, False)
    # The float network with frozen statistics: inference mode.
    theirs = gradients(model, False)
    ours = {name.split("/")[-2] + "/" + name.split("/")[-1]: g for name, g in ours.items()}
    theirs = {name.split("/")[-2] + "/" + name.split("/")[-1]: g for name, g in theirs.items()}
    kernels = [name for name in ours if name.endswith("kernel") and name in theirs]
    assert len(kernels) == 3
    for name in kernels:
        a, b = ours[name].numpy().reshape(-1), theirs[name].numpy().reshape(-1)
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        assert cosine > 0.98, (name, cosine)
        assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b), rel=0.15)


def test_ranges_follow_the_batches_and_freeze(residual):
    qmodel, x = quantized(residual)
    compiled(qmodel, 0.0)
    ranges = quantized_layers(qmodel)[0].ranges
    low, high = ranges.minimum.numpy(), ranges.maximum.numpy()
    qmodel.train_on_batch(2 * x[:32], labels(x[:32]))
    moved = 0.99 * high + 0.01 * 2 * x[:32].max()
    assert ranges.maximum.numpy() == pytest.approx(moved, rel=1e-6)
    for layer in quantized_layers(qmodel):
        if layer.ranges is not None:
            layer.ranges.freeze()
    before = {own.name: (own.ranges.minimum.numpy(), own.ranges.maximum.numpy())
              for own in quantized_layers(qmodel) if own.ranges is not None}  # fmt: skip
    qmodel.train_on_batch(9 * x[:32], labels(x[:32]))
    for layer in quantized_layers(qmodel):
        if layer.ranges is not None:
            assert before[layer.name] == (
                layer.ranges.minimum.numpy(),
                layer.ranges.maximum.numpy(),
            )
    assert low <= 0 <= high


def test_callback_freezes_when_it_says(residual):
    qmodel, x = quantized(residual, SCHEMES["live"])
    compiled(qmodel)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            norm = next(own.norm for own in quantized_layers(self.model)
                        if isinstance(own, QuantizedLinear) and own.norm)  # fmt: skip
            state = float(quantized_layers(self.model)[0].ranges.state.numpy())
            seen.append((norm.frozen, state >= 2))

    callback = tfc.QuantizationCallback(freeze_batchnorm=0.25, freeze_ranges=1)
    qmodel.fit(x, labels(x), batch_size=30, epochs=2, verbose=0, callbacks=[callback, Watch()])
    assert [norm for norm, _ in seen] == [False] * 2 + [True] * 6
    assert [ranges for _, ranges in seen] == [False] * 4 + [True] * 4


def test_live_batchnorm_is_that_of_keras_until_it_is_frozen():
    """One layer, weights that 8 bits hold well: statistics and outputs as BatchNormalization's."""
    keras.utils.set_random_seed(0)
    norm = layers.BatchNormalization(momentum=0.7)
    model = chain((10, 10, 3), layers.Conv2D(6, 3, use_bias=False), norm)
    x = np.random.default_rng(0).normal(0.3, 1, (64, 10, 10, 3)).astype("float32")
    qmodel = tfc.quantize_aware(model, SCHEMES["live"], calibration_data=x)
    ours = qmodel(x, training=True).numpy()
    theirs = model(x, training=True).numpy()
    assert np.abs(ours - theirs).mean() < 0.03 * theirs.std()
    live = next(own.norm for own in quantized_layers(qmodel) if isinstance(own, QuantizedLinear))
    np.testing.assert_allclose(live.mean.numpy(), norm.moving_mean.numpy(), atol=2e-3)
    np.testing.assert_allclose(live.variance.numpy(), norm.moving_variance.numpy(), rtol=2e-2)


def test_learned_step_size_gets_the_gradient_of_its_paper():
    keras.utils.set_random_seed(0)
    model = chain((6,), layers.Dense(4))
    x = np.random.default_rng(0).normal(0, 1, (50, 6)).astype("float32")
    scheme = tfc.QuantizationScheme(range_method="lsq")
    qmodel = tfc.quantize_aware(model, scheme, calibration_data=0.5 * x)  # so that some clip
    layer = next(own for own in qmodel.layers if isinstance(own, QuantizedLinear))
    part = keras.Model(qmodel.inputs, qmodel.layers[1].output)
    given = part(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(given))
    # Of the root r of what multiplies the scale: d(s r^2)/dr = 2 s at r = 1.
    found = tape.gradient(loss, layer.ranges.root.value).numpy() / (2 * layer.ranges.scale.numpy())
    inputs = layer.input_sources[0].grid()
    kernel, bias, weights = layer.integers(inputs)
    out = layer.output_source.grid()
    real = tf.matmul(tf.round(given / inputs.scale), tf.reshape(kernel, (6, 4))) + bias
    v = (real * (inputs.scale * weights.scale) / out.scale).numpy()
    low, high = -128 - float(out.zero_point), 127 - float(out.zero_point)
    inside = (v >= low - 0.5) & (v <= high + 0.5)
    assert 0 < inside.mean() < 1
    expected = np.where(inside, np.round(v) - v, np.clip(v, low, high)).sum() / np.sqrt(4 * 127)
    assert found == pytest.approx(expected, rel=1e-3)


def test_gradient_stops_at_the_ends_of_the_grid_and_of_the_activation():
    source = GridSource(scale=0.1, zero_point=-128.0)
    acc = tf.constant([[-10.0, 0.0, 10.0, 2000.0, 30000.0]])
    one = grids.Grid(0.1), grids.Grid(tf.constant([0.1] * 5))
    with tf.GradientTape() as tape:
        tape.watch(acc)
        y = rounding.requantized(acc, *one, source, "relu6")
    np.testing.assert_allclose(y, [[0, 0, 0.1, 6, 6]], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(y, acc), [[0, 0, 0.01, 0, 0]], atol=1e-8)


@pytest.mark.parametrize("compiled_by_xla", [True, False])
def test_training_and_inference_give_the_same_integers(residual, compiled_by_xla):
    qmodel, x = quantized(residual)
    for layer in quantized_layers(qmodel):
        if layer.ranges is not None:
            layer.ranges.freeze()

    @tf.function(jit_compile=compiled_by_xla)
    def run(x):
        return qmodel(x, training=True)

    np.testing.assert_array_equal(run(x).numpy(), qmodel.predict(x, verbose=0))


def test_mixed_precision_trains_and_quantizers_stay_in_float32():
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model, x = build("residual")
        qmodel = tfc.quantize_aware(model, calibration_data=x)
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    assert {layer.compute_dtype for layer in quantized_layers(qmodel)} == {"float32"}
    compiled(qmodel).fit(x, labels(x), verbose=0)
    tflite = tfc.convert(qmodel, "int8")
    np.testing.assert_array_equal(tflite.predict(x), qmodel.predict(x, verbose=0))


def test_two_replicas_train_one_model(replicas):
    with replicas.scope():
        model, x = build("residual")
        qmodel = tfc.quantize_aware(model, calibration_data=x)
        compiled(qmodel, jit_compile=False)
    qmodel.fit(x, labels(x), batch_size=40, epochs=2, verbose=0,
               callbacks=[tfc.QuantizationCallback()])  # fmt: skip
    assert all(
        float(own.ranges.state.numpy()) >= 2 for own in quantized_layers(qmodel) if own.owns_range
    )
    tflite = tfc.convert(qmodel, "int8")
    np.testing.assert_array_equal(tflite.predict(x), qmodel.predict(x, verbose=0))


def test_two_runs_with_one_seed_end_with_the_same_weights(residual):
    found = []
    for _ in range(2):
        qmodel, x = quantized(residual)
        keras.utils.set_random_seed(3)
        compiled(qmodel).fit(x, labels(x), batch_size=30, epochs=2, verbose=0)
        found.append(qmodel.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_callback_errors(residual):
    for wrong in (1.5, -1, True, "half"):
        with pytest.raises(tfc.ConfigError, match="freeze_ranges"):
            tfc.QuantizationCallback(freeze_ranges=wrong)
    model, x = residual
    plain = keras.models.clone_model(model)
    plain.compile("sgd", "mse")
    with pytest.raises(tfc.ModelTypeError, match="quantize_aware"):
        plain.fit(x, np.zeros((120, 5)), verbose=0, callbacks=[tfc.QuantizationCallback()])


def test_dilated_convolutions_train():
    model = chain((8, 8, 4), layers.Conv2D(6, 3, dilation_rate=2))
    x = np.random.default_rng(0).normal(0, 1, (16, 8, 8, 4)).astype("float32")
    qmodel = tfc.quantize_aware(model, calibration_data=x)
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, np.zeros((16, 4, 4, 6)), verbose=0)
    np.testing.assert_array_equal(
        qmodel.predict(x, verbose=0), tfc.convert(qmodel, "int8").predict(x)
    )


def test_learned_scales_survive_a_large_learning_rate():
    x = np.random.default_rng(0).normal(0, 1, (96, 8, 8, 3)).astype("float32")
    keras.utils.set_random_seed(3)
    model = chain(
        (8, 8, 3),
        layers.Conv2D(8, 3, activation="relu6"),
        layers.DepthwiseConv2D(3),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, activation="softmax"),
    )
    scheme = tfc.QuantizationScheme(range_method="lsq")
    qmodel = tfc.quantize_aware(model, scheme, calibration_data=x)
    qmodel.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    freeze = tfc.QuantizationCallback(freeze_ranges=3)
    qmodel.fit(x, np.arange(96) % 4, epochs=3, callbacks=[freeze], verbose=0)
    ranges = [own.ranges for own in quantized_layers(qmodel) if own.ranges is not None]
    moved = [float(r.root.numpy()) for r in ranges]
    assert all(root > 0 for root in moved) and any(abs(root - 1) > 0.01 for root in moved)
    before = [float(r.grid(False).scale.numpy()) for r in ranges]
    qmodel.fit(x, np.arange(96) % 4, epochs=4, initial_epoch=3, callbacks=[freeze], verbose=0)
    assert before == [float(r.grid(False).scale.numpy()) for r in ranges]  # momentum or not
    np.testing.assert_array_equal(
        qmodel.predict(x, verbose=0), tfc.convert(qmodel, "int8").predict(x)
    )


def test_callback_says_that_a_training_breaks_the_model():
    x = np.random.default_rng(0).normal(0, 1, (64, 8)).astype("float32")
    model = chain((8,), layers.Dense(16, activation="relu"), layers.Dense(1))
    y = model.predict(x, verbose=0)
    qmodel = tfc.quantize_aware(model, calibration_data=x)
    qmodel.compile(keras.optimizers.Adam(1.0), "mse")
    with pytest.warns(UserWarning, match="a tenth of the learning rate"):
        qmodel.fit(x, y, epochs=1, batch_size=8, callbacks=[tfc.QuantizationCallback()], verbose=0)
