"""`tfc.distill`: a model whose `fit` trains a student on labels and on what its teachers say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from tfcompress.distillation.losses import WEIGHTS
from tfcompress.errors import ConfigError, ModelTypeError
from tfcompress.keras3 import check_built
from tfcompress.report import CompressionReport

if TYPE_CHECKING:
    from tfcompress.distillation.pairs import Pairs

METHODS = tuple(WEIGHTS)


def distill(
    student: keras.Model,
    teacher: Any,
    *,
    temperature: float = 4.0,
    alpha: float | Callable[[int], float] = 0.5,
    method: Any = "logits",
    pairs: Pairs | Mapping[str, Any] = None,
    outputs: Any = None,
    from_logits: bool | None = None,
) -> Any:
    """A model to compile and fit, which trains the student also on what the teachers say.

    The loss is (1 - alpha) x that of the labels, as `compile` is given it, + alpha x that of the
    teachers, + the student's regularizers. Teachers run in inference mode; nothing in them changes.
    In all else the returned model is the student: `predict`, `evaluate` and validation are the
    student's alone, callbacks such as `PruningCallback` and `QuantizationCallback` act on its
    layers, and models of `tfc.prune`, `tfc.cluster` and `tfc.quantize_aware` train as they do
    alone. `tfc.convert` and `tfc.strip` take the student out of it.

    Nothing is copied: `fit` trains `student` itself, as its own `fit` would, and `.student` is it.
    (`tfc.prune(model)` and `tfc.quantize_aware(model)` are copies: so `model` can teach them.)

    Args:
        student: a built Keras 3 model. For method "logits" of any kind, else Functional or
            Sequential, with all that it nests.
        teacher: a Keras model with the same inputs and outputs; a list of them, an ensemble; or
            what they said, a `CachedTeacher`. An ensemble's answer is the mean of its members'
            softened probabilities, not of their logits: logits of different networks have no
            common scale, and the mean of probabilities is what an ensemble predicts. Losses of
            layers are averaged over the members.
        temperature: T > 0 of method "logits": the higher, the more the student sees of the wrong
            classes.
        alpha: the teachers' share of the loss, 0 to 1 (Keras's Distiller asks for the labels'
            share, 1 - alpha); or a function step -> share, such as a schedule: the step counts the
            optimizer's updates and is looked at before each execution of the train function. With
            1.0 no labels are needed.
        method: one of the following, a list of them (their losses are summed up), or a dict or a
            list of pairs with their weights; `keras.distillation` losses may be among them.

            `"logits"`: T^2 KL of softened softmax outputs; for sigmoids the same for each unit; for
            outputs that are numbers, the mean squared error. Sequences count token by token.
            `"hints"`: mean squared error of feature maps; where the student's is narrower or wider,
            of what a dense layer makes of it, which trains along and is not part of the student.
            `"attention"`: where each feature map is large; of MultiHeadAttention layers, the
            attention matrices. `"relational"`: distances and angles between a batch's examples.
        pairs: (student layer, teacher layer) names or paths, in a list or a dict, for all methods
            of layers; or a dict method -> pairs. None: "hints" and "attention" take the last layers
            at each size that both have, or, where they have none in common, layers evenly by
            depth; "attention" in Transformers the attention layers evenly by depth; "relational"
            the inputs of the last layers with a kernel.
        outputs: what the outputs are, where the networks' ends and the labels' loss do not tell:
            "softmax", "sigmoid" or "values", or a list or dict of these for each output.
        from_logits: whether outputs of models whose ends are not known (subclassed ones) are
            logits; None to go by the loss that they are compiled with.

    Returns:
        A `keras.distillation.Distiller`. Its `compression_report` tells what is compared; what the
        outputs are, once it is compiled.

    Raises:
        ModelTypeError: no built Keras 3 model, or one whose layers are not known where layers are
            compared.
        ConfigError: an argument that cannot be; a teacher with other inputs or outputs; a student
            with weights of its teacher's; a Keras older than 3.12, which has no
            `keras.distillation`.
        ScopeError: a layer of `pairs` that is in neither model.

    Example:
        >>> model = tfc.distill(student, teacher, method=["logits", "attention"])
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x, y, epochs=20, callbacks=[tfc.PruningCallback(schedule)])
        >>> tflite = tfc.convert(student)

    Source: Hinton et al. 2015 (arXiv:1503.02531); Romero et al. 2015, FitNets (arXiv:1412.6550);
    Zagoruyko and Komodakis 2017 (arXiv:1612.03928); Jiao et al. 2020, TinyBERT (arXiv:1909.10351);
    Park et al. 2019 (arXiv:1904.05068). See `tfcompress.distillation.losses`.
    """
    if not hasattr(keras, "distillation"):
        raise ConfigError(
            f"tfc.distill builds on keras.distillation, of Keras 3.12 and later. Received: Keras "
            f"{keras.__version__}. pip install -U keras"
        )
    from tfcompress.distillation.cached_teacher import CachedTeacher
    from tfcompress.distillation.model import DistilledModel

    check_built(student, "tfc.distill")
    cached = teacher if isinstance(teacher, CachedTeacher) else None
    teachers: list[Any] = []
    if cached is None:
        teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
        check_teachers(student, teachers)
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not number or not 0 < temperature < float("inf"):
        raise ConfigError(f"`temperature` must be a number above 0. Received: {temperature!r}")
    if not callable(alpha):
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
            raise ConfigError(
                "`alpha` is the teachers' share of the loss, 0 to 1, or a function step -> share. "
                f"Received: {alpha!r}"
            )
        alpha = float(alpha)
    ways = _ways(method)
    if cached is not None and any(way != "logits" for way, _ in ways):
        raise ConfigError(
            "A CachedTeacher holds outputs alone, so method='logits' is what it can teach. "
            f"Received: {[way if isinstance(way, str) else type(way).__name__ for way, _ in ways]}"
        )
    given = _pairs_of(pairs, ways)
    report = CompressionReport("distill", {"method": " + ".join(_name(way) for way, _ in ways)})
    if any(way == "logits" for way, _ in ways):
        report.settings["temperature"] = temperature
    report.settings |= {"alpha": alpha, "teachers": len(teachers) or "cached"}
    for way, weight in ways:
        if weight != WEIGHTS.get(way if isinstance(way, str) else "", 1.0):
            report.settings[f"weight of {_name(way)}"] = weight

    def make_terms(watched: Any, members: Sequence[Any], report: CompressionReport) -> list[Any]:
        from tfcompress.distillation.assembly import assembled

        return assembled(watched, members, ways, given, float(temperature), report)

    config = {
        "temperature": temperature, "alpha": alpha, "method": ways, "pairs": given or None,
        "outputs": outputs, "from_logits": from_logits,
    }  # fmt: skip
    with student.distribute_strategy.scope():
        return DistilledModel(
            student, teachers, cached, alpha, make_terms, outputs, from_logits, report, config
        )


def check_teachers(student: Any, teachers: list[Any]) -> None:
    """Checks that models can teach another.

    Raises:
        ModelTypeError: one of them is no built Keras 3 model.
        ConfigError: none, or one with other inputs or outputs, or with weights of the student.
    """
    if not teachers:
        raise ConfigError("`teacher` must be a model, or a list of at least one. Received: []")
    trained = {id(variable): variable for variable in student.trainable_variables}
    for teacher in teachers:
        if isinstance(teacher, (str, os.PathLike)) or hasattr(teacher, "__array__"):
            raise ModelTypeError(
                "`teacher` must be a keras.Model or a list of them. What a teacher has said comes "
                "as tfc.CachedTeacher(path of tfc.cache_teacher) or tfc.CachedTeacher(outputs, x). "
                f"Received: {type(teacher).__name__} ({teacher!r:.80})"
            )
        check_built(teacher, "tfc.distill", "teacher")
        both = [v.path for v in teacher.variables if id(v) in trained]
        if both:
            raise ConfigError(
                "A teacher must not change while the student trains, and they share trainable "
                f"weights. Received: {both[:5]} in both. Give a copy as the teacher: "
                "tfc.strip(model) makes one."
            )
        shapes = [_shapes(model, "outputs") for model in (student, teacher)]
        if None not in shapes and shapes[0] != shapes[1]:
            raise ConfigError(
                "Student and teacher must have the same outputs. Received: "
                f"{shapes[0]} and {shapes[1]}"
            )
        ours, theirs = (_shapes(model, "inputs") for model in (student, teacher))
        if ours and theirs and not _takes_the_same(ours, theirs):
            raise ConfigError(
                "Student and teacher see the same examples, so they must take the same inputs. "
                f"Received: {ours} and {theirs}. Put what makes one of the other, such as "
                "Resizing, into a model around the teacher; or cache what the teacher says of its "
                "own inputs: tfc.CachedTeacher(teacher.predict(its_x), student_x)."
            )


def _shapes(model: Any, what: str) -> list[tuple[Any, ...]] | None:
    tensors = getattr(model, what, None)
    return None if not tensors else [tuple(tensor.shape) for tensor in tensors]


def _takes_the_same(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> bool:
    """Whether some batch fits both; sizes that are not fixed fit any.

    Keras adds or takes away a last axis of 1 where a model lacks it or has it.
    """
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if len(a) != len(b):
            a, b = (shape[:-1] if shape and shape[-1] == 1 else shape for shape in (a, b))
        if len(a) != len(b):
            return False
        if any(None not in (m, n) and m != n for m, n in zip(a, b, strict=True)):
            return False
    return True


def _name(way: Any) -> str:
    return way if isinstance(way, str) else type(way).__name__


def _ways(method: Any) -> list[tuple[Any, float]]:
    """(method, weight) of each."""
    items = list(method.items()) if isinstance(method, Mapping) else method
    if isinstance(items, str) or not isinstance(items, Iterable):
        items = [items]
    found = []
    for item in items:
        way: Any = item
        weight: Any = None
        if isinstance(item, (tuple, list)) and len(item) == 2:
            way, weight = item
        of_keras = isinstance(way, keras.distillation.DistillationLoss)
        if not of_keras and way not in METHODS:
            raise ConfigError(
                f"`method` must be of {list(METHODS)}, or keras.distillation losses. "
                f"Received: {way!r}"
            )
        if weight is None:
            weight = 1.0 if of_keras else WEIGHTS[way]
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not 0 <= weight < float("inf"):
            raise ConfigError(f"A method's weight must be a number >= 0. Received: {weight!r}")
        found.append((way, float(weight)))
    names = [_name(way) for way, _ in found if isinstance(way, str)]
    if not found or len(set(names)) < len(names):
        raise ConfigError(f"`method` must name each method once. Received: {method!r}")
    return found


def _pairs_of(pairs: Any, ways: list[tuple[Any, float]]) -> dict[str, Any]:
    """Method -> pairs, of those that are given."""
    of_layers = [way for way, _ in ways if isinstance(way, str) and way != "logits"]
    if pairs is None:
        return {}
    if not of_layers:
        raise ConfigError(
            "`pairs` is for methods that compare layers: hints, attention, relational. Received "
            f"it with method={[_name(way) for way, _ in ways]}"
        )
    if isinstance(pairs, Mapping) and pairs and set(pairs) <= set(METHODS):
        unknown = set(pairs) - set(of_layers)
        if unknown:
            raise ConfigError(f"`pairs` names methods that are not used: {sorted(unknown)}")
        return dict(pairs)
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise ConfigError(
            "`pairs` takes (student layer, teacher layer) names in a list or a dict, or a dict "
            f"method -> pairs. Received: {pairs!r}"
        )
    items = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
    if not items:
        raise ConfigError("`pairs` must name at least one pair of layers. Received: none")
    return {way: [list(item) for item in items] for way in of_layers}
