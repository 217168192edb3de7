"""One run at a time in a folder, however the one before has ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tfcompress.errors import ConfigError

LOCK = ".lock"
_TAKEN: set[str] = set()  # by this process, whose own locks do not keep it out


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other runs out of it while the block runs.

    The lock is the operating system's, and goes with the process, however that ends.

    Raises:
        ConfigError: another run works in it, or it cannot be made or written.
    """
    name = os.path.realpath(folder)
    if name in _TAKEN:
        raise ConfigError(f"One pipeline at a time works in a folder. Received: {str(folder)!r}")
    made = not folder.exists()
    fresh = not (folder / LOCK).exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(
            f"Cannot write in the folder {str(folder)!r}: {error.strerror or error}"
        ) from error
    try:
        if not _lock(handle):
            raise ConfigError(
                f"One pipeline at a time works in a folder, and another process is at work in "
                f"{str(folder)!r}. Wait for it, or pass another folder."
            )
        _TAKEN.add(name)
        try:
            yield
        except BaseException:
            # Where nothing else was written, as in a folder that was refused, no trace is left.
            if fresh:
                _withdraw(folder, made)
            raise
    finally:
        _TAKEN.discard(name)
        os.close(handle)


def _withdraw(folder: Path, made: bool) -> None:
    with contextlib.suppress(OSError):
        if not made or not [entry for entry in folder.iterdir() if entry.name != LOCK]:
            (folder / LOCK).unlink()
        if made:
            folder.rmdir()  # unless something is in it


def _lock(handle: int) -> bool:
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            # Not flock: a worker forked from this process would hold it on after a kill.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
