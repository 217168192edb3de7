"""Which handler knows a layer or operation: one row per class, found along its MRO."""

from __future__ import annotations

import functools
from typing import Any

import keras
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
            if not own_methods(kind, cls):
                return table[cls]
            return _unknown if kind.__module__.startswith("keras.") else _own_method
    return _unknown


def check_config(call: Call) -> None:
    """Checks that a call's layer can be made from its config, and in another size.

    Raises:
        Barrier: it cannot, as some subclasses, or layers with functions that Keras does not know.
    """
    operation = call.operation
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
    _check_penalties(call)


def _check_penalties(call: Call) -> None:
    """Checks that regularizers and constraints of somebody's own take tensors of other sizes.

    Raises:
        Barrier: one of them does not.
    """
    layer = call.operation
    *places, channels = call.results[0].shape or (1,)
    given = (*(size or 1 for size in places), (channels or 1) + 1)
    penalties = [("activity_regularizer", layer.activity_regularizer, given)]
    for variable in layer.weights:
        for name in ("regularizer", "constraint"):
            own = getattr(variable, name, None)
            shape = tuple(variable.shape)
            other = (*shape[:-2], *(size + 1 for size in shape[-2:]))
            penalties.append((f"{variable.name}'s {name}", own, other))
    for name, penalty, shape in penalties:
        if penalty is None or type(penalty).__module__.startswith("keras."):
            continue
        try:
            penalty(keras.ops.ones(shape))
        except Exception as error:  # whatever a user's own class raises
            said = f"its {name} {type(penalty).__name__} takes one size alone"
            raise Barrier(f"{said} ({type(error).__name__})") from error


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
