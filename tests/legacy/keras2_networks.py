"""tf_keras networks of every kind of layer, with inputs for each."""

import numpy as np
import tensorflow as tf

from tfcompress.legacy.packages import keras2

tk = keras2()
L = tk.layers
I = tk.Input  # noqa: E741


def randomized(model, norms_only=False):
    """Gives a model weights and BatchNorm statistics as if it had been trained."""
    generator = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if norms_only and not isinstance(layer, L.BatchNormalization):
            continue
        for weight in layer._trainable_weights + layer._non_trainable_weights:
            own = hasattr(layer, "adapt")
            if own or not weight.dtype.is_floating:
                continue
            values = generator.normal(0, 0.3, weight.shape)
            if "variance" in weight.name or "gamma" in weight.name:
                values = np.abs(values) + 0.5
            weight.assign(values)
    return model


def numbers(*shapes, dtype="float32"):
    def make():
        generator = np.random.default_rng(1)
        arrays = [generator.normal(size=(3, *shape)).astype(dtype) for shape in shapes]
        return arrays if len(arrays) > 1 else arrays[0]

    return make


def tokens(top, *shape):
    return lambda: np.random.default_rng(1).integers(0, top, (3, *shape)).astype("int32")


def dense():
    return tk.Sequential(
        [
            I((7,)),
            L.Dense(5, "relu", kernel_regularizer="l2", kernel_constraint="non_neg"),
            L.Dropout(0.3, seed=4),
            L.GaussianNoise(0.1),
            L.ActivityRegularization(0.1),
            L.Dense(4, activation=L.LeakyReLU(0.1)),
            L.Dense(3, "softmax"),
        ]
    )


def activations():
    i = I((7,))
    named = "relu softmax elu selu softplus softsign tanh sigmoid exponential linear gelu swish \
             hard_sigmoid mish"
    outputs = [L.Activation(name)(i) for name in named.split()]
    own = (L.ReLU(2.0, 0.1, 0.3), L.LeakyReLU(0.2), L.ELU(0.5), L.PReLU(), L.ThresholdedReLU(0.4))
    return tk.Model(i, [*outputs, *(layer(i) for layer in own), L.Softmax()(i)])


def recurrent():
    i = I((3, 4))
    _, h, c = L.LSTM(3, return_state=True)(i)
    return tk.Model(
        i,
        [
            L.LSTM(3, recurrent_activation="hard_sigmoid")(i),
            L.LSTM(3)(i, initial_state=[h, c]),
            L.GRU(3, return_sequences=True)(i, initial_state=h),
            L.GRU(3, reset_after=False, go_backwards=True)(i),
            L.SimpleRNN(3, unroll=True)(i),
            L.RNN([L.GRUCell(3), L.LSTMCell(2)])(i),
        ],
    )


def bidirectional():
    i = I((3, 4))
    return tk.Model(
        i,
        [
            L.Bidirectional(L.LSTM(3, return_sequences=True))(i),
            L.Bidirectional(L.LSTM(3), "sum", backward_layer=L.LSTM(3, go_backwards=True))(i),
        ],
    )


def masked():
    i = I((3,), dtype="int32")
    e = L.Embedding(10, 4, mask_zero=True, input_length=3)(i)
    attended = L.MultiHeadAttention(2, 4)(e, e)
    pooled = L.GlobalAveragePooling1D()(e)
    return tk.Model(i, [L.LSTM(3)(e), L.Bidirectional(L.GRU(3))(e), pooled, attended])


def masked_states():
    """Masks beside states to begin with; two masks that become one."""
    i, h = I((7,), dtype="int32"), I((3,))
    e = L.Embedding(1000, 4, mask_zero=True)(i)
    two = L.Concatenate(name="concatenate")([e, L.Embedding(1000, 2, mask_zero=True)(i)])
    _, state = L.GRU(3, return_state=True)(two)
    return tk.Model(
        [i, h],
        [
            L.GRU(3)(e, initial_state=h),
            L.Bidirectional(L.GRU(3))(e, initial_state=[h, h]),
            L.GRU(3, return_sequences=True)(two, initial_state=state),
        ],
    )


def convolutions():
    i = I((12, 12, 3))
    x = L.Conv2D(4, 3, padding="same", dilation_rate=2)(i)
    x = L.DepthwiseConv2D(3, depth_multiplier=2)(L.BatchNormalization()(x))
    x = L.SeparableConv2D(5, 3, activation="relu")(x)
    x = L.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1)(x)
    x = L.Conv2D(6, 1, groups=3)(L.AveragePooling2D(padding="same")(L.UpSampling2D()(x)))
    ends = (L.GlobalMaxPooling2D(), L.MaxPooling2D(), L.Cropping2D(1), L.ZeroPadding2D(1))
    return tk.Model(i, [end(x) for end in (*ends, L.Flatten(), L.SpatialDropout2D(0.1))])


