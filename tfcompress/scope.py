"""Choosing layers: by name, glob pattern, class, a function, or the layers themselves."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tfcompress.errors import ScopeError

if TYPE_CHECKING:
    import keras

ScopeLike = None | str | type | Callable[["keras.Layer"], bool] | Iterable[Any]


def resolve(scope: ScopeLike, layers: Sequence[tuple[str, keras.Layer]], argument: str) -> set[int]:
    """The layers that a scope names.

    Args:
        scope: a layer's name or its path such as `"encoder/dense"`; a glob over either, such as
            `"conv_*"`; a layer class (its subclasses too); a layer itself; a function
            `layer -> bool`; or a list of these.
        layers: (path, layer) of every layer that can be chosen.
        argument: the argument's name, for the message.

    Returns:
        `id`s of the layers.

    Raises:
        ScopeError: a part of the scope matches no layer, or is of no such kind.
    """
    if scope is None:
        return set()
    chosen: set[int] = set()
    for part in parts_of(scope):
        paths = [path for path, layer in layers if _matches(part, path, layer, argument)]
        if not paths:
            raise ScopeError(_nothing(part, layers, argument))
        # Who names a model, or a layer that holds layers, means all that it holds.
        inside = tuple(f"{path}/" for path in paths)
        chosen |= {id(layer) for path, layer in layers if path in paths or path.startswith(inside)}
    return chosen


def parts_of(scope: ScopeLike) -> list[Any]:
    """The parts of a scope that is not None: itself, or what is in its list."""
    single = isinstance(scope, (str, type)) or callable(scope) or not isinstance(scope, Iterable)
    return [scope] if single else list(scope)  # type: ignore[arg-type]


def _matches(part: Any, path: str, layer: keras.Layer, argument: str) -> bool:
    if isinstance(part, str):
        return any(fnmatch.fnmatchcase(name, part) for name in (path, layer.name))
    if isinstance(part, type):
        return isinstance(layer, part)
    if _is_layer(part):  # before functions: a layer can be called too
        return part is layer
    if callable(part):
        return bool(part(layer))
    raise ScopeError(
        f"`{argument}` takes layer names, glob patterns, layer classes, layers, functions layer -> "
        f"bool, or a list of these. Received: {part!r}"
    )


def _is_layer(part: Any) -> bool:
    import keras

    # Layers of Keras 2 are chosen in the same way, see tfcompress.legacy.
    of_keras2 = any(cls.__module__.startswith("tf_keras.") for cls in type(part).__mro__)
    return isinstance(part, keras.Layer) or of_keras2


def _nothing(part: Any, layers: Sequence[tuple[str, keras.Layer]], argument: str) -> str:
    paths = [path for path, _ in layers]
    if _is_layer(part):
        text = (
            f"`{argument}` must name layers of this model, and the layer {part.name!r} is not in "
            "it: a copy of a model has layers of its own, so take the layer from this one."
        )
    else:
        text = f"`{argument}` must match at least one layer, and {part!r} matches none."
    if isinstance(part, str):
        close = difflib.get_close_matches(part, paths, n=3)
        if close:
            return f"{text} Did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, paths[:12])) + (", ..." if len(paths) > 12 else "")
    return f"{text} The layers are: {shown or 'none'}"
