"""Schedules, criteria and patterns as plain values, and back."""

from __future__ import annotations

from typing import Any

from tfcompress import schedules
from tfcompress.errors import ConfigError
from tfcompress.pruning.criteria import CRITERIA, Criterion
from tfcompress.schedules import FunctionSchedule, Schedule

_SCHEDULES: dict[str, type[Schedule]] = {
    cls.__name__: cls
    for cls in (
        schedules.ConstantSparsity,
        schedules.PolynomialDecay,
        schedules.ExponentialDecay,
        schedules.OneShot,
        schedules.RigL,
    )
}


def schedule_config(schedule: Schedule) -> dict[str, Any]:
    """A schedule as plain values.

    Raises:
        ConfigError: a user's own function or class that is not registered with Keras.
    """
    if isinstance(schedule, FunctionSchedule):
        own = schedule.get_config()
        return {
            "function": _registered(own["function"], "schedule"),
            "frequency": own["frequency"],
        }
    import keras

    cls = type(schedule)
    if _SCHEDULES.get(cls.__name__) is not cls:
        _registered(cls, "schedule")
    return {
        "class_name": keras.saving.get_registered_name(cls),
        "config": schedule.get_config(),
    }


def schedule_from_config(config: dict[str, Any]) -> Schedule:
    """The inverse of `schedule_config`."""
    if "function" in config:
        return FunctionSchedule(_object(config["function"], "schedule"), config["frequency"])
    name = config["class_name"]
    cls = _SCHEDULES.get(name) or _object(name, "schedule")
    return cls(**config["config"])


def criterion_config(criterion: Criterion) -> str:
    """A criterion's name, or the registered name of a user's function.

    Raises:
        ConfigError: a user's own function that is not registered with Keras.
    """
    if CRITERIA.get(criterion.name) is criterion:
        return criterion.name
    return _registered(criterion.function or type(criterion), "criterion")


def criterion_from_config(name: str) -> Any:
    """The inverse of `criterion_config`: what `as_criterion` takes."""
    return name if name in CRITERIA else _object(name, "criterion")


def _registered(thing: Any, argument: str) -> str:
    """The name by which Keras finds it again."""
    import keras

    name = getattr(thing, "__name__", type(thing).__name__)
    try:
        registered = keras.saving.get_registered_name(thing)
    except TypeError:  # not hashable
        registered = name
    if keras.saving.get_registered_object(registered) is not thing:
        raise ConfigError(
            f"To save or copy a model that is pruned with a {argument} of your own, register it: "
            "put @keras.saving.register_keras_serializable() in front of its definition. "
            f"Received: {name!r}, which is not registered."
        )
    return registered


def _object(name: str, argument: str) -> Any:
    import keras

    found = keras.saving.get_registered_object(name)
    if found is None:
        raise ConfigError(
            f"The model is pruned with the {argument} {name!r}, which is not known here. Import "
            "the module that registers it before loading the model."
        )
    return found
