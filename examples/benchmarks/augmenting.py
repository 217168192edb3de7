"""Augmented images made before training, so that a teacher's answers to them can be kept."""

from __future__ import annotations

import math

import keras
import numpy as np

SHIFT, MIXED = 4, 0.5


def augmented(
    x: np.ndarray, y: np.ndarray, seed: int, copies: int, mixed: float = MIXED
) -> tuple[np.ndarray, np.ndarray]:
    """Mirrored, shifted by up to 4 pixels, some of them mixed with another of the same copy.

    Mixing is mixup's (Zhang et al. 2018, https://arxiv.org/abs/1710.09412), evenly distributed.

    Args:
        x: images (n, rows, columns, channels), 0..255.
        y: their classes (n,), of 10.
        seed: the same for every row that is to see the same images.
        copies: how many of each image.
        mixed: share of the images that are mixed.

    Returns:
        (copies, n, rows, columns, channels) uint8 and labels (copies, n, 10).
    """
    draw = np.random.default_rng(seed)
    padded = np.pad(x, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    size, one_hot = x.shape[1], np.eye(10, dtype="float32")[y]
    images = np.empty((copies, *x.shape), "uint8")
    labels = np.empty((copies, len(x), 10), "float32")
    for copy in range(copies):
        corners = draw.integers(0, 2 * SHIFT + 1, (len(x), 2))
        mirrored = draw.random(len(x)) < 0.5
        made = np.stack(
            [
                image[r : r + size, c : c + size][:, :: -1 if flip else 1]
                for image, (r, c), flip in zip(padded, corners, mirrored, strict=True)
            ]
        )
        own = (draw.random(len(x)) < mixed) * draw.beta(1.0, 1.0, len(x))
        own, other = 1 - own.astype("float32"), draw.permutation(len(x))
        blend = own[:, None, None, None] * made + (1 - own)[:, None, None, None] * made[other]
        images[copy] = np.rint(blend)
        labels[copy] = own[:, None] * one_hot + (1 - own)[:, None] * one_hot[other]
    return images, labels


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
