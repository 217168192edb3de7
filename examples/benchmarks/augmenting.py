"""Augmented images made before training, so that a teacher's answers to them can be kept."""

from __future__ import annotations

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
