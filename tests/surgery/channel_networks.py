"""Networks for channel removal: every graph shape, in which a channel that is 0 stays 0."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from surgery_support import chain

layers, ops = keras.layers, keras.ops


def conv(filters, size=3, **options):
    return layers.Conv2D(filters, size, padding="same", **options)


def bn_relu(x):
    return layers.ReLU()(layers.BatchNormalization()(x))


def plain():
    return chain(
        (8, 8, 3), conv(8), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(),
        conv(12, activation="relu"), layers.ZeroPadding2D(), layers.AveragePooling2D(2),
        layers.UpSampling2D(), layers.Cropping2D(1), layers.Dropout(0.3), layers.Flatten(),
        layers.Dense(10, activation="relu"), layers.Dense(3),
    )  # fmt: skip


def sequential():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), conv(8), layers.BatchNormalization(), layers.ReLU(),
         layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Conv2D(6, 1, activation="relu"),
         layers.GlobalMaxPooling2D(), layers.Dense(3)]
    )  # fmt: skip


def residual():
    inputs = keras.Input((8, 8, 3))
    x = bn_relu(conv(8)(inputs))
    for _ in range(2):
        y = layers.BatchNormalization()(conv(8)(bn_relu(conv(6)(x))))
        x = layers.ReLU()(layers.Add()([x, y]))
    x = x + conv(8, 1)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def dense_block():
    inputs = keras.Input((8, 8, 3))
    x = conv(6)(inputs)
    for _ in range(3):
        x = layers.Concatenate()([x, conv(4)(bn_relu(x))])
    x = layers.AveragePooling2D(2)(conv(8, 1)(bn_relu(x)))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def squeeze_excite():
    inputs = keras.Input((8, 8, 3))
    x = conv(8, activation="silu")(inputs)
    s = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    s = conv(4, 1, activation="relu")(s)
    x = layers.Multiply()([x, conv(8, 1, activation="sigmoid")(s)])
    t = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = x * ops.expand_dims(ops.expand_dims(t, 1), 1)
    x = x * ops.relu6(conv(8)(x) + 3.0) * (1.0 / 6.0)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def separable():
    return chain(
        (9, 9, 3), layers.SeparableConv2D(8, 3, depth_multiplier=2), layers.BatchNormalization(),
        layers.ReLU(), layers.SeparableConv2D(6, 3, depth_multiplier=2), layers.LeakyReLU(),
        layers.Conv2DTranspose(8, 3, strides=2), layers.ReLU(6.0),
        layers.Conv2DTranspose(4, 2), layers.GlobalAveragePooling2D(), layers.Dense(2),
    )  # fmt: skip


def resized():
    inputs = keras.Input((8, 8, 3))
    x = layers.Resizing(5, 7)(conv(8, activation="relu")(inputs))
    y = layers.Resizing(7, 7, pad_to_aspect_ratio=True)(conv(6)(x))
    y = conv(8, activation="relu")(ops.image.resize(y, (5, 7), interpolation="nearest"))
    x = layers.Concatenate(axis=2)([x, conv(8, 1)(layers.Add()([x, y]))])
    x = layers.Resizing(4, 4, crop_to_aspect_ratio=True)(x)
    return keras.Model(inputs, layers.Dense(3)(ops.mean(conv(6)(x), axis=(1, 2))))


def grouped():
    return chain(
        (8, 8, 3), conv(12), layers.ReLU(), conv(8, groups=2), layers.ReLU(),
        conv(12, groups=4), layers.ReLU(), conv(12, groups=12), conv(24, groups=12, use_bias=False),
        layers.BatchNormalization(), layers.ReLU(), conv(8, 1), layers.GroupNormalization(4),
        layers.ReLU(), conv(2),
    )  # fmt: skip


def shuffled():
    inputs = keras.Input((6, 6, 3))
    x = conv(12, 1, groups=3, activation="relu")(conv(12, activation="relu")(inputs))
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((6, 6, 3, 4))(x))
    x = layers.DepthwiseConv2D(3)(layers.Reshape((6, 6, 12))(x))
    return keras.Model(inputs, conv(4)(x))


def split():
    inputs = keras.Input((6, 6, 3))
    x = conv(16, activation="relu")(inputs)
    a, b, c = ops.split(x, [4, 10], axis=-1)
    a = layers.Concatenate()([conv(6, activation="relu")(a), b])
    x = layers.Concatenate()([a, c[..., 1:5], c])
    x = ops.concatenate([x[..., :8], conv(8)(x[:, :, :, 8:])], axis=-1)
    x = ops.transpose(ops.repeat(x, 2, axis=1), (0, 2, 1, 3))
    return keras.Model(inputs, conv(4)(x))


def shared_and_nested():
    inner = chain((6, 6, 8), conv(8), layers.BatchNormalization(), layers.ReLU(), name="inner")
    tail = keras.Sequential(
        [keras.Input((None, None, 8)), conv(6, activation="relu"),
         layers.GlobalAveragePooling2D()], name="tail"
    )  # fmt: skip
    a, b = keras.Input((6, 6, 3), name="a"), keras.Input((6, 6, 2), name="b")
    x, y = conv(8, activation="relu")(a), conv(8, activation="relu")(b)
    dense = layers.Dense(5, activation="relu")
    x, y = inner(x), inner(layers.Maximum()([y, x]))
    one, two = dense(tail(x)), dense(tail(y))
    return keras.Model(
        [a, b], [layers.Dense(2)(one), layers.Dense(3)(layers.Subtract()([one, two]))]
    )


def inside():
    """A nested model with several inputs and outputs, two levels deep."""
    a, b = keras.Input((6, 6, 8)), keras.Input((6, 6, 8))
    deep = chain((6, 6, 8), conv(10, activation="relu"), conv(8), name="deep")
    middle = keras.Model(
        [a, b], [layers.Add()([deep(a), b]), layers.Concatenate()([a, b])], name="m"
    )
    inputs = keras.Input((6, 6, 3))
    x, y = middle([conv(8, activation="relu")(inputs), conv(8)(inputs)])
    return keras.Model(inputs, [conv(3)(x), conv(2)(y)])


def sequence():
    return chain(
        (16, 4), layers.Conv1D(8, 3, padding="causal", activation="relu"),
        layers.DepthwiseConv1D(3), layers.BatchNormalization(), layers.ReLU(),
        layers.SeparableConv1D(6, 3), layers.MaxPooling1D(), layers.ZeroPadding1D(1),
        layers.Conv1DTranspose(8, 3), layers.UpSampling1D(2), layers.Cropping1D(1),
        layers.PReLU(shared_axes=[1]), layers.GlobalAveragePooling1D(), layers.RepeatVector(3),
        layers.Conv1D(4, 2),
    )  # fmt: skip


def volume():
    return chain(
        (4, 4, 4, 2), layers.Conv3D(6, 2, activation="relu"), layers.MaxPooling3D(),
        layers.Conv3DTranspose(4, 2), layers.ReLU(), layers.Flatten(), layers.Dense(2),
    )  # fmt: skip


def recurrent():
    return chain(
        (6, 4), layers.Conv1D(8, 3, activation="relu"), layers.LSTM(8, return_sequences=True),
        layers.GRU(6, return_sequences=True),
        layers.GRU(5, reset_after=False, return_sequences=True), layers.SimpleRNN(6),
        layers.Dense(3),
    )  # fmt: skip


def wrapped():
    return chain(
        (6, 5), layers.Dense(8, activation="relu"),
        layers.Bidirectional(layers.LSTM(6, return_sequences=True)),
        layers.TimeDistributed(layers.Dense(8, activation="relu")),
        layers.Bidirectional(layers.GRU(5, return_sequences=True), merge_mode="sum"),
        layers.TimeDistributed(layers.BatchNormalization()), layers.ReLU(),
        layers.TimeDistributed(layers.Dense(3)),
    )  # fmt: skip


def films():
    """A model, with a model in it, in TimeDistributed."""
    inner = keras.Sequential([keras.Input((6, 6, 6)), conv(8), layers.BatchNormalization()])
    image = keras.Input((6, 6, 6))
    x = bn_relu(conv(8)(image))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, inner(image)])))
    image = keras.Model(image, layers.Dense(7, activation="relu")(x))
    first, second = keras.Input((4, 6, 6, 3)), keras.Input((6, 6, 6))
    x = layers.TimeDistributed(conv(6))(first)
    x = layers.TimeDistributed(image, name="each")(x)
    y = layers.GlobalMaxPooling2D()(bn_relu(conv(5)(second)))
    return keras.Model([first, second], [layers.Dense(3)(layers.LSTM(5)(x)), layers.Dense(2)(y)])


def masked():
    """Recurrent layers that pass over some of the steps."""
    inputs = keras.Input((6, 5))
    mask = inputs[:, :, 0] > 0
    x = layers.Dense(8, activation="relu")(inputs)
    x = layers.LSTM(8, return_sequences=True)(x, mask=mask)
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(x, mask=mask)
    x = layers.TimeDistributed(layers.Dense(8, activation="relu"))(x, mask=mask)
    one, two = layers.Bidirectional(layers.LSTM(5), merge_mode=None)(x, mask=mask)
    return keras.Model(inputs, [layers.Dense(3)(one), layers.Dense(2)(two)])


def windows():
    """Windows of an image as rows of the batch, as Swin has them."""
    inputs = keras.Input((8, 8, 3))
    x = ops.reshape(conv(8, activation="relu")(inputs), (-1, 2, 4, 2, 4, 8))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, 8))
    x = layers.Dense(12)(layers.MultiHeadAttention(2, 4)(x, x))
    x = ops.transpose(ops.reshape(x, (-1, 2, 2, 4, 4, 12)), (0, 1, 3, 2, 4, 5))
    x = conv(6, activation="relu")(ops.reshape(x, (-1, 8, 8, 12)))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def translated():
    """An encoder's states go into a decoder: what both read may shrink, their units stay."""
    a, b = keras.Input((6, 5)), keras.Input((4, 3))
    x = layers.Dense(8, activation="relu")(a)
    x, h, c = layers.LSTM(6, return_sequences=True, return_state=True)(x)
    y = layers.LSTM(6, return_sequences=True)(
        layers.Dense(8, activation="relu")(b), initial_state=[h, c]
    )
    y = layers.Concatenate()([y, layers.Attention()([y, x])])
    y = layers.GRU(5)(layers.Dense(8, activation="relu")(y), initial_state=layers.Dense(5)(h))
    return keras.Model([a, b], layers.Dense(3)(layers.Dense(8, activation="relu")(y)))


