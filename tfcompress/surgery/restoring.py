"""What is left fitted to what was: linear layers by least squares, BatchNormalization by shifts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.errors import DataError
from tfcompress.graph.copying import Replacement
from tfcompress.graph.flow import Call, Flow, Value, read_flow
from tfcompress.graph.running import Run
from tfcompress.report import CompressionReport
from tfcompress.surgery.channels.analysis import Analysis
from tfcompress.surgery.channels.atoms import Kept
from tfcompress.surgery.channels.importance import watching
from tfcompress.surgery.examples import as_inputs, inputs_of, misfit
from tfcompress.surgery.linear_parts import LinearPart, linear_part
from tfcompress.surgery.overriding import computes_as

# At most so many examples, and so many bytes of tensors at a time.
EXAMPLES, BYTES = 1024, 2**30
# Rows of a linear layer: enough to tell its weights, for each of its features.
ROWS, ROWS_PER_FEATURE = 20_000, 8
BLOCK = 4096  # rows that are summed up at a time
# How strongly the weights are held where they are, as a share of the features' mean power.
RIDGE = 1e-3
# A difference below this share is rounding.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Removed:
    """What is gone of a model.

    Attributes:
        found: the atoms of the model; None where all channels are there still.
        kept: what is left of them.
    """

    found: Analysis | None = None
    kept: Kept | None = None

    def along(self, value: Value, axis: int) -> Any:
        """Which indices along an axis of a tensor are left, as an index."""
        if self.found is None or self.kept is None:
            return slice(None)
        atoms = self.found.axes(value)[axis]
        return slice(None) if atoms is None else self.kept.mask(atoms)

    def outputs(self, part: LinearPart) -> Any:
        """Which outputs of a linear part are left, as an index."""
        records = self.found.records.values() if self.found is not None else ()
        for slot in (slot for record in records for slot in record.slots):
            if slot.variable is part.kernel and self.kept is not None:
                mask = np.ones(part.kernel.shape, bool)
                for number in slot.makes:
                    axis = slot.axes[number]
                    if axis is not None:
                        shape = [-1 if n == number else 1 for n in range(mask.ndim)]
                        mask &= self.kept.mask(axis).reshape(shape)
                return part.to_matrix(mask).any(0)
        return slice(None)


def restore(
    model: keras.Model,
    smaller: keras.Model,
    data: Any,
    removed: Removed | None = None,
    replaced: Mapping[int, Any] | None = None,
) -> list[str]:
    """Changes the weights of the smaller model so that its layers give what they gave.

    From the first layer to the last, on examples: a linear layer gets the weights with which it
    comes closest, in least squares, to what it gave in the whole model, reading what the smaller
    model's layers before it give now. Of several layers that stand for one, it is the last. A
    BatchNormalization moves its statistics by what its input's have moved. Layers that are called
    several times stay, and so do those that both models share.

    Args:
        model: the model before; it does not change.
        smaller: what was made of it; its weights change.
        data: see `tfc.shrink`.
        removed: what channels are gone; None for none.
        replaced: by `id` of a layer of the model, the layer that gives its outputs now; None where
            all have the path that they had.

    Returns:
        The paths of the layers that were changed.

    Source: He et al. 2017 (arXiv:1707.06168), reconstruction of outputs by least squares.
    """
    removed = Removed() if removed is None else removed
    before = read_flow(model) if removed.found is None else removed.found.flow
    after = read_flow(smaller)
    inputs = _gather(model, before, data)
    pairs = _pairs(before, after, replaced or {})
    fit = _Fit(Run(before, inputs), Run(after, inputs), removed, pairs)
    changed: list[str] = []
    try:
        for new in after.calls:
            old = pairs.get(id(new))
            if old is not None and not fit.whole.done(old):
                fit.whole.reach(old)
                if fit.call(old, new):
                    changed.append(new.path)
                fit.whole.step(old)
            fit.small.step(new)
    except (ValueError, TypeError, ArithmeticError, tf.errors.InvalidArgumentError) as error:
        raise misfit(model, error) from error
    return changed


def restored(
    model: keras.Model,
    smaller: keras.Model,
    report: CompressionReport,
    data: Any,
    replacements: Mapping[int, Replacement] | None = None,
    removed: Removed | None = None,
) -> keras.Model:
    """The smaller model, with `data` after `restore` and with a note of it in the report."""
    if data is not None:
        last = {key: made.layers[-1] for key, made in (replacements or {}).items() if made.layers}
        changed = restore(model, smaller, data, removed, last)
        report.notes.append(f"Fitted to what they gave before, on `data`: {len(changed)} layers.")
    return smaller


def _pairs(before: Flow, after: Flow, replaced: Mapping[int, Any]) -> dict[int, Call]:
    """By `id` of a call of the smaller model, the one that it stands for, if there is one each.

    Layers that both models share, as they could not be copied, are to stay as they are, and so
    are those that are called by several paths, as in a TimeDistributed and without it.
    """
    times = Counter(id(call.operation) for call in (*before.calls, *after.calls))
    whole = {id(call.operation) for call in before.calls}
    old: dict[Any, list[Call]] = {}
    for call in before.calls:
        new = replaced.get(id(call.operation))
        old.setdefault(call.path if new is None else id(new), []).append(call)
    found: dict[Any, list[Call]] = {}
    for call in after.calls:
        found.setdefault(id(call.operation) if id(call.operation) in old else call.path, []).append(
            call
        )
    return {
        id(calls[0]): old[key][0]
        for key, calls in found.items()
        if len(calls) == 1
        and len(old.get(key, ())) == 1
        and calls[0].inputs
        and id(calls[0].operation) not in whole
        and times[id(calls[0].operation)] == times[id(old[key][0].operation)] == 1
    }


def _gather(model: keras.Model, flow: Flow, data: Any) -> list[np.ndarray]:
    """(examples, ...) of each input: as many as are worth it and fit."""
    largest = max(
        (
            v.rows * np.prod([n or 1 for n in v.shape[1:]])
            for call in flow.calls
            for v in call.results
        ),
        default=1.0,
    )
    count = int(max(16, min(EXAMPLES, BYTES / (4 * 8 * float(largest)))))
    batches: list[list[np.ndarray]] = []
    seen = 0
    for batch in inputs_of(data):
        flat = [np.asarray(a) for a in keras.tree.flatten(as_inputs(model, batch))]
        if len(flat) != len(flow.input_values):
            raise DataError(
                f"`data` must have the {len(flow.input_values)} inputs of the model. Received: "
                f"{len(flat)}"
            )
        for array, value in zip(flat, flow.input_values, strict=True):
            _check(array, value)
        batches.append(flat)
        seen += len(flat[0])
        if seen >= count:
            break
    return [np.concatenate(arrays)[:count] for arrays in zip(*batches, strict=True)]


def _check(array: np.ndarray, value: Value) -> None:
    """Raises a DataError where examples do not fit an input, or are not finite."""
    wanted = value.shape[1:]
    fits = len(array.shape) == len(value.shape) and all(
        size in (None, n) for size, n in zip(wanted, array.shape[1:], strict=True)
    )
    if not fits or not len(array):
        raise DataError(
            f"`data` must hold examples of shape {wanted}, in batches. Received: an array of shape "
            f"{array.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("`data` must be finite. Received: NaN or infinity")


@dataclass(frozen=True)
class _Fit:
    """The runs of both models, side by side, and which calls of the one stand for which."""

    whole: Run
    small: Run
    removed: Removed
    pairs: Mapping[int, Call]
    generator: Any = field(default_factory=lambda: np.random.default_rng(0))

    def call(self, old: Call, new: Call) -> bool:
        """Fits the layer of a call; whether it changed."""
        return self._move(old, new) if _is_norm(new) else self._fit(old, new)

    def _move(self, old: Call, new: Call) -> bool:
        """BatchNormalization: statistics move as those of the input have."""
        layer = new.operation
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        mask = self.removed.along(old.inputs[0], axis)
        there = _statistics(self.whole.value(old.inputs[0]), axis)
        mean_old, variance_old = (a[mask] for a in there)
        mean, variance = _statistics(self.small.value(new.inputs[0]), axis)
        known = variance_old > 0
        ratio = np.where(known, variance / np.where(known, variance_old, 1), 1)
        off = np.abs(mean - mean_old) / (np.sqrt(variance_old) + np.abs(mean_old) + 1e-30)
        if not np.isfinite([off, ratio]).all():
            raise ArithmeticError("values overflow")
        if off.max() <= ROUNDING and np.abs(ratio - 1).max() <= 10 * ROUNDING:
            return False
        # So that mean and spread of what it gives, epsilon included, are those that they were.
        before = mean_old - np.asarray(layer.moving_mean)
        layer.moving_mean.assign(mean - before * np.sqrt(ratio))
        spread = (np.asarray(layer.moving_variance) + layer.epsilon) * ratio - layer.epsilon
        layer.moving_variance.assign(np.maximum(spread, 0))
        return True

    def _fit(self, old: Call, new: Call) -> bool:
        """A linear layer: least squares from what it reads now to what it gave."""
        there, here = _read(old, self.whole), _read(new, self.small)
        if there is None or here is None:
            return False
        (one, x_old), (two, x_new) = there, here
        mask = self.removed.outputs(one)
        matrix, start = one.matrix[:, mask], two.matrix
        if one.count != two.count or start.shape[1] != matrix.shape[1]:
            return False
        bias_old, bias = one.bias, two.bias
        known = bias is not None and bias_old is not None
        offset = bias_old[mask] - bias if known else 0.0  # type: ignore[index]
        sums = _Sums(*start.shape)
        wanted = max(ROWS, ROWS_PER_FEATURE * len(start))
        each = -(-wanted // sum(len(c) for c in x_new))
        for chunk_old, chunk_new in zip(x_old, x_new, strict=True):
            numbers = _sample(len(chunk_new), one.count, each, self.generator)
            target = one.rows(chunk_old, numbers) @ matrix.astype(np.float32) + np.float32(offset)
            rows = two.rows(chunk_new, numbers)
            sums.add(rows, target, target - rows @ start.astype(np.float32))
        # With a bias, or statistics of a BatchNormalization behind it that move, the mean is free.
        step = sums.solve(free=bias is not None or self._normalised(new))
        if step is None:
            return False
        if bias is not None:
            bias = bias + sums.mean_rest - sums.mean_rows @ step
        two.assign(start + step, bias)
        return True

    def _normalised(self, call: Call) -> bool:
        """Whether all that reads what a call gives are statistics that will move."""
        readers = self.small.readers(call.results[0])
        return bool(readers) and all(_is_norm(one) and id(one) in self.pairs for one in readers)


class _Sums:
    """What least squares need, summed over rows."""

    def __init__(self, features: int, outputs: int) -> None:
        self._gram = np.zeros((features, features))
        self._cross = np.zeros((features, outputs))
        self._rows, self._rest = np.zeros(features), np.zeros(outputs)
        self._count, self._power, self._missed = 0, 0.0, 0.0

    def add(self, rows: np.ndarray, target: np.ndarray, rest: np.ndarray) -> None:
        """Adds rows, what they should give, and what they miss of it."""
        for start in range(0, len(rows), BLOCK):
            # In float32 little would be left of what varies little around a large mean.
            some = rows[start : start + BLOCK].astype(np.float64)
            self._gram += some.T @ some
            self._cross += some.T @ rest[start : start + BLOCK]
        self._rows += rows.sum(0, dtype=np.float64)
        self._rest += rest.sum(0, dtype=np.float64)
        self._power += float(np.square(target, dtype=np.float64).sum())
        self._missed += float(np.square(rest, dtype=np.float64).sum())
        self._count += len(rows)

    @property
    def mean_rows(self) -> np.ndarray:
        """(features,)."""
        return self._rows / self._count

    @property
    def mean_rest(self) -> np.ndarray:
        """(outputs,)."""
        return self._rest / self._count

    def solve(self, free: bool) -> np.ndarray | None:
        """(features, outputs) to add to the weights; None where nothing is missed, or to be had."""
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        if not np.isfinite([self._missed, self._power]).all():
            raise ArithmeticError("values overflow")
        if not self._count or self._missed <= ROUNDING**2 * self._power:
            return None
        gram, cross = self._gram, self._cross
        if free:
            gram = gram - self._count * np.outer(self.mean_rows, self.mean_rows)
            cross = cross - self._count * np.outer(self.mean_rows, self.mean_rest)
        gram[np.diag_indices(len(gram))] += RIDGE * np.trace(gram) / len(gram) + 1e-12
        try:
            return np.asarray(cho_solve(cho_factor(gram), cross))
        except (LinAlgError, ValueError):
            return None  # values that are not finite, or examples that say nothing


def _statistics(chunks: Sequence[Any], axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance along an axis, over everything else."""
    arrays = [np.moveaxis(np.asarray(c, np.float32), axis, -1) for c in chunks]
    flat = [a.reshape(-1, a.shape[-1]) for a in arrays]
    count = sum(len(a) for a in flat)
    mean = sum(a.sum(0, dtype=np.float64) for a in flat) / count
    spread = sum(np.square(a - mean.astype(np.float32)).sum(0, dtype=np.float64) for a in flat)
    return mean, spread / count


def _is_norm(call: Call) -> bool:
    return computes_as(call.operation, keras.layers.BatchNormalization)


def _sample(examples: int, rows: int, each: int, generator: Any) -> np.ndarray:
    """Numbers of rows: the same number of each example, chosen at random."""
    if each >= rows:
        return np.arange(examples * rows)
    chosen = generator.integers(0, rows, (examples, each))
    return (chosen + rows * np.arange(examples)[:, None]).ravel()


def _read(call: Call, run: Run) -> tuple[LinearPart, list[Any]] | None:
    """A call's linear part and what that reads, in chunks."""
    inner = getattr(call.operation, "_output_dense", None)
    if inner is None:
        chunks = run.value(call.inputs[0])
        part = linear_part(call.operation, tuple(chunks[0].shape))
        return None if part is None else (part, chunks)
    seen: list[Any] = []

    def see(layer: Any, given: Any) -> None:
        if layer is inner:
            seen.append(given[0][0])

    with watching(see):
        run.compute(call)
    part = linear_part(call.operation, tuple(seen[0].shape)) if seen else None
    return None if part is None else (part, seen)
