"""How important each unit is: from its weights, its activations, or the loss without it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from tfcompress.errors import ConfigError, DataError
from tfcompress.surgery.channels.analysis import Analysis, Slot
from tfcompress.surgery.channels.units import Family
from tfcompress.surgery.examples import as_inputs, check_ends, check_finite, inputs_of, misfit

IMPORTANCES = (
    "magnitude", "magnitude_l1", "bn_gamma", "taylor", "activation", "geometric_median", "random",
)  # fmt: skip
# Of the weights that make a channel, by the order of the norm.
NORMS = {"magnitude": 2, "magnitude_l1": 1}
NEED_DATA = ("taylor", "activation")


class Tally:
    """Sums of values by class."""

    def __init__(self, found: Analysis) -> None:
        self._classes = found.classes
        self.sums = np.zeros(int(found.classes.max()) + 1)
        self.counts = np.zeros_like(self.sums)

    def add(self, axis: np.ndarray, values: np.ndarray) -> None:
        """Adds one value for each index of an axis."""
        size = len(self.sums)
        self.sums += np.bincount(self._classes[axis], np.asarray(values, np.float64), size)
        self.counts += np.bincount(self._classes[axis], minlength=size)


def importances(
    found: Analysis,
    families: Sequence[Family],
    importance: Any,
    model: keras.Model,
    data: Any = None,
    loss: Any = None,
    seed: int = 0,
    costs: Sequence[float] | None = None,
) -> list[np.ndarray]:
    """The importance of each unit of each family.

    What is measured in units of the loss, `"taylor"`, can be compared between families: it is
    divided by what the unit costs, so that the loss rises least for what is saved. All else has
    mean 1 within a family. Infinite where it cannot be told, as the BatchNormalization scale of
    channels that have none: such units stay.

    Args:
        found: the atoms of the model.
        families: its families.
        importance: see `tfc.shrink`.
        model: the model.
        data: see `tfc.shrink`.
        loss: likewise.
        seed: of `"random"`.
        costs: what a unit of each family costs; None to compare within families only.
    """
    if importance == "taylor":
        from tfcompress.surgery.channels.taylor import taylor

        total = taylor(found, model, data, loss)
    elif importance == "activation":
        total = _activation(found, model, data)
    elif importance == "random":
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ConfigError(f"`seed` must be a whole number from 0. Received: {seed!r}")
        total = np.random.default_rng(seed).random(int(found.classes.max()) + 1)
    elif importance == "bn_gamma":
        total = _gamma(found)
    elif importance == "geometric_median":
        total = _by_filters(found, _distances)
    elif importance in NORMS:
        order = NORMS[importance]
        total = _by_filters(found, lambda filters: np.linalg.norm(filters, order, axis=1))
    else:
        total = _by_filters(found, _checked(importance))
    result = []
    for number, family in enumerate(families):
        scores = np.where(np.isnan(total[family.units]), np.inf, total[family.units])
        finite = scores[np.isfinite(scores)]
        unit = float(np.abs(finite).mean()) if len(finite) else 0.0
        if importance == "taylor" and costs is not None:
            unit = costs[number]
        result.append(scores / unit if unit > 0 else scores)
    return result


def slots_of(found: Analysis) -> Iterator[Slot]:
    """The weights of all layers."""
    for record in found.records.values():
        yield from record.slots


def filters_of(slot: Slot, axis: int, values: Any = None) -> np.ndarray:
    """(channels, weights of each): a weight's values by the index along one of its axes."""
    array = np.asarray(slot.variable if values is None else values, np.float64)
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _by_filters(found: Analysis, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What a function says of the filters of each kernel, summed over the layers of a unit."""
    tally = Tally(found)
    for slot in slots_of(found):
        if len(slot.variable.shape) < 2:
            continue
        for number in slot.makes:
            axis = slot.axes[number]
            if axis is not None:
                tally.add(axis, score(filters_of(slot, number)))
    return np.where(tally.counts > 0, tally.sums, np.nan)


def _distances(filters: np.ndarray) -> np.ndarray:
    """Sums of distances to all other filters: those near the geometric median are least missed."""
    squares = (filters**2).sum(1)
    between = squares[:, None] + squares[None, :] - 2 * filters @ filters.T
    return np.asarray(np.sqrt(np.maximum(between, 0)).sum(1))


def _gamma(found: Analysis) -> np.ndarray:
    tally = Tally(found)
    for record in found.records.values():
        gamma = getattr(record.operation, "gamma", None)
        if isinstance(record.operation, keras.layers.BatchNormalization):
            for slot in record.slots:
                if slot.variable is gamma and slot.axes[0] is not None:
                    tally.add(slot.axes[0], np.abs(np.asarray(gamma)))
    return np.where(tally.counts > 0, tally.sums / np.maximum(tally.counts, 1), np.nan)


def _checked(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], np.ndarray]:
    name = getattr(function, "__name__", type(function).__name__)

    def score(filters: np.ndarray) -> np.ndarray:
        result = np.asarray(function(filters))
        if result.shape != (len(filters),) or result.dtype.kind not in "fiub":
            raise ConfigError(
                f"The importance {name!r} must return one real number for each of the "
                f"{len(filters)} channels. Received: shape {result.shape}, dtype {result.dtype}"
            )
        if not np.isfinite(result).all():
            raise ConfigError(
                f"The importance {name!r} must return finite numbers. Received: NaN or infinity"
            )
        return result.astype(np.float64)

    return score


def check_importance(importance: Any, data: Any) -> None:
    """Checks the arguments.

    Raises:
        ConfigError: no known importance.
        DataError: it needs data and there is none, or no end of it.
    """
    is_function = callable(importance) and not inspect.isclass(importance)
    if importance not in IMPORTANCES if isinstance(importance, str) else not is_function:
        raise ConfigError(
            f"`importance` must be one of {', '.join(map(repr, IMPORTANCES))}, or a function "
            "(channels, weights of each) -> a number for each channel, the lowest of which go "
            f"first. Received: {importance!r}"
        )
    if not isinstance(importance, str) or importance not in NEED_DATA:
        return
    check_ends(data)
    if data is None:
        wanted = "(x, y)" if importance == "taylor" else "inputs"
        raise DataError(
            f"importance={importance!r} needs data={wanted}: a few hundred examples do. "
            "Received: data=None"
        )


def _activation(found: Analysis, model: Any, data: Any) -> np.ndarray:
    """Mean |activation| where weights read it."""
    tally = Tally(found)
    read = {key: record.read for key, record in found.records.items()} | _read_inside(found)

    def see(layer: Any, given: Any) -> None:
        if not read.get(id(layer)):
            return
        tensors = [t for t in keras.tree.flatten(given) if keras.ops.is_tensor(t)]
        for number, axis, atoms in read[id(layer)]:
            if number < len(tensors) and tensors[number].shape[axis] == len(atoms):
                values = np.abs(np.asarray(tensors[number], np.float64))
                others = tuple(n for n in range(values.ndim) if n != axis % values.ndim)
                tally.add(atoms, values.mean(others))

    for x in inputs_of(data):
        with watching(see):
            try:
                model(as_inputs(model, x), training=False)
            except Exception as error:
                raise misfit(model, error) from error
    check_finite(tally.sums)
    return np.where(tally.counts > 0, tally.sums / np.maximum(tally.counts, 1), np.nan)


def _read_inside(found: Analysis) -> dict[int, list[tuple[int, int, np.ndarray]]]:
    """What the last projections of attention layers read: heads, and what each of them gives."""
    result: dict[int, list[tuple[int, int, np.ndarray]]] = {}
    for record in found.records.values():
        dense: Any = getattr(record.operation, "_output_dense", None)
        for slot in record.slots:
            if dense is not None and slot.variable is dense.kernel:
                result[id(dense)] = [
                    (0, number - 2, axis)
                    for number, axis in enumerate(slot.axes[:2])
                    if axis is not None
                ]
    return result


@contextmanager
def watching(see: Callable[[Any, Any], None]) -> Iterator[None]:
    """Calls a function with each layer and operation that is called, and what it is given."""
    kinds = (keras.layers.Layer, keras.Operation)
    originals = [kind.__call__ for kind in kinds]

    def watched(operation: Any, *args: Any, **kwargs: Any) -> Any:
        see(operation, (args, kwargs))
        return originals[0](operation, *args, **kwargs)

    def watched_operation(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(operation, keras.layers.Layer):  # these are seen by their own class
            see(operation, (args, kwargs))
        return originals[1](operation, *args, **kwargs)

    keras.layers.Layer.__call__, keras.Operation.__call__ = watched, watched_operation
    try:
        yield
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.__call__ = original
