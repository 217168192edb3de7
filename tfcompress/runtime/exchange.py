"""A file and its inputs handed to a child process, which runs it and hands its outputs back."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfcompress.runtime import adapter


@contextlib.contextmanager
def exchanged(
    content: bytes, inputs: Sequence[np.ndarray] | None
) -> Iterator[tuple[dict[str, str | None], Callable[[], list[np.ndarray]]]]:
    """Writes a file and its inputs into a folder for a child process; removes it in the end.

    Args:
        content: bytes of a `.tflite` file.
        inputs: stored values for each input in the session's order, (runs, *shape); None for one
            run on zeros (the zero point where quantized), valid for token ids too.

    Yields:
        Arguments of the child's job: `path`, and `inputs` and `result` for `run_on`; and a
        function that reads what that has left.
    """
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        path, result = os.path.join(folder, "model.tflite"), os.path.join(folder, "outputs.npz")
        with open(path, "wb") as file:
            file.write(content)
        data = None
        if inputs is not None:
            data = os.path.join(folder, "inputs.npz")
            np.savez(data, *inputs)
        yield {"path": path, "inputs": data, "result": result}, lambda: _read(result)


def run_on(session: Any, inputs: str | None, result: str) -> None:
    """The child's side: runs a session once for each of the inputs, and leaves its outputs.

    Args:
        session: an `adapter.Session`, or one with its face.
        inputs: as `exchanged` gives it.
        result: as `exchanged` gives it; (runs, *shape) for each output, strings as bytes.
    """
    columns = [idle_value(info)[None] for info in session.inputs]
    if inputs is not None:
        columns = _read(inputs)
    runs = []
    for number in range(len(columns[0]) if columns else 1):
        values = {info.index: c[number] for info, c in zip(session.inputs, columns, strict=True)}
        runs.append([_plain(value) for value in session.run(values)])
    np.savez(result, *(np.stack(column) for column in zip(*runs, strict=True)))


def idle_value(info: adapter.TensorInfo) -> np.ndarray:
    """An input that every model accepts: zeros, the zero point where quantized."""
    return np.full(info.shape, info.zero_point if info.scale else 0, info.dtype)


def _read(path: str) -> list[np.ndarray]:
    with np.load(path) as arrays:
        return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]


def _plain(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(bytes) if array.dtype == object else array
