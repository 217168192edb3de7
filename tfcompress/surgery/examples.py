"""Examples that surgery measures on and fits to: batches of inputs, with or without targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.errors import DataError, in_brief
from tfcompress.graph.calls import functional

BATCH = 32


def inputs_of(data: Any) -> Iterator[Any]:
    """Batches of inputs, from inputs, (x, y), (x, y, sample weights), or batches of these."""
    x = data[0] if isinstance(data, tuple) and _is_labelled(data) else data
    if (isinstance(x, (np.ndarray, dict, list)) and not _is_batches(data)) or hasattr(x, "numpy"):
        yield from _slices(x, BATCH)
        return
    for batch in _batches(x):
        yield batch[0] if _is_labelled(batch) else batch


def pairs_of(data: Any, size: int = BATCH) -> Iterator[tuple[Any, Any]]:
    """Batches of inputs and targets, from (x, y) or batches of such; sample weights are left out.

    Args:
        data: arrays, or a stream in batches of its own.
        size: of batches, where the data is arrays.

    Raises:
        DataError: no pairs, arrays of different lengths, or nothing at all.
    """
    wanted = "`data` must be (x, y), or batches of (x, y)"
    if isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise DataError(f"{wanted}. Received: a tuple of {len(data)}")
        arrays = keras.tree.map_structure(np.asarray, data[:2])
        lengths = {len(a) if a.ndim else 0 for a in keras.tree.flatten(arrays)}
        if len(lengths) != 1 or not min(lengths):
            raise DataError(f"{wanted} of one length, above 0. Received: lengths {sorted(lengths)}")
        yield from _slices(arrays, size)
        return
    if isinstance(data, dict) or not _is_stream(data):
        raise DataError(f"{wanted}. Received: {type(data).__name__}")
    for batch in _batches(data):
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise DataError(f"{wanted}. Received: a batch of {type(batch).__name__}")
        yield batch[0], batch[1]


def _is_labelled(item: Any) -> bool:
    """Whether it is inputs and targets, perhaps with weights; a list of three is one of inputs."""
    return (isinstance(item, tuple) and len(item) in (2, 3)) or (
        isinstance(item, list) and len(item) == 2
    )


def _is_batches(data: Any) -> bool:
    """Whether a list is one of batches; else it is one of inputs, which are arrays."""
    batch = (tuple, list, dict)
    return isinstance(data, list) and bool(data) and all(isinstance(one, batch) for one in data)


def _is_stream(data: Any) -> bool:
    """Whether batches can be had of it: an iterable, a PyDataset, or a function that gives one."""
    if isinstance(data, (str, bytes, np.ndarray)):
        return False
    return hasattr(data, "__iter__") or hasattr(data, "__getitem__") or callable(data)


def _slices(arrays: Any, size: int) -> Iterator[Any]:
    flat = keras.tree.flatten(arrays)
    count = len(flat[0]) if flat and np.ndim(flat[0]) else 0
    if not count:
        raise DataError("`data` must hold at least one example. Received: none")
    for start in range(0, count, size):
        yield keras.tree.map_structure(lambda a, i=start: a[i : i + size], arrays)


def _batches(data: Any) -> Iterator[Any]:
    from tfcompress.conversion.calibration import iterate

    if not _is_stream(data):
        raise DataError(f"`data` must be arrays or batches. Received: {type(data).__name__}")
    empty = True
    # A tf.data.Dataset as it is: arrays of its ragged tensors would be another thing.
    for batch in data if hasattr(data, "__iter__") else iterate(data):
        empty = False
        yield batch
    if empty:
        raise DataError("`data` must hold at least one batch. Received: no batches")


def check_ends(data: Any) -> None:
    """Checks what all batches are read of, as far as that can be told.

    Raises:
        DataError: a `tf.data.Dataset` without an end.
    """
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:  # tf.data's INFINITE
        raise DataError(
            "`data` must end: all of it is read. Received: a tf.data.Dataset that repeats for "
            "ever. Pass data.take(50), say."
        )


class Remembered:
    """What an iterator gives, for as many turns as are wanted.

    It is asked for no more than a turn needs, as it may have no end.

    Args:
        items: the iterator.
    """

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._seen: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        yield from self._seen
        for item in self._items:
            self._seen.append(item)
            yield item


def repeatable(data: Any) -> Any:
    """The data in a form that can be gone through several times: generators are remembered."""
    return Remembered(data) if isinstance(data, Iterator) else data


def as_inputs(model: Any, x: Any) -> Any:
    """A batch in the structure that the model's inputs have, without a word from Keras."""
    struct = getattr(functional(model), "_inputs_struct", None)
    if isinstance(x, dict) and not isinstance(struct, dict):
        names = [tensor.name for tensor in model.inputs]
        if set(names) <= set(x):
            x = [x[name] for name in names]
    if isinstance(struct, (list, tuple)) and len(struct) == 1 and not isinstance(x, (list, tuple)):
        return [x] if isinstance(struct, list) else (x,)
    return x


def misfit(model: Any, error: Exception) -> DataError:
    """What to raise where a model cannot take the data."""
    return DataError(
        f"`data` must fit the model. Received: data with which the model {model.name!r} raises "
        f"{type(error).__name__}: {in_brief(error)}"
    )


def check_finite(values: np.ndarray) -> None:
    """Checks what was measured on data.

    Raises:
        DataError: NaN or infinity in it.
    """
    if not np.isfinite(values).all():
        raise DataError(
            "`data` must give finite values in every layer. Received: data that gives NaN or "
            "infinity. Check it, and the model's weights."
        )
