"""What is left fitted to what was: linear layers by least squares, BatchNormalization by shifts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.errors import DataError
from tfcompress.graph.flow import Call, Flow, read_flow
from tfcompress.graph.running import Run
from tfcompress.surgery.channels.analysis import Analysis
from tfcompress.surgery.channels.atoms import Kept
from tfcompress.surgery.channels.importance import inputs_of, misfit, watching
from tfcompress.surgery.channels.linear_parts import LinearPart, linear_part

# At most so many examples, and so many bytes of tensors at a time.
EXAMPLES, BYTES = 1024, 2**30
# Rows of a linear layer: enough to tell its weights, for each of its features.
ROWS, ROWS_PER_FEATURE = 20_000, 8
# How strongly the weights are held where they are, as a share of the features' mean power.
RIDGE = 1e-3
# A difference below this share is rounding.
ROUNDING = 1e-5


def restore(
    model: keras.Model, smaller: keras.Model, found: Analysis, kept: Kept, data: Any
) -> list[str]:
    """Changes the weights of the smaller model so that its layers give what they gave.

    From the first layer to the last, on examples: a linear layer gets the weights with which it
    comes closest, in least squares, to what it gave in the whole model, reading what the smaller
    model's layers before it give now. A BatchNormalization moves its statistics by what its
    input's have moved. Layers that are called several times stay.

    Args:
        model: the model before; it does not change.
        smaller: the model without some channels; its weights change.
        found: the atoms of the model.
        kept: what is left of them.
        data: see `tfc.shrink`.

    Returns:
        The names of the layers that were changed.

    Source: He et al. 2017 (arXiv:1707.06168), reconstruction of outputs by least squares.
    """
    before, after = found.flow, read_flow(smaller)
    if [c.path for c in before.calls] != [c.path for c in after.calls]:
        return []
    inputs = _gather(model, before, data)
    whole, small = Run(before, inputs), Run(after, inputs)
    changed: list[str] = []
    generator = np.random.default_rng(0)
    calls = {id(call.operation): 0 for call in before.calls}
    for call in before.calls:
        calls[id(call.operation)] += 1
    for old, new in zip(before.calls, after.calls, strict=True):
        try:
            if calls[id(old.operation)] == 1 and old.inputs:
                if isinstance(new.operation, keras.layers.BatchNormalization):
                    moved = _move(old, new, whole, small, found, kept)
                else:
                    moved = _fit(old, new, whole, small, found, kept, generator)
                if moved:
                    changed.append(new.path)
            whole.step(old)
            small.step(new)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise misfit(model, error) from error
    return changed


def _gather(model: keras.Model, flow: Flow, data: Any) -> list[np.ndarray]:
    """(examples, ...) of each input: as many as are worth it and fit."""
    largest = max(
        (np.prod([n or 1 for n in v.shape[1:]]) for call in flow.calls for v in call.results),
        default=1.0,
    )
    count = int(max(16, min(EXAMPLES, BYTES / (4 * 8 * float(largest)))))
    batches: list[list[np.ndarray]] = []
    seen = 0
    for batch in inputs_of(data):
        flat = [np.asarray(a) for a in keras.tree.flatten(_ordered(model, batch))]
        if len(flat) != len(flow.input_values):
            raise DataError(
                f"`data` must have the {len(flow.input_values)} inputs of the model. Received: "
                f"{len(flat)}"
            )
        batches.append(flat)
        seen += len(flat[0])
        if seen >= count:
            break
    return [np.concatenate(arrays)[:count] for arrays in zip(*batches, strict=True)]


def _ordered(model: Any, batch: Any) -> Any:
    """Inputs by name in the order of the model's."""
    struct = getattr(model, "_inputs_struct", None)
    if isinstance(batch, dict) and not isinstance(struct, dict):
        names = [tensor.name for tensor in model.inputs]
        if set(names) <= set(batch):
            return [batch[name] for name in names]
    return batch


def _move(old: Call, new: Call, whole: Run, small: Run, found: Analysis, kept: Kept) -> bool:
    """BatchNormalization: statistics move as those of the input have."""
    layer = new.operation
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    atoms = found.axes(old.inputs[0])[axis]
    mask = slice(None) if atoms is None else kept.mask(atoms)
    mean_old, variance_old = (a[mask] for a in _statistics(whole.value(old.inputs[0]), axis))
    mean, variance = _statistics(small.value(new.inputs[0]), axis)
    known = variance_old > 0
    ratio = np.where(known, variance / np.where(known, variance_old, 1), 1)
    off = np.abs(mean - mean_old) / (np.sqrt(variance_old) + np.abs(mean_old) + 1e-30)
    if off.max() <= ROUNDING and np.abs(ratio - 1).max() <= 10 * ROUNDING:
        return False
    # So that mean and spread of what it gives, epsilon included, are those that they were.
    before = mean_old - np.asarray(layer.moving_mean)
    layer.moving_mean.assign(mean - before * np.sqrt(ratio))
    spread = (np.asarray(layer.moving_variance) + layer.epsilon) * ratio - layer.epsilon
    layer.moving_variance.assign(np.maximum(spread, 0))
    return True


