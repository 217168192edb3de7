"""Networks for the tests of sparse storage: the proven pattern, with something else put into it."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from tfcompress.runtime import schema


def prune(model: keras.Model, sparsity: float = 0.8) -> keras.Model:
    """Sets the given share of the weights of each 1x1 convolution and Dense layer to zero."""
    generator = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.Dense) or getattr(layer, "kernel_size", None) == (1, 1):
            kernel = np.asarray(layer.kernel)
            layer.kernel.assign(kernel * (generator.random(kernel.shape) >= sparsity))
    return model


def dense_file(model: keras.Model, batch: int = 1, float16: bool = False) -> schema.Model:
    """The model as the TFLite converter writes it, without tfcompress in between."""
    import tensorflow as tf

    specs = [tf.TensorSpec((batch, *tensor.shape[1:]), tf.float32) for tensor in model.inputs]
    function = tf.function(lambda *x: model(x if len(x) > 1 else x[0]), input_signature=specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    if float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return schema.parse(converter.convert())


def stem(x, *, channels=8, stride=2, padding=1, activation="relu6"):
    if padding:
        x = layers.ZeroPadding2D(padding)(x)
    padding = "valid" if padding else "same"
    return layers.Conv2D(channels, 3, strides=stride, padding=padding, activation=activation)(x)


def depthwise(x, stride=1, size=3, activation="relu6", **options):
    if stride > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    padding = "valid" if stride > 1 else "same"
    options = {"strides": stride, "padding": padding, **options}
    return layers.DepthwiseConv2D(size, activation=activation, **options)(x)


def pointwise(x, channels=32, activation="relu6", **options):
    return layers.Conv2D(channels, 1, activation=activation, **options)(x)


def excite(x, activation="sigmoid"):
    gate = pointwise(keepdims_mean(x), 8, "relu")
    gate = pointwise(gate, x.shape[-1], activation)
    return layers.Multiply()([gate, x])


def head(x):
    return layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x))


def network(middle=lambda x: x, *, start=stem, end=head, shape=(32, 32, 3), sparsity=0.8):
    """stem, depthwise, 1x1, `middle`, depthwise, 1x1, mean, Dense: all pruned."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    x = middle(pointwise(depthwise(start(inputs))))
    if len(x.shape) == 4:
        x = pointwise(depthwise(x), 48)
    return prune(keras.Model(inputs, end(x)), sparsity)


def keepdims_mean(x):
    return layers.GlobalAveragePooling2D(keepdims=True)(x)
