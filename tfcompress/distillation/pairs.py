"""Which layer of the student is to follow which of the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress import registry
from tfcompress.distillation.watching import Watched
from tfcompress.errors import ConfigError
from tfcompress.graph.flow import Call, Value


@dataclass(frozen=True)
class Point:
    """A place in a model where it can be compared with another.

    Attributes:
        call: the call that makes it.
        value: the tensor.
        scores: whether the attention matrices of the call are compared, not the tensor.
    """

    call: Call
    value: Value
    scores: bool = False

    @property
    def path(self) -> str:
        """Of the layer."""
        return self.call.path

    @property
    def size(self) -> tuple[int | None, ...]:
        """Its positions: all axes but those of examples and channels."""
        return tuple(self.value.shape[1:-1])

    @property
    def channels(self) -> int:
        """Size of its last axis."""
        return int(self.value.shape[-1] or 0)


@dataclass(frozen=True)
class Pair:
    """Two places to compare."""

    student: Point
    teacher: Point


Pairs = Mapping[str, str] | Iterable[tuple[str, str]] | None


def find_pairs(
    method: str, student: Watched, teacher: Watched, given: Pairs
) -> tuple[list[Pair], list[tuple[Point, str]]]:
    """The pairs that a method compares.

    Without `given`: attention layers evenly by depth for method "attention" where both models have
    them; the inputs of their last layers for "relational"; otherwise the last layers at each size
    of feature map that both models have, and where they have none in common, what is last at each
    size, evenly by depth.

    Args:
        method: "hints", "attention" or "relational".
        student: the student.
        teacher: the teacher.
        given: (student layer, teacher layer) names or paths.

    Returns:
        The pairs, and the student's places that got none, with the reasons.

    Raises:
        ScopeError: a name that is in neither.
        ConfigError: nothing to pair, or two layers that cannot be compared.
        ModelTypeError: a model whose layers are not known.
    """
    if given is not None:
        items = list(given.items()) if isinstance(given, Mapping) else list(given)
        pairs = [_named(method, student, teacher, item) for item in items]
        for pair in pairs:
            _check(method, pair)
        return pairs, []
    if method == "relational":
        return [Pair(_last_input(student), _last_input(teacher))], []
    if method == "attention":
        ours, theirs = _attentions(student), _attentions(teacher)
        if ours and theirs:
            return _evenly(ours, theirs)
    ours, theirs = _stages(student), _stages(teacher)
    if method == "attention":
        ours, theirs = ([p for p in own if p.size] for own in (ours, theirs))
    if not ours or not theirs:
        which = student if not ours else teacher
        raise ConfigError(
            f"method={method!r} compares layers, and none of {which.model.name!r} lends itself to "
            "it. Name them: pairs=[(student layer, teacher layer), ...]."
        )
    sizes = {point.size: point for point in theirs}
    common = [point for point in ours if point.size and point.size in sizes]
    if not common or len({point.size for point in ours}) < len(ours):
        return _evenly(ours, theirs)
    left = [
        (point, f"the teacher has no layer of the size {point.size}")
        for point in ours
        if point.size not in sizes
    ]
    return [Pair(point, sizes[point.size]) for point in common], left


def _evenly(ours: list[Point], theirs: list[Point]) -> tuple[list[Pair], Any]:
    """The k-th of n with the one at the same share of the depth, the last with the last."""
    count = min(len(ours), len(theirs))
    chosen = [
        tuple(own[-(-(k + 1) * len(own) // count) - 1] for own in (ours, theirs))
        for k in range(count)
    ]
    taken = {id(pair[0]) for pair in chosen}
    left = [
        (point, f"the teacher has {len(theirs)} such layers, the student {len(ours)}")
        for point in ours
        if id(point) not in taken
    ]
    return [Pair(*pair) for pair in chosen], left


def _named(method: str, student: Watched, teacher: Watched, item: Any) -> Pair:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ConfigError(
            "`pairs` takes (student layer, teacher layer) names, or a dict of these. "
            f"Received: {item!r}"
        )
    calls = [watched.find(str(n), "pairs") for watched, n in zip((student, teacher), item)]  # noqa: B905
    scores = method == "attention" and all(_is_attention(call) for call in calls)
    ours, theirs = (Point(call, call.results[0], scores) for call in calls)
    return Pair(ours, theirs)


def _check(method: str, pair: Pair) -> None:
    shapes = [tuple(point.value.shape) for point in (pair.student, pair.teacher)]
    ours, theirs = pair.student, pair.teacher
    if ours.scores or method == "relational":
        return
    unknown = any(None in point.size for point in (ours, theirs)) and ours.size != theirs.size
    if len(shapes[0]) != len(shapes[1]) or unknown:
        raise ConfigError(
            "Two layers of a pair must have equally many axes, of known sizes where they differ. "
            f"Received: {ours.path!r} {shapes[0]} and {theirs.path!r} {shapes[1]}"
        )
    if method == "attention" and not ours.size:
        raise ConfigError(
            "Attention maps need positions, as an image or a sequence has. Received: "
            f"{ours.path!r} {shapes[0]}. Use method='hints'."
        )


def _is_attention(call: Call) -> bool:
    operation = call.operation
    while type(operation) in registry._see_through:
        operation = operation.layer
    return isinstance(operation, keras.layers.MultiHeadAttention)


def _attentions(watched: Watched) -> list[Point]:
    calls = [call for call in watched.graph.calls if _is_attention(call)]
    return [Point(call, call.results[0], True) for call in calls]


def _stages(watched: Watched) -> list[Point]:
    """What is last at each size; the states between attention layers; or each layer's output."""
    flow = watched.graph
    points = [p for p in _points(watched) if _is_float(p)]
    ends = {id(value) for value in _ends(watched)}
    points = [p for p in points if id(p.value) not in ends]
    attentions = [call for call in flow.calls if _is_attention(call)]
    if attentions:
        read = [watched.maker(call.inputs[0]) for call in attentions[1:]]
        states = [Point(call, call.results[0]) for call in read if call is not None]
        rank = len(attentions[0].results[0].shape)
        return states + [p for p in points if len(p.value.shape) == rank][-1:]
    last: dict[Any, Point] = {}
    for point in points:
        if point.size:
            last.pop(point.size, None)  # so that it takes the place of its last one
            last[point.size] = point
    if len(last) > 1:
        return list(last.values())
    return _hidden(watched, [p for p in points if bool(p.size) == bool(last)])


