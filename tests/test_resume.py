"""Resume: a training that is killed ends as the one that is not, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.resume import replay, seeds

sys.path.insert(0, str(Path(__file__).parent))
import resume_run as run

SCRIPT = Path(run.__file__)


class Stop(keras.callbacks.Callback):
    """Ends `fit` after so many batches as a crash in the process does."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def train(folder, kind="arrays", *, stop=None, save_freq=2, callbacks=(), keep=False, **options):
    """The weights' bytes and the history of one training; None if it was stopped."""
    fit = options.pop("fit", {})
    optimizer = options.pop("optimizer", None)
    keras.utils.set_random_seed(7)
    if optimizer is not None:
        options["optimizer"] = optimizer()
    model = run.build(**options)
    callbacks = [make() for make in callbacks]
    callbacks += [Stop(stop)] if stop else []
    callbacks.append(tfc.Resume(folder, save_freq=save_freq, keep=keep))
    data = {"epochs": run.EPOCHS, "verbose": 0, **run.data(kind), **fit}
    try:
        history = model.fit(callbacks=callbacks, **data)
    except KeyboardInterrupt:
        return None
    assert model._initial_epoch is None
    return run.weights(model), history.epoch, history.history


def check_same(folder, whole, kind="arrays", *, stop=9, **options):
    assert train(folder / "run", kind, stop=stop, **options) is None
    assert (folder / "run" / "training.save").exists()
    assert train(folder / "run", kind, **options) == whole
    assert not list(folder.iterdir())  # the save and its folder are gone


