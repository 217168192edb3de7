"""`.keras` files whose bytes depend on the model alone: no dates, no addresses of objects."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError, ModelTypeError

_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can say


def dump(model: Any) -> bytes:
    """A model, without its optimizer, as the bytes of a `.keras` file: equal for equal models.

    Raises:
        ModelTypeError: Keras cannot save it.
        ConfigError: the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        path = Path(folder) / "model.keras"
        try:
            with _not_compiled(model):
                model.save(path)
        except OSError as error:
            raise ConfigError(
                f"Cannot write a model of this size in {folder!r}: {error.strerror or error}"
            ) from error
        except Exception as error:  # layers of other people's making raise anything
            raise ModelTypeError(
                f"A pipeline keeps its steps as .keras files, and Keras cannot save the model "
                f"{model.name!r}: {type(error).__name__}: {error}. Its own layers need get_config."
            ) from error
        return _normalised(path.read_bytes())


def load(path: Path, like: Any, what: str = "the .keras file of the step before") -> Any:
    """The model of a `.keras` file, not compiled.

    Args:
        path: the file.
        like: a model whose classes the file may name.
        what: the file is, for errors.

    Raises:
        ModelTypeError: Keras cannot load it.
    """
    import keras

    from tfcompress.graph.copying import own_classes

    try:
        with own_classes(like):
            return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ModelTypeError(
            f"A pipeline needs {what}, and Keras cannot load {str(path)!r}: "
            f"{type(error).__name__}: {error}. Register the classes of your own "
            "layers (keras.saving.register_keras_serializable), and let get_config tell all of "
            "their arguments."
        ) from error


def identity(content: bytes, model: Any) -> str:
    """SHA-256 of what tells a model from another, without the numbers that Keras puts in names.

    Args:
        content: of its file.
        model: itself.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        config = archive.read("config.json")
    digest = hashlib.sha256(re.sub(rb"_[0-9]+(?=[\"/_])", b"", config))
    for variable in model.weights:
        value = np.ascontiguousarray(variable)
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _not_compiled(model: Any) -> Iterator[None]:
    """The optimizer and the losses stay out of the file: later steps have their own."""
    compiled, optimizer = model.compiled, getattr(model, "optimizer", None)
    model.compiled = False
    object.__setattr__(model, "optimizer", None)  # past Keras's tracking
    try:
        yield
    finally:
        model.compiled = compiled
        object.__setattr__(model, "optimizer", optimizer)


def _normalised(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w") as target:
        for name in sorted(source.namelist()):
            part = source.read(name)
            if name == "config.json":
                part = json.dumps(_renumbered(json.loads(part), {})).encode()
            elif name == "metadata.json":
                told = json.loads(part)
                told.pop("date_saved", None)
                part = json.dumps(told, sort_keys=True).encode()
            target.writestr(zipfile.ZipInfo(name, _DATE), part)
    return made.getvalue()


def _renumbered(value: Any, seen: dict[int, int]) -> Any:
    """Shared objects, numbered by their addresses, numbered from 1 in order."""
    if isinstance(value, dict):
        return {
            key: seen.setdefault(own, len(seen) + 1)
            if key == "shared_object_id"
            else _renumbered(own, seen)
            for key, own in value.items()
        }
    if isinstance(value, list):
        return [_renumbered(own, seen) for own in value]
    return value