def other_ranks():
    i, j = I((12, 3)), I((5, 5, 5, 2))
    one = (L.Conv1D(4, 3, padding="causal"), L.SeparableConv1D(4, 3), L.DepthwiseConv1D(3))
    more = (L.Conv1DTranspose(4, 3), L.UpSampling1D(), L.AveragePooling1D(), L.RepeatVector(2))
    return tk.Model(
        [i, j],
        [
            *(layer(i) for layer in (*one, *more[:3])),
            more[3](L.GlobalMaxPooling1D()(i)),
            L.Conv3D(4, 3)(j),
            L.Conv3DTranspose(2, 2)(j),
            L.MaxPooling3D()(j),
        ],
    )


def norms():
    i = I((6, 8))
    layers = (
        *(L.LayerNormalization(), L.LayerNormalization(axis=[1, 2]), L.GroupNormalization(4)),
        *(L.UnitNormalization(), L.BatchNormalization(axis=[2], scale=False)),
        *(L.BatchNormalization(center=False), L.experimental.SyncBatchNormalization()),
    )
    return tk.Model(i, [layer(i) for layer in layers])


def attention():
    i = I((6, 8))
    y, scores = L.MultiHeadAttention(2, 4, dropout=0.1)(i, i, return_attention_scores=True)
    causal = L.MultiHeadAttention(2, 4, value_dim=3, use_bias=False, output_shape=5)
    plain = L.Attention(use_scale=True)([i, i])
    return tk.Model(
        i,
        [y, scores, causal(i, i, use_causal_mask=True), plain, L.AdditiveAttention()([i, i])],
    )


def merging():
    i, j = I((6,)), I((6,))
    kinds = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum, L.Concatenate)
    return tk.Model([i, j], {kind.__name__: kind()([i, j]) for kind in kinds})


def shapes():
    i = I((6, 4))
    einsum = L.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d")
    layers = (L.Permute((2, 1)), L.Reshape((8, 3)), L.Cropping1D(1), L.ZeroPadding1D(1), einsum)
    inner = tk.Sequential([I((4,)), L.Dense(3), L.BatchNormalization()])
    ends = [L.TimeDistributed(L.Dense(3))(i), L.TimeDistributed(inner)(i)]
    return tk.Model(i, [*(layer(i) for layer in layers), *ends])