KINDS = (
    *("arrays", "unshuffled", "batch", "py", "generator", "tf.data", "tf.data map"),
    *("tf.data generator", "tf.data repeat", "tf.data unknown"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data(kind, tmp_path):
    check_same(tmp_path / "stopped", train(tmp_path / "whole", kind), kind)


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    options = {"fit": {"validation_data": run.numbers()}}
    return train(tmp_path_factory.mktemp("whole"), **options), options


@pytest.mark.parametrize(("stop", "save_freq"), [(12, "epoch"), (6, 5), (5, 3)])
def test_every_place_of_the_save(stop, save_freq, validated, tmp_path):
    # At an epoch's end; after its last batch, but before its end; in the first epoch.
    whole, options = validated
    check_same(tmp_path / "stopped", whole, stop=stop, save_freq=save_freq, **options)


OPTIONS = {
    "steps_per_execution": {"kind": "tf.data", "stop": 5, "steps_per_execution": 2},
    "unknown length": {"kind": "tf.data unknown", "stop": 5, "steps_per_execution": 2},
    "compiled": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "bfloat16": {"policy": "bfloat16"},
    "loss scale": {
        "policy": "mixed_float16",
        "optimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, 0.9)),
    },
    "averages": {
        "optimizer": lambda: keras.optimizers.SGD(
            0.1, use_ema=True, ema_overwrite_frequency=4, gradient_accumulation_steps=2
        )
    },
    "pruning": {"callbacks": [run.pruning]},
    "learning rate": {
        "callbacks": [
            lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
        ]
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_way_to_train(name, tmp_path):
    options = dict(OPTIONS[name])
    stop = options.pop("stop", 9)
    whole = train(tmp_path / "whole", **options)
    check_same(tmp_path / "stopped", whole, stop=stop, **options)


def spawn(folder, *arguments):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), *arguments])


def test_killed_again_and_again(tmp_path):
    whole = spawn(tmp_path / "whole", "arrays")
    folder = tmp_path / "killed"
    # Before the first save, between two saves, in the middle of a write, right after a save.
    for kill, saved in (("0,1", False), ("1,3", True), ("write", True), ("2,4", True)):
        assert spawn(folder, "arrays", kill).wait(300) == -signal.SIGKILL
        assert (folder / "save" / "training.save").exists() == saved
        if kill == "write":
            assert list((folder / "save").glob(".tfcompress-*"))
    assert spawn(folder, "arrays").wait(300) == 0
    assert whole.wait(300) == 0
    for name in ("weights", "history"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (folder / "save").exists()


def test_a_finished_training_is_not_repeated(tmp_path):
    averages = OPTIONS["averages"]
    first = train(tmp_path / "run", keep=True, callbacks=[run.pruning], **averages)
    saved = (tmp_path / "run" / "training.save").read_bytes()
    ran = Stop(1)
    again = train(tmp_path / "run", keep=True, callbacks=[run.pruning, lambda: ran], **averages)
    assert ran.left == 1
    assert again == first
    assert (tmp_path / "run" / "training.save").read_bytes() == saved
    # With more epochs it goes on.
    more = train(tmp_path / "run", callbacks=[run.pruning], fit={"epochs": 4}, **averages)
    assert more[1] == [0, 1, 2, 3]


def test_a_training_that_ended_early_stays_so(tmp_path):
    class Early(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    first = train(tmp_path / "run", keep=True, callbacks=[Early])
    assert first[1] == [0, 1]
    assert train(tmp_path / "run", keep=True, stop=1) == first


def test_two_optimizers(tmp_path):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other = keras.layers.Dense(3), keras.layers.Dense(1)
            self.first, self.second = keras.optimizers.Adam(), keras.optimizers.SGD(0.1, 0.9)

        def call(self, x):
            return self.other(self.one(x))

        def train_step(self, data):
            with tf.GradientTape(persistent=True) as tape:
                loss = tf.reduce_mean((self(data[0])[:, 0] - tf.cast(data[1], "float32")) ** 2)
            for layer, optimizer in ((self.one, self.first), (self.other, self.second)):
                weights = layer.trainable_variables
                optimizer.apply(tape.gradient(loss, weights), weights)
            return {"my_loss": loss}

    def fit(folder, stop=None, build=True):
        keras.utils.set_random_seed(7)
        model = Two()
        model(np.zeros((1, 6), "float32"))
        model.compile(loss="mse")
        if build:
            model.first.build(model.one.trainable_variables)
            model.second.build(model.other.trainable_variables)
        callbacks = [Stop(stop)] if stop else []
        try:
            history = model.fit(
                *run.numbers(),
                batch_size=run.BATCH,
                epochs=2,
                verbose=0,
                callbacks=[*callbacks, tfc.Resume(folder, save_freq=1)],
            )
        except KeyboardInterrupt:
            return None
        return b"".join(v.numpy().tobytes() for v in model.weights), history.history

    whole = fit(tmp_path / "a")
    fit(tmp_path / "b", stop=6)  # after the save at an epoch's last batch: no batch gives its logs
    with pytest.raises(
        tfc.ConfigError, match=r"only in the save: optimizer Adam/.*optimizer\.build"
    ):
        fit(tmp_path / "b", build=False)
    assert fit(tmp_path / "b") == whole


def test_a_later_fit_begins_at_its_own_epoch(tmp_path):
    train(tmp_path / "run", stop=12)
    keras.utils.set_random_seed(7)
    model = run.build()
    again = tfc.Resume(tmp_path / "run", save_freq=2)
    data = run.data("arrays")
    model.fit(epochs=run.EPOCHS, verbose=0, callbacks=[again], **data)
    assert model.fit(epochs=1, verbose=0, callbacks=[again], **data).epoch == [0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    train(folder, stop=9)
    return (folder / "training.save").read_bytes()


def broken(content):
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    yield from (b"", content[:10], content[:1000], content[:-1], content + b"x", bytes(flipped))
    yield b"tfcompress training save 9\n" + content[27:]
    yield b"PK" + content


def test_a_damaged_save_is_an_error(saved, tmp_path):
    path = tmp_path / "training.save"
    for content in broken(saved):
        path.write_bytes(content)
        with pytest.raises(tfc.CorruptFileError, match=r"Delete .*training\.save"):
            train(tmp_path)
        assert path.read_bytes() == content


CHANGED = {
    "units": ({"policy": "float64"}, tfc.ConfigError, "only in the save: model .*hidden/kernel"),
    "optimizer": (
        {"optimizer": lambda: keras.optimizers.SGD(0.01)},
        tfc.ConfigError,
        "only in the save: optimizer Adam/.* only now: optimizer SGD/",
    ),
    "pruning": ({"callbacks": [run.pruning]}, tfc.ConfigError, "only now: pruning"),
    "batch size": ({"fit": {"batch_size": 4}}, tfc.DataError, "5 batches .* Received: 10"),
    "first epoch": ({"fit": {"initial_epoch": 1}}, tfc.ConfigError, "initial_epoch=0"),
    "execution": ({"steps_per_execution": 2}, tfc.ConfigError, "steps_per_execution=1"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_save_of_another_training_is_an_error(name, saved, tmp_path):
    options, error, message = CHANGED[name]
    (tmp_path / "training.save").write_bytes(saved)
    with pytest.raises(error, match=message):
        train(tmp_path, **options)


def test_another_seed_is_an_error(saved, tmp_path):
    (tmp_path / "training.save").write_bytes(saved)
    keras.utils.set_random_seed(8)
    with pytest.raises(tfc.ConfigError, match=r"seed it began with, 7\. Received: 8"):
        run.build().fit(verbose=0, callbacks=[tfc.Resume(tmp_path)], **run.data("arrays"))


def test_no_seed_is_a_warning(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(seeds, "seed", lambda: None)
    callback = tfc.Resume(tmp_path / "run")
    model = run.build()
    model.fit(verbose=0, callbacks=[callback], **run.data("unshuffled"))
    assert not [w for w in recwarn if "Resume" in str(w.message)]
    for _ in range(2):
        model.fit(verbose=0, callbacks=[callback], **run.data("arrays"))
    told = [str(w.message) for w in recwarn if "Resume" in str(w.message)]
    assert len(told) == 1
    assert "keras.utils.set_random_seed" in told[0]


def test_it_goes_last(tmp_path):
    callbacks = [tfc.Resume(tmp_path), keras.callbacks.TerminateOnNaN()]
    with pytest.raises(tfc.ConfigError, match=r"last callback.*TerminateOnNaN"):
        run.build().fit(verbose=0, callbacks=callbacks, **run.data("arrays"))


def test_a_model_that_is_not_built_is_an_error(tmp_path):
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(tfc.ModelTypeError, match="must be built"):
        model.fit(np.ones((2, 3)), np.ones((2, 2)), verbose=0, callbacks=[tfc.Resume(tmp_path)])


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "batch", None])
def test_save_freq_is_checked(wrong, tmp_path):
    with pytest.raises(tfc.ConfigError, match="save_freq"):
        tfc.Resume(tmp_path, save_freq=wrong)


def test_directory_is_checked(tmp_path):
    for wrong in ("", None, 3):
        with pytest.raises(tfc.ConfigError, match="directory"):
            tfc.Resume(wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(tfc.ConfigError, match="folder"):
        train(tmp_path / "file" / "run")


def noisy(x, y):
    return tf.cond(tf.random.uniform(()) > 0.5, lambda: x, lambda: -x), y


PIPELINES = {
    "shuffled": (lambda d: d.shuffle(40, seed=3).batch(8).prefetch(1), True),
    "random": (lambda d: d.shuffle(40).map(noisy).batch(8), True),
    "two shuffles": (lambda d: d.shuffle(40).batch(8).shuffle(3), True),
    "repeated": (lambda d: d.shuffle(40).repeat(2).batch(8), False),
    "cached": (lambda d: d.shuffle(40).cache().batch(8), False),
    "nested": (lambda d: d.batch(9).flat_map(lambda *x: type(d).from_tensors(x).shuffle(9)), False),
    "python": (
        lambda d: d.map(lambda x, y: (tf.numpy_function(np.sin, [x], tf.float32), y)).batch(8),
        False,
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_earlier_epochs_are_read_in_full_only_where_they_matter(name, monkeypatch):
    from keras.src.backend.tensorflow.trainer import TFEpochIterator

    make, short = PIPELINES[name]

    def data():
        keras.utils.set_random_seed(5)
        dataset = make(tf.data.Dataset.from_tensor_slices(run.numbers()))
        return TFEpochIterator(x=dataset, distribute_strategy=tf.distribute.get_strategy())

    def orders(restarts, monkeypatch):
        iterator = data()
        monkeypatch.setattr(replay, "restarts", lambda data: restarts)
        replay.replay(Path("save"), iterator, 2, 1)
        return [
            tf.nest.map_structure(lambda t: t.numpy().tobytes(), next(step[-1]))
            for _ in range(2)
            for step in iterator
        ]

    assert replay.restarts(data()) == short
    if short:
        assert orders(True, monkeypatch) == orders(False, monkeypatch)


@pytest.mark.filterwarnings("ignore:Training ended at step")
def test_keras_own_backup_keeps_the_masks(tmp_path):
    def fit(folder, stop=None):
        keras.utils.set_random_seed(7)
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(16, "relu", name="hidden"),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Dense(2, name="scores"),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        callbacks = [run.pruning(), *([Stop(stop)] if stop else [])]
        callbacks.append(keras.callbacks.BackupAndRestore(folder))
        try:
            model.fit(epochs=3, verbose=0, callbacks=callbacks, **run.data("unshuffled"))
        except KeyboardInterrupt:
            return None
        return run.weights(model)

    whole = fit(tmp_path / "whole")
    fit(tmp_path / "stopped", stop=7)
    assert fit(tmp_path / "stopped") == whole
