"""A layer or model that TimeDistributed holds, and something else as well, stays one."""

import keras
import numpy as np
import pytest
from support import randomize

import tfcompress as tfc

layers = keras.layers


def frame():
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(inputs)))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="frame")


def beside(shared, shape, first):
    """Once for each of three steps, and once without them."""
    steps, single = keras.Input((3, *shape)), keras.Input(shape)
    held = layers.TimeDistributed(shared)
    made = (held(steps), shared(single)) if first else (shared(single), held(steps))[::-1]
    mean = layers.GlobalAveragePooling1D()(made[0])
    return keras.Model([steps, single], layers.Concatenate()([mean, made[1]]))


def in_two(shared, shape):
    """In a TimeDistributed for three steps and in one for two."""
    inputs = [keras.Input((steps, *shape)) for steps in (3, 2)]
    made = [layers.TimeDistributed(shared)(one) for one in inputs]
    return keras.Model(inputs, layers.Concatenate(axis=1)(made))


NETWORKS = {
    "layer, held first": lambda: beside(layers.Dense(6, name="shared"), (5,), True),
    "layer, held last": lambda: beside(layers.Dense(6, name="shared"), (5,), False),
    "layer, held twice": lambda: in_two(layers.Conv1D(4, 3, name="shared"), (8, 3)),
    "model, held first": lambda: beside(frame(), (8, 8, 3), True),
    "model, held last": lambda: beside(frame(), (8, 8, 3), False),
    "model, held twice": lambda: in_two(frame(), (8, 8, 3)),
}


@pytest.fixture(params=NETWORKS)
def model(request):
    keras.utils.set_random_seed(0)
    return randomize(NETWORKS[request.param]())


def outputs(model):
    random = np.random.default_rng(0)
    x = [random.normal(size=(4, *t.shape[1:])).astype("float32") for t in model.inputs]
    return np.asarray(model(x, training=False))


@pytest.mark.parametrize(
    "verb",
    [tfc.remove_dead, tfc.fold_batchnorm, lambda m: tfc.factorize(m, energy=1.0), tfc.strip],
)
def test_copies_share_what_the_model_shared(model, verb):
    made = verb(model)
    np.testing.assert_allclose(outputs(made), outputs(model), atol=2e-6)
    assert made.count_params() <= model.count_params()
    assert len(made.trainable_variables) <= len(model.trainable_variables)


@pytest.mark.parametrize(
    "verb",
    [
        lambda m: tfc.prune(m, tfc.ConstantSparsity(0.5, 0)),
        lambda m: tfc.cluster(m, 4),
        lambda m: tfc.adapt(m, "lora"),
        lambda m: tfc.adapt(m, "biases"),
    ],
)
def test_what_a_wrapping_verb_parts_is_told(model, verb):
    made = verb(model)
    told = any("shared are each one's own" in note for note in made.compression_report.notes)
    assert told == (tfc.strip(made).count_params() > model.count_params())


def test_a_layer_called_twice_is_not_parted():
    inputs = [keras.Input((5,)), keras.Input((5,))]
    dense = layers.Dense(4)
    model = keras.Model(inputs, layers.Add()([dense(one) for one in inputs]))
    pruned = tfc.prune(model, tfc.ConstantSparsity(0.5, 0))
    assert not pruned.compression_report.notes