def mixer():
    """Channels along two axes: each is made by what reads the other."""
    inputs = keras.Input((6, 5))
    x = layers.Dense(12)(inputs)
    # Without biases, which would fill a channel that is 0.
    y = layers.Dense(10, activation="relu", use_bias=False)(layers.Permute((2, 1))(x))
    x = layers.Add()([x, layers.Permute((2, 1))(layers.Dense(6, use_bias=False)(y))])
    x = layers.Add()([x, layers.Dense(12)(layers.Dense(16, activation="relu")(x))])
    z = layers.EinsumDense("abc,cde->abde", (6, 4, 6))(x)
    z = layers.Dense(3)(layers.Flatten()(layers.Dense(5)(z)))
    return keras.Model(inputs, [layers.Dense(3)(layers.GlobalAveragePooling1D()(x)), z])


def moved():
    """What turns images round, and stacks and takes them apart again."""
    inputs = keras.Input((8, 8, 3))
    x = conv(8, activation="relu")(inputs)
    y = ops.roll(ops.flip(x, axis=(1, -1)), 2, axis=2)
    one, two = ops.unstack(ops.stack([conv(8)(x), y], axis=1), axis=1)
    z = ops.take(conv(6, activation="relu")(one + two), np.array([0, 3, 5]), axis=1)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(ops.stack([z, z], axis=-2))))


