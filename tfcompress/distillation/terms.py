"""The parts that a distillation's loss is summed up from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tfcompress.distillation import losses
from tfcompress.distillation.cached_teacher import check_shape
from tfcompress.distillation.kinds import OutputKind
from tfcompress.distillation.pairs import Pair, Point
from tfcompress.distillation.watching import Seen, Watched, recovered

BY_KIND: dict[str, Callable[..., Any]] = {
    "softmax": losses.softened,
    "sigmoid": losses.softened_binary,
    "values": losses.squared,
}


@dataclass
class Step:
    """What one training step has at hand.

    Attributes:
        student: what the student's pass gave.
        teachers: what each teacher's pass gave; [] where their outputs were cached.
        cached: for each output, what each cached teacher says, and its form (`CachedTeacher`).
        weights: sample weights of each output, or None.
    """

    student: Seen
    teachers: list[Seen]
    cached: list[list[tuple[Any, str]]]
    weights: list[Any]


class Term(keras.distillation.DistillationLoss):
    """One of them; `of` gives its value in a step.

    Args:
        name: of its method.
        weight: its factor.
    """

    def __init__(self, name: str, weight: float) -> None:
        self.name, self.weight = name, weight

    def of(self, step: Step) -> Any:
        """The loss, a float32 scalar, not yet times the weight."""
        raise NotImplementedError


class Answers(Term):
    """The outputs: softened probabilities, or numbers.

    Args:
        student: the student.
        teachers: the teachers.
        temperature: of the softening.
        weight: see `Term`.

    Attributes:
        kinds: how each output is compared; set when the model is compiled.
        output_weights: factor of each output.
    """

    def __init__(
        self, student: Watched, teachers: Sequence[Watched], temperature: float, weight: float
    ) -> None:
        super().__init__("logits", weight)
        self.student, self.teachers, self.temperature = student, teachers, temperature
        self.kinds: list[OutputKind] = []
        self.output_weights: list[float] = []

    def of(self, step: Step) -> Any:
        """The sum over the outputs."""
        total: Any = 0.0
        for i, kind in enumerate(self.kinds):
            theirs, own = self._compared(step, i, kind)
            compare = functools.partial(BY_KIND[kind.kind], temperature=self.temperature)
            loss = losses.PerExample(compare)
            total = total + self.output_weights[i] * loss(theirs, own, step.weights[i])
        return total

    def _compared(self, step: Step, i: int, kind: OutputKind) -> tuple[list[Any], Any]:
        if kind.kind == "values":
            own = keras.tree.flatten(step.student.outputs)[i]
            theirs = [keras.tree.flatten(seen.outputs)[i] for seen in step.teachers]
        else:
            own = self.student.logits(step.student, i, kind.kind, kind.student_logits)
            theirs = [
                watched.logits(seen, i, kind.kind, logits)
                for watched, seen, logits in zip(
                    self.teachers, step.teachers, kind.teacher_logits, strict=True
                )
            ]
        for said, form in step.cached[i] if step.cached else []:
            is_p = form == "sums" or (form == "unit" and kind.kind == "sigmoid")
            to_logits = is_p and kind.kind != "values"
            if check_shape(said.shape, own.shape):
                said = ops.expand_dims(said, -1)
            theirs.append(recovered(said, kind.kind) if to_logits else said)
        return [ops.stop_gradient(ops.cast(t, "float32")) for t in theirs], own


class Layers(Term):
    """Pairs of layers.

    Args:
        name: "hints", "attention" or "relational".
        weight: see `Term`.
        pairs: of each teacher.
        regressors: `hints` only: for each teacher, what makes each of the student's maps as wide
            as its teacher's; None where they are.
    """

    def __init__(
        self,
        name: str,
        weight: float,
        pairs: Sequence[Sequence[Pair]],
        regressors: Sequence[Sequence[Any]],
    ) -> None:
        super().__init__(name, weight)
        self.pairs, self.regressors = pairs, regressors

    def of(self, step: Step) -> Any:
        """The mean over the pairs and the teachers."""
        found = [
            self._pair(step, seen, pair, regressor)
            for seen, pairs, regressors in zip(
                step.teachers, self.pairs, self.regressors, strict=True
            )
            for pair, regressor in zip(pairs, regressors, strict=True)
        ]
        return sum(found) / len(found)

    def _pair(self, step: Step, seen: Seen, pair: Pair, regressor: Any) -> Any:
        theirs, own = _seen(seen, pair.teacher), _seen(step.student, pair.student)
        mask = getattr(own, "_keras_mask", None)
        # Copies: a cast to the same dtype would leave Keras's mask on it.
        theirs, own = (ops.copy(ops.cast(a, "float32")) for a in (theirs, own))
        theirs = ops.stop_gradient(theirs)
        if regressor is not None:
            own = regressor(own)
        compare = {
            "hints": losses.hint,
            "attention": losses.attention_scores if pair.student.scores else losses.attention,
            "relational": lambda t, s: losses.relational(losses.pooled(t), losses.pooled(s)),
        }[self.name]
        masked = mask is not None and len(own.shape) == 3
        if masked and self.name == "attention":  # padding is nowhere large
            kept = ops.cast(mask, "float32")[..., None]
            own, theirs = own * kept, theirs * kept if own.shape[1] == theirs.shape[1] else theirs
        if masked and self.name == "hints" and pair.student.size == pair.teacher.size:
            own._keras_mask = mask
        weights = step.weights[0] if len(step.weights) == 1 else None
        if weights is not None and len(weights.shape) > 1:
            weights = ops.mean(weights, range(1, len(weights.shape)))
        return losses.PerExample(compare)(theirs, own, weights)


class OfKeras(Term):
    """A `keras.distillation.DistillationLoss` of the user's.

    Args:
        loss: the object.
        answers: finds the logits, for `LogitsDistillation`.
        points: (student's, teachers') places, where it names layers.
    """

    def __init__(
        self, loss: Any, weight: float, answers: Answers, points: tuple[Point, list[Point]] | None
    ) -> None:
        super().__init__(type(loss).__name__, weight)
        self.loss, self.answers, self.points = loss, answers, points

    def of(self, step: Step) -> Any:
        """The mean over the teachers."""
        found = []
        for number, seen in enumerate(step.teachers):
            if self.points is not None:
                theirs = _seen(seen, self.points[1][number])
                own = _seen(step.student, self.points[0])
            elif isinstance(self.loss, keras.distillation.LogitsDistillation):
                theirs, own = self._logits(step, number)
            else:
                theirs, own = seen.outputs, step.student.outputs
            theirs = keras.tree.map_structure(ops.stop_gradient, theirs)
            self.loss.validate_outputs(theirs, own)
            found.append(ops.cast(self.loss.compute_loss(theirs, own), "float32"))
        return sum(found) / len(found)

    def _logits(self, step: Step, number: int) -> tuple[Any, Any]:
        alone = Step(step.student, step.teachers, [], step.weights)
        flat = [self.answers._compared(alone, i, k) for i, k in enumerate(self.answers.kinds)]
        nest = step.student.outputs
        return (
            keras.tree.pack_sequence_as(nest, [theirs[number] for theirs, _ in flat]),
            keras.tree.pack_sequence_as(nest, [own for _, own in flat]),
        )


def _seen(seen: Seen, point: Point) -> Any:
    if point.scores:
        return seen.scores[id(point.call)]
    return seen.features[id(point.value)]
