"""Which handler knows a layer or operation: one row per class, found along its MRO."""

from __future__ import annotations

import functools
from typing import Any

from tfcompress.graph.flow import Call
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler


def handler_of(operation: Any) -> Handler:
    """The handler of a layer or operation; one that raises Barrier where it is not known."""
    table = _table()
    kind: Any = type(operation)
    for cls in kind.__mro__:
        if cls in table:
            # A subclass may do anything in a `call` of its own.
            return table[cls] if kind.call is cls.call else _own_call
    return _unknown


def _unknown(call: Call, found: Analysis) -> None:
    kind = type(call.operation).__name__
    raise Barrier(f"what {kind} does to single channels is not known")


def _own_call(call: Call, found: Analysis) -> None:
    kind = type(call.operation).__name__
    raise Barrier(f"{kind} has a call() of its own, which may do anything to single channels")


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
