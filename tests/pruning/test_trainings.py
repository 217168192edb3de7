"""The same training in every way that Keras has of running it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import SCHEDULE, assert_exact, compiled, data, small_model, train, zeros

import tfcompress as tfc

CRITERIA = ["magnitude", "taylor", "movement"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_per_execution_and_xla(criterion, steps_per_execution, jit_compile):
    model = compiled(jit_compile=jit_compile, steps_per_execution=steps_per_execution)
    train(model, tfc.PruningCallback(SCHEDULE, criterion=criterion))
    assert_exact(model, 0.75)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_run_eagerly(criterion):
    model = compiled(run_eagerly=True)
    train(model, tfc.PruningCallback(SCHEDULE, criterion=criterion), epochs=2)
    assert_exact(model, 0.75)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_gradient_accumulation(criterion):
    """Steps are updates of the optimizer: 24 batches in fours are 6 steps."""
    model = compiled(optimizer=keras.optimizers.Adam(gradient_accumulation_steps=4))
    schedule = tfc.PolynomialDecay(0.0, 0.75, begin_step=1, end_step=5, frequency=1)
    train(model, tfc.PruningCallback(schedule, criterion=criterion))
    assert int(model.optimizer.iterations) == 6
    assert_exact(model, 0.75)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_precisions(policy, criterion):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled()
    finally:
        keras.config.set_dtype_policy("float32")
    train(model, tfc.PruningCallback(SCHEDULE, criterion=criterion))
    assert_exact(model, 0.75)


class Watch(keras.callbacks.Callback):
    """The zeros in the moving averages of the kernels after every batch."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def on_train_batch_end(self, batch, logs=None):
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        averages = optimizer._model_variables_moving_average
        self.counts.append(sum(int((a.numpy() == 0).sum()) for a in averages if a.ndim == 2))


@pytest.mark.parametrize("overwrite", [None, 2])
@pytest.mark.parametrize("swap", [False, True])
def test_moving_averages_keep_the_zeros(overwrite, swap):
    optimizer = keras.optimizers.Adam(
        0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=overwrite
    )
    model = compiled(optimizer=optimizer)
    watch = Watch()
    pruning = tfc.PruningCallback(SCHEDULE)
    callbacks = [pruning, watch]
    if swap:
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    model.fit(*data(), batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
    assert_exact(model, 0.75)
    total = sum(zeros(model).values())
    assert set(watch.counts[12:]) == {total}


def test_no_negative_zeros():
    """They are not zero bytes: neither zip nor the sparse encoding would take them as such."""
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for layer in self.model.layers:
                value = layer.kernel.numpy()
                seen.append(bool(np.signbit(value[value == 0]).any()))

    model = compiled()
    model.fit(
        *data(), batch_size=8, epochs=3, verbose=0, callbacks=[tfc.PruningCallback(SCHEDULE), Spy()]
    )
    assert not any(seen)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_mirrored_strategy(criterion, replicas):
    strategy = replicas
    with strategy.scope():
        model = compiled(optimizer=keras.optimizers.Adam(0.01, use_ema=True))
    train(model, tfc.PruningCallback(SCHEDULE, criterion=criterion))
    assert_exact(model, 0.75)
    for layer in model.layers:
        first, second = (v.numpy() for v in layer.kernel.value.values)
        np.testing.assert_array_equal(first, second)


def test_mirrored_strategy_gives_the_same_masks_as_one_device(replicas):
    """Two replicas that share a batch see the same mean gradient, to float rounding."""
    masks = []
    for strategy in (None, replicas):
        keras.utils.set_random_seed(7)
        if strategy is None:
            model = compiled(small_model(), keras.optimizers.SGD(0.05))
        else:
            with strategy.scope():
                model = compiled(small_model(), keras.optimizers.SGD(0.05))
        start = np.split(np.linspace(-1, 1, 8 * 16 + 16 * 12 + 12 * 3), [128, 320])
        for layer, values in zip(model.layers, start, strict=True):
            order = np.random.default_rng(0).permutation(values)
            layer.kernel.assign(order.reshape(layer.kernel.shape))
        callback = tfc.PruningCallback(tfc.OneShot(0.5, 4), criterion="movement")
        train(model, callback, epochs=1, batch_size=16, shuffle=False)
        masks.append([layer.kernel.numpy() != 0 for layer in model.layers])
    for one, two in zip(*masks, strict=True):
        assert (one != two).mean() <= 0.02


def test_mirrored_strategy_with_mixed_precision_and_accumulation(replicas):
    strategy = replicas
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with strategy.scope():
            model = compiled()
    finally:
        keras.config.set_dtype_policy("float32")
    train(model, tfc.PruningCallback(SCHEDULE, criterion="taylor", pooling="global"))
    assert tfc.sparsity(model)["total"] == pytest.approx(0.75, abs=0.002)


def test_a_training_step_traced_before_is_told_and_still_exact():
    model = compiled()
    optimizer = model.optimizer
    x, y = data()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = model.loss(y, model(x, training=True))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    step()
    pruner = tfc.Pruner(model, tfc.ConstantSparsity(0.5, 0, frequency=2))
    pruner.step(optimizer.iterations)
    with pytest.warns(UserWarning, match="traced before the Pruner"):
        for _ in range(4):
            step()
            pruner.step(optimizer.iterations)
    pruner.finish()
    assert_exact(model, 0.5)
