"""`Training`: how a step trains the model, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tfcompress.errors import ConfigError
from tfcompress.pipeline import values

OPTIMIZERS = ("adam", "adamw", "nadam", "rmsprop", "sgd", "adagrad", "lion")
DECAYS = ("cosine", "linear", "constant")
METHODS = ("logits", "hints", "attention", "relational")

_DISTILL = {
    "teacher": values.text("original, or the path of a .keras file"),
    "temperature": values.number(0, open_="low"),
    "alpha": values.number(0, 1),
    "method": values.choice(METHODS),
}
_AUGMENT = {
    "flip": values.flag(),
    "shift": values.number(0, 0.5),
}


@dataclass(frozen=True)
class Distillation:
    """What a step's training learns from a teacher.

    Attributes:
        teacher: `"original"`, the model that the pipeline began with, or a `.keras` file.
        temperature: softens the answers of both.
        alpha: the teacher's share of the loss.
        method: `"logits"`, `"hints"`, `"attention"` or `"relational"`.
    """

    teacher: str = "original"
    temperature: float = 4.0
    alpha: float = 0.5
    method: str = "logits"


@dataclass(frozen=True)
class Augmentation:
    """How training images differ from epoch to epoch.

    Attributes:
        flip: half of them are mirrored, left to right.
        shift: they move by at most this share of their height and width; zeros come in.
    """

    flip: bool = False
    shift: float = 0.0


@dataclass(frozen=True)
class Training:
    """How a step trains the model.

    Attributes:
        epochs: passes over the training data, at least 1.
        learning_rate: of the first step, after warming up.
        decay: `"cosine"` or `"linear"`, down to `final_rate`; or `"constant"`.
        final_rate: share of `learning_rate` at the last step.
        warmup: share of the steps in which the learning rate rises from 0.
        batch_size: examples in a step of the optimizer.
        optimizer: one of Keras's, by name.
        momentum: of `"sgd"` and `"rmsprop"`.
        weight_decay: as Keras's optimizers take it.
        loss: by Keras's name; None for the model's own, or one chosen by the labels.
        label_smoothing: this share of each label goes evenly to all classes.
        augment: of images; None for none.
        distill: a teacher's answers in the loss; None for none.
    """

    epochs: int
    learning_rate: float = 1e-3
    decay: str = "cosine"
    final_rate: float = 0.0
    warmup: float = 0.0
    batch_size: int = 64
    optimizer: str = "adam"
    momentum: float | None = None
    weight_decay: float | None = None
    loss: str | None = None
    label_smoothing: float = 0.0
    augment: Augmentation | None = None
    distill: Distillation | None = None


_KINDS = {
    "epochs": values.whole(1, required=True),
    "learning_rate": values.number(0, open_="low"),
    "decay": values.choice(DECAYS),
    "final_rate": values.number(0, 1),
    "warmup": values.number(0, 1, open_="high"),
    "batch_size": values.whole(1),
    "optimizer": values.choice(OPTIMIZERS),
    "momentum": values.number(0, 1, open_="high"),
    "weight_decay": values.number(0),
    "loss": values.text("the name of one of Keras's losses"),
    "label_smoothing": values.number(0, 1, open_="high"),
    "augment": values.Kind("a mapping", lambda value: value),
    "distill": values.Kind("a mapping", lambda value: value),
}


def training(where: str, given: Any) -> Training:
    """The training that a recipe asks for.

    Args:
        where: said in errors, such as `"step 2 (prune)"`.
        given: a mapping of a recipe, or a Training.

    Raises:
        ConfigError: an unknown argument, or a value that cannot be.
    """
    if isinstance(given, Training):
        given = plain(given)
    where = f"{where}, train"
    taken = values.checked(where, _KINDS, given)
    for name, kinds, made in (
        ("augment", _AUGMENT, Augmentation),
        ("distill", _DISTILL, Distillation),
    ):
        if name in taken:
            taken[name] = made(**values.checked(f"{where}, {name}", kinds, taken[name]))
    momentum = taken.get("momentum")
    if momentum is not None and taken.get("optimizer") not in ("sgd", "rmsprop"):
        raise ConfigError(
            f"{where}: `momentum` goes with optimizer sgd or rmsprop. "
            f"Received: {taken.get('optimizer', 'adam')}"
        )
    return Training(**taken)


def plain(value: Training | Augmentation | Distillation) -> dict[str, Any]:
    """What differs from the defaults, as a recipe says it."""
    said: dict[str, Any] = {}
    for field in fields(value):
        own = getattr(value, field.name)
        if own == field.default and field.name != "teacher":
            continue
        said[field.name] = plain(own) if isinstance(own, (Augmentation, Distillation)) else own
    return said
