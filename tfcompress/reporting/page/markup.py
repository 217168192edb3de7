"""HTML from Python values: every text is escaped unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

_VOID = {"meta", "br", "hr", "circle", "line", "path", "rect", "polyline"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = Any  # Markup as it is, other values as text, None for nothing, iterables of these


def element(tag: str, *children: Child, **attributes: Any) -> Markup:
    """One element.

    Args:
        tag: its name.
        children: what is in it; texts are escaped.
        attributes: a trailing underscore is dropped (`class_`), others become hyphens
            (`aria_label`); None and False leave one away, True gives it no value.
    """
    said = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        said += f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
    if tag in _VOID:
        return Markup(f"<{tag}{said}/>")
    return Markup(f"<{tag}{said}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """The children one after the other."""
    return Markup("".join(map(_text, children)))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str) or not isinstance(child, Iterable):
        return html.escape(str(child))
    return join(child)
