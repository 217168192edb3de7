"""`tfc.ShrinkSchedule` and `tfc.BatchNormSparsity`: shrinking beside training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from channel_networks import conv
from surgery_support import chain, examples, scramble
from test_shrink import network, saved

import tfcompress as tfc
from tfcompress.errors import ConfigError

layers = keras.layers


def test_schedule_reaches_its_shares():
    model = network()
    trained = []
    schedule = tfc.ShrinkSchedule(3, ratio=0.6, round_to=1)
    smaller = schedule.run(model, lambda one: trained.append(saved(model, one)))
    assert len(trained) == 3 and trained == sorted(trained)
    assert abs(saved(model, smaller) - 0.6) < 0.03
    shares = [0.2, 0.3]
    for share, one in zip(
        shares, tfc.ShrinkSchedule(shares, round_to=1).models(model), strict=True
    ):
        assert abs(saved(model, one) - share) < 0.03


def test_schedule_goes_on_from_what_was_trained():
    model = network()
    models = tfc.ShrinkSchedule(2, ratio=0.5, round_to=1).models(model)
    first = next(models)
    first.layers[-1].set_weights([np.ones_like(w) for w in first.layers[-1].get_weights()])
    assert (np.array(next(models).layers[-1].kernel) == 1).all()


@pytest.mark.parametrize(
    "arguments",
    [(0, 0.5), (2, None), (2, 1.5), ([0.5, 0.2], None), ([], None), ([0.5], 0.5), ("no", None)],
)
def test_bad_schedules(arguments):
    with pytest.raises(ConfigError, match="Received"):
        tfc.ShrinkSchedule(*arguments)


def test_bad_schedule_options():
    with pytest.raises(ConfigError, match="portion"):
        tfc.ShrinkSchedule(2, ratio=0.5, portion=3)


@pytest.mark.parametrize(
    "choose",
    [
        lambda model: {"exclude": model.layers[1]},
        lambda model: {"exclude": (layer for layer in model.layers[1:2])},
        lambda model: {"include": [model.layers[3], "c"], "exclude": lambda one: one.name == "a"},
    ],
)
def test_schedule_takes_layers_of_the_first_model(choose):
    model = chain((8, 8, 3), conv(16, name="a"), conv(16, name="b"), conv(16, name="c"), conv(4))
    schedule = tfc.ShrinkSchedule(2, ratio=0.4, round_to=1, **choose(model))
    for _ in range(2 if "exclude" in choose(model) else 1):
        found = list(schedule.models(model))
        assert [one.layers[1].filters for one in found] == [16, 16]
        assert found[0].layers[3].filters > found[1].layers[3].filters


def test_schedule_takes_a_nested_model_and_a_layer_within():
    inner = chain((8, 8, 16), conv(16, name="a"), conv(16, name="b"))
    model = chain((8, 8, 3), conv(16, name="a"), inner, conv(16, name="c"), conv(4))
    schedule = tfc.ShrinkSchedule(2, ratio=0.3, round_to=1, exclude=[inner.layers[1]])
    *_, last = schedule.models(model)
    assert last.layers[2].layers[1].filters == 16 and last.layers[1].filters < 16


def test_schedule_takes_a_generator_of_data():
    model = network()
    batch = (examples(model, 32), np.zeros(32))
    options = {"loss": "sparse_categorical_crossentropy", "round_to": 1}
    schedule = tfc.ShrinkSchedule(2, 0.4, importance="taylor", data=iter([batch]), **options)
    assert len(list(schedule.models(model))) == 2


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_slimming_gives_zeros_that_shrink_takes(optimizer):
    model = chain(
        (8, 8, 3), conv(16), layers.BatchNormalization(), layers.ReLU(),
        layers.GlobalAveragePooling2D(), layers.Dense(2),
    )  # fmt: skip
    scramble(model)
    gamma = np.where(np.arange(16) < 8, 0.01, 1.0)
    model.layers[2].gamma.assign(gamma)
    model.layers[2].beta.assign(np.zeros(16))
    model.layers[2].moving_mean.assign(np.zeros(16))
    chosen = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[optimizer]
    model.compile(chosen(1e-3), "mse")
    x = examples(model, 32)
    history = model.fit(
        x, np.zeros((32, 2)), batch_size=8, verbose=0, callbacks=[tfc.BatchNormSparsity(6.0)]
    )
    zeros = np.array(model.layers[2].gamma) == 0
    assert zeros[:8].sum() >= 6 and not zeros[8:].any()
    assert history.history["zero_gammas"][-1] == pytest.approx(zeros.mean())
    smaller = tfc.shrink(model, 0.4, importance="bn_gamma", round_to=8)
    assert smaller.layers[1].filters == 8


def test_bad_slimming():
    with pytest.raises(ConfigError, match="Received"):
        tfc.BatchNormSparsity(-1)
    model = chain((4,), layers.Dense(2))
    model.compile("sgd", "mse")
    with pytest.raises(ConfigError, match="BatchNormalization"):
        model.fit(np.ones((2, 4)), np.ones((2, 2)), callbacks=[tfc.BatchNormSparsity()], verbose=0)
