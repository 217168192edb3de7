"""Data in every form that users have, brought into one: arrays by input name, and labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.errors import DataError


@dataclass(frozen=True)
class InputSpec:
    """One input of the model to convert.

    Attributes:
        name: its name in the file's signature.
        aliases: other names under which data may bring it.
        shape: with the batch axis first; None where a size is not known.
        dtype: name of its dtype, such as `"float32"`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    aliases: tuple[str, ...] = ()

    @property
    def example_shape(self) -> tuple[int | None, ...]:
        """The shape without the batch axis."""
        return self.shape[1:]


def gather(data: Any, specs: Sequence[InputSpec], limit: int) -> dict[str, np.ndarray]:
    """Collects at most `limit` examples.

    Args:
        data: an array; a dict of arrays by input name; a list of arrays, one per input; a pair
            (x, y) whose labels are dropped; a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            generator, a function that returns one, or any iterable of such items, in batches of
            any size or as single examples.
        specs: the model's inputs.
        limit: how many examples to take. From arrays they are spread evenly over the whole,
            as data is often sorted by class; from a stream they are its first.

    Returns:
        Input name to an array (examples, ...) of the input's dtype.

    Raises:
        DataError: no example at all, a wrong name, shape or dtype, NaN or infinity.
    """
    if data is None or isinstance(data, (str, bytes)):
        raise DataError(
            "Representative data must be arrays, not a path: load it first, as with np.load. "
            f"Received: {data!r}"
        )
    whole = _fit(data, specs) if _is_whole(data) else None
    if whole is None and _is_whole(data) and not isinstance(data, (list, tuple)):
        raise DataError(_mismatch(data, specs))
    parts = iter([whole]) if whole is not None else _items(data, specs)
    chunks: list[dict[str, np.ndarray]] = []
    count = 0
    for part in parts:
        size = len(next(iter(part.values())))
        if whole is not None and size > limit:
            chosen = np.linspace(0, size - 1, limit).round().astype(int)
            part = {name: array[chosen] for name, array in part.items()}
        elif count + size > limit:
            part = {name: array[: limit - count] for name, array in part.items()}
        part = {spec.name: _checked(part[spec.name], spec) for spec in specs}
        chunks.append(part)
        count += len(next(iter(part.values())))
        if count >= limit:
            break
    if count == 0:
        raise DataError(
            "Representative data holds no example. Give some (100 to 500 are usual) from the "
            "training set, prepared as for training. Note that a generator can be used only once: "
            "give a function that returns a new one."
        )
    return {spec.name: np.concatenate([chunk[spec.name] for chunk in chunks]) for spec in specs}


def labelled(
    data: Any, specs: Sequence[InputSpec], *, ordered: bool = True
) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
    """Goes through data with labels, part by part.

    Args:
        data: a pair (x, y), where x is an array or a dict of arrays by input name; or a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, a function that returns
            one, or any iterable of such pairs, in batches of any size or as single examples. A
            third element, sample weights, is left out.
        specs: the model's inputs.
        ordered: whether the order of `specs` is one that the user knows: only then may several
            inputs come as a list.

    Yields:
        Input name to an array (examples, ...) of the input's dtype, and the labels as they came,
        with an axis of examples: an array, a list, or a dict of these.

    Raises:
        DataError: no pair, or inputs of a wrong name, shape or dtype, NaN or infinity.
    """
    if data is None or isinstance(data, (str, bytes)):
        raise DataError(f"Data must be arrays, not a path: load it first. Received: {data!r}")
    pair = _pair(data, specs, ordered) if isinstance(data, (list, tuple)) else None
    if pair is None and (_is_whole(data) and not isinstance(data, (list, tuple))):
        raise DataError(_no_pair(data, specs))
    for number, item in enumerate([data] if pair is not None else iterate(data)):
        pair = _pair(item, specs, ordered)
        if pair is None:
            raise DataError(f"{_no_pair(item, specs)} (item {number} of the data)")
        yield {spec.name: _checked(pair[0][spec.name], spec) for spec in specs}, pair[1]


def parts(data: Any, specs: Sequence[InputSpec], *, ordered: bool = True) -> int | None:
    """How many parts `labelled` will yield, where that is known without reading them."""
    if isinstance(data, (list, tuple)) and _pair(data, specs, ordered) is not None:
        return 1
    try:
        return len(data)
    except TypeError:  # a generator, a function, an endless tf.data.Dataset
        return None


def _pair(item: Any, specs: Sequence[InputSpec], ordered: bool) -> tuple[Any, Any] | None:
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        return None
    inputs, labels = item[0], item[1]
    if len(specs) > 1 and not ordered and not isinstance(inputs, Mapping):
        return None
    fitted = _as_inputs(inputs, specs)
    if fitted is None or labels is None:
        return None
    spec = specs[0]
    first = inputs
    if isinstance(inputs, Mapping):
        first = next(inputs[key] for key in (spec.name, *spec.aliases) if key in inputs)
    elif len(specs) > 1:
        first = inputs[0]
    if np.ndim(first) == len(spec.example_shape):  # a single example
        labels = {k: [v] for k, v in labels.items()} if isinstance(labels, Mapping) else [labels]
    return fitted, labels


def _no_pair(item: Any, specs: Sequence[InputSpec]) -> str:
    return (
        f"Data must be pairs (inputs, labels) with the model's inputs: {_wanted(specs)}"
        f"{', in a dict by name' if len(specs) > 1 else ''}. Received: {_describe(item)}"
    )


