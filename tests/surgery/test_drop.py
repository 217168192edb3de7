"""`tfc.drop_layers` and `tfc.rank_blocks`: what is left computes what it must."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from surgery_support import (
    assert_trains_saves_converts,
    chain,
    entries,
    examples,
    outputs,
    scramble,
)

import tfcompress as tfc
from tfcompress.errors import ConfigError, DataError, ModelTypeError, ScopeError
from tfcompress.surgery.blocks import find_blocks

layers = keras.layers


def residual_network():
    """Three residual blocks of one kind, one that changes the shape, and a head."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    for n in (1, 2, 3):
        y = layers.Conv2D(6, 3, padding="same", activation="relu", name=f"b{n}_conv1")(x)
        y = layers.BatchNormalization(name=f"b{n}_bn")(y)
        y = layers.Conv2D(6, 3, padding="same", name=f"b{n}_conv2")(y)
        x = layers.Add(name=f"b{n}_add")([x, y])
        x = layers.ReLU(name=f"b{n}_out")(x)
    y = layers.Conv2D(10, 3, strides=2, padding="same", name="b4_conv")(x)
    x = layers.Conv2D(10, 1, strides=2, name="b4_short")(x)
    x = layers.Add(name="b4_add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return scramble(keras.Model(inputs, layers.Dense(3, name="scores")(x)))


def by_hand(model, blocks):
    """The residual network's outputs with these blocks only, by calling its layers."""
    at = model.get_layer
    inputs = keras.Input((8, 8, 3))
    x = at("stem")(inputs)
    for n in blocks:
        y = at(f"b{n}_conv2")(at(f"b{n}_bn")(at(f"b{n}_conv1")(x)))
        x = at(f"b{n}_out")(at(f"b{n}_add")([x, y]))
    x = at("b4_add")([at("b4_short")(x), at("b4_conv")(x)])
    return keras.Model(inputs, at("scores")(at("pool")(x)))


def assert_equal(one, two):
    x = examples(one)
    for a, b in zip(outputs(one, x), outputs(two, x), strict=True):
        np.testing.assert_array_equal(a, b)


BLOCKS = {  # what is dropped, and the blocks that stay
    "a glob": ("b2_*", (1, 3)),
    "a range": (("b2_conv1", "b2_out"), (1, 3)),
    "globs": (["b1_*", "b3_*"], (2,)),
    "blocks in a row as one": ("b[12]_*", (3,)),
    "a range over two": (("b1_conv1", "b2_out"), (3,)),
    "names": (["b3_conv1", "b3_bn", "b3_conv2", "b3_add", "b3_out"], (1, 2)),
    "a function": (lambda layer: layer.name.startswith("b1_"), (2, 3)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_residual_block(name):
    what, left = BLOCKS[name]
    model = residual_network()
    dropped = tfc.drop_layers(model, what)
    assert_equal(by_hand(model, left), dropped)
    names = {layer.name for layer in dropped.layers}
    gone = {f"b{n}" for n in (1, 2, 3) if n not in left}
    assert not any(name[:2] in gone for name in names)
    assert {e.name for e in dropped.compression_report.changed} == {
        layer.name for layer in model.layers if layer.name not in names
    }
    assert len(model.layers) == 22


def test_what_only_fed_the_part_goes_too():
    inputs = keras.Input((5, 4))
    gate = layers.Dense(4, activation="sigmoid", name="gate")(inputs)
    gate = layers.Dense(4, name="gate_out")(gate)
    x = layers.Dense(4, name="before")(inputs)
    x = layers.Multiply(name="scale")([layers.Dense(4, name="a")(x), gate])
    model = scramble(keras.Model(inputs, layers.Dense(2, name="after")(x)))
    dropped = tfc.drop_layers(model, ("a", "scale"))
    assert [layer.name for layer in dropped.layers[1:]] == ["before", "after"]
    found = entries(dropped)
    assert found["gate"] == found["gate_out"] == ("dropped", "it only fed what was cut out")
    assert found["a"] == ("dropped", "")


def test_a_reader_of_the_inside_keeps_it():
    inputs = keras.Input((5, 4))
    a = layers.Dense(4, name="a")(inputs)
    b = layers.Dense(4, name="b")(a)
    model = scramble(keras.Model(inputs, [b, layers.Dense(2, name="c")(a)]))
    first, second = outputs(tfc.drop_layers(model, ("a", "b")), x := examples(model))
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, outputs(model, x)[1])


def test_sequential_by_class():
    model = keras.Sequential(
        [keras.Input((5, 4)), layers.Dense(4, name="a"), layers.Dropout(0.5),
         layers.LayerNormalization(name="n"), layers.Dense(4, name="b"), layers.Dropout(0.5)]
    )  # fmt: skip
    scramble(model)
    dropped = tfc.drop_layers(model, [layers.Dropout, "n"])
    assert type(dropped) is keras.Sequential
    assert [layer.name for layer in dropped.layers] == ["a", "b"]
    x = examples(model)
    np.testing.assert_array_equal(
        outputs(dropped, x)[0], np.asarray(model.get_layer("b")(model.get_layer("a")(x)))
    )
    assert tfc.drop_layers(model, layers.Dropout).layers[-1].name == "b"


def test_nested_and_shared():
    inner = keras.Sequential(
        [keras.Input((5, 4)), layers.Dense(4, name="keep"), layers.Dense(4, name="cut")],
        name="inner",
    )
    norm = layers.LayerNormalization(name="norm")
    a, b = keras.Input((5, 4)), keras.Input((5, 4))
    model = scramble(keras.Model([a, b], layers.Add()([norm(inner(a)), norm(inner(b))])))
    x = examples(model)
    keep = model.get_layer("inner").get_layer("keep")
    within = tfc.drop_layers(model, "inner/cut")
    wanted = norm(keep(x[0])) + norm(keep(x[1]))
    np.testing.assert_allclose(outputs(within, x)[0], wanted, atol=1e-6)
    assert [e.name for e in within.compression_report.changed] == ["inner/cut"]
    whole = tfc.drop_layers(model, "inner")
    np.testing.assert_allclose(outputs(whole, x)[0], norm(x[0]) + norm(x[1]), atol=1e-6)
    assert {e.name for e in whole.compression_report.changed} == {
        "inner", "inner/keep", "inner/cut",
    }  # fmt: skip
    both = tfc.drop_layers(model, "norm")
    np.testing.assert_allclose(outputs(both, x)[0], inner(x[0]) + inner(x[1]), atol=1e-6)


def test_an_input_that_is_no_longer_read():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = layers.Add(name="add")([layers.Dense(4, name="d")(a), layers.Dense(4, name="e")(b)])
    model = scramble(keras.Model([a, b], layers.Dense(2, name="f")(x)))
    dropped = tfc.drop_layers(model, ("d", "add"))
    x = examples(model)
    np.testing.assert_array_equal(outputs(dropped, x)[0], np.asarray(model.get_layer("f")(x[0])))
    assert any("'b'" in note for note in dropped.compression_report.notes)


def test_trains_saves_converts(tmp_path):
    assert_trains_saves_converts(tfc.drop_layers(residual_network(), "b2_*"), tmp_path)


BAD = {
    "shapes": ("b4_*", r"\(None, 8, 8, 6\) and gives \(None, 4, 4, 10\)"),
    "shapes of a range": (("stem", "b1_out"), r"\(None, 8, 8, 3\) and gives \(None, 8, 8, 6\)"),
    "which of two": ("b2_add", "clear which goes on"),
    "the wrong way round": (("b2_add", "b2_conv1"), "does not depend on"),
    "nothing": ([], "at least one"),
    "not a layer": (None, "must name layers"),
    "a number": (3, "layer names"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_cut_out(name):
    what, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        tfc.drop_layers(residual_network(), what)


def test_unknown_names_empty_models_and_other_models():
    with pytest.raises(ScopeError, match="b5"):
        tfc.drop_layers(residual_network(), "b5_*")
    with pytest.raises(ScopeError, match="b5"):
        tfc.drop_layers(residual_network(), ("b1_conv1", "b5_add"))
    with pytest.raises(ConfigError, match="left"):
        tfc.drop_layers(chain((4,), layers.Dense(4, name="a")), "a")
    shared = layers.Dense(4, name="shared")
    twice = chain((4,), shared, layers.ReLU(name="r"), shared)
    with pytest.raises(ConfigError, match="one call each"):
        tfc.drop_layers(twice, ("shared", "r"))
    inner = chain((4,), layers.Dense(4, name="in"), layers.Dense(4, name="in2"))
    inner.name = "inner"
    with pytest.raises(ConfigError, match="same model"):
        tfc.drop_layers(chain((4,), layers.Dense(4, name="out"), inner), ("out", "inner/in"))
    with pytest.raises(ModelTypeError):
        tfc.drop_layers(keras.Sequential([layers.Dense(4)]), "dense")


# -- blocks


def transformer(norm_first, operators=False):
    inputs = keras.Input((6, 8))
    x = layers.Dense(8, name="embed")(inputs)

    def add(a, b, name):
        return a + b if operators else layers.Add(name=name)([a, b])

    for n in (1, 2):
        norms = [layers.LayerNormalization(name=f"t{n}_norm{i}") for i in (1, 2)]
        attention = layers.MultiHeadAttention(2, 4, name=f"t{n}_attention")
        up = layers.Dense(16, activation="gelu", name=f"t{n}_up")
        down = layers.Dense(8, name=f"t{n}_down")
        if norm_first:
            y = norms[0](x)
            x = add(x, layers.Dropout(0.1)(attention(y, y)), f"t{n}_add1")
            x = add(x, down(up(norms[1](x))), f"t{n}_add2")
        else:
            x = norms[0](add(x, attention(x, x), f"t{n}_add1"))
            x = norms[1](add(x, down(up(x)), f"t{n}_add2"))
    x = layers.GlobalAveragePooling1D()(x)
    return scramble(keras.Model(inputs, layers.Dense(3, name="scores")(x)))


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layers_are_found(norm_first, operators):
    model = transformer(norm_first, operators)
    blocks = find_blocks(model)
    assert [b.kind for b in blocks].count("transformer") == 2
    assert [b.kind for b in blocks].count("residual") == 4
    second = [b for b in blocks if b.kind == "transformer"][1]
    prefixed = {layer.name for layer in model.layers if layer.name.startswith("t2_")}
    assert prefixed <= set(second.layers)
    dropped = tfc.drop_layers(model, second)
    assert not any(layer.name.startswith("t2_") for layer in dropped.layers)
    assert sum(layer.name.startswith("t1_") for layer in dropped.layers) == len(prefixed)
    at = model.get_layer
    x = examples(model)
    end = keras.Model(
        model.inputs, find_output(model, next(b for b in blocks if b.kind == "transformer"))
    )
    wanted = at("scores")(keras.ops.mean(end(x), axis=1))
    np.testing.assert_allclose(outputs(dropped, x)[0], wanted, atol=1e-6)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_pattern_takes_the_operations_between_its_layers_along(norm, positions):
    sizes = {"width": 16, "heads": 2, "norm": norm, "positions": positions, "dropout": 0.0}
    model = tfc.models.bert_encoder(20, 6, **sizes, blocks=3)
    smaller = tfc.drop_layers(model, "block_2_*")
    wanted = tfc.models.bert_encoder(20, 6, **sizes, blocks=2)
    rest = [w for w in model.weights if "block_2_" not in w.path]
    wanted.set_weights([w.numpy() for w in rest])
    assert len(smaller.operations) == len(wanted.operations)
    tokens = np.random.default_rng(0).integers(0, 20, (4, 6))
    np.testing.assert_array_equal(smaller(tokens), wanted(tokens))


def test_operations_between_layers_that_can_go_alone_stay():
    layers, ops = keras.layers, keras.ops
    inputs = keras.Input((8,))
    x = layers.Dropout(0.1, name="drop_1")(layers.Dense(8)(inputs))
    x = layers.Dropout(0.1, name="drop_2")(ops.relu(x) + inputs)
    model = keras.Model(inputs, layers.Dense(3)(x))
    for dropped in (tfc.drop_layers(model, "drop_*"), tfc.drop_layers(model, layers.Dropout)):
        assert not any(isinstance(layer, layers.Dropout) for layer in dropped.layers)
        assert_equal(dropped, model)


def find_output(model, block):
    for operation in model.operations:
        if operation.name == block.end:
            return operation.output
    raise AssertionError(block.end)


def test_residual_blocks_are_found():
    model = residual_network()
    blocks = find_blocks(model)
    assert [(b.start, b.end) for b in blocks] == [(f"b{n}_conv1", f"b{n}_add") for n in (1, 2, 3)]
    assert find_blocks(chain((4,), layers.Dense(4), layers.Dense(4))) == []


def test_a_branch_that_is_read_elsewhere_is_no_block():
    inputs = keras.Input((5, 4))
    y = layers.Dense(4, name="branch")(inputs)
    x = layers.Add()([inputs, y])
    assert find_blocks(keras.Model(inputs, layers.Concatenate()([x, y]))) == []
    assert find_blocks(keras.Model(inputs, [x, y])) == []
    assert len(find_blocks(keras.Model(inputs, layers.Dense(2)(x)))) == 1


class OwnBlock(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return x + self.attention(x, x)


def test_nested_models_and_own_layers_are_blocks():
    inner = chain((6, 8), layers.Dense(8), layers.Dense(8))
    inner.name = "inner"
    model = chain((6, 8), layers.Dense(8), OwnBlock(name="own"), inner, layers.Dense(2))
    assert [(b.name, b.kind) for b in find_blocks(model)] == [
        ("own", "transformer"), ("inner", "layer"),
    ]  # fmt: skip


def residual(name):
    """A nested model that is a residual block and nothing else; its layers have common names."""
    inputs = keras.Input((8,))
    y = layers.Dense(8, name="cut")(layers.Dense(4, name="up")(inputs))
    return keras.Model(inputs, layers.Add(name="sum")([inputs, y]), name=name)


def test_blocks_of_nested_models_are_ranked():
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="cut"), layers.Dense(8)], name="inner"
    )
    inputs = keras.Input((8,))
    x = layers.Dense(8, name="cut")(inputs)
    x = layers.Add(name="sum")([layers.Dense(8, name="up")(x), x])
    x = residual("second")(residual("first")(inner(x)))
    model = scramble(keras.Model(inputs, layers.Dense(3)(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    blocks = tfc.rank_blocks(model, data(model), loss=loss, verbose=0)
    assert {block.name for block in blocks} == {"up to sum", "inner", "first", "second"}
    for block in blocks:
        dropped = tfc.drop_layers(model, block)
        names = {entry.name for entry in dropped.compression_report.changed}
        assert set(block.layers) <= names and "cut" not in names
    assert_equal(
        tfc.drop_layers(model, ("inner", "second")),
        tfc.drop_layers(model, ["inner", "first", "second"]),
    )


def test_a_block_that_is_all_of_a_model_is_none():
    model = residual("all")
    assert find_blocks(model) == []
    assert tfc.rank_blocks(model, (np.ones((4, 8)), np.ones((4, 8))), loss="mse", verbose=0) == []


def test_masks_do_not_hide_a_transformer_layer():
    tokens, mask = keras.Input((6, 8)), keras.Input((6, 6), dtype="bool")
    y = layers.MultiHeadAttention(2, 4, name="attention")(tokens, tokens, attention_mask=mask)
    model = keras.Model([tokens, mask], layers.Dense(2)(layers.Add(name="add")([tokens, y])))
    (block,) = find_blocks(model)
    assert (block.start, block.end) == ("attention", "add")
    assert [layer.name for layer in tfc.drop_layers(model, block).layers][-1].startswith("dense")


def data(model, count=50):
    generator = np.random.default_rng(3)
    x = generator.normal(size=(count, *model.input_shape[1:])).astype("float32")
    return x, generator.integers(0, 3, count)


def cross_entropy(logits, labels):
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels])


def test_the_ranking_is_by_the_loss_without_each():
    model = residual_network()
    model.get_layer("b3_conv2").kernel_regularizer = keras.regularizers.L2(10.0)
    # A block that does nothing: leaving it out changes nothing.
    for variable in model.get_layer("b2_conv2").weights:
        variable.assign(np.zeros(variable.shape))
    x, y = data(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    blocks = tfc.rank_blocks(model, (x, y), loss=loss, batch_size=16, verbose=0)
    assert [block.rise for block in blocks] == sorted(block.rise for block in blocks)
    whole = cross_entropy(outputs(model, x)[0], y)
    for block in blocks:
        without = cross_entropy(outputs(tfc.drop_layers(model, block), x)[0], y)
        assert block.loss == pytest.approx(without, rel=1e-5)
        assert block.rise == pytest.approx(without - whole, abs=1e-5)
        assert block.parameters == 2 * (9 * 36 + 6) + 24
        assert block.multiply_adds == 2 * 64 * 9 * 36
        assert "multiply-adds" in str(block)
    (still,) = (block for block in blocks if block.start == "b2_conv1")
    assert still.rise == pytest.approx(0, abs=1e-6)


def test_ranking_takes_the_compiled_loss_and_batches(capsys):
    import tensorflow as tf

    model = residual_network()
    model.compile("sgd", loss={"scores": "mse"}, loss_weights={"scores": 3.0})
    x, y = data(model)
    y = keras.ops.one_hot(y, 3)
    blocks = tfc.rank_blocks(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(20))
    assert "3/3" in capsys.readouterr().out
    for block in blocks:
        without = outputs(tfc.drop_layers(model, block), x)[0]
        assert block.loss == pytest.approx(3 * np.mean((without - y) ** 2), rel=1e-5)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda x, y: (x,), DataError, "tuple of 1"),
        (lambda x, y: x, DataError, "ndarray"),
        (lambda x, y: (x, y[:3]), DataError, "lengths"),
        (lambda x, y: (x[:0], y[:0]), DataError, "above 0"),
        (lambda x, y: [], DataError, "no batches"),
        (lambda x, y: [x], DataError, "batch of ndarray"),
        (lambda x, y: (x[..., :2], y), DataError, "fit"),
    ],
)
def test_bad_data(bad, error, message):
    model = residual_network()
    with pytest.raises(error, match=message):
        tfc.rank_blocks(model, bad(*data(model)), loss="sparse_categorical_crossentropy")


def test_a_ranking_needs_a_loss():
    model = residual_network()
    with pytest.raises(ConfigError, match="loss"):
        tfc.rank_blocks(model, data(model))
    with pytest.raises(ModelTypeError):
        tfc.rank_blocks(keras.Sequential([layers.Dense(4)]), (1, 2))
    assert math.isnan(find_blocks(model)[0].loss)