def blocks():
    """Blocks of places that become channels and come back, tiles, gates in the second half."""
    inputs = keras.Input((8, 8, 3))
    x = conv(8, activation="relu")(inputs)
    x = conv(12, 1, activation="relu")(ops.space_to_depth(x, 2))
    x = conv(8, activation="relu")(ops.depth_to_space(x, 2))
    x = ops.tile(ops.moveaxis(x, -1, 1), (1, 2, 1, 1))
    x = ops.fliplr(ops.moveaxis(x, (1, 2), (3, 1)))
    x = ops.glu(conv(12, 1)(x), axis=-1)
    x = layers.AdaptiveAveragePooling2D(3)(x)
    mean, variance = ops.moments(x, axes=(1, 2))
    top = ops.norm(conv(6)(x), axis=(1, 2)) - ops.median(x, axis=(1, 2))
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()([mean, variance, top])))


def filmed():
    """Images in a row, each looked at with what was seen before."""
    inputs = keras.Input((4, 6, 6, 3))
    x = layers.ConvLSTM2D(6, 3, padding="same", return_sequences=True)(inputs)
    x = layers.ConvLSTM2D(4, 2, use_bias=False)(x)
    y = layers.Reshape((36, 6))(layers.TimeDistributed(conv(6))(inputs)[:, 0])
    z = layers.ConvLSTM1D(5, 3)(layers.Reshape((6, 6, 6))(y))
    return keras.Model(inputs, [layers.Dense(3)(layers.Flatten()(x)), layers.Dense(2)(z)])


