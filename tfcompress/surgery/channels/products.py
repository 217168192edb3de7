"""Operators that sum over an axis: products of tensors, means and the like."""

from __future__ import annotations

from collections.abc import Sequence

from tfcompress.graph.flow import Call
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler
from tfcompress.surgery.channels.atoms import Axis
from tfcompress.surgery.channels.elementwise import _across, broadcast
from tfcompress.surgery.channels.linear import spelled

Shape = Sequence[int | None]


def reduce(call: Call, found: Analysis) -> None:
    """Means and the like of places: channels stay what they are."""
    operation, value, (result,) = call.operation, call.inputs[0], call.results
    axes, rank = list(found.axes(value)), len(value.shape)
    over = operation.axis
    over = range(rank) if over is None else over if isinstance(over, (tuple, list)) else [over]
    gone = {n % rank for n in over}
    if any(axes[n] is not None for n in gone):
        raise Barrier(f"{type(operation).__name__} looks across channels")
    keep = operation.keepdims
    found.give(result, [None if n in gone else a for n, a in enumerate(axes)
                        if keep or n not in gone])  # fmt: skip


def _product(call: Call, found: Analysis, terms: Sequence[str], output: str) -> None:
    """A sum of products by letters: the same letter is the same atoms."""
    (result,) = call.results
    along: dict[str, list[tuple[Shape, Sequence[Axis]]]] = {}
    for term, value in zip(terms, call.inputs, strict=True):
        names = spelled(term, len(value.shape))
        if len(set(names)) < len(names):
            raise Barrier("its equation takes a diagonal")
        for name, size, axis in zip(names, value.shape, found.axes(value), strict=True):
            along.setdefault(name, []).append(((size,), (axis,)))
    axes = {name: broadcast(found, operands, 1)[0] for name, operands in along.items()}
    names = spelled(output, len(result.shape))
    for name, operands in along.items():
        if name not in names and len(operands) == 1:
            found.atoms.pin(axes[name])
    found.give(result, [axes[name] for name in names])


def einsum(call: Call, found: Analysis) -> None:
    """keras.ops.einsum of tensors: what is summed over goes together."""
    equation = call.operation.subscripts.replace(" ", "")
    if "->" not in equation:
        raise Barrier("its equation names no output")
    operands, output = equation.split("->")
    if len(operands.split(",")) != len(call.inputs):
        raise Barrier("it multiplies by constants")
    _product(call, found, operands.split(","), output)


def matmul(call: Call, found: Analysis) -> None:
    """keras.ops.matmul of tensors: likewise."""
    if len(call.inputs) != 2 or min(len(value.shape) for value in call.inputs) < 2:
        raise Barrier("it multiplies by constants or vectors")
    _product(call, found, ("...ab", "...bc"), "...ac")


def _cumulative(call: Call, found: Analysis) -> None:
    _across(call, found, [call.operation.axis])


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    from keras.src.ops import numpy

    table: dict[type, Handler] = {numpy.Einsum: einsum, numpy.Matmul: matmul}
    for name in ("Mean", "Max", "Min", "Sum", "Prod", "Var", "Std", "Amax", "Amin"):
        table[getattr(numpy, name)] = reduce
    for name in ("Cumsum", "Cumprod"):
        table[getattr(numpy, name)] = _cumulative
    return table
