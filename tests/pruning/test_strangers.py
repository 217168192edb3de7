"""What a user found who tried to break it: each finding with its test."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest
from training import SCHEDULE, assert_exact, compiled, data, layers, small_model, train, zeros

import tfcompress as tfc
from tfcompress.pruning.masks import zeros_for


@pytest.mark.parametrize("pooling", ["global", "global-raw"])
@pytest.mark.parametrize("criterion", ["taylor", lambda w, g: np.abs(w * g)])
def test_dead_units_do_not_cost_the_exact_total(pooling, criterion):
    """Weights behind a dead ReLU score 0, as masked ones do; freed ones would stay zero."""

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations.numpy()) == 4:
                bias = self.model.get_layer("second").bias
                bias.assign(np.where(np.arange(12) < 8, -100.0, bias.numpy()))

    model = compiled()
    pruning = tfc.PruningCallback(
        tfc.PolynomialDecay(0.0, 0.5, 0, 8, frequency=1), pooling=pooling, criterion=criterion
    )
    model.fit(*data(), batch_size=8, verbose=0, callbacks=[pruning, Kill()])
    total = sum(layer.kernel.numpy().size for layer in model.layers)
    assert sum(zeros(model).values()) == zeros_for(0.5, total)


def test_blocks_never_empty_a_kernel():
    model = compiled()
    callback = tfc.PruningCallback(tfc.OneShot(0.8, 1), pattern="block:64x8")
    train(model, callback)
    for layer in model.layers:
        assert layer.kernel.numpy().any()
    (left,) = [entry for entry in callback.report.left if entry.name == "head"]
    assert "as large as its kernel" in left.reason


def test_lora_and_frozen_and_integer_kernels_are_left():
    model = small_model()
    model.get_layer("first").enable_lora(2)
    model.get_layer("second").kernel.trainable = False
    compiled(model)
    callback = tfc.PruningCallback(SCHEDULE)
    train(model, callback)
    reasons = {entry.name: entry.reason for entry in callback.report.left}
    assert "LoRA" in reasons["first"] and "not trainable" in reasons["second"]
    model = small_model()
    model.quantize("int8")
    with pytest.raises(tfc.ConfigError, match="stored as int8"):
        tfc.Pruner(model, SCHEDULE)


def test_functions_are_asked_at_every_step():
    asked = []

    def rising(step):
        asked.append(step)
        return min(0.1 * step, 0.75)

    model = compiled()
    train(model, tfc.PruningCallback(rising), epochs=2)
    assert set(range(17)) <= set(asked)
    assert_exact(model, 0.75)
    with pytest.raises(tfc.ConfigError, match="at least 0 and below 1"):
        train(compiled(), tfc.PruningCallback(lambda step: step * 0.3))


def test_a_training_that_ends_before_pruning_begins_is_told():
    with pytest.warns(UserWarning, match="before the pruning schedule's begin_step 200"):
        train(compiled(), tfc.PruningCallback(tfc.ConstantSparsity(0.5, 200)))


@pytest.mark.parametrize("first, second", [(0.75, 0.5), (0.5, 0.75)])
def test_two_callbacks_on_the_same_layers_are_an_error(first, second):
    model = compiled()
    both = [tfc.PruningCallback(tfc.ConstantSparsity(s, 0, frequency=2)) for s in (first, second)]
    with pytest.raises(tfc.ConfigError, match=r"one PruningCallback.*'first'"):
        model.fit(*data(), batch_size=8, verbose=0, callbacks=both)
    # And the next fit with one of them works.
    train(model, both[0])
    assert_exact(model, first)


def test_two_callbacks_on_layers_of_their_own():
    model = compiled()
    both = [
        tfc.PruningCallback(SCHEDULE, include="first", criterion="movement"),
        tfc.PruningCallback(SCHEDULE, include=["second", "head"], criterion="taylor"),
    ]
    model.fit(*data(), batch_size=8, epochs=3, verbose=0, callbacks=both)
    assert_exact(model, 0.75)
    assert "apply" not in vars(model.optimizer)


class OwnStep(keras.Model):
    def train_step(self, data):
        for variable in self.trainable_variables:
            variable.assign_sub(0.01 * variable)
        return {"loss": keras.ops.zeros(())}


def test_a_train_step_without_the_optimizer_is_told():
    plain = small_model()
    model = compiled(OwnStep(plain.inputs, plain.outputs))
    with pytest.warns(UserWarning, match="The optimizer made no update"):
        train(model, tfc.PruningCallback(SCHEDULE))


def test_a_registered_name_that_is_no_attribute():
    class Misnamed(layers.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=(shape[-1], 4))

        def call(self, x):
            return x @ self.weight

    tfc.register_layer(Misnamed, kernels=("nope",))
    model = keras.Sequential([keras.Input((8,)), Misnamed(), layers.Dense(3)])
    with pytest.raises(tfc.ConfigError, match="no attribute 'nope'"):
        tfc.Pruner(model, SCHEDULE)


def test_numpy_numbers_are_numbers():
    assert tfc.ConstantSparsity(np.float32(0.5), 0).final == 0.5


def test_sparsity_of_an_unbuilt_model():
    with pytest.raises(tfc.ModelTypeError, match="not built"):
        tfc.sparsity(keras.Sequential([layers.Dense(3)]))


def test_callbacks_can_be_copied_after_fit():
    callback = tfc.PruningCallback(SCHEDULE)
    train(compiled(), callback)
    for again in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert again.report is None
        model = compiled()
        train(model, again)
        assert_exact(model, 0.75)


@pytest.mark.parametrize("own", [lambda w, g: None, lambda w, g: w + 1j])
def test_criteria_return_real_numbers(own):
    with pytest.raises(tfc.ConfigError, match="must return real numbers"):
        train(compiled(), tfc.PruningCallback(SCHEDULE, criterion=own))


def test_no_epochs_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(compiled(), tfc.PruningCallback(SCHEDULE), epochs=0)
