"""The optimizer's variables are there before the first step, and training is the same."""

import keras
import numpy as np
import pytest
import two_devices

import tfcompress as tfc
from tfcompress.first_step import FirstStep, build_optimizer

replicas = two_devices.replicas
X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = (X.sum(1, keepdims=True) > 0).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    chain = [keras.Input((8,)), layers.Dense(16), layers.BatchNormalization(), layers.Dense(1)]
    return keras.Sequential(chain)


def watched(model):
    """For each time that the train step is traced, whether the optimizer is built."""
    seen, whole = [], model.train_step

    def traced(*args):
        seen.append(model.optimizer.built)
        return whole(*args)

    model.train_step = traced
    return seen


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.01, use_ema=True),
        lambda: keras.optimizers.SGD(0.01, momentum=0.9, gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    ],
)
def test_training_is_the_same(optimizer):
    trained = []
    for callbacks in ([], [FirstStep()]):
        model = network()
        model.compile(optimizer(), "mse")
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
        trained.append([*model.get_weights(), *map(np.asarray, model.optimizer.variables)])
    assert len(trained[0]) == len(trained[1])
    assert all(np.array_equal(a, b) for a, b in zip(*trained, strict=True))


@pytest.mark.parametrize(
    "verb", ["resume", "prune", "slim", "quantize_aware", "prune_layers", "distill"]
)
def test_whatever_of_ours_trains(verb, tmp_path):
    model = network()
    callbacks = {
        "resume": lambda: [tfc.Resume(tmp_path)],
        "prune": lambda: [tfc.PruningCallback(tfc.ConstantSparsity(0.5, begin_step=0))],
        "slim": lambda: [tfc.BatchNormSparsity(1e-3)],
    }
    models = {
        "quantize_aware": lambda: tfc.quantize_aware(model),
        "prune_layers": lambda: tfc.prune(model, tfc.ConstantSparsity(0.5, begin_step=0)),
        "distill": lambda: tfc.distill(network(), model, alpha=0.5),
    }
    model = models.get(verb, lambda: model)()
    model.compile("adam", "mse")
    seen = watched(model)
    model.fit(X, Y, verbose=0, callbacks=callbacks.get(verb, list)())
    assert seen == [True]


def test_layers_that_a_callback_unfreezes_as_it_begins_train():
    class Unfreeze(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.layers[0].trainable = True

    model = network()
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    before = model.layers[0].get_weights()[0]
    model.fit(X, Y, verbose=0, callbacks=[tfc.BatchNormSparsity(1e-3), Unfreeze()])
    assert (model.layers[0].get_weights()[0] != before).any()


def test_replicas_have_their_variables(replicas):
    with replicas.scope():
        model = network()
        model.compile("adam", "mse")
    build_optimizer(model)
    assert model.optimizer.built
    model.fit(X, Y, verbose=0)


def test_what_may_train_by_other_variables_is_left():
    class Own(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    for model in (Own(network().layers), unbuilt):
        model.compile("adam", "mse")
        build_optimizer(model)
        assert not model.optimizer.built
        model.fit(X, Y, verbose=0, callbacks=[FirstStep()])
        assert model.optimizer.built
