"""Masks in what Keras saves, and trainings that go on from there."""

import os

import keras
import numpy as np
import pytest
from training import SCHEDULE, assert_exact, compiled, data, layers, small_model

import tfcompress as tfc


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def weights_of(model):
    return [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]


def fit(callbacks, model=None):
    keras.utils.set_random_seed(1)
    model = compiled(model or small_model(), keras.optimizers.Adam(0.01))
    model.fit(*data(), batch_size=8, epochs=4, verbose=0, shuffle=False, callbacks=callbacks)
    return model


# Odd steps, so that saves fall between two updates of the masks.
SLOW = tfc.PolynomialDecay(0.0, 0.75, begin_step=3, end_step=27, frequency=5)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "snip", "movement"])
@pytest.mark.parametrize("first", [True, False], ids=["pruning first", "backup first"])
def test_backup_and_restore_goes_on_bit_for_bit(criterion, first, tmp_path):
    def callbacks(stop=None):
        pair = [
            tfc.PruningCallback(SLOW, criterion=criterion),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        ]
        return (pair if first else pair[::-1]) + ([Stop(stop)] if stop else [])

    whole = fit(callbacks())
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks(stop=2))
    resumed = fit(callbacks())
    for one, two in zip(weights_of(whole), weights_of(resumed), strict=True):
        np.testing.assert_array_equal(one, two)
    assert_exact(resumed, 0.75)


def test_rigl_goes_on_bit_for_bit(tmp_path):
    def callbacks(stop=None):
        rigl = tfc.RigL(0.75, begin_step=1, end_step=27, frequency=5)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return [tfc.PruningCallback(rigl), backup] + ([Stop(stop)] if stop else [])

    whole = fit(callbacks())
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks(stop=3))
    resumed = fit(callbacks())
    for one, two in zip(weights_of(whole), weights_of(resumed), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
def test_checkpoints_load_into_models_without_masks(name, tmp_path):
    path = tmp_path / name
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, save_weights_only=name.endswith(".weights.h5")
    )
    model = fit([tfc.PruningCallback(SLOW), checkpoint])
    if name.endswith(".keras"):
        loaded = keras.models.load_model(path)
    else:
        loaded = compiled()
        loaded.load_weights(path)
    for one, two in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert_exact(loaded, 0.75)


def test_weights_from_before_load_while_pruning(tmp_path):
    """A file without masks, loaded under way: they go on as they are."""
    plain = compiled()
    plain.save_weights(tmp_path / "plain.weights.h5")

    class Load(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.load_weights(tmp_path / "plain.weights.h5")

    assert_exact(fit([tfc.PruningCallback(SLOW), Load()]), 0.75)


def test_masks_of_another_pruning_are_told(tmp_path):
    path = tmp_path / "w.weights.h5"
    fit([tfc.PruningCallback(SLOW), keras.callbacks.ModelCheckpoint(path, save_weights_only=True)])

    class Load(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.load_weights(path)

    with pytest.raises(ValueError, match="same layers and criterion"):
        fit([tfc.PruningCallback(SLOW, criterion="movement"), Load()])


def test_nothing_is_left_on_the_model():
    model = fit([tfc.PruningCallback(SLOW, criterion="taylor")])
    assert not hasattr(model, "_pruning_state")
    assert all(layer.kernel.constraint is None for layer in model.layers)
    assert "apply" not in vars(model.optimizer)
    assert len(model.weights) == 6


def test_tensorboard_gets_total_and_layers(tmp_path):
    from tensorflow.python.summary.summary_iterator import summary_iterator

    fit([tfc.PruningCallback(SLOW, log_dir=tmp_path)])
    (run,) = os.listdir(tmp_path)
    assert run == "pruning"
    points = {}
    for file in (tmp_path / run).iterdir():
        for event in summary_iterator(str(file)):
            for value in event.summary.value:
                points.setdefault(value.tag, []).append(event.step)
    assert set(points) == {f"sparsity/{n}" for n in ("total", "first", "second", "head")}
    assert points["sparsity/total"][-1] == 32


def test_history_has_every_layer():
    keras.utils.set_random_seed(1)
    model = compiled()
    history = model.fit(
        *data(), batch_size=8, epochs=3, verbose=0, callbacks=[tfc.PruningCallback(SCHEDULE)]
    ).history
    assert history["sparsity"][-1] == history["sparsity/first"][-1] == 0.75
    assert len(history["sparsity/head"]) == 3


def test_each_layer_by_its_own_schedule():
    model = compiled()
    callback = tfc.PruningCallback(
        {
            "first": tfc.PolynomialDecay(0.0, 0.9375, 2, 12, frequency=4),
            "head": None,
            "*": tfc.ConstantSparsity(0.5, 5),
        }
    )
    model.fit(*data(), batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    measured = tfc.sparsity(model)
    assert (measured["first"], measured["second"], measured["head"]) == (0.9375, 0.5, 0.0)
    (left,) = [entry for entry in callback.report.left if entry.name == "head"]
    assert left.reason == "its schedule is None"


def test_a_layer_that_no_schedule_names_is_left_and_said_so():
    model = compiled()
    callback = tfc.PruningCallback({"first": tfc.OneShot(0.5, 1)})
    model.fit(*data(), batch_size=8, verbose=0, callbacks=[callback])
    assert {e.name: e.reason for e in callback.report.left}["second"] == "no schedule names it"


@pytest.mark.parametrize(
    "schedule, error, words",
    [
        ({"frist": SCHEDULE}, tfc.ScopeError, "Did you mean 'first'"),
        ({}, tfc.ConfigError, "at least one layer"),
        ({"first": 0.8}, tfc.ConfigError, "`schedule` must be a schedule"),
        ({"first": None, "second": None, "head": None}, tfc.ConfigError, "no layer to prune"),
        (None, tfc.ConfigError, "`schedule` must be"),
        (0.8, tfc.ConfigError, "`schedule` must be"),
    ],
)
def test_wrong_schedules(schedule, error, words):
    with pytest.raises(error, match=words):
        compiled().fit(*data(), verbose=0, callbacks=[tfc.PruningCallback(schedule)])


def test_plot_of_what_was_measured(tmp_path):
    callback = tfc.PruningCallback(SLOW)
    fit([callback])
    figure = callback.plot(tmp_path / "pruning.svg")
    planned, measured = figure.axes[0].lines
    assert planned.get_ydata()[-1] == measured.get_ydata()[-1] == 75.0
    assert (tmp_path / "pruning.svg").read_text().startswith("<?xml")


def test_a_glob_sets_schedules_and_a_name_asks_for_depthwise_layers():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3, name="conv_1"),
            layers.DepthwiseConv2D(3, name="conv_dw_1"),
            layers.DepthwiseConv2D(3, name="conv_dw_2"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    once = tfc.OneShot(0.5, 0)
    pruner = tfc.Pruner(model, {"conv_dw_2": once, "conv_*": once})
    assert [entry.name for entry in pruner.report.changed] == ["conv_1", "conv_dw_2"]
