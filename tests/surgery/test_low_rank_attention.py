"""`tfc.factorize` of attention: the same class, narrower heads, the closest products there are."""

import keras
import numpy as np
import pytest
from surgery_support import assert_same_outputs, assert_trains_saves_converts, scramble

import tfcompress as tfc

layers = keras.layers


def self_attention(**given):
    def build():
        x = inputs = keras.Input((6, 12))
        y = layers.MultiHeadAttention(3, 8, name="attention", **given)(x, x)
        return keras.Model(inputs, layers.Add()([x, y]) if y.shape == x.shape else y)

    return build


def crossed():
    """Query, value and key of three widths, scores read as well."""
    query, value, key = keras.Input((5, 10)), keras.Input((7, 14)), keras.Input((7, 9))
    attention = layers.MultiHeadAttention(2, 8, value_dim=6, name="attention")
    return keras.Model(
        [query, value, key], attention(query, value, key, return_attention_scores=True)
    )


def masked():
    """Words, some of them padding, of which nothing is looked at in causal attention."""
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 12, mask_zero=True)(inputs)
    attention = layers.MultiHeadAttention(3, 8, dropout=0.1, name="attention")
    return keras.Model(inputs, attention(x, x, use_causal_mask=True))


def called_twice():
    x, y = keras.Input((6, 12)), keras.Input((9, 12))
    attention = layers.MultiHeadAttention(3, 8, name="attention")
    return keras.Model([x, y], [attention(x, x), attention(x, y)])


def of_planes():
    x = inputs = keras.Input((4, 5, 12))
    return keras.Model(inputs, layers.MultiHeadAttention(
        3, 8, attention_axes=(1, 2), name="attention")(x, x))  # fmt: skip


def grouped(**given):
    def build():
        x = inputs = keras.Input((6, 12))
        y = layers.GroupQueryAttention(8, 4, 2, name="attention", **given)(x, x)
        return keras.Model(inputs, layers.Add()([x, y]))

    return build


NETWORKS = {
    "self": self_attention(),
    "without biases": self_attention(use_bias=False),
    "other outputs": self_attention(output_shape=(4, 3)),
    "crossed": crossed,
    "masked": masked,
    "called twice": called_twice,
    "of planes": of_planes,
    "grouped": grouped(),
    "grouped, without biases": grouped(use_bias=False),
}


def network(name):
    keras.utils.set_random_seed(0)
    return scramble(NETWORKS[name]())


def lower(layer, width, depth):
    """Gives all heads keys and values that lie in so many directions."""
    generator = np.random.default_rng(0)
    for dense, rank in ((layer._key_dense, width), (layer._value_dense, depth)):
        size = dense.kernel.shape[2]
        onto = generator.normal(size=(size, rank)) @ generator.normal(size=(rank, size)) / size
        dense.kernel.assign(np.asarray(dense.kernel) @ onto)
        if dense.bias is not None:  # of values: a row like the others; of keys: any
            dense.bias.assign(np.asarray(dense.bias) @ (onto if rank == depth else np.eye(size)))


@pytest.mark.parametrize("how", [{"energy": 1.0}, {"rank": 3}])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_low_rank_is_found_exactly(name, how):
    model = network(name)
    layer = model.get_layer("attention")
    lower(layer, 2, 3)
    made = tfc.factorize(model, include="attention", **how)
    assert_same_outputs(model, made)
    (entry,) = made.compression_report.changed
    assert entry.details["error"] < 1e-6
    saved = entry.details["multiply_adds_before"] - entry.details["multiply_adds"]
    counted = (tfc.complexity(one).multiply_adds for one in (model, made))
    assert next(counted) - next(counted) == saved > 0
    new = made.get_layer("attention")
    assert type(new) is type(layer)
    if name.startswith("grouped"):
        assert new.head_dim == 3
    else:
        assert (new.key_dim, new.value_dim) == ((2, 3) if "energy" in how else (3, 3))
    assert [v.path.split("/")[-2:] for v in new.weights] == [
        v.path.split("/")[-2:] for v in layer.weights
    ]


