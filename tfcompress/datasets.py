"""Images for the demo and the command line: bundled digits, `.npz` files, image folders."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError, DataError
from tfcompress.quiet import import_tensorflow

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class ImageData:
    """A labelled image data set.

    Attributes:
        name: what to call it.
        x_train: (n, height, width, channels) float32 in 0..1; `x_test` likewise.
        y_train: (n,) class indices, int64; `y_test` likewise.
        classes: number of classes.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1


def load_images(source: str | None, *, image_size: int = 96, seed: int = 0) -> ImageData:
    """Loads a labelled image data set.

    Args:
        source: None for scikit-learn's handwritten digits (1,797 images, enlarged to 32x32); an
            `.npz` with x_train, y_train, x_test, y_test; or a folder with a folder of images per
            class, or with `train` and `test` folders of such folders.
        image_size: height and width to which a folder's images are resized.
        seed: shuffles the split where the source has none (one fifth is for testing).

    Raises:
        ConfigError: the source does not exist or is of no known kind.
        DataError: its arrays do not fit together.
    """
    if source is None:
        return _digits(seed)
    path = Path(source)
    if path.is_dir():
        return _folder(path, image_size, seed)
    if path.suffix != ".npz":
        raise ConfigError(
            f"Data must be an .npz file with {', '.join(_ARRAYS)}, or a folder of images. "
            f"Received: {source!r}"
        )
    arrays = load_npz(path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise DataError(
            f"{source!r} must hold the arrays {', '.join(_ARRAYS)}. Missing: {missing}; it has "
            f"{sorted(arrays)}"
        )
    return _checked(path.stem, *(arrays[name] for name in _ARRAYS))


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file, pickled ones refused.

    Raises:
        ConfigError: no such file.
        DataError: it is damaged, or holds Python objects.
    """
    if not path.is_file():
        raise ConfigError(f"No such file: {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{str(path)!r} is not a readable .npz file: it is no zip archive. It is damaged, or "
            "of another kind: write it anew by np.savez."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(path)!r} is not a readable .npz file: {error}") from error


def _digits(seed: int) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)
    images = images.repeat(4, axis=1).repeat(4, axis=2)[..., None]
    return _split("digits", images, digits.target, seed)


def _split(name: str, images: np.ndarray, labels: np.ndarray, seed: int) -> ImageData:
    order = np.random.default_rng(seed).permutation(len(images))
    test = max(1, len(images) // 5)
    return _checked(
        name, images[order[test:]], labels[order[test:]], images[order[:test]], labels[order[:test]]
    )


def _folder(path: Path, size: int, seed: int) -> ImageData:
    import_tensorflow()
    import keras
    import tensorflow as tf

    def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
        try:
            data: Any = keras.utils.image_dataset_from_directory(
                folder, image_size=(size, size), batch_size=64, shuffle=False, verbose=False
            )
            parts = [(x.numpy(), y.numpy()) for x, y in data]
        except tf.errors.OpError as error:
            raise DataError(
                f"{str(folder)!r} holds a file that is no readable image: {error.message}"
            ) from error
        except ValueError as error:
            raise DataError(
                f"{str(folder)!r} must hold one folder of images per class: {error}"
            ) from error
        x, y = zip(*parts, strict=True)
        return np.concatenate(x) / np.float32(255), np.concatenate(y)

    if (path / "train").is_dir() and (path / "test").is_dir():
        return _checked(path.name, *read(path / "train"), *read(path / "test"))
    return _split(path.name, *read(path), seed)


def _checked(
    name: str, x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> ImageData:
    images, labels = [], []
    for label, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if x.ndim == 3:
            x = x[..., None]
        y = np.asarray(y).reshape(-1)
        if x.ndim != 4 or x.dtype.kind not in "uif":
            raise DataError(
                f"x_{label} must hold images (n, height, width[, channels]). "
                f"Received: {x.dtype} {x.shape}"
            )
        if len(x) != len(y) or len(x) == 0 or y.dtype.kind not in "iu" or y.min() < 0:
            raise DataError(
                f"y_{label} must hold one class index (0, 1, ...) for each of the {len(x)} images "
                f"of x_{label}. Received: {y.dtype} {y.shape}"
            )
        if x.dtype == np.uint8:
            x = x.astype(np.float32) / np.float32(255)
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise DataError(f"x_{label} must be finite. Received: NaN or infinite values")
        images.append(x)
        labels.append(y.astype(np.int64))
    if images[0].shape[1:] != images[1].shape[1:]:
        raise DataError(
            "x_train and x_test must hold images of one shape. "
            f"Received: {images[0].shape[1:]} and {images[1].shape[1:]}"
        )
    return ImageData(name, images[0], labels[0], images[1], labels[1])