def _is_whole(data: Any) -> bool:
    return isinstance(data, (np.ndarray, Mapping, list, tuple)) or (
        hasattr(data, "__array__") and hasattr(data, "shape")
    )


def _items(data: Any, specs: Sequence[InputSpec]) -> Iterator[dict[str, np.ndarray]]:
    for number, item in enumerate(iterate(data)):
        fitted = _fit(item, specs)
        if fitted is None:
            raise DataError(f"{_mismatch(item, specs)} (item {number} of the representative data)")
        yield fitted


def iterate(data: Any) -> Iterable[Any]:
    """The items of a stream of any kind: what comes after arrays in `gather`."""
    if isinstance(data, Callable):  # type: ignore[arg-type]
        data = data()
    if isinstance(data, (list, tuple)):
        return data
    if hasattr(data, "as_numpy_iterator"):
        return (_numpy(item) for item in data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "__iter__"):
        return (data[index] for index in range(len(data)))  # keras.utils.PyDataset
    if hasattr(data, "__getitem__") and hasattr(data, "num_batches"):
        return itertools.islice((data[i] for i in range(data.num_batches)), data.num_batches)
    try:
        return iter(data)
    except TypeError:
        raise DataError(
            "Representative data must be an array, a dict of arrays, a tf.data.Dataset, a "
            f"generator or an iterable of batches. Received: {type(data).__name__}"
        ) from None


def _numpy(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {key: _numpy(value) for key, value in item.items()}
    if isinstance(item, (tuple, list)):
        return type(item)(_numpy(value) for value in item)
    return item.numpy() if hasattr(item, "numpy") else item


def _fit(item: Any, specs: Sequence[InputSpec]) -> dict[str, np.ndarray] | None:
    """The item as arrays by input name, read as inputs or else as (inputs, labels, ...)."""
    fitted = _as_inputs(item, specs)
    if fitted is None and isinstance(item, (tuple, list)) and 1 <= len(item) <= 3:
        # (inputs, labels[, weights]); a list may also be one of batches, which all fit
        listed = isinstance(item, list) and len(item) > 1
        if not (listed and _as_inputs(item[1], specs)):
            fitted = _as_inputs(item[0], specs)
    if fitted is None and isinstance(item, list) and item and len(specs) == 1:
        array = _array(item)  # a list of single examples
        fitted = None if array is None else _as_inputs(array, specs)
    return fitted


def _as_inputs(item: Any, specs: Sequence[InputSpec]) -> dict[str, np.ndarray] | None:
    if isinstance(item, Mapping):
        values = [
            next((item[key] for key in (spec.name, *spec.aliases) if key in item), None)
            for spec in specs
        ]
        if any(value is None for value in values) or len(item) != len(specs):
            return None
    elif isinstance(item, (tuple, list)):
        if len(item) != len(specs):
            return None
        values = list(item)
    elif len(specs) == 1:
        values = [item]
    else:
        return None
    arrays = [_array(value) for value in values]
    if any(
        a is None or not _shape_fits(a.shape, (None, *s.example_shape))
        for a, s in zip(arrays, specs, strict=True)
    ):
        # single examples, not batched
        if any(
            a is None or not _shape_fits(a.shape, s.example_shape)
            for a, s in zip(arrays, specs, strict=True)
        ):
            return None
        arrays = [a[None] for a in arrays if a is not None]
    result = {s.name: a for s, a in zip(specs, arrays, strict=True) if a is not None}
    return result if len({len(array) for array in result.values()}) == 1 else None


def _array(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return None
    return None if array.dtype == object else array


def _shape_fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(want is None or size == want for size, want in zip(shape, wanted, strict=True))


def _mismatch(item: Any, specs: Sequence[InputSpec]) -> str:
    return (
        f"Representative data must fit the model's inputs: {_wanted(specs)}, alone or as "
        f"(inputs, labels). Received: {_describe(item)}"
    )


def _wanted(specs: Sequence[InputSpec]) -> str:
    return ", ".join(
        f"{s.name!r} {s.dtype} ({', '.join(['n', *map(str, s.example_shape)])})" for s in specs
    )


def _describe(item: Any) -> str:
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{k!r}: {_describe(v)}" for k, v in item.items()) + "}"
    if isinstance(item, (tuple, list)) and len(item) <= 4:
        brackets = "()" if isinstance(item, tuple) else "[]"
        return brackets[0] + ", ".join(map(_describe, item)) + brackets[1]
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)}"
    shape, dtype = getattr(item, "shape", None), getattr(item, "dtype", None)
    return repr(item)[:60] if shape is None else f"{dtype} {tuple(shape)}"


def _checked(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    if spec.dtype == "string":
        return array.astype(np.bytes_)
    kind, wanted = array.dtype.kind, np.dtype(spec.dtype)
    if kind not in "iufb" and array.dtype.name != "bfloat16":
        raise DataError(f"Input {spec.name!r} takes {spec.dtype}. Received: data of {array.dtype}")
    if wanted.kind in "iu" and kind not in "iu":
        if not np.isfinite(array).all() or (array != np.rint(array)).any():
            raise DataError(
                f"Input {spec.name!r} takes whole numbers ({spec.dtype}). Received: {array.dtype} "
                "data with fractions"
            )
    elif wanted.kind == "f" and not np.isfinite(array.astype(np.float32)).all():
        bad = int((~np.isfinite(array.astype(np.float32))).sum())
        raise DataError(
            f"Data must be finite. Received: {bad} NaN or infinite values in "
            f"input {spec.name!r}. Clean the data first."
        )
    return array.astype(wanted)