def _hidden(watched: Watched, points: list[Point]) -> list[Point]:
    """The outputs of layers with kernels, behind the activation and norm that follow each."""
    found: list[Point] = []
    for point in points:
        operation = point.call.operation
        while type(operation) in registry._see_through:
            operation = operation.layer
        follows = isinstance(
            operation,
            (keras.layers.Activation, keras.layers.ReLU, keras.layers.BatchNormalization),
        )
        if registry.kernels(operation) or hasattr(operation, "effective_kernel"):
            found.append(point)
        elif found and follows and found[-1].value in point.call.inputs:
            found[-1] = point
    return found


def _points(watched: Watched) -> list[Point]:
    return [
        Point(call, call.results[0])
        for call in watched.graph.calls
        if len(call.results) == 1 and len(call.results[0].shape) >= 2
    ]


def _is_float(point: Point) -> bool:
    return point.value.dtype.startswith(("float", "bfloat")) and bool(point.value.shape[-1])


def _ends(watched: Watched) -> list[Value]:
    """The outputs and what only normalizes them: everything behind the last sums."""
    found = list(watched.outputs)
    for value in found:  # grows while it is walked
        call = watched.maker(value)
        if call is None or _last_sums(call):
            continue
        found += [v for v in call.inputs if len(v.shape) == len(value.shape)]
    return found


def _last_sums(call: Call) -> bool:
    operation = call.operation
    while type(operation) in registry._see_through:
        operation = operation.layer
    return bool(registry.kernels(operation)) or hasattr(operation, "effective_kernel")


def _last_input(watched: Watched) -> Point:
    """What the last layer with a kernel reads, or the output where there is none."""
    outputs = watched.outputs
    for value in _ends(watched):
        call = watched.maker(value)
        if call is not None and _last_sums(call):
            maker = watched.maker(call.inputs[0])
            if maker is not None:
                return Point(maker, maker.results[0])
    maker = watched.maker(outputs[0])
    if maker is None:
        raise ConfigError(
            f"No layer of {watched.model.name!r} can be compared. Name some in `pairs`."
        )
    return Point(maker, outputs[0])