def looked_up():
    """Products of rows: the Dot layer, and attention without projections of its own."""
    inputs = keras.Input((6, 5))
    q, k = layers.Dense(8, activation="relu")(inputs), layers.Dense(8)(inputs)
    v = layers.Dense(10, activation="relu")(inputs)
    x = layers.Dense(8)(layers.Attention(use_scale=True)([q, v, k]))
    x = layers.Dense(8)(layers.Attention(score_mode="concat")([x, k]))
    x = layers.AdditiveAttention()([x, v, q]) + layers.AdditiveAttention(use_scale=False)([x, v, q])
    scores = layers.Dot(axes=-1)([layers.Dense(8)(x), k])
    y = layers.Dot(axes=(2, 1))([layers.Softmax()(scores), layers.Dense(6)(x)])
    one, two = (layers.Dense(7)(layers.GlobalAveragePooling1D()(t)) for t in (x, y))
    z = layers.Dot(axes=1, normalize=True)([one, two])
    z = layers.Concatenate()([z, layers.Dot(axes=(1, 2))([layers.Dense(6)(one), y])])
    unit = layers.UnitNormalization()(layers.Dense(6)(one)) + ops.normalize(layers.Dense(6)(two))
    return keras.Model(inputs, [layers.Dense(3)(z), layers.Dense(2)(unit)])


def attention():
    """Transformer layers without normalisation, which no removal leaves as it is."""
    inputs = keras.Input((6, 5))
    x = layers.Dense(12)(inputs)
    x = x + layers.MultiHeadAttention(4, 6, value_dim=5)(x, x)
    x = x + layers.Dense(12)(layers.Dense(16, activation="relu")(x))
    x = x + layers.MultiHeadAttention(2, 4, use_bias=False)(x, layers.Dense(7)(x))
    x = x + layers.GroupQueryAttention(4, 6, 3)(x, x)
    x = x + layers.GroupQueryAttention(4, 4, 2, use_gate=True, use_bias=False)(x, x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def attention_by_hand():
    inputs = keras.Input((6, 5))
    x = layers.Dense(12, activation="relu")(inputs)
    q, k, v = (ops.reshape(layers.Dense(16)(x), (-1, 6, 2, 8)) for _ in range(3))
    q, k, v = (ops.transpose(one, (0, 2, 1, 3)) for one in (q, k, v))
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 3.0)
    y = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 6, 16))
    y = layers.EinsumDense("abc,cde->abde", (6, 2, 4), bias_axes="de")(y)
    y = layers.EinsumDense("abde,dec->abc", (6, 12), bias_axes="c")(y)
    z = ops.einsum("btc,bsc->bts", x + y, layers.EinsumDense("...x,xy->...y", 12)(x))
    return keras.Model(inputs, [layers.Dense(3)(x + y), z])


def summed():
    """Sums and maxima over channels: attention to places, norms by hand, products of rows."""
    inputs = keras.Input((6, 6, 3))
    x = conv(8, activation="relu")(inputs)
    seen = ops.concatenate(
        [ops.sum(x, -1, keepdims=True), ops.max(x, axis=-1, keepdims=True)], axis=-1
    )
    x = x * conv(1, 5, activation="sigmoid")(seen)
    length = ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 0.1)
    x = layers.BatchNormalization()(conv(8)(x / length))
    x = x * ops.norm(x, axis=(1, 2), keepdims=True) / (1 + ops.norm(x, axis=-1, keepdims=True))
    rows = layers.Dense(6, activation="relu")(layers.Reshape((36, 8))(x))
    scores = ops.sum(layers.Dense(6)(rows) * layers.Dense(6)(rows), axis=-1)
    return keras.Model(inputs, [layers.Dense(3)(scores), conv(2)(x)])


