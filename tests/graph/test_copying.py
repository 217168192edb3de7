"""Copies of models: equal, independent, and made even where a layer cannot be rebuilt."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.copying import copy_model

layers, ops = keras.layers, keras.ops


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


class Stubborn(keras.layers.Layer):
    """Takes an argument that its config does not tell."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units.pop())

    def call(self, x):
        return self.dense(x)


class Forgetful(keras.layers.Layer):
    """Can be made from its config, and is then another layer."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {"name": self.name}


class OwnStep(keras.Model):
    """A Functional model with a train step of its own."""

    def train_step(self, data):
        return {**super().train_step(data), "own": 1.0}


class Subclassed(keras.Model):
    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = layers.Dense(units, name="first")
        self.blocks = [layers.Dense(units), layers.BatchNormalization()]
        self.named = {"head": layers.Dense(3, name="head"), "pair": (layers.Dense(3),)}
        self.inner = keras.Sequential([layers.Dense(6, name="deep")], name="inner")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x, training=False):
        x = self.first(self.inner(x))
        for block in self.blocks:
            x = block(x)
        return self.named["pair"][0](self.named["head"](x)) * self.scale

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def functional():
    x = keras.Input((6,), name="x")
    shared = layers.Dense(6, activation="relu", name="shared")
    y = shared(shared(x))
    y = ops.concatenate([y, ops.relu(x) * 2.0], axis=-1)
    y = layers.Dropout(0.5, seed=3)(y)
    return keras.Model(x, [layers.Dense(2, name="a")(y), layers.Dense(3, name="b")(y)], name="f")


def several():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.BatchNormalization()])
    outputs = {"sum": layers.Add(name="sum")([inner(a), inner(b)]), "b": layers.Dense(2)(b)}
    return keras.Model({"a": a, "b": b}, outputs)


def deferred():
    model = keras.Sequential([layers.Dense(4), layers.Dense(3)], name="deferred")
    model(np.zeros((1, 6), "float32"))
    return model


def subclassed():
    model = Subclassed(4)
    model(np.zeros((1, 6), "float32"))
    model.scale.assign(2.0)
    return model


def adapted():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(1).normal(3, 2, (50, 6)).astype("float32"))
    return keras.Sequential([keras.Input((6,)), normalization, layers.Dense(3)])


def assert_equal(one, other, x):
    for first, second in zip(keras.tree.flatten(one(x)), keras.tree.flatten(other(x)), strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())


@pytest.mark.parametrize("make", [functional, several, deferred, subclassed, adapted])
def test_a_copy_is_equal_and_independent(make, inputs):
    model = make()
    x = {"a": inputs, "b": -inputs} if make is several else inputs
    before = [variable.numpy() for variable in model.variables]
    copied = copy_model(model)
    copy = copied.model
    assert type(copy) is type(model) and copy.name == model.name
    assert not copied.shared and not copied.notes
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    assert_equal(copy, model, x)
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
    for variable in copy.weights:
        variable.assign(variable + 1.0)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_shared_layers_stay_shared_and_operations_stay():
    model = functional()
    copy = copy_model(model).model
    assert len(copy.weights) == len(model.weights)
    assert len(copy.get_layer("shared")._inbound_nodes) == 2
    assert len(copy.operations) == len(model.operations)


def test_flags_constraints_and_random_state_come_along(inputs):
    model = functional()
    model.get_layer("shared").trainable = False
    limit = keras.constraints.MaxNorm(1.0)
    model.get_layer("a").kernel.constraint = limit
    model(inputs, training=True)
    copy = copy_model(model).model
    assert len(copy.trainable_weights) == len(model.trainable_weights)
    assert copy.get_layer("a").kernel.constraint is limit
    for one, other in zip(model(inputs, training=True), copy(inputs, training=True), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_pruning_under_way_does_not_come_along():
    model = functional()
    pruner = tfc.Pruner(model, tfc.OneShot(0.5, 0))
    assert copy_model(model).model.get_layer("a").kernel.constraint is None
    pruner.finish()


@pytest.mark.parametrize("layer", [lambda: Stubborn([4]), Forgetful, lambda: Forgetful(5)])
def test_a_layer_that_cannot_be_rebuilt_belongs_to_both(layer, inputs):
    x = keras.Input((6,))
    odd = layer()
    model = keras.Model(x, layers.Dense(2, name="head")(odd(x)))
    copied = copy_model(model)
    assert_equal(copied.model, model, inputs)
    can = isinstance(odd, Forgetful) and odd.dense.units == 2
    assert [own for own, _ in copied.shared] == ([] if can else [odd])
    assert copied.model.get_layer("head") is not model.get_layer("head")


def test_functions_in_lambda_layers_work_in_both(inputs):
    factor = 3.0
    model = keras.Sequential([keras.Input((6,)), layers.Lambda(lambda x: x * factor)])
    assert_equal(copy_model(model).model, model, inputs)


def test_a_train_step_of_ones_own_is_kept(inputs):
    x = keras.Input((6,))
    model = OwnStep(x, layers.Dense(1)(x))
    copy = copy_model(model).model
    assert type(copy) is OwnStep
    copy.compile("sgd", "mse")
    history = copy.fit(inputs, np.zeros((4, 1)), verbose=0)
    assert history.history["own"] == [1.0]


def test_a_subclassed_model_that_cannot_be_rebuilt_says_what_to_do():
    class Impossible(Subclassed):
        def get_config(self):
            raise NotImplementedError("no config")

    model = Impossible()
    model(np.zeros((1, 6), "float32"))
    with pytest.raises(tfc.ModelTypeError, match=r"no config.*PruningCallback") as caught:
        copy_model(model)
    assert isinstance(caught.value.__cause__, NotImplementedError)


def test_compiled_state_is_not_carried(inputs):
    model = deferred()
    model.compile("adam", lambda y, p: ops.mean(p))
    model.fit(inputs, inputs[:, :3], verbose=0)
    assert not copy_model(model).model.compiled
    assert model.compiled
