"""What a student loses by differing from its teacher: per example, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

# Mean over the examples of each method's loss, times this.
WEIGHTS = {"logits": 1.0, "hints": 1.0, "attention": 1.0, "relational": 25.0}


def softened(teachers: Sequence[Any], student: Any, temperature: float) -> Any:
    """Divergence of the student's answer from the teachers', both softened: T^2 KL(p || q).

    p is the mean of the teachers' probabilities softmax(z / T). T^2 makes gradients as large as
    those of the labels' loss, whatever the temperature.

    Args:
        teachers: logits (..., classes) of each teacher, float32.
        student: logits (..., classes).
        temperature: T.

    Returns:
        (...).

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network"
    (arXiv:1503.02531), section 2.
    """
    log_p = _mean_of([ops.log_softmax(z / temperature, -1) for z in teachers])
    log_q = ops.log_softmax(student / temperature, -1)
    return temperature**2 * ops.sum(ops.exp(log_p) * (log_p - log_q), -1)


def softened_binary(teachers: Sequence[Any], student: Any, temperature: float) -> Any:
    """The same for outputs that are each a yes or no of their own; the mean over them.

    Args:
        teachers: logits (..., units) of each teacher, float32.
        student: logits (..., units).
        temperature: T.

    Returns:
        (...).
    """
    z = student / temperature
    total: Any = 0.0
    for sign in (1.0, -1.0):
        log_p = _mean_of([ops.log_sigmoid(sign * t / temperature) for t in teachers])
        total = total + ops.exp(log_p) * (log_p - ops.log_sigmoid(sign * z))
    return temperature**2 * ops.mean(total, -1)


def _mean_of(logs: Sequence[Any]) -> Any:
    """The logarithm of the mean of what these are the logarithms of."""
    if len(logs) == 1:
        return logs[0]
    return ops.logsumexp(ops.stack(list(logs)), 0) - ops.log(float(len(logs)))


def squared(teachers: Sequence[Any], student: Any, temperature: float) -> Any:
    """Mean square of the distance to the teachers' mean, for outputs that are numbers.

    Args:
        teachers: (..., units) of each teacher, float32.
        student: (..., units).
        temperature: of no meaning here.

    Returns:
        (...).
    """
    return ops.mean(ops.square(sum(teachers) / len(teachers) - student), -1)


def hint(teacher: Any, student: Any) -> Any:
    """Mean square of the distance of two feature maps with equally many channels.

    Args:
        teacher: (batch, positions..., channels).
        student: the same; where it has other sizes, the larger map is made smaller.

    Returns:
        (batch, positions) for sequences, else (batch,).

    Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets" (arXiv:1412.6550); for
    Transformers Jiao et al. 2020, "TinyBERT" (arXiv:1909.10351), hidden states.
    """
    teacher, student = same_size(teacher, student)
    return _positions(ops.mean(ops.square(teacher - student), -1))


def attention(teacher: Any, student: Any) -> Any:
    """Half the squared distance of two attention maps: 0 for equal ones, 1 for disjoint ones.

    A map is the sum of squares over the channels, as a vector of length 1.

    Args:
        teacher: (batch, positions..., channels).
        student: likewise, of any number of channels; where it has other sizes, the larger map is
            made smaller.

    Returns:
        (batch,).

    Source: Zagoruyko and Komodakis 2017, "Paying More Attention to Attention" (arXiv:1612.03928),
    equation 2, by the square of the distance as in the authors' code.
    """
    maps = same_size(*(ops.sum(ops.square(a), -1, keepdims=True) for a in (teacher, student)))
    unit = [_unit(ops.reshape(a, (ops.shape(a)[0], -1))) for a in maps]
    return 0.5 * ops.sum(ops.square(unit[0] - unit[1]), -1)


def attention_scores(teacher: Any, student: Any) -> Any:
    """Squared distance of the rows of two attention matrices; the mean over rows and heads.

    Args:
        teacher: (batch, heads, queries, keys), rows that sum to 1.
        student: the same, with any number of heads: then the mean over the heads is compared.

    Returns:
        (batch,).

    Source: Jiao et al. 2020, "TinyBERT" (arXiv:1909.10351), equation 7, on the softmax's outputs,
    as Keras's layer gives no others.
    """
    if teacher.shape[1] != student.shape[1]:
        teacher, student = (ops.mean(a, 1, keepdims=True) for a in (teacher, student))
    return ops.mean(ops.sum(ops.square(teacher - student), -1), (1, 2))


def relational(teacher: Any, student: Any) -> Any:
    """How the batch's examples lie to each other: distances, and twice the angles.

    Distances of all pairs are taken relative to their mean, angles as the cosines at the first of
    all triples; both are compared by Huber's loss. Needs (batch^2 x width) and batch^3 numbers.

    Args:
        teacher: (batch, width).
        student: (batch, any width).

    Returns:
        (batch,): the mean over the pairs and triples that each example is first in.

    Source: Park et al. 2019, "Relational Knowledge Distillation" (arXiv:1904.05068), equations 3
    to 9, weighted 1 to 2 as there for classification.
    """
    found = [_relations(a) for a in (teacher, student)]
    (distances_t, angles_t), (distances_s, angles_s) = found
    distance = ops.mean(_huber(distances_s - distances_t), 1)
    return distance + 2.0 * ops.mean(_huber(angles_s - angles_t), (1, 2))


def _relations(vectors: Any) -> tuple[Any, Any]:
    apart = vectors[None, :, :] - vectors[:, None, :]
    distances = _length(apart)
    some = ops.cast(distances > 0, "float32")
    mean = ops.sum(distances) / ops.maximum(ops.sum(some), 1.0)
    unit = _divided(apart, distances[..., None])
    angles = ops.matmul(unit, ops.transpose(unit, (0, 2, 1)))
    return _divided(distances, mean), angles


def _length(vectors: Any) -> Any:
    """Lengths along the last axis; the gradient at 0 is 0, not infinite."""
    squares = ops.sum(ops.square(vectors), -1)
    safe = ops.where(squares > 0, squares, ops.ones_like(squares))
    return ops.where(squares > 0, ops.sqrt(safe), ops.zeros_like(squares))


def _unit(vectors: Any) -> Any:
    return _divided(vectors, _length(vectors)[..., None])


def _divided(value: Any, by: Any) -> Any:
    safe = ops.where(by > 0, by, ops.ones_like(by))
    return ops.where(by > 0, value / safe, ops.zeros_like(value))


def _huber(x: Any) -> Any:
    size = ops.abs(x)
    return ops.where(size <= 1.0, 0.5 * ops.square(x), size - 0.5)


def _positions(values: Any) -> Any:
    """(batch, positions) as they are; more axes of positions are averaged."""
    return values if len(values.shape) < 3 else ops.mean(values, range(1, len(values.shape)))


def pooled(features: Any) -> Any:
    """(batch, positions..., channels) -> (batch, channels)."""
    rank = len(features.shape)
    return features if rank < 3 else ops.mean(features, tuple(range(1, rank - 1)))


def same_size(first: Any, second: Any) -> tuple[Any, Any]:
    """Two maps (batch, positions..., channels) with the smaller one's number of positions."""
    sizes = [tuple(a.shape[1:-1]) for a in (first, second)]
    if sizes[0] == sizes[1]:
        return first, second
    smaller = tuple(min(pair) for pair in zip(*sizes, strict=True))
    return _resized(first, smaller), _resized(second, smaller)


def _resized(maps: Any, size: Sequence[int]) -> Any:
    old = tuple(maps.shape[1:-1])
    if old == tuple(size):
        return maps
    if all(a % b == 0 for a, b in zip(old, size, strict=True)):
        blocks = tuple(a // b for a, b in zip(old, size, strict=True))
        return ops.average_pool(maps, blocks, blocks)
    if len(old) == 1:
        return ops.image.resize(maps[:, :, None], (*size, 1))[:, :, 0]
    return ops.image.resize(maps, tuple(size))


class PerExample(keras.losses.Loss):
    """A function (teacher, student) -> losses of each example, weighted and reduced as Keras does.

    Sample weights, masks and distribution strategies count as in any Keras loss.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(name="distillation", reduction="sum_over_batch_size", dtype="float32")
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of each example."""
        return self._function(y_true, y_pred)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The weighted mean; weights of examples hold for all places of a sequence."""
        given = sample_weight is not None and len(sample_weight.shape) == 1
        if given and len(y_pred.shape) > 2:
            losses = keras.ops.convert_to_tensor(self.call(y_true, y_pred))
            sample_weight = ops.reshape(sample_weight, (-1, *[1] * (len(losses.shape) - 1)))
        return super().__call__(y_true, y_pred, sample_weight)
