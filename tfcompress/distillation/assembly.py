"""From methods and pairs to the terms of the loss, and what the report says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfcompress.distillation.pairs import Pair, Point, find_pairs
from tfcompress.distillation.terms import Answers, Layers, OfKeras, Term
from tfcompress.distillation.watching import Watched
from tfcompress.report import CompressionReport


def assembled(
    student: Watched,
    teachers: Sequence[Watched],
    ways: Sequence[tuple[Any, float]],
    given: Mapping[str, Any],
    temperature: float,
    report: CompressionReport,
) -> list[Term]:
    """The terms of a distillation.

    Args:
        student: the student; is told what to watch.
        teachers: likewise.
        ways: (method or loss of Keras's, weight).
        given: method -> pairs of the user's.
        temperature: of the method "logits".
        report: gets an entry for each pair and for what has none.
    """
    terms: list[Term] = []
    for way, weight in ways:
        if way == "logits":
            terms.append(Answers(student, teachers, temperature, weight))
        elif isinstance(way, str):
            terms.append(_layers(way, weight, student, teachers, given.get(way), report))
        else:
            terms.append(_of_keras(way, weight, student, teachers, report))
    return terms


def _layers(
    way: str,
    weight: float,
    student: Watched,
    teachers: Sequence[Watched],
    given: Any,
    report: CompressionReport,
) -> Layers:
    all_pairs, regressors = [], []
    for number, teacher in enumerate(teachers):
        pairs, left = find_pairs(way, student, teacher, given)
        name = "teacher" if len(teachers) == 1 else f"teacher {number}"
        own: list[Any] = []
        for pair in pairs:
            _watch(student, pair.student)
            _watch(teacher, pair.teacher)
            regressor = _regressor(pair, f"hint_{number}_{len(own)}") if way == "hints" else None
            own.append(regressor)
            details = {name: pair.teacher.path, "sizes": _sizes(pair)}
            if regressor is not None:
                details["through"] = f"a dense layer of {pair.teacher.channels} units"
            kind = type(pair.student.call.operation).__name__
            report.add(pair.student.path, kind, way, "", **details)
        if number == 0:
            for point, why in left:
                kind = type(point.call.operation).__name__
                report.add(point.path, kind, "left", f"{way}: {why}")
        all_pairs.append(pairs)
        regressors.append(own)
    return Layers(way, weight, all_pairs, regressors)


def _of_keras(
    loss: Any,
    weight: float,
    student: Watched,
    teachers: Sequence[Watched],
    report: CompressionReport,
) -> OfKeras:
    names = [getattr(loss, f"{side}_layer_name", None) for side in ("student", "teacher")]
    for teacher in teachers:
        loss.validate_model_compatibility(teacher.model, student.model)
    if getattr(loss, "loss", None) is keras.losses.kl_divergence:
        report.notes.append(
            "Keras's LogitsDistillation, with its loss given by name, takes the divergence of the "
            "logits themselves, as if they were probabilities: give it "
            "loss=keras.losses.KLDivergence(), or use method='logits'."
        )
    points = None
    if any(names):
        ours = _point(student, names[0])
        theirs = [_point(teacher, names[1]) for teacher in teachers]
        points = ours, theirs
        report.add(ours.path, type(loss).__name__, "compared", "", teacher=theirs[0].path)
    return OfKeras(loss, weight, Answers(student, teachers, 1.0, 1.0), points)


def _point(watched: Watched, name: str | None) -> Point:
    """The place of that name, or the output."""
    if name is None:
        call = watched.maker(watched.outputs[0])
        assert call is not None
    else:
        call = watched.find(name, "layer_name")
    point = Point(call, call.results[0])
    _watch(watched, point)
    return point


def _watch(watched: Watched, point: Point) -> None:
    if point.scores:
        watched.watch_scores(point.call)
    else:
        watched.watch(point.value)


def _regressor(pair: Pair, name: str) -> Any:
    """What makes the student's map as wide as the teacher's; None where it is."""
    if pair.student.channels == pair.teacher.channels:
        return None
    layer = keras.layers.Dense(pair.teacher.channels, name=name, dtype="float32")
    layer.build((None, *pair.student.size, pair.student.channels))
    return layer


def _sizes(pair: Pair) -> str:
    shown = [
        "x".join("?" if size is None else str(size) for size in point.value.shape[1:])
        for point in (pair.student, pair.teacher)
    ]
    return " and ".join(dict.fromkeys(shown))
