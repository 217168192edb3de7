"""`DistilledModel`: a student that `fit` trains on labels and on what its teachers say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfcompress.distillation.cached_teacher import CachedTeacher
from tfcompress.distillation.carrying import packed, parts_of
from tfcompress.distillation.kinds import OutputKind, kinds_of, per_output
from tfcompress.distillation.terms import Answers, Step, Term
from tfcompress.distillation.watching import Seen, Watched, names_of
from tfcompress.errors import ConfigError
from tfcompress.report import CompressionReport, Entry
from tfcompress.transforms.model import DrivenFit
from tfcompress.variables import value_of


class Teachers(keras.Model):
    """Models that are asked and never trained.

    Keras's Distiller freezes the layers of its teacher for good and takes its weights for its own.
    These are past Keras's tracking: they stay as they are, and are saved with the model all the
    same.

    Args:
        models: the teachers, as they are.
    """

    def __init__(self, models: Sequence[Any]) -> None:
        super().__init__(name="teachers")
        object.__setattr__(self, "members", tuple(models))
        object.__setattr__(self, "watched", [Watched(model) for model in models])
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        """The outputs of each."""
        return [watched(inputs, False).outputs for watched in self.watched]


class AlphaSchedule(keras.callbacks.Callback):
    """Sets the teachers' share before each execution of the train function."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Keras's hook."""
        self.model.set_alpha()


@keras.saving.register_keras_serializable("tfcompress")
class DistilledModel(DrivenFit, keras.distillation.Distiller):
    """What `tfc.distill` returns: it trains its student, and is the student in all else.

    A `keras.distillation.Distiller` but for what that does not do: it runs the student once in a
    step and not twice, so that dropout and BatchNorm see one pass; teachers are not changed, and
    there may be several, or none but their cached logits; the labels' loss is Keras's own, with
    sample weights, class weights, loss weights and masks, and so is validation; layers inside
    nested and wrapped models can be watched; logits are taken from before a final softmax.

    Attributes:
        student: the model that is trained, the one that was given.
        teacher: the teachers (`teacher.members`).
        compression_report: what is compared with what.
    """

    def __init__(
        self,
        student: Any,
        teachers: Sequence[Any],
        cached: CachedTeacher | None,
        alpha: float | Callable[[int], float],
        make_terms: Callable[[Watched, Sequence[Watched], CompressionReport], list[Term]],
        outputs: Any,
        from_logits: bool | None,
        report: CompressionReport,
        config: dict[str, Any],
    ) -> None:
        held = Teachers(teachers)
        watched = Watched(student)
        terms = make_terms(watched, held.watched, report)
        super().__init__(
            teacher=held,
            student=student,
            distillation_losses=terms,
            student_loss_weight=0.5,  # not read: see `alpha`
            name=f"distilled_{student.name}",
            autocast=False,
        )
        # Past Keras's tracking: none of it is a layer.
        for name, value in {
            "watched": watched, "terms": terms, "cached": cached, "schedule": alpha,
            "_report": report, "_config": config, "_outputs": outputs,
            "_from_logits": from_logits, "_evaluating": False,
        }.items():  # fmt: skip
            object.__setattr__(self, name, value)
        self.regressors = [
            regressor
            for term in terms
            for own in getattr(term, "regressors", ())
            for regressor in own
            if regressor is not None
        ]
        self.alpha: Any = alpha
        if callable(alpha):
            self.alpha = self.add_weight(
                name="alpha", shape=(), initializer=keras.initializers.Constant(_share(alpha, 0)),
                trainable=False, dtype="float32",
            )  # fmt: skip
        self.built = student.built

    @property
    def compression_report(self) -> CompressionReport:
        """What is compared with what, by which loss, and what was left out; outputs once compiled.

        What its wrappers did is in the student's own.
        """
        return self._report

    def set_alpha(self) -> None:
        """Makes a scheduled share that of the optimizer's step.

        Raises:
            ConfigError: the schedule's value is no share.
        """
        if callable(self.schedule):
            step = 0 if self.optimizer is None else int(value_of(self.optimizer.iterations))
            self.alpha.assign(_share(self.schedule, step))

    def own_drivers(self) -> set[type]:
        """The callbacks that `fit` adds."""
        return {AlphaSchedule} if callable(self.schedule) else set()

    # -- as the student's own

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As any model's; `loss` and `metrics` are on the labels.

        Raises:
            ConfigError: no loss, where labels have a share; outputs of which nothing tells whether
                they are logits, probabilities or numbers.
        """
        given = inspect.signature(keras.Model.compile).bind(self, *args, **kwargs).arguments
        loss = given.get("loss")
        if loss is None and self.schedule != 1.0:
            raise ConfigError(
                "compile needs `loss`, that of the labels, which count with the share 1 - alpha. "
                "Without labels: tfc.distill(..., alpha=1.0). Received: loss=None"
            )
        keras.Model.compile(self, *args, **kwargs)
        self._settle(loss, given.get("loss_weights"))

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Keras's hook, where a model is loaded."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def _settle(self, loss: Any, loss_weights: Any) -> None:
        """Finds out, from the labels' loss too, what the outputs are."""
        count = self._output_count()
        teachers = self.teacher.watched
        said = self._outputs if self.cached is None else self.cached.kinds(self._outputs, count)
        outputs = getattr(self.student, "outputs", None)
        if self.cached is not None and outputs:  # else: in the first step
            self.cached.check_shapes([tuple(tensor.shape) for tensor in outputs])
        kinds = kinds_of(self.watched, teachers, count, loss, said, self._from_logits)
        found = per_output(loss_weights, names_of(self.student, count))
        weights = [1.0 if weight is None else float(weight) for weight in found]
        for term in self.terms:
            for answers in (term, getattr(term, "answers", None)):
                if isinstance(answers, Answers):
                    answers.kinds, answers.output_weights = kinds, weights
        kept = [entry for entry in self._report.entries if entry.kind != "output"]
        if any(isinstance(term, Answers) for term in self.terms):
            kept[:0] = [self._told(i, kind) for i, kind in enumerate(kinds)]
        self._report.entries[:] = kept

    def _output_count(self) -> int:
        if self.watched.endings is not None:
            return len(self.watched.endings)
        names = getattr(self.student, "output_names", None)
        return 1 if not names else len(names)

    def _told(self, i: int, kind: OutputKind) -> Entry:
        told = {"compared": {"values": "squares"}.get(kind.kind, f"softened {kind.kind}")}
        told["student"] = _source(self.watched, i, kind.kind, kind.student_logits)
        for number, watched in enumerate(self.teacher.watched):
            name = "teacher" if len(self.teacher.watched) == 1 else f"teacher {number}"
            told[name] = _source(watched, i, kind.kind, kind.teacher_logits[number])
        if self.cached is not None:
            told["teacher"] = self.cached.told
        return Entry(kind.name, "output", "distilled", "", told)

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """The student's outputs."""
        inputs, _ = parts_of(inputs)
        if not training:
            return self.student(inputs, training=training, **kwargs)
        seen = self.watched(inputs, True)
        # For compute_loss, which is given the outputs alone.
        keras.tree.flatten(seen.outputs)[0]._seen = seen
        return seen.outputs

    # -- training

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The labels' loss and that of the teachers in their shares; in evaluation the first."""
        if not training:
            return keras.Model.compute_loss(self, x, y, y_pred, sample_weight, training=False)
        inputs, cached = parts_of(x)
        seen: Seen | None = getattr(keras.tree.flatten(y_pred)[0], "_seen", None)
        if seen is None:
            seen = self.watched(inputs, True)
        count = len(keras.tree.flatten(seen.outputs))
        step = Step(
            seen,
            [watched(inputs, False) for watched in self.teacher.watched],
            self.cached.by_output(cached, count) if self.cached is not None else [],
            _each(sample_weight, count),
        )
        said: Any = sum(term.weight * term.of(step) for term in self.terms)
        own: Any = ops.zeros(())
        if self._compile_loss is not None and y is not None:
            own = self._compile_loss(y, y_pred, sample_weight)
        size = ops.shape(keras.tree.flatten(inputs)[0])[0]
        self.student_loss_tracker.update_state(own, sample_weight=size)
        self.distillation_loss_tracker.update_state(said, sample_weight=size)
        alpha = ops.convert_to_tensor(self.alpha, "float32")
        total = (1.0 - alpha) * own + alpha * said
        for loss in self.losses:  # regularizers
            total = total + self._aggregate_additional_loss(loss)
        return total

    def get_metrics_result(self) -> dict[str, Any]:
        """Keras's hook: `loss` is the total, so it is not told twice; evaluation has no teacher."""
        hidden = ["total_loss"]
        if self._evaluating:
            hidden += ["student_loss", "distillation_loss"]
        results = super().get_metrics_result()
        return {name: value for name, value in results.items() if name not in hidden}

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """That of the student."""
        return self._as_student(super().evaluate, args, kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """That of the student."""
        return self._as_student(super().test_on_batch, args, kwargs)

    def _as_student(self, what: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        object.__setattr__(self, "_evaluating", True)
        try:
            return what(*args, **kwargs)
        finally:
            object.__setattr__(self, "_evaluating", False)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `fit`, with what the student's wrappers and the schedule of alpha need.

        With a CachedTeacher, the outputs that were cached for each example go along with it.

        Raises:
            DataError: examples that are not in the cache.
        """
        if self.cached is not None:
            given = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs)
            given.arguments["x"] = packed(given.arguments.get("x"), self.cached)
            args, kwargs = given.args[1:], given.kwargs
        return self._told_by_cache(super().fit, *args, **kwargs)

    def _told_by_cache(self, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call; what the cache refused inside a tf.data pipeline is raised as it was."""
        import tensorflow as tf

        if self.cached is not None:
            self.cached.refusal = None
        try:
            return what(*args, **kwargs)
        except tf.errors.OpError as error:
            refusal = self.cached.refusal if self.cached is not None else None
            if refusal is None:
                raise
            raise refusal from error

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Keras's, on the labels and what the teachers say of this batch."""
        self.set_alpha()
        return super().train_on_batch(packed(x, self.cached), *args, **kwargs)

    # -- saving

    def get_config(self) -> dict[str, Any]:
        """Arguments of `tfc.distill` that make it again.

        Raises:
            ConfigError: a share that is a function of the user's, or a CachedTeacher of an array.
        """
        config = dict(self._config)
        if callable(self.schedule):
            raise ConfigError(
                "A distilled model is saved with its share of the teachers, and `alpha` is a "
                f"function. Received: {self.schedule!r}. Save `.student` (and its weights)."
            )
        if self.cached is not None and self.cached.path is None:
            raise ConfigError(
                "A distilled model is saved with the path of its teacher's cache. Received: a "
                "CachedTeacher of an array. Save `.student`, or write the outputs to a file."
            )
        serialize = keras.saving.serialize_keras_object
        config["method"] = [
            [way if isinstance(way, str) else serialize(way), weight]
            for way, weight in config["method"]
        ]
        return {
            **config,
            "student": serialize(self.student),
            "teacher": [serialize(member) for member in self.teacher.members],
            "cached": self.cached and self.cached.path,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The inverse of `get_config`."""
        from tfcompress.distillation.distill import distill

        config = dict(config)
        deserialize = keras.saving.deserialize_keras_object
        student = deserialize(config.pop("student"))
        teachers: Any = [deserialize(teacher) for teacher in config.pop("teacher")]
        cached = config.pop("cached")
        config["method"] = [
            (way if isinstance(way, str) else deserialize(way), weight)
            for way, weight in config["method"]
        ]
        return distill(student, CachedTeacher(cached) if cached else teachers, **config)


def _share(schedule: Callable[[int], float], step: int) -> float:
    said = schedule(step)
    try:
        share = float(said)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(
            "`alpha`, a function step -> share, must give the teachers' share of the loss, 0 to 1. "
            f"Received: {said!r} at step {step}"
        )
    return share


def _each(sample_weight: Any, count: int) -> list[Any]:
    flat = keras.tree.flatten(sample_weight)
    return flat if len(flat) == count else [sample_weight] * count


def _source(watched: Watched, i: int, kind: str, logits: bool) -> str:
    """Where the logits of an output come from, in words."""
    ending = watched.endings[i] if watched.endings is not None else None
    if kind == "values":
        return "its output"
    if ending is not None and ending.kind == kind:
        return f"before the {kind} of {ending.layer!r}"
    if (ending is not None and ending.kind == "linear") or logits:
        return "its output, as logits"
    return "recovered from its probabilities"
