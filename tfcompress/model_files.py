"""Loading Keras models, representative and labelled data from files, for the command line."""

from __future__ import annotations

import contextlib
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.datasets import load_images, load_npz
from tfcompress.errors import CompressError, ConfigError, DataError, ModelTypeError


def load_model(path: str | Path, *, compiled: bool = False) -> Any:
    """Loads a Keras model.

    What Keras 2 wrote comes by `tfcompress.legacy.to_keras3`, as Keras 3 refuses some of it and
    takes some layers for others; a line on the error stream says so.

    Args:
        path: a `.keras` or `.h5` file of Keras 3 or 2, or a SavedModel folder (wrapped as an
            inference-only model where it holds no layers of Keras 2).
        compiled: with the loss and metrics that it was compiled with, where Keras can load them.

    Raises:
        ConfigError: no such file, or of no known kind.
        ModelTypeError: it cannot be loaded.
        ConversionError: layers of Keras 2 that Keras 3 does not have.
    """
    import keras

    from tfcompress.legacy.files import written_by

    path = Path(path)
    if not path.exists():
        raise ConfigError(f"No such model: {str(path)!r}")
    if not path.is_dir() and path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ConfigError(
            "The model must be a .keras or .h5 file or a SavedModel folder. "
            f"Received: {str(path)!r}"
        )
    if written_by(path).startswith(("1", "2")):
        try:
            return _of_keras2(path)
        except CompressError:
            if not path.is_dir():
                raise
    if path.is_dir():
        return _saved_model(path)
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ModelTypeError(
            f"{str(path)!r} is no .keras file: these are zip archives. It is damaged, or of "
            "another kind: copy it again, or save the model anew."
        )
    try:
        if compiled:
            # A loss of the user's own is no reason to refuse the model.
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the optimizer's state does not matter
                return keras.models.load_model(path, compile=True)
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ModelTypeError(
            f"Keras {keras.__version__} cannot load {str(path)!r}: {error}\nA model with custom "
            "layers converts from Python, where their classes are at hand: tfc.convert(model, ...)."
        ) from error


def _of_keras2(path: Path) -> Any:
    from tfcompress.legacy.conversion import to_keras3

    model = to_keras3(path)
    print(f"{path.name}: a Keras 2 model, brought to Keras 3", file=sys.stderr)
    for note in model.compression_report.notes:
        print(f"  {note}", file=sys.stderr)
    return model


def _saved_model(path: Path) -> Any:
    import keras

    if not (path / "saved_model.pb").is_file():
        raise ConfigError(f"{str(path)!r} is a folder but no SavedModel (no saved_model.pb).")
    import tensorflow as tf

    try:
        signatures = tf.saved_model.load(str(path)).signatures
        key = "serving_default" if "serving_default" in signatures else next(iter(signatures))
        inputs = {
            name: keras.Input(batch_shape=spec.shape.as_list(), dtype=spec.dtype.name, name=name)
            for name, spec in signatures[key].structured_input_signature[1].items()
        }
        layer = keras.layers.TFSMLayer(str(path), call_endpoint=key)
    except (StopIteration, ValueError, OSError, AttributeError) as error:
        raise ModelTypeError(
            f"{str(path)!r} holds no SavedModel with a usable signature: {error}"
        ) from error
    outputs = layer(**inputs) if len(inputs) > 1 else layer(next(iter(inputs.values())))
    return keras.Model(inputs if len(inputs) > 1 else next(iter(inputs.values())), outputs)


