"""Graphs that quantize_aware has to take, each with what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from support import randomize

layers = keras.layers
Build = Callable[[], keras.Model]


def chain(shape: tuple[int, ...], *parts: Any) -> keras.Model:
    inputs = x = keras.Input(shape)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def residual() -> keras.Model:
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    return keras.Model(inputs, layers.Dense(5)(x))


def before_activation() -> keras.Model:
    """BatchNorm before the convolution, as in ResNetV2 and DenseNet, and operators of Python."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    y = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(8, 3, padding="same")(y)
    x = layers.ReLU()(layers.BatchNormalization()(x + y))
    return keras.Model(inputs, x)


def dense_block() -> keras.Model:
    """Concatenations of concatenations: inputs that share a grid and inputs that cannot."""
    inputs = keras.Input((12, 12, 3))
    x = layers.MaxPooling2D(2)(layers.Conv2D(8, 3, padding="same", activation="relu")(inputs))
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(y)])
    gate = layers.Conv2D(4, 1, activation="sigmoid")(x)
    x = layers.AveragePooling2D(2)(layers.Concatenate()([x, gate]))
    return keras.Model(inputs, [x, layers.BatchNormalization()(x)])


def squeeze_excite() -> keras.Model:
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="swish")(inputs)
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(4, 1, activation="relu")(s)
    s = layers.Conv2D(8, 1, activation="hard_sigmoid")(s)
    x = layers.Activation("hard_swish")(layers.Multiply()([x, s]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


def sequence() -> keras.Model:
    return chain(
        (32, 4),
        layers.Conv1D(8, 5, strides=2, padding="same", activation="relu"),
        layers.DepthwiseConv1D(3),
        layers.BatchNormalization(),
        layers.SeparableConv1D(6, 3, padding="same"),
        layers.LeakyReLU(0.1),
        layers.MaxPooling1D(),
        layers.GlobalAveragePooling1D(),
        layers.Dense(3, activation="tanh"),
    )


def growing() -> keras.Model:
    return chain(
        (8, 8, 3),
        layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
        layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2DTranspose(3, 2, strides=2),
        layers.UpSampling2D(interpolation="bilinear"),
        layers.UpSampling2D(),
    )


def pixels() -> keras.Model:
    """Rescaling at the input, which padding keeps from being folded, and one that is folded."""
    return chain(
        (16, 16, 3),
        layers.Rescaling(1 / 127.5, -1.0),
        layers.SeparableConv2D(8, 3, padding="same", strides=2),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.Rescaling(0.5),
        layers.Conv2D(4, 1),
        layers.Cropping2D(1),
    )


def shared_and_nested() -> keras.Model:
    """One nested model and one layer called on two inputs; two outputs."""
    inner = chain((12, 12, 3), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU())
    a, b = keras.Input((12, 12, 3), name="a"), keras.Input((12, 12, 3), name="b")
    dense = layers.Dense(4)
    x, y = (dense(layers.GlobalAveragePooling2D()(inner(i))) for i in (a, b))
    x = layers.Subtract(name="difference")([x, y])
    return keras.Model([a, b], [x, layers.Activation("tanh", name="bounded")(x)])


def operations() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    y = keras.ops.relu(x * 0.5 + 0.25)
    y = keras.ops.transpose(y[:, 1:, :, :4], (0, 2, 1, 3))
    y = keras.ops.mean(y, axis=(1, 2)) - 0.1
    z = keras.ops.maximum(layers.Dense(3)(y), layers.Dense(3)(y))
    return keras.Model(inputs, keras.ops.gelu(z / 2.0, approximate=False))


def average_of_three() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, layers.Average()([layers.Conv2D(4, 3)(inputs) for _ in range(3)]))


def wide() -> keras.Model:
    """Sums beyond 2^24, which float32 alone would not hold."""
    return chain((4, 4, 300), layers.Conv2D(5, 3), layers.Flatten(), layers.Dense(3))


def two_readers() -> keras.Model:
    """One tensor read by two equal activations, which the converter makes one of, and by a pool."""
    inputs = keras.Input((12, 12, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3)(inputs))
    y = layers.Add()([layers.Conv2D(4, 1)(layers.ReLU()(x)) for _ in range(2)])
    return keras.Model(inputs, [y, layers.Activation("relu")(x)])


def activations_behind_pools() -> keras.Model:
    """The converter fuses these into the pools, whose outputs have their inputs' grids."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3)(inputs)
    y = layers.ReLU()(layers.AveragePooling2D(3, 1, "same")(x))
    z = layers.ReLU(6.0)(layers.MaxPooling2D(3, 1, "same")(x))
    return keras.Model(inputs, [layers.Conv2D(4, 1)(y), layers.Conv2D(4, 1)(z)])


def activation_behind_transposition() -> keras.Model:
    """The converter moves the transposition behind the activation, and fuses that."""
    return chain((12, 12, 3), layers.Conv2D(8, 3), layers.Permute((2, 1, 3)), layers.ReLU(),
                 layers.Conv2D(4, 1))  # fmt: skip


def repeated_operands() -> keras.Model:
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    y = layers.Conv2D(4, 1)(x)
    return keras.Model(
        inputs,
        [
            layers.Concatenate()([x, x, y]),
            layers.Minimum()([x, y, x]),
            layers.ReLU()(x),
            layers.Activation("sigmoid")(y),
        ],
    )


def causal() -> keras.Model:
    """A temporal convolutional network."""
    return chain((32, 4), layers.Conv1D(8, 3, padding="causal", activation="relu"),
                 layers.Conv1D(8, 3, padding="causal", dilation_rate=2), layers.ReLU(),
                 layers.GlobalAveragePooling1D(), layers.Dense(3))  # fmt: skip


def transposed_without_bias() -> keras.Model:
    return chain((8, 8, 4), layers.Conv2DTranspose(5, 3, strides=2, use_bias=False), layers.ReLU())


def words() -> keras.Model:
    inputs = keras.Input((12,), dtype="int32")
    places = keras.ops.cumsum(keras.ops.ones_like(inputs), axis=1) - 1
    x = layers.Add()([layers.Embedding(50, 16)(inputs), layers.Embedding(12, 16)(places)])
    x = layers.GlobalMaxPooling1D()(layers.Conv1D(8, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(4)(x))


def attention() -> keras.Model:
    """A Transformer layer: LayerNormalization and softmax stay float between int8 products."""
    inputs = keras.Input((12, 16))
    x = layers.LayerNormalization()(
        inputs + layers.MultiHeadAttention(2, 8, dropout=0.1)(inputs, inputs)
    )
    y = layers.Dense(16)(layers.Dropout(0.2)(layers.Dense(32, activation="gelu")(x)))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([x, y])))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


def recurrent() -> keras.Model:
    return chain(
        (6, 4),
        layers.Conv1D(8, 3, padding="same"),
        layers.LSTM(40, return_sequences=True),
        layers.Dense(5, activation="relu"),
        layers.Flatten(),
        layers.Dense(3),
    )


def unknown_functions() -> keras.Model:
    """Functions without an int8 form, with TANH inside, which the converter would quantize."""
    return chain(
        (8, 8, 3),
        layers.Conv2D(8, 3, activation="mish"),
        layers.Conv2D(4, 1),
        layers.PReLU(alpha_initializer=keras.initializers.RandomUniform(0.1, 0.5)),
        layers.Conv2D(4, 1),
        layers.LayerNormalization(),
    )


def films() -> keras.Model:
    """Images of films: a model, and layers, in TimeDistributed; activations between them."""
    each = layers.TimeDistributed
    inputs = keras.Input((3, 12, 12, 3))
    x = each(layers.Conv2D(8, 3, use_bias=False), name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = each(layers.DepthwiseConv2D(3, padding="same"))(x)
    x = each(layers.BatchNormalization())(x)
    x = each(layers.MaxPooling2D())(layers.ReLU()(x))
    image = chain(
        (5, 5, 8), layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(),
        layers.GlobalAveragePooling2D(),
    )  # fmt: skip
    x = each(layers.Dense(6), name="last")(each(image, name="images")(x))
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


INTEGER: dict[str, Build] = {
    function.__name__: function
    for function in (
        residual,
        before_activation,
        dense_block,
        squeeze_excite,
        sequence,
        growing,
        pixels,
        shared_and_nested,
        operations,
        average_of_three,
        wide,
        two_readers,
        activations_behind_pools,
        activation_behind_transposition,
        repeated_operands,
        causal,
        transposed_without_bias,
        words,
        films,
    )
}
WITH_FLOAT: dict[str, Build] = {
    function.__name__: function for function in (attention, recurrent, unknown_functions)
}


def build(name: str) -> tuple[keras.Model, Any]:
    """The network with weights that look trained, and inputs for it, (120, ...)."""
    keras.utils.set_random_seed(1)
    model = randomize({**INTEGER, **WITH_FLOAT}[name]())
    generator = np.random.default_rng(0)
    found = []
    for tensor in model.inputs:
        shape = (120, *tensor.shape[1:])
        if str(tensor.dtype).startswith("int"):
            found.append(generator.integers(0, 50, shape).astype("int32"))
        elif name == "pixels":
            found.append(generator.integers(0, 256, shape).astype("float32"))
        else:
            found.append(generator.normal(0, 1, shape).astype("float32"))
    return model, found[0] if len(found) == 1 else found


def flat(outputs: Any, names: Any = None) -> list[np.ndarray]:
    """Outputs of Keras (a list) or of a file (a dict) in the order of the model's."""
    if isinstance(outputs, dict):
        return [np.asarray(outputs[name]) for name in names]
    return [np.asarray(value) for value in keras.tree.flatten(outputs)]
