"""Small models around each kind of layer that can be wrapped, for one contract of tests."""

from __future__ import annotations

import keras
import numpy as np

import tfcompress as tfc

layers = keras.layers


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    """A user's own layer, with a kernel under a name of its own, a loss and running state."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], self.units), name="table")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        self.add_loss(keras.ops.mean(keras.ops.cast(x, "float32")))
        return keras.ops.matmul(x, self.table)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


tfc.register_layer(Scaled, kernels=("table",))


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    """A user's own layer that holds layers, without a `build`: its first call builds them."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.rest = layers.Dense(units), [layers.Dense(units), layers.Dropout(0.5)]

    def call(self, x, training=False):
        x = self.first(x)
        for layer in self.rest:
            x = layer(x, training=training) if isinstance(layer, layers.Dropout) else layer(x)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def _through(shape, *stack):
    def make():
        inputs = x = keras.Input(shape)
        for layer in stack:
            x = layer()(x)
        return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))

    return make, shape


def _attention():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 4, dropout=0.3, name="it")(inputs, inputs)
    x = layers.MultiHeadAttention(2, 4, name="other")(query=x, value=inputs, use_causal_mask=True)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


def _embedding():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 4, mask_zero=True, name="it")(inputs)
    x = layers.LSTM(5, return_sequences=True, name="memory")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GRU(4, name="gru")(x)))


def _states():
    inputs = keras.Input((5, 4))
    sequence, h, c = layers.LSTM(4, return_sequences=True, return_state=True, name="it")(inputs)
    x = layers.LSTM(4, dropout=0.3, recurrent_dropout=0.2)(sequence, initial_state=[h, c])
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def _shared():
    inputs = keras.Input((6,))
    layer = layers.Dense(6, activation="relu", name="it")
    return keras.Model(inputs, layers.Dense(3, name="head")(layer(layer(inputs))))


def _nested():
    inner_input = keras.Input((6,), name="inside")
    inner = keras.Model(inner_input, layers.Dense(5, name="it")(inner_input), name="inner")
    stack = keras.Sequential([layers.Dense(4, name="one"), layers.BatchNormalization()], name="s")
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3, name="head")(stack(inner(inputs))))


# name -> (function that makes the model, shape of an input)
KINDS = {
    "dense": _through((6,), lambda: layers.Dense(7, name="it", kernel_regularizer="l2")),
    "dense with activity loss": _through(
        (6,), lambda: layers.Dense(7, name="it", activity_regularizer="l2")
    ),
    "einsum": _through((4, 6), lambda: layers.EinsumDense("abc,cde->abde", (4, 2, 3), name="it")),
    "conv1d": _through((8, 4), lambda: layers.Conv1D(5, 3, name="it")),
    "conv2d": _through(
        (6, 6, 4), lambda: layers.Conv2D(5, 3, name="it"), layers.BatchNormalization
    ),
    "conv3d": _through((4, 4, 4, 2), lambda: layers.Conv3D(4, 2, name="it")),
    "transposed 1d": _through((6, 4), lambda: layers.Conv1DTranspose(5, 3, name="it")),
    "transposed 2d": _through((4, 4, 4), lambda: layers.Conv2DTranspose(5, 3, name="it")),
    "transposed 3d": _through((3, 3, 3, 2), lambda: layers.Conv3DTranspose(4, 2, name="it")),
    "separable 1d": _through((8, 4), lambda: layers.SeparableConv1D(5, 3, name="it")),
    "separable 2d": _through((6, 6, 4), lambda: layers.SeparableConv2D(5, 3, name="it")),
    "depthwise": _through((6, 6, 4), lambda: layers.DepthwiseConv2D(3, name="it")),
    "embedding and masked recurrence": (_embedding, (5,)),
    "attention": (_attention, (5, 6)),
    "lstm with states": (_states, (5, 4)),
    "gru": _through((5, 4), lambda: layers.GRU(4, return_sequences=True, dropout=0.2, name="it")),
    "bidirectional": _through((5, 4), lambda: layers.Bidirectional(layers.LSTM(3), name="it")),
    "time distributed": _through(
        (5, 4), lambda: layers.TimeDistributed(layers.Dense(4), name="it")
    ),
    "user's own": _through((6,), lambda: Scaled(5, name="it")),
    "user's own block": _through((6,), lambda: Block(5, name="it")),
    "shared": (_shared, (6,)),
    "nested": (_nested, (6,)),
}


def data_for(shape, count=32):
    """Inputs of that shape and labels of three classes."""
    generator = np.random.default_rng(0)
    if shape == (5,):  # words, some of them padding
        x = generator.integers(0, 11, (count, 5)).astype("int32")
    else:
        x = generator.normal(size=(count, *shape)).astype("float32")
    return x, generator.integers(0, 3, count)