def load_representative(source: str, prefer: Sequence[str] = ("x_train", "x")) -> Any:
    """Representative data for `tfc.convert` from a file.

    Args:
        source: an `.npy` of inputs; an `.npz` of arrays named as the model's inputs, or as in
            `prefer`; or a folder of images.
        prefer: names of arrays to look for in an `.npz`, first to last.

    Raises:
        ConfigError: no such file, or of no known kind.
        DataError: it cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        return load_images(source).x_train
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{source!r} is not a readable .npy file: {error}") from error
    if path.suffix == ".npz":
        arrays = load_npz(path)
        if "x_train" in arrays and "y_train" in arrays and "x_test" in arrays:
            images = load_images(source)
            return images.x_test if prefer[0] == "x_test" else images.x_train
        for name in prefer:
            if name in arrays:
                return arrays[name]
        return arrays
    raise ConfigError(f"Data must be .npy, .npz or a folder of images. Received: {source!r}")


def load_labelled(source: str, inputs: Sequence[str], image_size: int = 96) -> tuple[Any, Any]:
    """Data with labels for `tfc.evaluate` from a file.

    Args:
        source: an `.npz` with x_train, y_train, x_test and y_test (the test images are taken,
            8-bit ones scaled to 0..1), with x_test and y_test, with x and y, or with arrays named
            as the model's inputs and y or arrays named as its outputs; or a folder of images, one
            folder for each class (its `test` folder where it has one, else one fifth of it).
        inputs: names of the model's inputs.
        image_size: height and width to which a folder's images are resized.

    Raises:
        ConfigError: no such file, or of no known kind.
        DataError: it cannot be read, or holds no labels.
    """
    path = Path(source)
    if path.is_dir():
        images = load_images(source, image_size=image_size)
        return images.x_test, images.y_test
    if path.suffix != ".npz":
        raise ConfigError(f"Labelled data must be .npz or a folder of images. Received: {source!r}")
    arrays = load_npz(path)
    if all(name in arrays for name in ("x_train", "y_train", "x_test", "y_test")):
        images = load_images(source)
        return images.x_test, images.y_test
    for x, y in (("x_test", "y_test"), ("x", "y")):
        if x in arrays and y in arrays:
            return arrays[x], arrays[y]
    labels = {name: array for name, array in arrays.items() if name not in inputs}
    if set(inputs) <= set(arrays) and labels:
        return {name: arrays[name] for name in inputs}, labels.get("y", labels)
    raise DataError(
        f"{source!r} must hold labels: x and y, x_test and y_test, or arrays named as the inputs "
        f"{sorted(inputs)} with y or the outputs' names. Received: {sorted(arrays)}"
    )


def load_training(source: str, model: Any) -> tuple[Any, Any]:
    """Labelled data to train a model on, and to validate it on, from a file.

    Args:
        source: an `.npz` with x_train and y_train (and perhaps x_test and y_test), with x and y,
            or with arrays named as the model's inputs and y or arrays named as its outputs; or a
            folder of images, one folder for each class. 8-bit images are scaled to 0..1 and get
            an axis of channels where the model has one.
        model: which it is for.

    Returns:
        (x, y) to train on, and (x, y) to validate on or None.

    Raises:
        ConfigError: no such file, or of no known kind.
        DataError: it cannot be read, or holds no labels.
    """
    from tfcompress.conversion.export import read_interface

    specs = read_interface(model).specs
    path = Path(source)
    if path.is_dir():
        shape = specs[0].shape
        size = shape[1] if len(shape) == 4 and shape[1] else 96
        images = load_images(source, image_size=size)
        return (images.x_train, images.y_train), (images.x_test, images.y_test)
    if path.suffix != ".npz":
        raise ConfigError(f"Labelled data must be .npz or a folder of images. Received: {source!r}")
    arrays = load_npz(path)
    names = [spec.name for spec in specs]
    pairs = []
    for x, y in (("x_train", "y_train"), ("x_test", "y_test")):
        if x in arrays and y in arrays:
            pairs.append((_fitting(arrays[x], specs[0]), arrays[y]))
    if "x_train" in arrays and pairs:
        return pairs[0], pairs[1] if len(pairs) > 1 else None
    if set(names) <= set(arrays) and len(arrays) > len(names):
        labels = {name: array for name, array in arrays.items() if name not in names}
        return ({name: arrays[name] for name in names}, labels.get("y", labels)), None
    if "x" in arrays and "y" in arrays:
        return (_fitting(arrays["x"], specs[0]), arrays["y"]), None
    raise DataError(
        f"{source!r} must hold x_train and y_train, x and y, or arrays named as the inputs {names} "
        f"with y or the outputs' names. Received: {sorted(arrays)}"
    )


def _fitting(array: np.ndarray, spec: Any) -> np.ndarray:
    """Images as the model takes them: as float in 0..1, with an axis of channels."""
    if len(spec.shape) == 4 and array.ndim == 3 and spec.shape[-1] in (1, None):
        array = array[..., None]
    if len(spec.shape) == 4 and array.dtype == np.uint8 and spec.dtype.startswith("float"):
        array = array.astype(np.float32) / np.float32(255)
    return array
