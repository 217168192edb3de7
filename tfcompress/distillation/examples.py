"""Examples, whatever they come in: batches of them, and a number for each by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.conversion.calibration import iterate
from tfcompress.errors import DataError


def keys_of(x: Any) -> np.ndarray:
    """A number of 64 bits for each example, by its content.

    Floating-point numbers count as float32, whole ones (but for uint8) as int64: as what Keras
    makes of them does not matter.

    Args:
        x: an array (examples, ...), or a nest of them.

    Raises:
        DataError: no arrays of equally many examples.
    """
    leaves = [_plain(leaf) for leaf in keras.tree.flatten(x)]
    if not leaves or len({len(leaf) for leaf in leaves}) != 1:
        raise DataError(
            "Examples must be an array, or arrays of equally many. Received: "
            f"{[leaf.shape for leaf in leaves]}"
        )
    begun = hashlib.blake2b(
        repr([(a.shape[1:], a.dtype.kind) for a in leaves]).encode(), digest_size=8
    )
    keys = np.empty(len(leaves[0]), np.uint64)
    for i in range(len(keys)):
        found = begun.copy()
        for leaf in leaves:
            found.update(_content(leaf[i]) if leaf.dtype == object else leaf[i].tobytes())
        keys[i] = int.from_bytes(found.digest(), "little")
    return keys


def _content(texts: Any) -> bytes:
    """Texts, one or an array of them, as bytes that no others have."""
    parts = [t if isinstance(t, bytes) else str(t).encode() for t in np.ravel(texts).tolist()]
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _plain(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.kind in "SU":
        array = array.astype(object)
    if array.ndim == 0:
        raise DataError(f"Examples must be arrays with an axis of examples. Received: {leaf!r:.60}")
    if array.dtype == np.uint8 or array.dtype.kind not in "fiubV":
        return array
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    return array.astype(np.float32) + np.float32(0)  # -0 is 0


def batches_of(data: Any, size: int) -> tuple[Iterator[Any], int | None]:
    """The inputs, batch by batch, and how many batches there are where that is known."""
    if isinstance(data, (str, bytes)) or data is None:
        raise DataError(f"Data must be arrays or batches, not a path. Received: {data!r}")
    if is_arrays(data):
        x = _inputs(data)
        count = len(keras.tree.flatten(x)[0])
        keys = range(0, count, size)
        parts = (keras.tree.map_structure(lambda a, s=s: a[s : s + size], x) for s in keys)
        return parts, len(keys)
    try:
        total: int | None = len(data)
    except TypeError:
        total = None
    return (_inputs(item) for item in iterate(data)), total


def _inputs(item: Any) -> Any:
    """Of (x, y) or (x, y, weights) the x; Keras takes a tuple for these, and a list for inputs."""
    return item[0] if isinstance(item, tuple) and 1 <= len(item) <= 3 else item


def is_arrays(data: Any) -> bool:
    """Whether data is arrays in memory, and no batches."""
    leaves = keras.tree.flatten(data)
    return bool(leaves) and all(
        hasattr(leaf, "__array__") and hasattr(leaf, "shape") for leaf in leaves
    )
