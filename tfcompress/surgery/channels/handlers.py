"""Which handler knows a layer or operation: one row per class, found along its MRO."""

from __future__ import annotations

import functools
from typing import Any

from keras import layers

from tfcompress.graph.flow import Call
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler
from tfcompress.surgery.overriding import own_methods

# What the config of a layer calls the number of its channels.
_SIZES = ("filters", "units", "output_dim")


def handler_of(operation: Any) -> Handler:
    """The handler of a layer or operation; one that raises Barrier where it is not known."""
    table = _table()
    kind: Any = type(operation)
    for cls in kind.__mro__:
        if cls in table:
            return _own_method if own_methods(kind, cls) else table[cls]
    return _unknown


def check_config(operation: Any) -> None:
    """Checks that a layer can be made from its config, and in another size.

    Raises:
        Barrier: it cannot, as some subclasses, or layers with functions that Keras does not know.
    """
    if not isinstance(operation, layers.Layer) or isinstance(operation, layers.Wrapper):
        return  # operations are shared then, and layers in wrappers are checked on their own
    kind: Any = type(operation)
    follows = True
    try:
        config = operation.get_config()
        if kind not in _table():
            sizes = [name for name in _SIZES if isinstance(config.get(name), int)]
            config = {**config, **{name: 2 * config[name] for name in sizes}}
        made = kind.from_config(config)
        follows = kind in _table() or made.get_config() == config
    except Exception as error:  # whatever a user's own class raises
        said = f"it cannot be rebuilt from its config ({type(error).__name__})"
        raise Barrier(said) from error
    if not follows:
        raise Barrier("it cannot be rebuilt in another size from its config")


def _unknown(call: Call, found: Analysis) -> None:
    kind = type(call.operation).__name__
    raise Barrier(f"what {kind} does to single channels is not known")


def _own_method(call: Call, found: Analysis) -> None:
    kind: Any = type(call.operation)
    own = own_methods(kind, next(cls for cls in kind.__mro__ if cls in _table()))
    raise Barrier(
        f"{kind.__name__} has a {own[0]}() of its own, which may do anything to single channels"
    )


@functools.cache
def _table() -> dict[type, Handler]:
    from tfcompress.surgery.channels import (
        attention,
        elementwise,
        indexing,
        linear,
        norms,
        products,
        recurrent,
        shapes,
        spatial,
        wrapped,
    )

    table: dict[type, Handler] = {}
    for module in (
        elementwise,
        linear,
        norms,
        spatial,
        shapes,
        indexing,
        products,
        attention,
        recurrent,
        wrapped,
    ):
        table |= module.handlers()
    return table
