"""Trainings for test_resume: `python resume_run.py FOLDER KIND [KILL_AT]` kills itself there."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

import tfcompress as tfc

EPOCHS, BATCHES, BATCH = 3, 5, 8


class Noise(keras.layers.Layer):
    """Draws from the global seed generator, which belongs to no layer."""

    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x), stddev=0.01) if training else x


class Reshuffled(keras.utils.PyDataset):
    """Reshuffles itself after every epoch and augments from NumPy's global state."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.order = x, y, np.arange(len(x))
        self.random = np.random.default_rng(0)

    def __len__(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return self.x[rows] + np.random.normal(0, 0.01, (1, 6)).astype("float32"), self.y[rows]

    def on_epoch_end(self):
        self.random.shuffle(self.order)


def numbers():
    random = np.random.default_rng(1)
    # Not a multiple of the batch: the last one is shorter.
    x = random.normal(size=(BATCHES * BATCH - 3, 6)).astype("float32")
    return x, (x.sum(1) > 0).astype("int32")


def data(kind):
    """Arguments of fit, for each kind of data."""
    x, y = numbers()
    if kind in ("arrays", "unshuffled", "batch"):
        shuffle = {"arrays": True, "unshuffled": False, "batch": "batch"}[kind]
        return {"x": x, "y": y, "batch_size": BATCH, "shuffle": shuffle}
    if kind == "py":
        return {"x": Reshuffled(x, y), "shuffle": True}
    if kind == "generator":

        def batches():
            random = np.random.default_rng(2)
            while True:
                rows = random.integers(0, len(x), BATCH)
                yield x[rows], y[rows]

        return {"x": batches(), "steps_per_epoch": BATCHES}
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    if kind == "tf.data":
        return {"x": dataset.shuffle(len(x), seed=3).batch(BATCH).prefetch(1)}
    if kind == "tf.data map":

        def noisy(x, y):
            return x + tf.random.normal(tf.shape(x), stddev=0.01), y

        return {"x": dataset.cache().shuffle(len(x)).map(noisy).batch(BATCH)}
    if kind == "tf.data generator":
        random = tf.random.Generator.from_seed(4)

        def drawn(x, y):
            return x + random.normal(tf.shape(x)), y

        return {"x": dataset.map(drawn).batch(BATCH)}
    if kind == "tf.data repeat":
        dataset = dataset.shuffle(len(x), seed=3).repeat().batch(BATCH)
        return {"x": dataset, "steps_per_epoch": BATCHES}
    if kind == "tf.data unknown":
        return {"x": dataset.shuffle(len(x)).filter(lambda x, y: x[0] < 1.5).batch(BATCH)}
    raise KeyError(kind)


def build(policy=None, **options):
    """A small model with all that has a state in training, compiled."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,), name="x"),
            layers.Dense(16, dtype=policy, name="hidden"),
            layers.BatchNormalization(dtype=policy),
            layers.ReLU(),
            layers.Dropout(0.3),
            Noise(),
            layers.Dense(2, dtype="float32", name="scores"),
        ]
    )
    options = {"optimizer": keras.optimizers.Adam(0.01), "metrics": ["accuracy"], **options}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, **options)
    return model


def pruning():
    return tfc.PruningCallback(
        tfc.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=10, frequency=3)
    )


def weights(model):
    """The raw bytes of all that the model is."""
    return b"".join(
        np.ascontiguousarray(keras.ops.convert_to_numpy(v)).tobytes()
        for v in [*model.variables, *model.optimizer.variables]
    )


class Kill(keras.callbacks.Callback):
    """Ends the process at a batch of an epoch, as a power cut would."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder, kind, kill=None):
    keras.utils.set_random_seed(7)
    model = build()
    callbacks = [pruning()]
    if kill == "write":
        replace, writes = os.replace, []

        def replace_or_die(*paths):  # the new save is complete, but not yet in its place
            writes.append(paths)
            if len(writes) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*paths)

        os.replace = replace_or_die
    elif kill:
        callbacks.append(Kill(tuple(int(number) for number in kill.split(","))))
    callbacks.append(tfc.Resume(folder / "save", save_freq=2))
    history = model.fit(epochs=EPOCHS, verbose=0, callbacks=callbacks, **data(kind))
    (folder / "weights").write_bytes(weights(model))
    (folder / "history").write_text(repr((history.epoch, history.history)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
