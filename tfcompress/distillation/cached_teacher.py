"""A teacher that is not there: its outputs, found by the example."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, Final

import keras
import numpy as np

from tfcompress.distillation.examples import keys_of
from tfcompress.errors import ConfigError, CorruptFileError, DataError

KEY: Final = "example"
"""The field of a file's records that holds the example's number."""


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
        self.refusal: DataError | None = None  # the last, which TensorFlow may make text of
        if isinstance(source, (str, os.PathLike)):
            self.path = os.fspath(source)
            source = _loaded(self.path)
        names = getattr(getattr(source, "dtype", None), "names", None)
        if names and names[0] == KEY and all(name.count("|") == 2 for name in names[1:]):
            if data is not None or from_logits is not None:
                raise ConfigError(
                    "A file of tfc.cache_teacher knows its examples and what it holds. Received: "
                    "`data` or `from_logits` as well."
                )
            # (teacher, output, kind) of each column.
            self._fields = [tuple(name.split("|")) for name in names[1:]]
            self.columns = [source[name] for name in names[1:]]
            self._forms = [""] * len(self.columns)
            keys = np.asarray(source[KEY])
        else:
            self.columns = [np.asarray(a) for a in _listed(source)]
            if data is None:
                raise ConfigError(
                    "Outputs of your own need `data`, the examples that they are of, in the same "
                    "order: tfc.CachedTeacher(outputs, x_train)."
                )
            keys = keys_of(data)
            self._check(len(keys))
            self._fields = [("0", str(i), "") for i in range(len(self.columns))]
            self._forms = [
                _form(column) if from_logits is None else "" if from_logits else "sums"
                for column in self.columns
            ]
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], order

    def __len__(self) -> int:
        return len(self._keys)

    def _check(self, examples: int) -> None:
        lengths = [len(column) for column in self.columns]
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

    def check_shapes(self, shapes: Sequence[tuple[Any, ...]]) -> None:
        """Checks that the outputs are of the form of the student's.

        Args:
            shapes: of the student's outputs, the batch first; None for a size that is not known.

        Raises:
            DataError: they are of another.
        """
        for (_, output, _), column in zip(self._fields, self.columns, strict=True):
            check_shape(column.shape, shapes[int(output)])

    def said_of(self, x: Any) -> list[np.ndarray]:
        """The columns' rows of these examples.

        Raises:
            DataError: an example that is not in the cache.
        """
        keys = keys_of(x)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        missing = np.flatnonzero(self._keys[places] != keys)
        if len(missing):
            self.refusal = DataError(
                "Every example must be in the teacher's cache, value for value and as the same "
                f"kind of number. Received: {len(missing)} of {len(keys)} that are not, the first "
                f"at {missing[0]}. Cache them as they come into `fit`: after preprocessing, with "
                "each augmented form in the data."
            )
            raise self.refusal
        rows = self._rows[places]
        return [np.asarray(column[rows], np.float32) for column in self.columns]

    def by_output(self, said: Sequence[Any], count: int) -> list[list[tuple[Any, str]]]:
        """The columns in a step, for each output, and their form.

        That is "sums" for probabilities that sum up to 1, "unit" for numbers in 0..1, else "".
        """
        found: list[list[tuple[Any, str]]] = [[] for _ in range(count)]
        for (_, output, _), column, form in zip(self._fields, said, self._forms, strict=True):
            found[int(output)].append((column, form))
        return found


def check_shape(said: Sequence[Any], own: Sequence[Any]) -> bool:
    """Whether what was said lacks the student's last axis of size 1.

    Args:
        said: shape of what a teacher said, the batch first.
        own: that of the student's output; None for a size that is not known.

    Raises:
        DataError: the shapes differ in another way; they would be broadcast to each other.
    """
    lacks = len(said) == len(own) - 1 and own[-1] == 1
    wanted = own[:-1] if lacks else own
    if len(said) != len(wanted) or any(
        None not in (a, b) and a != b for a, b in zip(said[1:], wanted[1:], strict=True)
    ):
        raise DataError(
            f"A cached teacher's outputs must have the student's shape, {tuple(own[1:])} for each "
            f"example. Received: {tuple(said[1:])}"
        )
    return lacks


def _loaded(path: str) -> Any:
    content: Any = None
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if hasattr(content, "files"):
            return [content[name] for name in content.files]
        return content
    except FileNotFoundError:
        raise ConfigError(f"No such file: {path!r}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
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
