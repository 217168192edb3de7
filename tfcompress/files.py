"""Reading and writing files so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tfcompress.errors import ConfigError


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The whole file.

    Raises:
        ConfigError: it does not exist, is a folder, or may not be read.
    """
    try:
        source = Path(path)
        if source.exists() and not source.is_file():
            raise ConfigError(f"The path must name a file. Received: {os.fspath(path)!r}")
        return source.read_bytes()
    except TypeError:
        raise ConfigError(f"A path or bytes are needed. Received: {path!r:.80}") from None
    except FileNotFoundError:
        raise ConfigError(f"No such file: {os.fspath(path)!r}") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {os.fspath(path)!r}: {error.strerror or error}") from error


def check_writable(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Checks, before work starts, that `path` can be written when it is done.

    Raises:
        ConfigError: it exists and `overwrite` is False, is a folder, or its folder does not
            exist or may not be written.
    """
    try:
        target = Path(os.path.realpath(path))  # a link's target is replaced, not the link
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`path` must be a path. Received: {path!r:.80} ({error})") from None
    if target.is_dir():
        raise ConfigError(f"The path must name a file. Received a folder: {str(target)!r}")
    if target.exists() and not target.is_file():
        raise ConfigError(f"The path must name a plain file. Received a device: {str(target)!r}")
    if target.exists() and not overwrite:
        raise ConfigError(
            f"{str(target)!r} exists. Pass overwrite=True (--overwrite) or another path."
        )
    folder = target.parent
    if not folder.is_dir():
        raise ConfigError(f"The folder {str(folder)!r} does not exist. Create it first.")
    try:
        # os.access does not know read-only mounts, quotas or root: try it.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"Cannot write in {str(folder)!r}: {error.strerror or error}") from error
    return target


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """A file to write and read, under a temporary name; renamed into place when the block ends.

    An exception inside the block leaves what was there before.

    Raises:
        ConfigError: as `check_writable`, or the disk is full.
    """
    target = check_writable(path, overwrite=overwrite)
    handle, temporary = tempfile.mkstemp(prefix=".tfcompress-", dir=target.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise ConfigError(f"Cannot write {str(target)!r}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_bytes(path: str | os.PathLike[str], content: bytes, *, overwrite: bool = True) -> Path:
    """Writes a file under a temporary name beside it, then renames it into place.

    Raises:
        ConfigError: as `check_writable`, or the disk is full.
    """
    with replacing(path, overwrite=overwrite) as file:
        file.write(content)
    return Path(os.path.realpath(path))


def write_json(path: str | os.PathLike[str], value: Any, *, overwrite: bool = True) -> Path:
    """Writes `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, allow_nan=False, default=plain) + "\n"
    return write_bytes(path, text.encode(), overwrite=overwrite)


def plain(value: Any) -> Any:
    """What JSON does not know, as what it does: `default` of `json.dumps`."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"not JSON: {type(value).__name__}")
