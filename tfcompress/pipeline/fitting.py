"""The training of a step: resumed where it was killed, told as it goes on, stopped at NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.errors import ConfigError, TrainingError
from tfcompress.pipeline.data import Data
from tfcompress.pipeline.objective import Objective
from tfcompress.pipeline.training import Augmentation, Training
from tfcompress.resume.callback import Resume

Tell = Callable[[float, str], None]  # share done, what is seen


def updates(how: Training | None, examples: int) -> int:
    """How many steps the optimizer makes in a training."""
    return 0 if how is None else how.epochs * math.ceil(examples / how.batch_size)


def optimizer(how: Training, steps: int) -> Any:
    """The optimizer of a training of so many steps."""
    options: dict[str, Any] = {"learning_rate": _Rate(how, steps) if steps else how.learning_rate}
    if how.momentum is not None:
        options["momentum"] = how.momentum
    if how.weight_decay is not None:
        options["weight_decay"] = how.weight_decay
    classes = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "nadam": keras.optimizers.Nadam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
        "adagrad": keras.optimizers.Adagrad,
        "lion": keras.optimizers.Lion,
    }
    return classes[how.optimizer](**options)


class _Rate(keras.optimizers.schedules.LearningRateSchedule):
    """Rises from 0 in the warm-up, then falls to its final share."""

    def __init__(self, how: Training, steps: int) -> None:
        super().__init__()
        self.how, self.steps = how, steps
        self.warm = int(how.warmup * steps)

    def __call__(self, step: Any) -> Any:
        ops, how = keras.ops, self.how
        done = ops.cast(step, "float32")
        share = ops.clip((done - self.warm) / max(1, self.steps - self.warm), 0.0, 1.0)
        if how.decay == "cosine":
            falling = 0.5 * (1.0 + ops.cos(math.pi * share))
        elif how.decay == "linear":
            falling = 1.0 - share
        else:
            falling = ops.ones_like(share)
        level = how.final_rate + (1.0 - how.final_rate) * falling
        if self.warm:
            level = level * ops.minimum(1.0, (done + 1.0) / self.warm)
        return how.learning_rate * level

    def get_config(self) -> dict[str, Any]:
        return {"how": self.how, "steps": self.steps}


def fit(
    model: Any,
    how: Training,
    data: Data,
    objective: Objective,
    callbacks: list[Any],
    folder: Path,
    save_freq: str | int,
    tell: Tell,
    where: str,
) -> dict[str, list[float | None]]:
    """Trains a model in place; the same call again goes on where it was killed.

    Args:
        model: what is trained: the model, or one that distils into it.
        how: the recipe's training.
        data: examples.
        objective: loss and metrics.
        callbacks: of the verb.
        folder: where the training is saved as it goes on; left there when it ends.
        save_freq: as `tfc.Resume` takes it.
        tell: told how far it is and what is seen.
        where: the step, for errors.

    Returns:
        Figures of each epoch.

    Raises:
        TrainingError: the loss is NaN or infinite.
    """
    losses, y = _objective(how, objective, data, where)
    model.compile(optimizer(how, updates(how, data.count)), **objective.compiled(losses))
    fed: dict[str, Any]
    if how.augment is None:
        fed = {"x": data.x, "y": objective.labels(y), "batch_size": how.batch_size}
    else:
        batches = _augmented(data.x, objective.labels(y), how.augment, how.batch_size, where)
        fed = {"x": batches, "shuffle": False}  # it shuffles itself
    history = model.fit(
        **fed,
        epochs=how.epochs,
        verbose=0,
        callbacks=[
            *callbacks,
            _Watch(how.epochs, math.ceil(data.count / how.batch_size), tell, where),
            Resume(folder, save_freq=save_freq, keep=True),
        ],
    )
    return {
        name: [float(value) if np.isfinite(value) else None for value in values]
        for name, values in history.history.items()
        if "/" not in name
    }


class _Watch(keras.callbacks.Callback):
    """Tells how far a training is, and ends one that has diverged."""

    def __init__(self, epochs: int, batches: int, tell: Tell, where: str) -> None:
        super().__init__()
        self.epochs, self.batches, self.tell, self.where = epochs, batches, tell, where
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        logs = logs or {}
        self._check(logs)
        seen = "  ".join(f"{name} {value:.4g}" for name, value in list(logs.items())[:3])
        done = self._epoch + min(1.0, (batch + 1) / self.batches)
        self.tell(done / self.epochs, f"epoch {self._epoch + 1}/{self.epochs}  {seen}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._check(logs or {})

    def _check(self, logs: dict[str, Any]) -> None:
        loss = float(logs.get("loss", 0.0))
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.where}: the loss must stay finite. Received: {loss} in epoch "
                f"{self._epoch + 1} of {self.epochs}. Lower its learning_rate, add `warmup`, or "
                "look into the data, and run again: the steps before it are kept."
            )


def _objective(
    how: Training, objective: Objective, data: Data, where: str
) -> tuple[list[Any], list[np.ndarray]]:
    """Losses and labels of a training, as its recipe says."""
    losses, y = list(objective.losses), data.y
    if how.loss is not None:
        try:
            losses = [keras.losses.get(how.loss) for _ in losses]
        except ValueError:
            raise ConfigError(
                f"{where}, train: `loss` must be the name of one of Keras's losses. "
                f"Received: {how.loss!r}"
            ) from None
    if how.label_smoothing:
        smoothed = [
            _smoothed(loss, labels, values.shape[-1], how.label_smoothing, where)
            for loss, labels, values in zip(losses, y, objective.outputs.values, strict=True)
        ]
        losses, y = [loss for loss, _ in smoothed], [labels for _, labels in smoothed]
    return losses, y


def _smoothed(
    loss: Any, labels: np.ndarray, classes: int, share: float, where: str
) -> tuple[Any, np.ndarray]:
    """Labels of which a share goes evenly to all classes, and the loss that takes such."""
    if loss is None:
        return loss, labels
    found = keras.losses.get(loss)
    name = getattr(found, "name", getattr(found, "__name__", ""))
    config: dict[str, Any] = getattr(found, "get_config", dict)()
    logits = config.get("from_logits", False)
    if name == "sparse_categorical_crossentropy":
        rows = labels[..., 0] if labels.ndim > 1 and labels.shape[-1] == 1 else labels
        labels = np.eye(classes, dtype="float32")[rows.astype(int)]
    elif name != "categorical_crossentropy":
        raise ConfigError(
            f"{where}, train: `label_smoothing` goes with categorical crossentropies. "
            f"Received: the loss {name!r}"
        )
    smooth = (1.0 - share) * labels.astype("float32") + np.float32(share / classes)
    return keras.losses.CategoricalCrossentropy(from_logits=logits), smooth.astype("float32")


def _augmented(x: Any, y: Any, how: Augmentation, batch_size: int, where: str) -> Any:
    """Shuffled batches of images, moved in another way in each epoch, by the seed alone."""
    import tensorflow as tf

    if not isinstance(x, np.ndarray) or x.ndim != 4:
        raise ConfigError(
            f"{where}, train: `augment` is for models of one input of images "
            f"(n, height, width, channels). Received: {getattr(x, 'shape', type(x).__name__)}"
        )
    count = len(x)
    images, labels = tf.constant(x), keras.tree.map_structure(tf.constant, y)
    order = tf.data.Dataset.range(count).shuffle(count, reshuffle_each_iteration=True)
    # A second one, which is another in each epoch too: the first of a batch make its seed.
    salt = tf.data.Dataset.range(count).shuffle(count, reshuffle_each_iteration=True)
    batches = tf.data.Dataset.zip(order, salt).batch(batch_size)

    def made(rows: Any, salts: Any) -> Any:
        seed = tf.stack([rows[0], salts[0]])
        return _moved(tf.gather(images, rows), seed, how), keras.tree.map_structure(
            lambda own: tf.gather(own, rows), labels
        )

    return batches.map(made).prefetch(2)


def _moved(images: Any, seed: Any, how: Augmentation) -> Any:
    import tensorflow as tf

    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    if how.flip:
        mirrored = tf.random.stateless_uniform([count, 1, 1, 1], seed) < 0.5
        images = tf.where(mirrored, images[:, :, ::-1], images)
    for axis, size, salt in ((1, height, 1), (2, width, 2)):
        most = int(how.shift * size)
        if not most:
            continue
        paddings = [[0, 0]] * 4
        paddings[axis] = [most, most]
        padded = tf.pad(images, paddings)
        first = tf.random.stateless_uniform(
            [count, 1], seed + salt, 0, 2 * most + 1, dtype=tf.int32
        )
        images = tf.gather(padded, first + tf.range(size)[None], axis=axis, batch_dims=1)
    return images
