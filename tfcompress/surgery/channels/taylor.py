"""The change of the loss without a unit, to first order."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.surgery.channels.analysis import Analysis
from tfcompress.surgery.channels.importance import Tally, filters_of, slots_of, watching
from tfcompress.surgery.examples import as_inputs, check_finite, misfit, pairs_of


def taylor(found: Analysis, model: Any, data: Any, loss: Any) -> np.ndarray:
    """(classes,): |sum of activation x gradient| where weights read it, mean over the examples.

    Per example, as over many the sums of a trained model come to nothing. The weights that make a
    channel would not do: before BatchNormalization their sum of weight x gradient is 0. What only
    attention sees inside, as heads, is told by the weights that read it, per batch.

    Args:
        found: the atoms of the model.
        model: the model.
        data: `(x, y)`, or batches of such.
        loss: as `compile` takes it; None for the model's own.
    """
    from tfcompress.surgery.ranking import loss_function

    function = loss_function(model, loss)
    size = int(found.classes.max()) + 1
    total, seen = np.zeros(size), np.zeros(size, bool)
    inner, inner_seen = np.zeros(size), np.zeros(size, bool)
    chosen = [
        (slot, number)
        for slot in slots_of(found)
        if len(slot.variable.shape) > 1
        for number in slot.reads
        if slot.axes[number] is not None
    ]
    variables = [slot.variable.value for slot, _ in chosen]
    # Of what none of the weights reads, as queries and keys, those that make it lead to the loss.
    made = [slot.variable.value for slot in slots_of(found)]
    for x, y in pairs_of(data):
        read: list[tuple[Any, int, np.ndarray]] = []
        with (
            tf.GradientTape(watch_accessed_variables=False) as tape,
            watching(
                lambda layer, given, read=read: read.extend(_read(found, layer, given))  # type: ignore[misc]
            ),
        ):
            tape.watch(made)
            try:
                value = function(y, model(as_inputs(model, x), training=False))
            except Exception as error:
                raise misfit(model, error) from error
        tensors = [tensor for tensor, _, _ in read]
        by_tensor, by_weight = tape.gradient(value, (tensors, variables))
        examples = np.zeros((len(keras.tree.flatten(x)[0]), size))
        for (tensor, axis, atoms), gradient in zip(read, by_tensor, strict=True):
            if gradient is not None and tensor.shape[0] == len(examples):
                product = np.asarray(tensor * gradient, np.float64)
                others = tuple(n for n in range(1, product.ndim) if n != axis)
                np.add.at(examples.T, found.classes[atoms], product.sum(others).T)
                seen[found.classes[atoms]] = True
        total += np.abs(examples).sum(0)
        tally = Tally(found)
        for (slot, number), gradient in zip(chosen, by_weight, strict=True):
            if gradient is not None:
                product = np.asarray(slot.variable) * np.asarray(tf.convert_to_tensor(gradient))
                tally.add(slot.axes[number], filters_of(slot, number, product).sum(1))  # type: ignore[arg-type]
        inner += np.abs(tally.sums)
        inner_seen |= tally.counts > 0
    check_finite(total)
    check_finite(inner)
    return np.where(seen, total, np.where(inner_seen, inner, np.nan))


def _read(found: Analysis, layer: Any, given: Any) -> list[tuple[Any, int, np.ndarray]]:
    """The tensors that a layer's weights read along an axis with atoms."""
    record = found.records.get(id(layer))
    if record is None:
        return []
    tensors = [t for t in keras.tree.flatten(given) if keras.ops.is_tensor(t)]
    return [
        (tensors[number], axis, atoms)
        for number, axis, atoms in record.read
        if number < len(tensors)
        and hasattr(tensors[number], "numpy")  # within a loop there is none
        and tensors[number].shape.rank > axis
        and tensors[number].shape[axis] == len(atoms)
    ]
