"""Whether a subclass of one of Keras's layers computes what its class does."""

from __future__ import annotations

import functools
from typing import Any

# What a subclass may have of its own and still compute what its class does.
_HARMLESS = ("get_config", "from_config")


@functools.cache
def own_methods(kind: Any, cls: Any) -> list[str]:
    """What a subclass puts in the place of something of its class; `call` first.

    Args:
        kind: the subclass, or the class itself.
        cls: one of its bases, or itself.
    """
    between = kind.__mro__[: kind.__mro__.index(cls)]
    names = {name for one in between for name in vars(one) if hasattr(cls, name)}
    own = {name for name in names if name == "__call__" or not name.startswith("__")}
    return sorted(own.difference(_HARMLESS), key=lambda name: (name != "call", name))


def computes_as(layer: Any, *classes: Any) -> bool:
    """Whether it is of one of Keras's classes, or of a subclass that computes as that does."""
    kind: Any = type(layer)
    return any(isinstance(layer, cls) and not own_methods(kind, cls) for cls in classes)
