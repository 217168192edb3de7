"""`Step`: one verb of a recipe with its arguments; and which step may follow which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tfcompress.conversion.precisions import PRECISIONS, TRAINED
from tfcompress.errors import ConfigError
from tfcompress.pipeline import values
from tfcompress.pipeline.training import Distillation, Training, plain, training
from tfcompress.pipeline.verbs import VERBS, Verb
from tfcompress.quantization.scheme import SCHEMES

MOST_STEPS = 100


@dataclass(frozen=True)
class Step:
    """A step of a pipeline.

    Attributes:
        number: its place in the recipe, from 1.
        verb: a name in `verbs.VERBS`.
        arguments: those that are given, as plain values.
        training: how the model is trained then; None for not at all.
    """

    number: int
    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    training: Training | None = None

    @property
    def name(self) -> str:
        """Such as `"2_prune"`: what its files are called."""
        return f"{self.number}_{self.verb}"

    @property
    def where(self) -> str:
        """Such as `"step 2 (prune)"`: what errors call it."""
        return f"step {self.number} ({self.verb})"

    @property
    def row(self) -> Verb:
        """Its verb's row of the table."""
        return VERBS[self.verb]

    def to_plain(self) -> Any:
        """As a recipe says it."""
        said, how = {**self.arguments}, self.training
        if self.verb == "distill" and how is not None and how.distill is not None:
            said, how = {**said, **plain(how.distill)}, replace(how, distill=None)
        if how is not None:
            said["train"] = plain(how)
        return {self.verb: said} if said else self.verb


