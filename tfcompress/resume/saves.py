"""The file that a training is saved in, and whether it belongs to the one that runs."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress import files
from tfcompress.errors import ConfigError, CorruptFileError

_MAGIC = b"tfcompress training save 1\n"


class Tracked(NamedTuple):
    """A variable that a train step changes, by kind and name."""

    group: str
    name: str
    variable: Any


class Save(NamedTuple):
    """What a file holds: plain state, and the values of `state["variables"]`."""

    state: dict[str, Any]
    values: list[np.ndarray]


def pack(state: dict[str, Any], values: list[np.ndarray]) -> bytes:
    """A save: the state as JSON, the values' bytes one after the other, a checksum over all.

    Not `.npz`, which does not know bfloat16, nor pickle, which runs what it reads.
    """
    head = json.dumps(state, default=plain).encode()
    parts = [_MAGIC, len(head).to_bytes(8, "little"), head]
    parts += [np.ascontiguousarray(value).tobytes() for value in values]
    check = 0
    for part in parts:
        check = zlib.crc32(part, check)
    return b"".join([*parts, check.to_bytes(4, "little")])


def read(path: Path) -> Save:
    """Reads what `pack` made.

    Raises:
        CorruptFileError: it is another file, or damaged.
    """
    content = files.read_bytes(path)
    advice = f"Delete {str(path)!r} to start anew."
    if content[: len(_MAGIC)] != _MAGIC:
        raise CorruptFileError(
            "A save of training must begin as this version of tfcompress writes it. Received: "
            f"{content[: len(_MAGIC)]!r}. {advice}"
        )
    if zlib.crc32(content[:-4]).to_bytes(4, "little") != content[-4:]:
        raise CorruptFileError(
            f"The save {str(path)!r} is damaged: its {len(content)} bytes do not match its "
            f"checksum. {advice}"
        )
    try:
        start = len(_MAGIC) + 8
        end = start + int.from_bytes(content[len(_MAGIC) : start], "little")
        state = json.loads(content[start:end])
        values = []
        for _, _, shape, dtype in state["variables"]:
            kind = _dtype(dtype)
            count = int(np.prod(shape, dtype=np.int64))
            values.append(np.frombuffer(content, kind, count, end).reshape(shape))
            end += count * kind.itemsize
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"The save {str(path)!r} cannot be read: {error}. {advice}") from (
            error
        )
    return Save(state, values)


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # bfloat16 and the like; TensorFlow brings it

        return np.dtype(getattr(ml_dtypes, name))


def check_variables(path: Path, saved: list[list[Any]], live: list[Tracked]) -> None:
    """Checks that a save is of what trains now.

    Raises:
        ConfigError: model, optimizer or callbacks are others.
    """
    found = differences(saved, live)
    if found:
        raise ConfigError(
            "Training must be resumed with the model, optimizer and callbacks it began with. "
            f"Received others than in the save {str(path)!r}; {found}. Make them the same "
            "(what is made only in the first step, such as the optimizers of a custom train "
            "step, must be made before `fit`: optimizer.build), or delete the save to start anew."
        )


def differences(saved: list[list[Any]], live: list[Tracked]) -> str:
    """What differs between the variables of a save and those of now; empty if nothing does."""

    def line(group: str, name: str, shape: Any, dtype: str) -> str:
        # Keras numbers names through a process ("dense_3"); the number says nothing.
        return f"{group} {re.sub(r'_[0-9]+(?=[/_]|$)', '', name)} {tuple(shape)} {dtype}"

    before = [line(*row) for row in saved]
    now = [
        line(v.group, v.name, v.variable.shape, keras.backend.standardize_dtype(v.variable.dtype))
        for v in live
    ]
    if before == now:
        return ""
    gone, new = Counter(before) - Counter(now), Counter(now) - Counter(before)
    return (
        "; ".join(
            f"{title}: {', '.join(list(lines.elements())[:3])}"
            + (f" and {lines.total() - 3} more" if lines.total() > 3 else "")
            for title, lines in (("only in the save", gone), ("only now", new))
            if lines
        )
        or "their order is another"
    )


def plain(value: Any) -> Any:
    """A log's value as JSON knows it."""
    if hasattr(value, "numpy"):
        value = value.numpy()
    return value.tolist() if hasattr(value, "tolist") else value
