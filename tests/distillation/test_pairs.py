"""Which layers are compared, found and told; nothing is trained here but one step."""

import keras
import numpy as np
import pytest
from distilling import convnet

import tfcompress as tfc


def transformer(blocks, width, heads, seed=0):
    """Post-norm blocks on 6 tokens, and a softmax over 3 classes."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, width, mask_zero=True, name="words")(inputs)
    for i in range(blocks):
        attended = layers.MultiHeadAttention(heads, 4, name=f"mha_{i}")(x, x)
        x = layers.LayerNormalization(name=f"norm_{i}a")(
            layers.Add(name=f"add_{i}a")([x, attended])
        )
        grown = layers.Dense(2 * width, activation="gelu", name=f"grow_{i}")(x)
        grown = layers.Dense(width, name=f"shrink_{i}")(grown)
        x = layers.LayerNormalization(name=f"norm_{i}b")(layers.Add(name=f"add_{i}b")([x, grown]))
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="scores")(x))


def paired(model, method):
    return [
        (entry.name, entry.details["teacher"])
        for entry in model.compression_report.changed
        if entry.action == method
    ]


def test_transformers_are_paired_evenly_by_depth():
    student, teacher = transformer(2, 8, 2), transformer(4, 12, 3, seed=1)
    model = tfc.distill(student, teacher, method=["logits", "hints", "attention", "relational"])
    assert paired(model, "attention") == [("mha_0", "mha_1"), ("mha_1", "mha_3")]
    assert paired(model, "hints") == [("norm_0b", "norm_1b"), ("norm_1b", "norm_3b")]
    assert paired(model, "relational") == [("mean", "mean")]
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    tokens = np.array([[1, 2, 3, 4, 0, 0], [5, 6, 7, 8, 9, 10]])
    weights = np.array([1.0, 2.0], "float32")
    found = model.train_on_batch(tokens, np.array([0, 2]), weights, return_dict=True)
    assert np.isfinite(found["loss"])


def test_attention_matrices_are_those_that_the_layer_computes():
    from tfcompress.distillation.watching import Watched

    model = transformer(1, 8, 2)
    watched = Watched(model)
    call = watched.find("mha_0", "pairs")
    watched.watch_scores(call)
    tokens = np.array([[1, 2, 3, 4, 5, 6]])
    seen = watched(tokens, False)
    words = model.get_layer("words")(tokens)
    _, wanted = model.get_layer("mha_0")(words, words, return_attention_scores=True)
    np.testing.assert_allclose(seen.scores[id(call)], wanted, rtol=1e-6)
    assert np.array_equal(seen.outputs, model(tokens))


def test_a_student_of_fewer_sizes_and_what_is_left():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="half")(inputs)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="quarter")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    student = keras.Model(inputs, layers.Dense(5, activation="softmax", name="scores")(x))
    model = tfc.distill(student, convnet(8), method="attention")
    assert paired(model, "attention") == [("half", "deep")]
    left = {entry.name: entry.reason for entry in model.compression_report.left}
    assert left == {"quarter": "attention: the teacher has no layer of the size (2, 2)"}


def test_perceptrons_are_paired_by_depth():
    def perceptron(widths):
        inputs = keras.Input((7,))
        x = inputs
        for i, width in enumerate(widths):
            x = keras.layers.Dense(width, name=f"hidden_{i}")(x)
            x = keras.layers.ReLU(name=f"relu_{i}")(x)
        return keras.Model(inputs, keras.layers.Dense(2, name="scores")(x))

    model = tfc.distill(perceptron([4]), perceptron([9, 8, 6]), method=["hints", "relational"])
    assert paired(model, "hints") == [("relu_0", "relu_2")]
    assert [tuple(r.kernel.shape) for r in model.regressors] == [(4, 6)]


def test_layers_inside_nested_models_are_found_by_path():
    inner = convnet(8)
    backbone = keras.Model(inner.inputs, inner.get_layer("embedding").output, name="backbone")
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(5, activation="softmax", name="scores")(backbone(inputs))
    teacher, student = keras.Model(inputs, outputs), convnet(4, seed=1)
    pairs = {"deep": "backbone/deep"}
    model = tfc.distill(student, teacher, method=["logits", "hints"], pairs=pairs)
    assert paired(model, "hints") == [("deep", "backbone/deep")]
    x = np.random.default_rng(0).random((4, 8, 8, 3), "float32")
    seen = model.teacher.watched[0](x, False)
    assert np.array_equal(seen.outputs, teacher(x))
    wanted = keras.Model(inner.inputs, inner.get_layer("deep").output)(x)
    (found,) = [f for f in seen.features.values() if f.shape == wanted.shape]
    assert np.array_equal(found, wanted)


def test_pairs_for_each_method():
    pairs = {"hints": [("deep", "deep")], "attention": [("wide_relu", "wide_norm")]}
    model = tfc.distill(convnet(4), convnet(8), method=["hints", "attention"], pairs=pairs)
    assert paired(model, "hints") == [("deep", "deep")]
    assert paired(model, "attention") == [("wide_relu", "wide_norm")]
    with pytest.raises(tfc.ScopeError, match="wide_relu"):
        tfc.distill(convnet(4), convnet(8), method="hints", pairs=[("wide_relo", "wide")])


@pytest.mark.parametrize("end", ["softmax", None])
def test_what_a_model_in_time_distributed_ends_in(end):
    from tfcompress.distillation.watching import Watched

    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=end)])
    inputs = keras.Input((5, 4))
    watched = Watched(keras.Model(inputs, layers.TimeDistributed(inner, name="steps")(inputs)))
    assert [(e.kind, e.layer) for e in watched.endings] == [(end or "linear", "steps")]
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    logits = watched.logits(watched(x, False), 0, "softmax", False)
    kernel, bias = inner.layers[0].get_weights()
    wanted = x @ kernel + bias
    np.testing.assert_allclose(
        logits - np.mean(logits, -1, keepdims=True),
        wanted - wanted.mean(-1, keepdims=True), atol=1e-5,
    )  # fmt: skip