def parse(given: Any) -> tuple[Step, ...]:
    """The steps of a recipe.

    Args:
        given: a list; each part a verb's name, or a mapping of one to its arguments (and `train`).

    Raises:
        ConfigError: what no step can be, or steps in an order that cannot be.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ConfigError(f"`steps` must be a list of steps. Received: {given!r:.80}")
    listed = list(given)
    if not 1 <= len(listed) <= MOST_STEPS:
        raise ConfigError(
            f"A recipe must have 1 to {MOST_STEPS} steps. Received: {len(listed)} steps"
        )
    steps = tuple(_step(number, part) for number, part in enumerate(listed, 1))
    _check_order(steps)
    return steps


def _step(number: int, given: Any) -> Step:
    if isinstance(given, Step):
        given = given.to_plain()
    if isinstance(given, str):
        given = {given: {}}
    if not isinstance(given, Mapping) or len(given) != 1:
        raise ConfigError(
            f"step {number}: a step must be a verb, or a mapping of one verb to its arguments, "
            f"such as {{prune: {{sparsity: 0.8}}}}. Received: {given!r:.80}"
        )
    ((verb, arguments),) = given.items()
    if not isinstance(verb, str) or verb not in VERBS:
        raise ConfigError(
            f"step {number}: a step's verb must be one of {', '.join(VERBS)}. "
            f"Received: {verb!r:.80}"
        )
    step = Step(number, verb)
    arguments = {} if arguments is None else arguments
    how = None
    if isinstance(arguments, Mapping):
        arguments = dict(arguments)
        how = arguments.pop("train", None)
        _check_training_apart(step, arguments)
    step = replace(step, arguments=values.checked(step.where, step.row.arguments, arguments))
    _check_together(step)
    if how is not None and step.row.trains == "no":
        raise ConfigError(f"{step.where}: it trains nothing, so it takes no `train`.")
    if how is None and step.row.trains == "must":
        raise ConfigError(f"{step.where}: `train` is needed, such as {{epochs: 3}}. Received: none")
    if how is None and step.arguments.get("criterion", "magnitude") != "magnitude":
        raise ConfigError(
            f"{step.where}: the criterion needs gradients, so the step must `train`. "
            f"Received: criterion={step.arguments['criterion']!r} without training"
        )
    trained = None if how is None else training(step.where, how)
    if verb == "distill":
        assert trained is not None
        if trained.distill is not None:
            raise ConfigError(
                f"{step.where}: what to distill is said once, as the step's own arguments. "
                "Received: `distill` in `train` as well"
            )
        trained = replace(trained, distill=Distillation(**step.arguments))
        step = replace(step, arguments={})
    return replace(step, training=trained)


def _check_training_apart(step: Step, arguments: Mapping[Any, Any]) -> None:
    """What says how to train stands in `train`, also in a step that does nothing else."""
    training_too = {own.name for own in fields(Training)} - set(step.row.arguments)
    outside = sorted(training_too & set(arguments))
    if outside and step.row.trains != "no":
        raise ConfigError(
            f"{step.where}: how to train is said inside `train`, such as {{{step.verb}: {{train: "
            f"{{epochs: 3}}}}}}. Received: {outside[0]!r} beside it"
        )


def _check_together(step: Step) -> None:
    """What arguments say together."""
    said = step.arguments

    def refuse(rule: str, *received: str) -> None:
        told = ", ".join(f"{name}={said[name]!r}" for name in received if name in said) or "none"
        raise ConfigError(f"{step.where}: {rule}. Received: {told}")

    if step.verb == "drop_layers" and ("layers" in said) == ("blocks" in said):
        refuse("either `layers` or a number of `blocks` must be given", "layers", "blocks")
    if step.verb == "factorize" and len({"energy", "rank", "multiply_adds"} & set(said)) > 1:
        refuse("only one of `energy`, `rank` and `multiply_adds` can be met",
               "energy", "rank", "multiply_adds")  # fmt: skip
    if step.verb == "separate" and {"terms", "multiply_adds"} <= set(said):
        refuse("the share of `multiply_adds` chooses the `terms`", "terms", "multiply_adds")
    if step.verb == "prune":
        _check_prune(step)


def _check_prune(step: Step) -> None:
    """By the rules of pruning itself, before hours of training."""
    from tfcompress.pipeline.actions import pruning_settings

    try:
        pruning_settings(step.arguments, steps=1000)
    except ConfigError as error:
        raise ConfigError(f"{step.where}: {error}") from None


def _check_order(steps: Sequence[Step]) -> None:
    for place, step in enumerate(steps):
        before = steps[:place]
        for other in before:
            why = step.row.not_after.get(other.verb)
            if why is not None:
                raise ConfigError(
                    f"{step.where} cannot come after {other.where}: {why}. Move it before."
                )
        if step.row.only_after is not None:
            needed, why = step.row.only_after
            if not any(other.verb == needed for other in before):
                raise ConfigError(f"{step.where} must come after a step `{needed}`: {why}.")
        if step.verb == "convert":
            _check_precisions(step, before)
        for rest in steps[place + 1 :] if step.verb == "pack" else ():
            if rest.verb == "convert":
                raise ConfigError(
                    f"{step.where} must come after {rest.where}, whose files it packs."
                )


def precisions(step: Step) -> list[str]:
    """What a `convert` step converts to."""
    said = step.arguments.get("precision", "fp32")
    return [said] if isinstance(said, str) else list(said)


def _check_precisions(step: Step, before: Sequence[Step]) -> None:
    quantized = next((other for other in before if other.verb == "quantize"), None)
    if quantized is None:
        offered = {name: row.io for name, row in PRECISIONS.items()}
        why = "a model that no step `quantize` made converts to"
    else:
        scheme = SCHEMES[quantized.arguments.get("scheme", "int8")]
        offered = {
            name: row.io
            for name, row in TRAINED.items()
            if row.activation_bits == scheme.activation_bits
            and (name != "int8-matmul" or scheme.operators == "matmul")
        }
        why = f"what {quantized.where} makes converts to"
    taken = [name for other in before if other.verb == "convert" for name in precisions(other)]
    for name in precisions(step):
        if name not in offered:
            raise ConfigError(
                f"{step.where}: {why} {', '.join(offered)}. Received: precision={name!r}"
            )
        if name in taken:
            raise ConfigError(
                f"{step.where}: each precision makes one file. Received: {name!r} a second time"
            )
        taken.append(name)
        io = step.arguments.get("io", "float32")
        if io not in offered[name]:
            raise ConfigError(
                f"{step.where}: precision {name} has `io` {', '.join(offered[name])}. "
                f"Received: {io!r}"
            )


def kept_before(steps: Sequence[Step], step: Step) -> tuple[str, ...]:
    """What steps before this one made that its training must keep."""
    return tuple(
        dict.fromkeys(s.row.keeps for s in steps if s.number < step.number and s.row.keeps)
    )
