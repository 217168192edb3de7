"""What slow teachers, or those of other frameworks, say: kept on disk, found by the example."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np

from tfcompress import files
from tfcompress.conversion.calibration import iterate
from tfcompress.distillation.kinds import kinds_of
from tfcompress.distillation.watching import Watched
from tfcompress.errors import ConfigError, CorruptFileError, DataError
from tfcompress.keras3 import check_keras3
from tfcompress.progress import shown
from tfcompress.variables import value_of

# Names under which examples and what teachers say of them go through `fit` together.
_INPUTS, _SAID = "tfcompress/inputs", "tfcompress/said"
_KEY = "example"


class CachedTeacher:
    """The outputs of a teacher that is not there, for `tfc.distill` in a teacher's place.

    Each row is found by a hash of the example's content, so that data may come shuffled, in any
    order and batches: no example is ever given another one's row. Examples that are not in the
    cache, such as augmented ones, are an error.

    Args:
        source: the path of a file of `tfc.cache_teacher`; or outputs of a teacher of any framework:
            an array (examples, ...), a list or dict of these for several outputs, or the path of a
            `.npy` or `.npz` file of them.
        data: with outputs of your own, the examples that they are of, in the same order, prepared
            as the student is given them: an array, or a list or dict of arrays.
        from_logits: with outputs of your own, whether they are logits; None to tell by the values:
            those that are not negative and sum up to 1 (or lie in 0..1) are probabilities.

    Raises:
        ConfigError: neither a cache's path nor outputs with `data`.
        DataError: not as many examples as rows.
        CorruptFileError: the file is damaged.

    Example:
        >>> cached = tfc.CachedTeacher("logits_of_pytorch.npy", x_train)
        >>> model = tfc.distill(student, cached)
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> model.fit(x_train, y_train, epochs=20)
    """

    def __init__(self, source: Any, data: Any = None, *, from_logits: bool | None = None) -> None:
        self.path: str | None = None
        if isinstance(source, (str, os.PathLike)):
            self.path = os.fspath(source)
            source = _loaded(self.path)
        names = getattr(getattr(source, "dtype", None), "names", None)
        if names and names[0] == _KEY:
            if data is not None or from_logits is not None:
                raise ConfigError(
                    "A file of tfc.cache_teacher knows its examples and what it holds. Received: "
                    "`data` or `from_logits` as well."
                )
            # (teacher, output, kind) of each column.
            self._fields = [tuple(name.split("|")) for name in names[1:]]
            self._columns = [source[name] for name in names[1:]]
            self._forms = [""] * len(self._columns)
            keys = np.asarray(source[_KEY])
        else:
            self._columns = [np.asarray(a) for a in _listed(source)]
            if data is None:
                raise ConfigError(
                    "Outputs of your own need `data`, the examples that they are of, in the same "
                    "order: tfc.CachedTeacher(outputs, x_train)."
                )
            keys = keys_of(data)
            self._check(len(keys))
            self._fields = [("0", str(i), "") for i in range(len(self._columns))]
            self._forms = [
                _form(column) if from_logits is None else "" if from_logits else "sums"
                for column in self._columns
            ]
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], order

    def __len__(self) -> int:
        return len(self._keys)

    def _check(self, examples: int) -> None:
        lengths = [len(column) for column in self._columns]
        if not lengths or set(lengths) != {examples}:
            raise DataError(
                f"There must be one row of outputs for each example. Received: {lengths} rows and "
                f"{examples} examples."
            )

    @property
    def told(self) -> str:
        """What it holds, in words."""
        said = "probabilities" if any(self._forms) else "logits or numbers"
        return f"{said} of {len(self)} examples" + (f" in {self.path!r}" if self.path else "")

    def kinds(self, said: Any, count: int) -> Any:
        """What the outputs are, where the cache knows and the user does not say.

        Raises:
            DataError: the student has another number of outputs.
        """
        outputs = {int(output) for _, output, _ in self._fields}
        if outputs != set(range(count)):
            raise DataError(
                f"The cache must have the student's {count} outputs. Received: {len(outputs)}"
            )
        kinds = {int(output): kind for _, output, kind in self._fields}
        return said if said is not None else [kinds[i] or None for i in range(count)]

    def said_of(self, x: Any) -> list[np.ndarray]:
        """The columns' rows of these examples.

        Raises:
            DataError: an example that is not in the cache.
        """
        keys = keys_of(x)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        missing = np.flatnonzero(self._keys[places] != keys)
        if len(missing):
            raise DataError(
                "Every example must be in the teacher's cache, value for value and as the same "
                f"kind of number. Received: {len(missing)} of {len(keys)} that are not, the first "
                f"at {missing[0]}. Cache them as they come into `fit`: after preprocessing, with "
                "each augmented form in the data."
            )
        rows = self._rows[places]
        return [np.asarray(column[rows], np.float32) for column in self._columns]

    def by_output(self, said: Sequence[Any], count: int) -> list[list[tuple[Any, str]]]:
        """The columns in a step, for each output, and their form.

        That is "sums" for probabilities that sum up to 1, "unit" for numbers in 0..1, else "".
        """
        found: list[list[tuple[Any, str]]] = [[] for _ in range(count)]
        for (_, output, _), column, form in zip(self._fields, said, self._forms, strict=True):
            found[int(output)].append((column, form))
        return found


def cache_teacher(
    teacher: Any,
    data: Any,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 128,
    dtype: str = "float32",
    outputs: Any = None,
    from_logits: bool | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> CachedTeacher:
    """Writes down what a teacher says of each example, once, for many trainings.

    The file is a NumPy file (`np.load(path, mmap_mode="r")`) of a hash of each example and the
    teacher's logits; it is read as it is needed, and appears under its name when it is complete.
    A call that was killed goes on where it was when it is called again.

    Args:
        teacher: a Keras 3 model, or a list of them, an ensemble.
        data: the examples as the student is going to see them: an array, a dict or list of arrays
            (several inputs), a pair (x, y), or a `tf.data.Dataset`, `keras.utils.PyDataset`,
            generator, function that returns one, or iterable of batches with or without labels.
            Where `fit` is to see augmented examples, these.
        path: where to write, such as "teacher.npy".
        batch_size: of arrays.
        dtype: `"float32"`, or `"float16"` for half the size.
        outputs: what the outputs are, see `tfc.distill`.
        from_logits: likewise.
        overwrite: allow `path` to exist.
        progress: show a bar, on a terminal.

    Returns:
        The cache, to give to `tfc.distill` as the teacher.

    Raises:
        ModelTypeError: no Keras 3 model.
        ConfigError: a path that exists or cannot be written; an argument that cannot be.
        DataError: no example, or outputs of sizes that change.

    Example:
        >>> cached = tfc.cache_teacher(teacher, x_train, "teacher.npy")
        >>> model = tfc.distill(student, cached)
    """
    if dtype not in ("float32", "float16"):
        raise ConfigError(f"`dtype` must be 'float32' or 'float16'. Received: {dtype!r}")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ConfigError(f"`batch_size` must be a whole number >= 1. Received: {batch_size!r}")
    members = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    for member in members:
        check_keras3(member)
    files.check_writable(path, overwrite=overwrite)
    speaker = _Speaker(members, dtype, outputs, from_logits)
    part = Path(f"{os.fspath(path)}.part")
    batches, total = _batches(data, batch_size)
    record: Any = None
    with shown(progress) as bar:
        bar.start("asking the teacher")
        with open(part, "ab+") as file:
            kept = _Kept(file, speaker.signature())
            for number, x in enumerate(batches):
                bar.update(None if total is None else number / total)
                keys = keys_of(x)
                if kept.have(keys):
                    continue
                rows = speaker.rows(keys, x)
                kept.add(rows)
            record, count = kept.dtype, kept.count
        if not count:
            part.unlink()
            raise DataError("There must be an example to cache. Received: none.")
        _finish(part, record, count, kept.start, path, overwrite)
    return CachedTeacher(path)


class _Speaker:
    """Asks teachers for rows of a cache."""

    def __init__(
        self, members: Sequence[Any], dtype: str, outputs: Any, from_logits: bool | None
    ) -> None:
        self._watched = [Watched(member) for member in members]
        self._dtype, self._said, self._from_logits = dtype, outputs, from_logits
        self._answer: Any = None

    def signature(self) -> str:
        """Of the teachers' weights and what is asked of them."""
        found = hashlib.blake2b(repr((self._dtype, self._said, self._from_logits)).encode())
        for watched in self._watched:
            for variable in watched.model.weights:
                found.update(np.ascontiguousarray(value_of(variable)).tobytes())
        return found.hexdigest()

    def rows(self, keys: np.ndarray, x: Any) -> np.ndarray:
        """The records of a batch."""
        if self._answer is None:
            self._answer = self._made(x)
        answers = {name: np.asarray(a, self._dtype) for name, a in self._answer(x).items()}
        fields = [(name, self._dtype, answer.shape[1:]) for name, answer in answers.items()]
        rows = np.zeros(len(keys), [(_KEY, "<u8"), *fields])
        rows[_KEY] = keys
        for name, answer in answers.items():
            rows[name] = answer
        return rows

    def _made(self, x: Any) -> Any:
        """A traced function: a batch -> logits or numbers by the column's name."""
        import tensorflow as tf

        loss = getattr(self._watched[0].model, "loss", None)
        try:
            count = len(keras.tree.flatten(self._watched[0](x, False).outputs))
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            shapes = [tuple(np.shape(part)) for part in keras.tree.flatten(x)]
            raise DataError(
                "`data` must hold examples as the teacher takes them. Received: a batch of shape "
                f"{', '.join(map(str, shapes))}, of which Keras says: {error}"
            ) from error

        def answer(x: Any) -> dict[str, Any]:
            found = {}
            for number, watched in enumerate(self._watched):
                kinds = kinds_of(watched, [], count, loss, self._said, self._from_logits)
                seen = watched(x, False)
                for i, kind in enumerate(kinds):
                    if kind.kind == "values":
                        column = keras.tree.flatten(seen.outputs)[i]
                    else:
                        column = watched.logits(seen, i, kind.kind, kind.student_logits)
                    found[f"{number}|{i}|{kind.kind}"] = keras.ops.cast(column, "float32")
            return found

        return tf.function(answer, reduce_retracing=True)


