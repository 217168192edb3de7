"""What slow teachers say, written down once for many trainings."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np

from tfcompress import files
from tfcompress.distillation.cached_teacher import KEY, CachedTeacher
from tfcompress.distillation.examples import batches_of, keys_of
from tfcompress.distillation.kinds import kinds_of, loss_facts
from tfcompress.distillation.watching import Watched
from tfcompress.errors import ConfigError, DataError
from tfcompress.keras3 import check_keras3
from tfcompress.progress import shown
from tfcompress.variables import value_of


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
        check_keras3(member, "teacher")
    files.check_writable(path, overwrite=overwrite)
    speaker = _Speaker(members, dtype, outputs, from_logits)
    part = Path(f"{os.fspath(path)}.part")
    batches, total = batches_of(data, batch_size)
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
        """Of the teachers, their weights, and what is asked of them."""
        found = hashlib.blake2b(repr((self._dtype, self._said, self._from_logits)).encode())
        for watched in self._watched:
            found.update(_told(watched.model).encode())
            for variable in watched.model.weights:
                found.update(np.ascontiguousarray(value_of(variable)).tobytes())
        return found.hexdigest()

    def rows(self, keys: np.ndarray, x: Any) -> np.ndarray:
        """The records of a batch."""
        if self._answer is None:
            self._answer = self._made(x)
        answers = {name: np.asarray(a, self._dtype) for name, a in self._answer(x).items()}
        fields = [(name, self._dtype, answer.shape[1:]) for name, answer in answers.items()]
        rows = np.zeros(len(keys), [(KEY, "<u8"), *fields])
        rows[KEY] = keys
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


def _told(model: Any) -> str:
    """A model's structure and loss as text, the same in every process."""
    try:
        config = json.dumps(model.get_config(), default=repr, sort_keys=True)
    except Exception:  # subclassed models may know none, and raise anything
        config = type(model).__qualname__
    config = re.sub(r"_[0-9]+(?=[\"/_])| at 0x[0-9a-f]+", "", config)  # Keras's numbers, addresses
    losses = keras.tree.flatten(getattr(model, "loss", None))
    return f"{config} {[loss_facts(loss) for loss in losses]}"


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
        if (np.frombuffer(content, self.dtype)[KEY] != keys).any():
            self._known = self.count
            return False
        self.count += len(keys)
        return True

    def add(self, rows: np.ndarray) -> None:
        """Writes records behind those that were counted.

        Raises:
            DataError: they are of another form.
            ConfigError: the disk is full.
        """
        try:
            self._write(rows)
        except OSError as error:
            raise ConfigError(
                f"Cannot write the teacher's outputs: {error.strerror or error}"
            ) from error
        self.count += len(rows)
        self._known = self.count

    def _write(self, rows: np.ndarray) -> None:
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