def products(layer):
    """Of each head: queries with keys, and values with outputs, (heads, inputs, inputs)."""
    query, key, value, output = (
        np.asarray(dense.kernel, np.float64)
        for dense in (layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense)
    )
    each = query.shape[1] // key.shape[1]
    key, value = (np.repeat(one, each, axis=1) for one in (key, value))
    scores = np.einsum("ihw,jhw->hij", query, key) / np.sqrt(query.shape[2])
    return scores, np.einsum("ihw,hwo->hio", value, output)


@pytest.mark.parametrize("name", ["without biases", "grouped, without biases"])
@pytest.mark.parametrize("energy", [0.5, 0.8])
def test_the_widths_are_the_smallest_that_keep_the_energy(name, energy):
    model = network(name)
    wanted = products(model.get_layer("attention"))
    made = tfc.factorize(model, energy=energy, include="attention")
    new = made.get_layer("attention")
    found = products(new)
    kept = [1 - ((a - b) ** 2).sum() / (a**2).sum() for a, b in zip(wanted, found, strict=True)]
    assert min(kept) >= energy
    (entry,) = made.compression_report.changed
    assert entry.details["energy"] == pytest.approx(min(kept), abs=1e-5)
    widths = [dense.kernel.shape[2] for dense in (new._key_dense, new._value_dense)]
    for width, one in zip(widths, wanted, strict=True):
        if name == "without biases":  # head by head there is nothing closer of that rank
            values = np.linalg.svd(one, compute_uv=False)[:, : width - 1]
            assert (values**2).sum() < energy * (one**2).sum()


@pytest.mark.parametrize("name", NETWORKS)
def test_full_rank_is_left(name):
    model = network(name)
    made = tfc.factorize(model, energy=1.0, include="attention")
    assert_same_outputs(model, made, 0)
    (entry,) = (e for e in made.compression_report.entries if e.name == "attention")
    assert "would cost" in entry.reason
    assert not made.compression_report.changed


def test_a_share_of_multiply_adds_is_reached():
    model = network("self")
    before = tfc.complexity(model).multiply_adds
    made = tfc.factorize(model, multiply_adds=0.4)
    assert tfc.complexity(made).multiply_adds <= 0.6 * before


def test_projections_are_told_of_where_attention_is_left_only():
    model = self_attention()()
    report = tfc.factorize(model, rank=2).compression_report
    assert [entry.name for entry in report.entries] == ["attention"]
    report = tfc.factorize(model, rank=2, exclude="attention").compression_report
    assert {"attention", "attention/query"} <= {entry.name for entry in report.left}


def test_it_trains_saves_and_converts(tmp_path):
    model = network("self")
    made = tfc.factorize(model, rank=4)
    assert_trains_saves_converts(made, tmp_path)


def test_data_brings_it_closer():
    model = network("self")
    x = np.random.default_rng(0).normal(size=(256, 6, 12)).astype("float32")
    wanted = model.predict(x, verbose=0)

    def off(made):
        return np.abs(made.predict(x, verbose=0) - wanted).mean()

    plain, fitted = (tfc.factorize(model, rank=3, data=data) for data in (None, x))
    assert off(fitted) < 0.95 * off(plain)
    assert "1 layers" in fitted.compression_report.notes[-1]


def test_constraints_go_and_this_is_told():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 12))
    y = layers.MultiHeadAttention(3, 8, kernel_constraint="max_norm", kernel_regularizer="l2",
                                  dtype="mixed_float16", name="attention")(x, x)  # fmt: skip
    made = tfc.factorize(keras.Model(inputs, y), rank=2)
    new = made.get_layer("attention")
    assert new.get_config()["kernel_constraint"] is None
    assert new.get_config()["kernel_regularizer"] is not None
    assert new.dtype_policy.name == "mixed_float16"
    (entry,) = made.compression_report.changed
    assert "without the constraints" in entry.reason


def test_what_is_no_plain_product_is_left():
    model = network("self")
    adapted = tfc.adapt(model, rank=2, include="attention")
    assert not tfc.factorize(adapted, rank=2).compression_report.changed
