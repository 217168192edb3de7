"""The examples of a pipeline: for training and for validation, in the model's own structure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfcompress.errors import DataError

_PAIRS = (("x_train", "y_train"), ("x", "y"))
_TESTS = (("x_test", "y_test"), ("x_val", "y_val"))
_HELD_OUT = 5  # one in so many, where nobody says what to validate on


@dataclass
class Data:
    """Labelled examples.

    Attributes:
        x: inputs to train on: an array, or a nest of arrays as the model takes it.
        y: labels, one array for each output of the model.
        x_val: inputs to validate on.
        y_val: their labels.
        notes: what was chosen, for the report.
    """

    x: Any
    y: list[np.ndarray]
    x_val: Any
    y_val: list[np.ndarray]
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Examples to train on."""
        return len(self.y[0])

    def sample(self, most: int) -> tuple[Any, Any]:
        """At most so many training examples, spread evenly: inputs and labels."""
        from keras import tree

        chosen = np.linspace(0, self.count - 1, min(most, self.count)).round().astype(int)
        y = [labels[chosen] for labels in self.y]
        return tree.map_structure(lambda a: a[chosen], self.x), y[0] if len(y) == 1 else y

    def validation_inputs(self, most: int) -> Any:
        """The first inputs to validate on."""
        from keras import tree

        return tree.map_structure(lambda a: a[:most], self.x_val)

    def fingerprint(self) -> str:
        """SHA-256 of all that is in it."""
        from keras import tree

        digest = hashlib.sha256()
        for part in (self.x, self.y, self.x_val, self.y_val):
            for array in tree.flatten(part):
                digest.update(f"{array.dtype} {array.shape}".encode())
                whole = np.ascontiguousarray(array)
                digest.update(
                    repr(whole.tolist()).encode() if whole.dtype.hasobject else whole.data
                )
        return digest.hexdigest()


def gather(data: Any, validation: Any, model: Any) -> Data:
    """Examples in every form that `Pipeline.run` takes.

    Args:
        data: (x, y); or a mapping with x_train and y_train, or x and y, and perhaps x_test and
            y_test, such as an opened `.npz`.
        validation: (x, y); None for x_test and y_test, or else for one fifth of the data.
        model: whose inputs and outputs they are.

    Raises:
        DataError: another form, or arrays that do not fit the model or each other.
    """
    train, test = _forms(data)
    if validation is not None:
        if not _is_pair(validation):
            raise DataError(f"`validation_data` must be (x, y). Received: {_told(validation)}")
        test = tuple(validation)
    notes = []
    shape = _Shape(model)
    x, y = shape.fitted(train[0], train[1], "the training data")
    if test is None:
        (x, y), (x_val, y_val), note = _held_out(x, y)
        notes.append(note)
    else:
        x_val, y_val = shape.fitted(test[0], test[1], "the validation data")
    return Data(x, y, x_val, y_val, notes)


def _forms(data: Any) -> tuple[Any, Any]:
    if _is_pair(data):
        return tuple(data), None
    if isinstance(data, Mapping):
        found = [
            next(((data[x], data[y]) for x, y in names if x in data and y in data), None)
            for names in (_PAIRS, _TESTS)
        ]
        if found[0] is not None:
            return found[0], found[1]
    raise DataError(
        "`data` must be (x, y), or a mapping with x_train and y_train (and x_test and y_test), or "
        "x and y. They must be arrays: a pipeline that is resumed needs the same examples in the "
        f"same order. Received: {_told(data)}"
    )


def _is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2


def _told(data: Any) -> str:
    if isinstance(data, Mapping):
        return f"a mapping with {[str(key)[:40] for key in data][:8]}"
    if isinstance(data, (tuple, list)):
        return f"a {type(data).__name__} of {len(data)}"
    return type(data).__name__


class _Shape:
    """The model's inputs and outputs."""

    def __init__(self, model: Any) -> None:
        from tfcompress.conversion import export

        self.model = model
        self.interface = export.read_interface(model)
        if self.interface.separate:
            raise DataError(
                f"A pipeline trains models whose call takes one nest of inputs. Received: "
                f"{type(model).__name__}, whose call takes several arguments."
            )

    def fitted(self, x: Any, y: Any, what: str) -> tuple[Any, list[np.ndarray]]:
        from keras import tree

        from tfcompress.conversion.calibration import labelled

        # Arrays that are read from a file only when they are asked for: once is enough.
        x = x if isinstance(x, (Mapping, list, tuple)) else np.asarray(x)
        ((arrays, y),) = labelled((x, y), self.interface.specs)
        names = [spec.name for spec in self.interface.specs]
        nest = tree.map_structure(lambda place: arrays[names[place]], self.interface.structure)
        counts = {len(array) for array in arrays.values()}
        labels = self._labels(nest, y) if min(counts) else []
        counts |= {len(array) if array.ndim else 0 for array in labels}
        if len(counts) != 1 or not min(counts):
            raise DataError(
                f"{what} must hold as many labels as inputs, at least one. "
                f"Received: {sorted(counts)} examples"
            )
        for array in labels:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"The labels of {what} must be finite. Received: NaN or infinity")
        return nest, labels

    def _labels(self, x: Any, y: Any) -> list[np.ndarray]:
        from keras import tree

        from tfcompress.pipeline.objective import outputs_of

        names = outputs_of(self.model, tree.map_structure(lambda a: a[:1], x)).names
        if isinstance(y, Mapping):
            if set(y) != set(names):
                raise DataError(
                    f"Labels by name must be those of the model's outputs, {names}. "
                    f"Received: {sorted(map(str, y))}"
                )
            y = [y[name] for name in names]
        elif len(names) == 1:
            y = [y]
        if not isinstance(y, (list, tuple)) or len(y) != len(names):
            raise DataError(
                f"Labels must be given for each of the model's outputs, {names}, by name or as a "
                f"list. Received: {_told(y)}"
            )
        return [np.asarray(labels) for labels in y]


def _held_out(x: Any, y: list[np.ndarray]) -> Any:
    """Splits examples where nobody says what to validate on."""
    from keras import tree

    count = len(y[0])
    if count < _HELD_OUT:
        return (x, y), (x, y), f"Validated on the {count} training examples: there are no others."
    order = np.random.default_rng(0).permutation(count)
    rows = np.sort(order[count // _HELD_OUT :]), np.sort(order[: count // _HELD_OUT])
    parts = [
        (tree.map_structure(lambda a, r=own: a[r], x), [labels[own] for labels in y])
        for own in rows
    ]
    return *parts, (
        f"No validation data was given: {len(rows[1])} of the {count} examples, drawn at random, "
        "were held out for it."
    )
