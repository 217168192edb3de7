"""Training on examples of which several copies were made ahead, each with labels of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


class Batches(keras.utils.PyDataset):
    """One copy after the other, each epoch in a new order; images of bytes as float32."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, seed: int, batch_size: int = 128
    ) -> None:
        super().__init__()
        self._images, self._labels, self._size = images, labels, batch_size
        self._generator = np.random.default_rng(seed)
        self._copy = -1
        self.on_epoch_begin()

    def __len__(self) -> int:
        return math.ceil(self._images.shape[1] / self._size)

    def on_epoch_begin(self) -> None:
        """Goes on to the next copy, and draws an order."""
        self._copy = (self._copy + 1) % len(self._images)
        self._order = self._generator.permutation(self._images.shape[1])

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[number * self._size : (number + 1) * self._size]
        images, labels = self._images[self._copy][chosen], self._labels[self._copy][chosen]
        return images.astype("float32") if images.dtype == np.uint8 else images, labels


def train(
    model: keras.Model,
    pool: tuple[np.ndarray, np.ndarray],
    epochs: int,
    rate: float,
    seed: int,
    callbacks: Sequence[Any] = (),
    batch_size: int = 128,
) -> None:
    """Trains in place by Adam; the learning rate falls from `rate` as a cosine.

    Args:
        model: any that `fit` takes.
        pool: copies of examples (copies, n, ...) and of their labels (copies, n, classes).
        epochs: passes over n examples.
        rate: the learning rate that it begins with.
        seed: of the order.
        callbacks: of `fit`.
        batch_size: examples in a step.
    """
    batches = Batches(*pool, seed, batch_size)
    # Without XLA: on these processors it takes twice the time.
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * len(batches))),
        "categorical_crossentropy", jit_compile=False,
    )  # fmt: skip
    model.fit(batches, epochs=epochs, shuffle=False, callbacks=list(callbacks), verbose=0)