def attention_as_operation():
    """`ops.dot_product_attention`, with fewer keys than queries too, a bias and a mask."""
    inputs = keras.Input((6, 5))
    x = layers.Dense(12, activation="relu")(inputs)

    def parted(size, heads, width):
        return layers.Reshape((size, heads, width))(layers.Dense(heads * width)(x))

    q, k, v = (parted(6, 2, 8) for _ in range(3))
    bias = np.random.default_rng(0).normal(size=(1, 1, 6, 6)).astype("float32")
    y = layers.Reshape((6, 16))(ops.dot_product_attention(q, k, v, bias=bias, is_causal=True))
    q, k, v = parted(6, 4, 8), parted(6, 2, 8), parted(6, 2, 8)
    x = x + layers.Dense(12)(y)
    x = x + layers.EinsumDense("abde,dec->abc", (6, 12))(ops.dot_product_attention(q, k, v))
    q, k, v = parted(6, 4, 8), parted(6, 4, 8), parted(6, 4, 8)
    mask = ops.expand_dims(ops.sum(x, axis=-1), 1)[:, None] > -1e6
    y = ops.dot_product_attention(q, k, v, mask=mask, scale=0.3)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(y)))


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    build.__name__: build
    for build in (
        plain, sequential, residual, dense_block, squeeze_excite, separable, resized, grouped,
        shuffled, split, shared_and_nested, inside, sequence, volume, recurrent, wrapped, masked,
        windows, translated, mixer, moved, blocks, filmed, looked_up, attention, attention_by_hand,
        summed, attention_as_operation, films,
    )
}  # fmt: skip


PARTS = (
    "conv", "residual", "concat", "depthwise", "gate", "nested", "grouped", "split", "shared",
    "transposed", "rows", "resized", "heads",
)  # fmt: skip


def network(parts, widths, flat, several):
    """A graph of branches, concatenations, sums, gates and nested models."""
    inputs = keras.Input((6, 6, 3))
    x = bn_relu(conv(widths[-1])(inputs))
    for part, width in zip(parts, widths, strict=False):
        channels = x.shape[-1]
        if part == "conv":
            x = bn_relu(conv(width)(x))
        elif part == "residual":
            x = layers.ReLU()(layers.Add()([x, conv(channels)(bn_relu(conv(width)(x)))]))
        elif part == "concat":
            x = layers.Concatenate()([conv(width)(x), x, conv(width, 1, activation="relu")(x)])
        elif part == "depthwise":
            x = bn_relu(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x))
        elif part == "gate":
            g = layers.Dense(width, activation="relu")(layers.GlobalAveragePooling2D()(x))
            g = layers.Dense(channels, activation="sigmoid")(g)
            x = layers.Multiply()([x, layers.Reshape((1, 1, channels))(g)])
        elif part == "nested":
            inner = keras.Input(x.shape[1:])
            x = keras.Model(inner, conv(width)(inner) * 2.0)(x)
        elif part == "grouped":
            x = layers.ReLU()(conv(2 * channels, groups=2 if channels % 2 == 0 else 1)(x))
        elif part == "split":
            half = channels // 2
            x = ops.concatenate([conv(width)(x[..., :half]), x[..., half:]], axis=-1)
        elif part == "transposed":
            x = layers.ReLU()(layers.Conv2DTranspose(width, 3, padding="same")(x))
        elif part == "rows":
            x = layers.Concatenate(axis=1)([x, conv(channels, activation="relu")(x)])[:, 3:9]
        elif part == "resized":
            x = ops.image.resize(layers.Resizing(4, 5)(x), (6, 6))
        elif part == "heads":
            y = layers.Reshape((6, 6, 2, width))(conv(2 * width, activation="relu")(x))
            x = layers.ReLU()(ops.max(y, axis=3))
        else:
            layer = conv(channels, activation="relu")
            x = layer(layer(x))
    y = layers.Flatten()(x) if flat else layers.GlobalAveragePooling2D()(x)
    y = layers.Dense(3)(y)
    return keras.Model(inputs, [y, conv(2)(x)] if several else y)


def silence(found, gone):
    """The channels that go are 0: what makes and follows them, and nothing that reads them."""
    for record in found.records.values():
        for slot in record.slots:
            value = np.array(slot.variable)
            for number, axis in enumerate(slot.axes):
                if axis is not None and number not in slot.reads:
                    index = [slice(None)] * value.ndim
                    index[number] = gone[found.classes[axis]]
                    value[tuple(index)] = 1 if "variance" in slot.variable.path else 0
            slot.variable.assign(value)
