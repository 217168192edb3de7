"""Models in TimeDistributed: verbs reach into them, and the copies stay TimeDistributed."""

from __future__ import annotations

import keras
import pytest
from surgery_support import (
    assert_same_outputs,
    assert_trains_saves_converts,
    chain,
    entries,
    examples,
    left_alone,
    scramble,
)

import tfcompress as tfc

layers = keras.layers


def images(width=16):
    return chain(
        (9, 9, 3), layers.Conv2D(width, 3, use_bias=False, name="first"),
        layers.BatchNormalization(name="norm"), layers.ReLU(),
        layers.Conv2D(width, 3, activation="relu", name="second"),
        layers.GlobalAveragePooling2D(),
    )  # fmt: skip


def films(inner=None):
    each = layers.TimeDistributed(inner or images(), name="films")
    return scramble(chain((4, 9, 9, 3), each, layers.LSTM(8), layers.Dense(2)))


VERBS = {
    "shrink": lambda m, x: tfc.shrink(m, 0.4, round_to=4),
    "shrink with data": lambda m, x: tfc.shrink(
        m, 0.4, round_to=4, importance="taylor", data=(x, x[:, 0, 0, 0, :2]), loss="mse"
    ),
    "separate": lambda m, x: tfc.separate(m, data=x),
    "separate in terms": lambda m, x: tfc.separate(m, multiply_adds=0.3, data=x),
    "factorize": lambda m, x: tfc.factorize(m, multiply_adds=0.3, data=x, include="second"),
    "fold": lambda m, x: tfc.fold_batchnorm(m),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_reach_in_and_the_steps_stay(verb, tmp_path):
    model = films()
    with left_alone(model):
        smaller = VERBS[verb](model, examples(model, 8))
    assert type(smaller.get_layer("films")) is layers.TimeDistributed
    changed = [e for e in smaller.compression_report.entries if e.action != "left"]
    assert any(e.name.startswith("films/functional") for e in changed)
    assert not any(e.name.endswith(("/rows", "/steps")) for e in changed)
    if verb == "fold":
        assert_same_outputs(model, smaller)
    else:
        before, after = (tfc.complexity(m).multiply_adds for m in (model, smaller))
        assert after < before
    assert_trains_saves_converts(smaller, tmp_path)


def test_costs_are_those_of_all_steps():
    model = films()
    told = {e.name: e for e in tfc.separate(model).compression_report.entries}
    whole = tfc.complexity(model)
    own = sum(row.multiply_adds for row in whole.layers if row.path.endswith("/first"))
    (name,) = [name for name in told if name.endswith("/first")]
    assert told[name].details["multiply_adds_before"] == own == 4 * 7 * 7 * 16 * 9 * 3


def test_an_exact_share_of_the_multiply_adds():
    model = films()
    for made in (tfc.shrink(model, 0.5, round_to=1), tfc.separate(model, multiply_adds=0.5)):
        share = tfc.complexity(made).multiply_adds / tfc.complexity(model).multiply_adds
        assert 0.4 < share < 0.55


def test_dead_channels_go():
    inner = images()
    model = films(inner)
    kernel, bias = inner.get_layer("second").get_weights()
    kernel[..., :6], bias[:6] = 0, 0
    inner.get_layer("second").set_weights([kernel, bias])
    smaller = tfc.remove_dead(model)
    assert smaller.get_layer("films").layer.get_layer("second").filters == 10
    assert_same_outputs(model, smaller, 1e-5)


def test_a_model_that_is_called_outside_too_stays_one():
    inner = images()
    inputs, still = keras.Input((4, 9, 9, 3)), keras.Input((9, 9, 3))
    moving = layers.TimeDistributed(inner, name="films")(inputs)
    again = layers.TimeDistributed(inner, name="again")(inputs * 2.0)
    x = layers.GlobalAveragePooling1D()(moving + again) + inner(still)
    model = scramble(keras.Model([inputs, still], layers.Dense(2)(x)))
    for smaller in (tfc.shrink(model, 0.4), tfc.fold_batchnorm(model)):
        held = [smaller.get_layer(name).layer for name in ("films", "again")]
        assert held[0] is held[1] is smaller.get_layer(inner.name)
    assert_same_outputs(model, smaller)


def test_a_part_of_it_is_dropped():
    inner = chain(
        (9, 9, 3), layers.Conv2D(8, 3, padding="same", name="stem"),
        layers.Conv2D(8, 3, padding="same", name="middle"), layers.GlobalAveragePooling2D(),
    )  # fmt: skip
    model = films(inner)
    smaller = tfc.drop_layers(model, "middle")
    held = smaller.get_layer("films").layer
    assert [layer.name for layer in held.layers if layer.weights] == ["stem"]
    assert len(inner.layers) == 4


def test_the_wrappers_name_stands_for_all_that_it_holds():
    model = films()
    inner = model.get_layer("films").layer.name
    told = entries(tfc.factorize(model, exclude="films"))
    assert told[f"films/{inner}/second"] == ("left", "excluded")
    told = entries(tfc.separate(model, include="films", exclude=f"films/{inner}/first"))
    assert [told[f"films/{inner}/{name}"][0] for name in ("first", "second")] == [
        "left", "separated",
    ]  # fmt: skip


def test_pruned_and_clustered_it_strips_as_before(tmp_path):
    model = films()
    for made in (
        tfc.prune(model, tfc.ConstantSparsity(0.5, 0)),
        tfc.cluster(model, number_of_clusters=4),
    ):
        assert_same_outputs(made, tfc.strip(made), 0)


@pytest.mark.parametrize("first", [True, False])
def test_a_model_that_a_closed_one_holds_too_stays_as_it_is_there(first):
    """A mask keeps the second TimeDistributed a call; its norm is not to be folded."""
    parts = [layers.BatchNormalization(name="norm"), layers.Dense(6, name="dense")]
    inner = chain((6,), *(parts if first else reversed(parts)))
    one, two = keras.Input((4, 6)), keras.Input((5, 6))
    masked = layers.TimeDistributed(inner)(layers.Masking()(two))
    model = scramble(keras.Model([one, two], [inner(one[:, 0]), masked]))
    assert_same_outputs(model, tfc.fold_batchnorm(model))


def test_it_is_dropped_as_a_whole_and_told_of_where_it_stays():
    inner = chain((3,), layers.Dense(5, name="p"), layers.Dense(3, name="r"))
    model = chain(
        (4, 3), layers.Dense(3, name="x"), layers.TimeDistributed(inner, name="td"),
        layers.Flatten(), layers.Dense(2),
    )  # fmt: skip
    smaller = tfc.drop_layers(model, "td")
    assert "td" not in [layer.name for layer in smaller.layers]
    smaller = tfc.drop_layers(model, "x")
    assert {name for name, (action, _) in entries(smaller).items() if action == "dropped"} == {"x"}