def functions():
    i = I((6, 4))
    positive = tf.abs(i) + 0.5
    sizes = tf.shape(i)
    return tk.Model(
        i,
        [
            *(tf.nn.relu(i) + 1.0, i[:, 0], i[..., 1:3], i[:, ::2], 1 / positive, i**2.0, -i),
            *(2.0 - i, i / 3.0, positive // 0.7, i @ tf.transpose(i, [0, 2, 1])),
            *(tf.reduce_mean(i, axis=[1]), tf.reduce_sum(i, 1, keepdims=True), tf.reduce_max(i)),
            *(tf.concat([i, i], -1), tf.reshape(i, (-1, 24)), tf.reshape(i, (sizes[0], 12, 2))),
            *(tf.cast(i, "float16"), tf.clip_by_value(i, -1, 1), tf.squeeze(i[:, :1], 1)),
            *(*tf.split(i, 2, axis=1), *tf.split(i, [1, 3], axis=2), tf.stack([i, i], 1)),
            *(tf.pad(i, [[0, 0], [1, 1], [0, 0]]), tf.pad(i, [[0, 0], [1, 1], [0, 0]], "REFLECT")),
            *(tf.tile(i, [1, 2, 1]), tf.where(i > 0, i, 0.1 * i), tf.math.l2_normalize(i, -1)),
            *(tf.nn.softmax(i), tf.nn.gelu(i), tf.nn.swish(i), tf.nn.leaky_relu(i, 0.3)),
            *(tf.nn.relu6(i), tf.nn.elu(i), tf.sqrt(positive), tf.math.log(positive), tf.exp(i)),
            *(tf.math.rsqrt(positive), tf.sigmoid(i), tf.tanh(i), tf.square(i), tf.floor(i)),
            *(tf.argmax(i, -1), tf.one_hot(tf.argmax(i, -1), 4), tf.gather(i, [0, 2], axis=1)),
            *(tf.einsum("abc,abd->acd", i, i), tf.math.reduce_std(i, -1), tf.cumsum(i, 1)),
            *(i * tf.constant([1.0, 2, 3, 4]), tk.backend.relu(i, max_value=0.4), i >= 0.0),
            *(tf.math.squared_difference(i, 1.0), tf.logical_and(i > 0.0, i < 1.0)),
            tf.image.resize(tf.expand_dims(i, -1), (12, 6)),
        ],
    )


def more_functions():
    i, free = I((6, 4)), I((None, 4))
    sizes, shape = tf.shape(i), tf.shape(free)
    pads = [[0, 0], [1, 2], [0, 0]]
    best, places = tf.math.top_k(i, 2)
    chosen = tf.argsort(i[:, :3, 0], direction="DESCENDING")
    return tk.Model(
        [i, free],
        [
            *(tf.reshape(i, [sizes[0], -1]), tf.reshape(i, [sizes[0], -1, 2])),
            *(tf.reshape(free, [shape[0], -1]), tf.reshape(free, [shape[0], shape[1], 2, 2])),
            *(tf.pad(i, pads, constant_values=2.0), tf.broadcast_to(i[:, :1], sizes)),
            *(tf.norm(i, axis=-1), tf.norm(i, 1, axis=1, keepdims=True), best, places),
            *(tf.sort(i, 1), tf.sort(i, 1, "DESCENDING"), tf.reverse(i, [1, 2])),
            *(tf.roll(i, 2, 1), tf.roll(i, [1, 2], [1, 2]), tf.linalg.matrix_transpose(i)),
            *(chosen, tf.gather(i, chosen, axis=1, batch_dims=1), tf.repeat(i, 2, axis=1)),
            tf.gather(i[:, :, 0], chosen, batch_dims=1),
            tf.gather(i, tf.argmax(i[:, :, 0], 1), batch_dims=1),
        ],
    )


def nested():
    inner = tk.Sequential([I((6,)), L.Dense(4), L.BatchNormalization()])
    i, j = I((6,)), I((6,))
    joined = L.Concatenate()([inner(i), j])
    return tk.Model({"a": i, "b": j}, {"x": inner(i) - inner(j), "y": joined})


def preprocessing():
    normal = L.Normalization()
    normal.adapt(np.random.default_rng(0).normal(3, 2, (100, 4)).astype("float32"))
    i = I((4,))
    return tk.Model(i, [normal(i), L.Rescaling(0.5, -1)(i), L.Discretization([0.0, 1.0])(i)])


def images():
    i = I((8, 8, 3))
    layers = (L.Resizing(4, 4), L.Resizing(12, 10, "nearest"), L.CenterCrop(4, 4), L.RandomFlip())
    return tk.Model(i, [layer(i) for layer in (*layers, L.RandomRotation(0.2))])


def words():
    text = L.TextVectorization(output_sequence_length=5)
    text.adapt(["a b c", "b c d unknown word"])
    i = I((1,), dtype="string")
    look = L.StringLookup(vocabulary=["a", "b"])(i)
    return tk.Model(i, [L.Embedding(20, 3)(text(i)), look])


def mixed():
    half = tk.mixed_precision.Policy("mixed_float16")
    return tk.Sequential([I((6,)), L.Dense(4, dtype=half), L.Dense(3, dtype="float32")])


def added_loss():
    i = I((6,))
    y = L.Dense(3)(L.BatchNormalization()(L.Dropout(0.4)(i, training=False), training=False))
    model = tk.Model(i, [y, i])
    model.add_loss(tf.reduce_mean(y))
    return model


def padded():
    ids = np.random.default_rng(1).integers(1, 1000, (3, 7)).astype("int32")
    ids[:, 4:] = 0
    return [ids, numbers((3,))()]


def pair():
    a, b = numbers((6,), (6,))()
    return {"a": a, "b": b}


NETWORKS = {
    "dense": (dense, numbers((7,))),
    "activations": (activations, numbers((7,))),
    "recurrent": (recurrent, numbers((3, 4))),
    "bidirectional": (bidirectional, numbers((3, 4))),
    "masked": (masked, tokens(10, 3)),
    "masked states": (masked_states, padded),
    "convolutions": (convolutions, numbers((12, 12, 3))),
    "other ranks": (other_ranks, numbers((12, 3), (5, 5, 5, 2))),
    "norms": (norms, numbers((6, 8))),
    "attention": (attention, numbers((6, 8))),
    "merging": (merging, numbers((6,), (6,))),
    "shapes": (shapes, numbers((6, 4))),
    "functions": (functions, numbers((6, 4))),
    "more functions": (more_functions, numbers((6, 4), (5, 4))),
    "nested": (nested, pair),
    "preprocessing": (preprocessing, numbers((4,))),
    "images": (images, numbers((8, 8, 3))),
    "words": (words, lambda: tf.constant([["a c"], ["b"], ["never seen"]])),
    "mixed precision": (mixed, numbers((6,))),
    "added loss": (added_loss, numbers((6,))),
}