def _statistics(chunks: Sequence[Any], axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance along an axis, over everything else."""
    arrays = [np.moveaxis(np.asarray(c, np.float32), axis, -1) for c in chunks]
    flat = [a.reshape(-1, a.shape[-1]) for a in arrays]
    count = sum(len(a) for a in flat)
    mean = sum(a.sum(0, dtype=np.float64) for a in flat) / count
    spread = sum(np.square(a - mean.astype(np.float32)).sum(0, dtype=np.float64) for a in flat)
    return mean, spread / count


def _fit(
    old: Call, new: Call, whole: Run, small: Run, found: Analysis, kept: Kept, generator: Any
) -> bool:
    """A linear layer: least squares from what it reads now to what it gave."""
    pair = [_read(call, run) for call, run in ((old, whole), (new, small))]
    if pair[0] is None or pair[1] is None:
        return False
    (one, x_old), (two, x_new) = pair[0], pair[1]
    if one.count != two.count:
        return False
    mask = _outputs(one, found, kept)
    matrix = one.matrix[:, mask]
    if two.matrix.shape[1] != matrix.shape[1]:
        return False
    start, features = two.matrix, len(two.matrix)
    wanted = max(ROWS, ROWS_PER_FEATURE * features)
    each = -(-wanted // sum(len(c) for c in x_new))
    gram = np.zeros((features, features))
    cross = np.zeros((features, matrix.shape[1]))
    x_sum, r_sum = np.zeros(features), np.zeros(matrix.shape[1])
    count, power, missed = 0, 0.0, 0.0
    bias_old, bias = one.bias, two.bias
    offset = (bias_old[mask] - bias) if bias is not None and bias_old is not None else 0.0
    for chunk_old, chunk_new in zip(x_old, x_new, strict=True):
        numbers = _sample(len(chunk_new), one.count, each, generator)
        target = one.rows(chunk_old, numbers) @ matrix.astype(np.float32)
        rows = two.rows(chunk_new, numbers)
        rest = target - rows @ start.astype(np.float32) + np.float32(offset)
        gram += rows.T @ rows
        cross += rows.T @ rest
        x_sum += rows.sum(0, dtype=np.float64)
        r_sum += rest.sum(0, dtype=np.float64)
        power += float(np.square(target, dtype=np.float64).sum())
        missed += float(np.square(rest, dtype=np.float64).sum())
        count += len(rows)
    if missed <= (ROUNDING**2) * power or not count:
        return False
    # With a bias, or statistics of a BatchNormalization behind it that move, the mean is free.
    free = bias is not None or _normalised(new, small)
    x_mean, r_mean = x_sum / count, r_sum / count
    if free:
        gram = gram - count * np.outer(x_mean, x_mean)
        cross = cross - count * np.outer(x_mean, r_mean)
    gram[np.diag_indices(features)] += RIDGE * np.trace(gram) / features + 1e-12
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    try:
        step = cho_solve(cho_factor(gram, overwrite_a=True, check_finite=True), cross)
    except (LinAlgError, ValueError):
        return False  # values that are not finite, or examples that say nothing
    if bias is not None:
        bias = bias + r_mean - x_mean @ step
    two.assign(start + step, bias)
    return True


def _normalised(call: Call, run: Run) -> bool:
    readers = run.readers(call.results[0])
    return bool(readers) and all(
        isinstance(reader.operation, keras.layers.BatchNormalization) for reader in readers
    )


def _sample(examples: int, rows: int, each: int, generator: Any) -> np.ndarray:
    """Numbers of rows: the same number of each example, chosen at random."""
    if each >= rows:
        return np.arange(examples * rows)
    chosen = generator.integers(0, rows, (examples, each))
    return (chosen + rows * np.arange(examples)[:, None]).ravel()


def _outputs(part: LinearPart, found: Analysis, kept: Kept) -> Any:
    """Which of the outputs of a part of the old model are left."""
    for record in found.records.values():
        for slot in record.slots:
            if slot.variable is part.layer.kernel:
                index = [
                    np.ones(n, bool) if axis is None or number not in slot.makes
                    else kept.mask(axis)
                    for number, (axis, n) in enumerate(
                        zip(slot.axes, slot.variable.shape, strict=True))
                ]  # fmt: skip
                mask = np.ones(part.layer.kernel.shape, bool)
                for number, one in enumerate(index):
                    mask &= one.reshape([-1 if n == number else 1 for n in range(mask.ndim)])
                return part.to_matrix(mask).any(0)
    return slice(None)


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
