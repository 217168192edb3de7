"""What an argument in a recipe may be: small checks that a table of verbs is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tfcompress.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Attributes:
        what: said in errors, after "must be".
        take: a value of a recipe -> the same as a plain value; ValueError where it is none.
        required: must be given.
    """

    what: str
    take: Callable[[Any], Any]
    required: bool = False


def checked(where: str, kinds: Mapping[str, Kind], given: Any) -> dict[str, Any]:
    """The arguments that are given, each of its kind.

    Args:
        where: said in errors, such as `"step 2 (prune)"`.
        kinds: what there may be.
        given: a mapping of a recipe.

    Raises:
        ConfigError: an unknown name, a value of another kind, or a required one that is missing.
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ConfigError(
            f"{where}: arguments must be given by name, such as {{{next(iter(kinds), '')}: ...}}. "
            f"Received: {given!r:.80}"
        )
    unknown = [name for name in given if name not in kinds]
    if unknown:
        known = ", ".join(kinds) or "none"
        raise ConfigError(f"{where}: arguments are: {known}. Received: {unknown[0]!r:.80}")
    missing = [name for name, kind in kinds.items() if kind.required and name not in given]
    if missing:
        raise ConfigError(
            f"{where}: `{missing[0]}` is needed, {kinds[missing[0]].what}. "
            f"Received: {sorted(given) or 'no arguments'}"
        )
    taken = {}
    for name, value in given.items():
        try:
            taken[name] = kinds[name].take(value)
        except ConfigError:
            raise
        except (ValueError, TypeError):
            raise ConfigError(
                f"{where}: `{name}` must be {kinds[name].what}. Received: {value!r:.80}"
            ) from None
    return taken


def number(low: float, high: float = math.inf, *, open_: str = "", required: bool = False) -> Kind:
    """A finite number from `low` to `high`; `open_` names the ends that it may not be."""
    bounds = f"above {low:g}" if "low" in open_ else f"of at least {low:g}"
    if high != math.inf:
        bounds += f" and {'below' if 'high' in open_ else 'at most'} {high:g}"

    def take(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError
        fits = low <= value <= high and math.isfinite(value)
        if not fits or ("low" in open_ and value == low) or ("high" in open_ and value == high):
            raise ValueError
        return float(value)

    return Kind(f"a number {bounds}", take, required)


def whole(low: int, high: int | None = None, *, required: bool = False) -> Kind:
    """A whole number from `low` to `high`."""

    def take(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        if value < low or (high is not None and value > high):
            raise ValueError
        return value

    end = "" if high is None else f" and at most {high}"
    return Kind(f"a whole number of at least {low}{end}", take, required)


def flag() -> Kind:
    """True or false."""

    def take(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Kind("true or false", take)


def choice(names: Collection[str], why: str = "") -> Kind:
    """One of these names."""

    def take(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return Kind(f"one of {', '.join(names)}{why}", take)


def text(what: str, parse: Callable[[str], Any] = str) -> Kind:
    """A text that `parse` does not refuse with a ConfigError of its own."""

    def take(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError
        try:
            parse(value)
        except ConfigError:
            raise ValueError from None
        return value

    return Kind(what, take)


def names(what: str, allowed: Collection[str] | None = None, *, single: bool = True) -> Kind:
    """One text (with `single`) or a list of texts, each of which is `allowed`."""

    def take(value: Any) -> Any:
        one = single and isinstance(value, str)
        listed = [value] if one else value
        if not isinstance(listed, (list, tuple)) or not all(
            isinstance(part, str) and part and (allowed is None or part in allowed)
            for part in listed
        ):
            raise ValueError
        if not listed and single:
            raise ValueError
        return value if one else list(listed)

    return Kind(what, take)


def scope() -> Kind:
    """Layers, by names and globs."""
    return names("a layer's name, a glob such as conv_*, or a list of these")


def one_of(*kinds: Kind) -> Kind:
    """Of any of these kinds."""

    def take(value: Any) -> Any:
        for kind in kinds:
            try:
                return kind.take(value)
            except (ValueError, TypeError):
                continue
        raise ValueError

    return Kind(", or ".join(kind.what for kind in kinds), take)


def nothing() -> Kind:
    """None."""

    def take(value: Any) -> None:
        if value is not None:
            raise ValueError

    return Kind("null", take)