class _Kept:
    """A file of records under way: a line of JSON, then records."""

    def __init__(self, file: BinaryIO, signature: str) -> None:
        self._file, self._signature = file, signature
        self.dtype: np.dtype[Any] | None = None
        self.count = self._known = self.start = 0
        file.seek(0)
        try:
            head = json.loads(file.readline())
            if head["signature"] == signature:
                self.dtype = np.dtype([tuple(_nested(f)) for f in head["dtype"]])
                self.start = file.tell()
                size = file.seek(0, os.SEEK_END) - self.start
                self._known = size // self.dtype.itemsize
        except (ValueError, KeyError, TypeError):
            pass  # of something else: begun anew
        if self.dtype is None:
            file.truncate(0)

    def have(self, keys: np.ndarray) -> bool:
        """Whether the next records are of these examples; if not, what follows is written anew."""
        if self.dtype is None or self.count + len(keys) > self._known:
            return False
        self._file.seek(self.start + self.count * self.dtype.itemsize)
        content = self._file.read(len(keys) * self.dtype.itemsize)
        if (np.frombuffer(content, self.dtype)[_KEY] != keys).any():
            self._known = self.count
            return False
        self.count += len(keys)
        return True

    def add(self, rows: np.ndarray) -> None:
        """Writes records behind those that were counted.

        Raises:
            DataError: they are of another form.
        """
        if self.dtype is None:
            self.dtype = rows.dtype
            head = {"signature": self._signature, "dtype": _described(rows.dtype)}
            self._file.write(json.dumps(head).encode() + b"\n")
            self._file.flush()
            self.start = self._file.tell()
        if rows.dtype != self.dtype:
            raise DataError(
                "The teacher's outputs must have the same size for each example. Received: "
                f"{self.dtype} and then {rows.dtype}"
            )
        self._file.truncate(self.start + self.count * self.dtype.itemsize)
        self._file.write(rows.tobytes())
        self._file.flush()
        self.count += len(rows)
        self._known = self.count


