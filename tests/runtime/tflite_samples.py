"""Real .tflite files of many kinds, converted once per process, for the file reader's tests."""

from __future__ import annotations

import functools
import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np

CONVERTERS: dict[str, Callable[[], bytes]] = {}


def sample(make: Callable[[], bytes]) -> Callable[[], bytes]:
    CONVERTERS[make.__name__] = functools.cache(make)
    return CONVERTERS[make.__name__]


def samples() -> dict[str, bytes]:
    """Every converted file, and those under TFCOMPRESS_DATA where it is set."""
    files = {name: make() for name, make in CONVERTERS.items()}
    if folder := os.environ.get("TFCOMPRESS_DATA"):
        paths = sorted(pathlib.Path(folder).rglob("*.tflite"))
        files |= {path.name: path.read_bytes() for path in paths}
    return files


def convolutional_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "conv": random.normal(0, 0.3, (3, 3, 3, 16)).astype(np.float32),
        "depthwise": random.normal(0, 0.3, (3, 3, 16, 1)).astype(np.float32),
        "pointwise": random.normal(0, 0.3, (1, 1, 16, 72)).astype(np.float32),
        "dense": random.normal(0, 0.3, (72, 64)).astype(np.float32),
        "bias": random.normal(0, 0.3, 64).astype(np.float32),
    }


def _network(weights: dict[str, np.ndarray], batch: int | None = 1):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((batch, 8, 8, 3), tf.float32, name="image")])
    def network(x):
        x = tf.nn.relu6(tf.nn.conv2d(x, weights["conv"], 2, "SAME"))
        x = tf.nn.relu(tf.nn.depthwise_conv2d(x, weights["depthwise"], [1, 1, 1, 1], "SAME"))
        x = tf.nn.conv2d(x, weights["pointwise"], 1, "VALID")
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = tf.reduce_mean(x, [1, 2])
        return tf.nn.softmax(tf.matmul(x, weights["dense"]) + weights["bias"])

    return network


def _converter(function, module=None):
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], module
    )


def _images():
    random = np.random.default_rng(2)
    for _ in range(4):
        yield [random.uniform(0, 1, (1, 8, 8, 3)).astype(np.float32)]


@sample
def floating() -> bytes:
    return _converter(_network(convolutional_weights())).convert()


@sample
def dynamic_batch() -> bytes:
    return _converter(_network(convolutional_weights(), batch=None)).convert()


@sample
def half() -> bytes:
    import tensorflow as tf

    converter = _converter(_network(convolutional_weights()))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


@sample
def dynamic_range() -> bytes:
    import tensorflow as tf

    converter = _converter(_network(convolutional_weights()))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def _static(weights: dict[str, np.ndarray], operators: str) -> bytes:
    import tensorflow as tf

    converter = _converter(_network(weights))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = _images
    converter.target_spec.supported_ops = [tf.lite.OpsSet[operators]]
    return converter.convert()


@sample
def int8() -> bytes:
    return _static(convolutional_weights(), "TFLITE_BUILTINS_INT8")


@sample
def int16x8() -> bytes:
    return _static(
        convolutional_weights(), "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
    )


@sample
def int8_of_zeros() -> bytes:
    """Channels and whole layers of zeros: their ranges are empty."""
    weights = convolutional_weights()
    weights["conv"][..., ::2] = 0
    weights["pointwise"][:] = 0
    weights["dense"][:] = 0
    return _static(weights, "TFLITE_BUILTINS_INT8")


@sample
def dynamic_range_of_zeros() -> bytes:
    import tensorflow as tf

    weights = {name: np.zeros_like(value) for name, value in convolutional_weights().items()}
    converter = _converter(_network(weights))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def sparse_weights() -> dict[str, np.ndarray]:
    """Weights of which most are 0; those of the dense layer in blocks of 4 along the inputs."""
    random = np.random.default_rng(3)
    weights = convolutional_weights()
    weights["pointwise"] *= random.random(weights["pointwise"].shape) > 0.8
    kept = np.repeat(random.random((18, 64)) > 0.8, 4, axis=0)
    weights["dense"] *= kept
    return weights


@sample
def sparse() -> bytes:
    import tensorflow as tf

    converter = _converter(_network(sparse_weights()))
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    return converter.convert()


@sample
def outside_buffers() -> bytes:
    """The form of files over 2 GB: the weights lie behind the FlatBuffer."""
    converter = _converter(_network(convolutional_weights()))
    converter._experimental_use_buffer_offset = True
    return converter.convert()


