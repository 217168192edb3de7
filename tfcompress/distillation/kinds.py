"""What a model's outputs are: logits, probabilities or plain numbers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.distillation.watching import Watched, names_of
from tfcompress.errors import ConfigError

KINDS = ("softmax", "sigmoid", "values")
# Keras's own losses, by name without underscores.
_LOSSES = {
    "softmax": (
        *("categoricalcrossentropy", "sparsecategoricalcrossentropy"),
        *("categoricalfocalcrossentropy", "kldivergence"),
    ),
    "sigmoid": ("binarycrossentropy", "binaryfocalcrossentropy"),
    "values": (
        *("meansquarederror", "meanabsoluteerror", "meanabsolutepercentageerror", "huber"),
        *("meansquaredlogarithmicerror", "logcosh", "cosinesimilarity", "mse", "mae", "poisson"),
    ),
}


@dataclass(frozen=True)
class OutputKind:
    """How one output is compared.

    Attributes:
        name: the output's.
        kind: "softmax", "sigmoid" or "values".
        student_logits: whether the student's output, where its ending is not known, is logits.
        teacher_logits: the same of each teacher.
    """

    name: str
    kind: str
    student_logits: bool
    teacher_logits: tuple[bool, ...]


def loss_facts(loss: Any) -> tuple[str, bool | None]:
    """(kind, from_logits) of an output that is trained by a loss; ("", None) where not known."""
    from_logits: Any = False
    if isinstance(loss, functools.partial):
        from_logits, loss = loss.keywords.get("from_logits", False), loss.func
    elif isinstance(loss, keras.losses.Loss):
        kwargs = getattr(loss, "_fn_kwargs", {})
        from_logits = getattr(loss, "from_logits", kwargs.get("from_logits", False))
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    name = name.lower().replace("_", "")
    for kind, names in _LOSSES.items():
        if name in names:
            return kind, bool(from_logits)
    return "", None


def per_output(given: Any, names: Sequence[str]) -> list[Any]:
    """What `compile` was given for each output, flat; None where nothing was."""
    if isinstance(given, Mapping):
        return [given.get(name) for name in names]
    if isinstance(given, (list, tuple)):
        flat = list(keras.tree.flatten(given)) if len(given) != len(names) else list(given)
        return flat if len(flat) == len(names) else [None] * len(names)
    return [given] * len(names)


def kinds_of(
    student: Watched,
    teachers: Sequence[Watched],
    count: int,
    loss: Any,
    outputs: Any,
    from_logits: bool | None,
) -> list[OutputKind]:
    """How each output is compared.

    Args:
        student: the student.
        teachers: the teachers whose models are there.
        count: how many outputs the student has.
        loss: as the student's `compile` is given it.
        outputs: what the user says: one of `KINDS`, a list or a dict of them by name, or None.
        from_logits: what the user says of models whose last layer tells nothing.

    Raises:
        ConfigError: it cannot be known.
    """
    names = names_of(student.model, count)
    unknown = isinstance(outputs, Mapping) and not set(outputs) <= set(names)
    if unknown or (isinstance(outputs, (list, tuple)) and len(outputs) != count):
        raise ConfigError(
            f"`outputs` takes one of {list(KINDS)}, or one for each of the outputs {names}, as a "
            f"list or by name. Received: {outputs!r}"
        )
    said = per_output(outputs, names)
    losses = per_output(loss, names)
    return [
        _kind(i, names[i], student, teachers, losses[i], said[i], from_logits) for i in range(count)
    ]


def _kind(
    i: int,
    name: str,
    student: Watched,
    teachers: Sequence[Watched],
    loss: Any,
    said: Any,
    from_logits: bool | None,
) -> OutputKind:
    if said is not None and said not in KINDS:
        raise ConfigError(f"`outputs` takes {list(KINDS)}. Received: {said!r}")
    by_loss, logits = loss_facts(loss)
    endings = ["" if w.endings is None else w.endings[i].kind for w in (student, *teachers)]
    known = [ending for ending in endings if ending in ("softmax", "sigmoid")]
    kind = said or (known[0] if known else by_loss)
    if not kind:
        if "linear" not in endings:
            raise ConfigError(
                f"Nothing tells what the output {name!r} is: no softmax or sigmoid is found at its "
                f"end, and the loss {loss!r} is not known. Say it: outputs='softmax', 'sigmoid' or "
                "'values'."
            )
        kind = "values"
    if kind == "values":
        return OutputKind(name, kind, False, (False,) * len(teachers))
    own = from_logits if from_logits is not None else logits
    if not endings[0] and own is None:
        own = _asked(student, i, name)
    theirs = []
    for watched, ending in zip(teachers, endings[1:], strict=True):
        answer: bool | None = from_logits if from_logits is not None else True
        if not ending and from_logits is None:
            answer = _asked(watched, i, name)
        theirs.append(bool(answer))
    return OutputKind(name, kind, bool(own), tuple(theirs))


def _asked(watched: Watched, i: int, name: str) -> bool:
    """Whether an output is logits, by the loss that its model was compiled with."""
    loss = getattr(watched.model, "loss", None) if watched.model.compiled else None
    names = names_of(watched.model, i + 1)
    found = loss_facts(per_output(loss, names)[i] if len(names) > i else loss)[1]
    if found is None:
        raise ConfigError(
            f"Nothing tells whether the output {name!r} of {watched.model.name!r} is logits or "
            "probabilities: its last layers are not known, and it is not compiled with a loss of "
            "Keras. Say it: from_logits=True or False."
        )
    return found
