"""Data of `fit` that carries what a cache says of each example."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfcompress.distillation.cached_teacher import CachedTeacher
from tfcompress.distillation.examples import is_arrays
from tfcompress.errors import DataError

# Names under which examples and what teachers say of them go through `fit` together.
_INPUTS, _SAID = "tfcompress/inputs", "tfcompress/said"


def packed(x: Any, cached: CachedTeacher | None) -> Any:
    """Data of `fit`, its inputs together with what the cache says of each example.

    Args:
        x: `fit`'s first argument, of any kind that Keras takes.
        cached: the cache; None for data as it is.

    Raises:
        DataError: an example that is not in the cache; of data that comes in batches, when the
            batch comes.
    """
    if cached is None or x is None:
        return x
    if is_arrays(x):
        return {_INPUTS: x, _SAID: tuple(cached.said_of(x))}
    if hasattr(x, "element_spec"):
        return _of_dataset(x, cached)
    if isinstance(x, keras.utils.PyDataset):
        return _OfPyDataset(x, cached)
    if isinstance(x, Iterable):
        return (_of_item(item, cached) for item in x)
    raise DataError(
        "A cached teacher needs data of arrays, a tf.data.Dataset, a keras.utils.PyDataset or a "
        f"generator of batches. Received: {type(x).__name__}"
    )


def _of_item(item: Any, cached: CachedTeacher) -> Any:
    whole = item if isinstance(item, tuple) else (item,)
    return (packed(whole[0], cached), *whole[1:])


def _of_dataset(data: Any, cached: CachedTeacher) -> Any:
    import tensorflow as tf

    def carrying(*item: Any) -> Any:
        x = item[0]

        def said(*leaves: Any) -> list[np.ndarray]:
            return cached.said_of(list(leaves))

        columns = tf.numpy_function(
            said, keras.tree.flatten(x), [tf.float32] * len(cached.columns), stateful=False
        )
        batch = keras.tree.flatten(x)[0].shape[0]
        for tensor, column in zip(columns, cached.columns, strict=True):
            tensor.set_shape((batch, *column.shape[1:]))
        return ({_INPUTS: x, _SAID: tuple(columns)}, *item[1:])

    return data.map(carrying)


class _OfPyDataset(keras.utils.PyDataset):
    """A PyDataset whose batches carry what the cache says."""

    def __init__(self, data: Any, cached: CachedTeacher) -> None:
        options = {
            "workers": data.workers,
            "use_multiprocessing": data.use_multiprocessing,
            "max_queue_size": data.max_queue_size,
        }
        super().__init__(**options)
        self._data, self._cached = data, cached

    @property
    def num_batches(self) -> Any:
        """That of the data."""
        return self._data.num_batches

    def __getitem__(self, index: int) -> Any:
        return _of_item(self._data[index], self._cached)

    def on_epoch_begin(self) -> None:
        """Keras's hook."""
        self._data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Keras's hook."""
        self._data.on_epoch_end()


def parts_of(x: Any) -> tuple[Any, list[Any]]:
    """The inputs and what goes with them, of a step's inputs."""
    if isinstance(x, dict) and _INPUTS in x:
        return x[_INPUTS], list(x[_SAID])
    return x, []
