"""Keras 2 files: what wrote them, whether they hold code, and loading them with tf_keras."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfcompress.errors import ConfigError, ModelTypeError
from tfcompress.legacy.packages import keras2, tfmot

_HDF5 = b"\x89HDF\r\n\x1a\n"


def written_by(path: str | os.PathLike[str]) -> str:
    """The version of Keras that wrote a file: `"2.15.0"`, `"3.8.0"`; "" where it does not tell.

    Args:
        path: a `.keras` or `.h5` file, by content rather than name, or a SavedModel folder.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return "2" if (path / "keras_metadata.pb").is_file() else ""
        if _is_hdf5(path):
            import h5py

            with h5py.File(path, "r") as file:
                version = file.attrs.get("keras_version", "2")
                return version.decode() if isinstance(version, bytes) else str(version)
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return ""


def load(path: str | os.PathLike[str], custom_objects: Mapping[str, Any], safe_mode: bool) -> Any:
    """Loads a model that Keras 2 wrote.

    Raises:
        ConfigError: no such file, or it holds code and `safe_mode` is on.
        ModelTypeError: no Keras 2 model, or tf_keras cannot load it.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"No such model: {str(path)!r}")
    version = written_by(path)
    if not version.startswith(("1", "2")):
        what = f"a model of Keras {version}" if version else "no model of Keras"
        raise ModelTypeError(
            f"{str(path)!r} must be what Keras 2 wrote: .h5, .keras or a SavedModel folder with "
            f"keras_metadata.pb. Received: {what}. Keras 3 models load with "
            "keras.models.load_model."
        )
    try:
        code = safe_mode and _holds_code(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelTypeError(
            f"{str(path)!r} must hold the config of a model of Keras 2. Received one that cannot "
            f"be read ({error}): save the model again."
        ) from error
    if code:
        raise ConfigError(
            f"{str(path)!r} holds Lambda layers, which are Python code that loading runs. If you "
            "trust where it comes from, give safe_mode=False."
        )
    tools = tfmot()
    try:
        with (
            tools.sparsity.keras.prune_scope(),
            tools.clustering.keras.cluster_scope(),
            tools.quantization.keras.quantize_scope(),
        ):
            return _loaded(path, custom_objects, safe_mode)
    except Exception as error:  # whatever tf_keras raises on what it cannot read
        raise ModelTypeError(
            f"tf_keras {keras2().__version__} cannot load {str(path)!r}: {error}\nOne with classes "
            "of its own: load it by tf_keras.models.load_model(path, custom_objects=...) and give "
            "the model."
        ) from error


def _loaded(path: Path, custom_objects: Mapping[str, Any], safe_mode: bool) -> Any:
    load_model = keras2().models.load_model
    if path.is_file() and _is_hdf5(path) and path.suffix not in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path, "r") as file:
            return load_model(file, custom_objects=dict(custom_objects), compile=True)
    if zipfile.is_zipfile(path) and path.suffix != ".keras":
        with tempfile.TemporaryDirectory() as folder:  # tf_keras goes by the name
            named = shutil.copy(path, Path(folder) / "model.keras")
            return _loaded(Path(named), custom_objects, safe_mode)
    return load_model(path, custom_objects=dict(custom_objects), safe_mode=safe_mode)


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_HDF5)) == _HDF5


def _holds_code(path: Path) -> bool:
    """Whether a Lambda layer is in the file's config."""
    if path.is_dir():
        return b'"class_name": "Lambda"' in (path / "keras_metadata.pb").read_bytes()
    if _is_hdf5(path):
        import h5py

        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config", "{}")
    else:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json")
    return _lambda_in(json.loads(config))


def _lambda_in(config: Any) -> bool:
    if isinstance(config, dict):
        if config.get("class_name") in ("Lambda", "__lambda__"):
            return True
        return any(map(_lambda_in, config.values()))
    return isinstance(config, list) and any(map(_lambda_in, config))