def int4_weights() -> np.ndarray:
    """Whole numbers from -7 to 7, both ends in each output channel."""
    weights = np.random.default_rng(4).integers(-7, 8, (1, 1, 15, 5)).astype(np.float32)
    weights[0, 0, 0], weights[0, 0, 1] = -7, 7
    return weights


@sample
def int4() -> bytes:
    import tensorflow as tf

    def quantize(x, low, high, bits=8):
        return tf.quantization.fake_quant_with_min_max_args(
            x, low, high, num_bits=bits, narrow_range=bits == 4
        )

    @tf.function(input_signature=[tf.TensorSpec((1, 4, 4, 15), tf.float32)])
    def network(x):
        weights = quantize(tf.constant(int4_weights()), -7.0, 7.0, 4)
        return quantize(tf.nn.conv2d(quantize(x, -1.0, 1.0), weights, 1, "VALID"), -50.0, 50.0)

    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


@sample
def recurrent() -> bytes:
    """An LSTM that is not unrolled: a WHILE operator with two subgraphs."""
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((6, 4)), keras.layers.LSTM(5)])
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", model.call, [tf.TensorSpec((1, 6, 4), tf.float32)])
        archive.write_out(folder, verbose=False)
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


@sample
def embedding() -> bytes:
    import tensorflow as tf

    table = np.random.default_rng(5).normal(size=(50, 8)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec((1, 7), tf.int32)])
    def network(x):
        return tf.concat([tf.gather(table, x), tf.zeros((1, 7, 2))], axis=-1)

    return _converter(network).convert()


@sample
def signatures() -> bytes:
    import tensorflow as tf

    class TwoWays(tf.Module):
        def __init__(self):
            self.weights = tf.Variable(np.eye(4, dtype=np.float32))

        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32, name="x")])
        def encode(self, x):
            return {"code": x @ self.weights}

        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32, name="code")])
        def decode(self, code):
            return {"x": code @ self.weights, "sum": tf.reduce_sum(code)}

    module = TwoWays()
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, {"encode": module.encode, "decode": module.decode})
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


@sample
def variables() -> bytes:
    """State that outlives a run: VAR_HANDLE, CALL_ONCE, and a condition (IF)."""
    import tensorflow as tf

    class Counter(tf.Module):
        def __init__(self):
            self.total = tf.Variable(np.zeros((1, 3), np.float32))

        @tf.function(input_signature=[tf.TensorSpec((1, 3), tf.float32)])
        def add(self, x):
            grown = tf.cond(tf.reduce_sum(x) > 0, lambda: tf.exp(x) * x, lambda: tf.sin(x))
            return self.total.assign_add(grown)

    module = Counter()
    converter = _converter(module.add, module)
    converter.experimental_enable_resource_variables = True
    return converter.convert()


@sample
def strings() -> bytes:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((2,), tf.int32)])
    def network(x):
        return tf.gather(tf.constant(["dog", "", "tomcat", "größe"]), x)

    return _converter(network).convert()


@sample
def custom() -> bytes:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, 3), tf.float32)])
    def network(x):
        return tf.math.erfinv(x)

    converter = _converter(network)
    converter.allow_custom_ops = True
    return converter.convert()


@sample
def shapes() -> bytes:
    """Operators on shapes and types, with all kinds of integer constants."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((2, 6, 4), tf.float32)])
    def network(x):
        y = tf.reshape(tf.transpose(x, [1, 0, 2]), [3, 2, 8])
        a, b = tf.split(tf.pad(y, [[0, 0], [1, 1], [0, 0]]), 2, axis=1)
        c = tf.strided_slice(a, [0, 0, 0], [3, 2, 8], [1, 1, 2])
        d = tf.reduce_sum(tf.cast(b > 0, tf.int64), axis=-1)
        e = tf.reshape(tf.reduce_max(x), [])
        return (
            c,
            tf.argmax(tf.cast(d, tf.float32), axis=0),
            e,
            tf.stack([d, d]),
            tf.tile(c, [1, 2, 1]),
        )

    return _converter(network).convert()


@sample
def enlarge() -> bytes:
    import tensorflow as tf

    kernel = np.random.default_rng(6).normal(size=(2, 2, 5, 3)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec((1, 4, 4, 3), tf.float32)])
    def network(x):
        y = tf.nn.conv2d_transpose(x, kernel, (1, 8, 8, 5), 2)
        z = tf.image.resize(y, (16, 16)) + tf.image.resize(y, (16, 16), method="nearest")
        return tf.nn.avg_pool2d(tf.nn.leaky_relu(z, 0.1), 2, 2, "SAME") * 2.0

    return _converter(network).convert()