def _described(dtype: np.dtype[Any]) -> list[Any]:
    return [list(field) for field in dtype.descr]


def _nested(field: list[Any]) -> list[Any]:
    return [tuple(part) if isinstance(part, list) else part for part in field]


def _finish(
    part: Path,
    record: Any,
    count: int,
    start: int,
    path: str | os.PathLike[str],
    overwrite: bool,
) -> None:
    head = {"descr": record.descr, "fortran_order": False, "shape": (count,)}
    with files.replacing(path, overwrite=overwrite) as whole, open(part, "rb") as records:
        np.lib.format.write_array_header_2_0(whole, head)
        records.seek(start)
        left = count * record.itemsize
        while left:
            chunk = records.read(min(left, 1 << 24))
            whole.write(chunk)
            left -= len(chunk)
    part.unlink()


# -- examples


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
            found.update(leaf[i].tobytes())
        keys[i] = int.from_bytes(found.digest(), "little")
    return keys


def _plain(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.ndim == 0:
        raise DataError(f"Examples must be arrays with an axis of examples. Received: {leaf!r:.60}")
    if array.dtype == np.uint8 or array.dtype.kind not in "fiubV":
        return array
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    return array.astype(np.float32) + np.float32(0)  # -0 is 0


def _batches(data: Any, size: int) -> tuple[Iterator[Any], int | None]:
    """The inputs, batch by batch, and how many batches there are where that is known."""
    if isinstance(data, (str, bytes)) or data is None:
        raise DataError(f"Data must be arrays or batches, not a path. Received: {data!r}")
    if _is_arrays(data):
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


def _is_arrays(data: Any) -> bool:
    leaves = keras.tree.flatten(data)
    return bool(leaves) and all(
        hasattr(leaf, "__array__") and hasattr(leaf, "shape") for leaf in leaves
    )


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
    if _is_arrays(x):
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
            said, keras.tree.flatten(x), [tf.float32] * len(cached._columns), stateful=False
        )
        batch = keras.tree.flatten(x)[0].shape[0]
        for tensor, column in zip(columns, cached._columns, strict=True):
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


# -- outputs of the user's own


def _loaded(path: str) -> Any:
    content: Any = None
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if hasattr(content, "files"):
            return [content[name] for name in content.files]
        return content
    except FileNotFoundError:
        raise ConfigError(f"No such file: {path!r}") from None
    except (ValueError, OSError, EOFError) as error:
        raise CorruptFileError(f"{path!r} is not a whole .npy or .npz file: {error}") from error


def _listed(source: Any) -> list[Any]:
    if isinstance(source, dict):
        return keras.tree.flatten(source)  # in Keras's order of a dict's outputs
    return list(source) if isinstance(source, (list, tuple)) else [source]


def _form(column: np.ndarray) -> str:
    """See `CachedTeacher.by_output`; by some thousand rows."""
    rows = np.linspace(0, len(column) - 1, min(len(column), 4096)).round().astype(int)
    values = np.asarray(column[rows], np.float64)
    if not values.size or values.min() < 0 or values.max() > 1:
        return ""
    return "sums" if np.allclose(values.sum(-1), 1, atol=1e-2) else "unit"
