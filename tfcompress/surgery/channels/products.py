"""Operators that sum over an axis: products of tensors, means and the like."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

from keras import layers

from tfcompress.graph.flow import Call
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler, named
from tfcompress.surgery.channels.atoms import Axis
from tfcompress.surgery.channels.elementwise import _across, broadcast
from tfcompress.surgery.channels.linear import spelled

Shape = Sequence[int | None]

_REDUCING = (
    "Mean Max Min Sum Prod Var Std Amax Amin All Any Argmax Argmin CountNonzero Median Nanargmax "
    "Nanargmin Nanmax Nanmean Nanmedian Nanmin Nanprod Nanstd Nansum Nanvar"
)


# Across channels these tell of single ones, or a channel of zeros decides.
_OF_SINGLE = "Prod All Any Argmax Argmin CountNonzero Nanargmax Nanargmin Nanprod Logsumexp"


def reduce(call: Call, found: Analysis) -> None:
    """Means and the like: of places, channels stay what they are; of channels, they are read.

    As with norms, what comes of channels changes a little when some go, and follows.
    """
    operation, value = call.operation, call.inputs[0]
    axes, rank = list(found.axes(value)), len(value.shape)
    over = operation.axes if hasattr(operation, "axes") else operation.axis
    over = range(rank) if over is None else over if isinstance(over, (tuple, list)) else [over]
    gone = {n % rank for n in over}
    across = [n for n in gone if axes[n] is not None]
    if across and type(operation).__name__ in _OF_SINGLE.split():
        raise Barrier(f"{type(operation).__name__} looks across channels")
    found.reads(call, *((0, n, axes[n]) for n in across))
    keep = getattr(operation, "keepdims", False)
    for result in call.results:
        found.give(result, [None if n in gone else a for n, a in enumerate(axes)
                            if keep or n not in gone])  # fmt: skip


def adds_up(operation: Any) -> bool:
    """Whether to what reduces an axis an element of 0 makes no difference."""
    name, order = type(operation).__name__, getattr(operation, "ord", None)
    negative = isinstance(order, numbers.Real) and order < 0
    return name in ("Sum", "Nansum") or (name == "Norm" and not negative)


def spelling(call: Call) -> tuple[list[list[str]], list[str]]:
    """A name for each axis of what a product reads, and of what it gives, as einsum has them.

    Raises:
        Barrier: it multiplies by something else than tensors of the model.
    """
    operation, ranks = call.operation, [len(value.shape) for value in call.inputs]
    if isinstance(operation, layers.Dot):
        return _dot_spelling(operation.axes, ranks)
    equation = getattr(operation, "subscripts", "...ab,...bc->...ac").replace(" ", "")
    if "->" not in equation:
        raise Barrier("its equation names no output")
    terms, output = equation.split("->")
    if len(terms.split(",")) != len(ranks) or (
        not hasattr(operation, "subscripts") and min(ranks) < 2
    ):
        raise Barrier("it multiplies by constants or vectors")
    names = [spelled(term, rank) for term, rank in zip(terms.split(","), ranks, strict=True)]
    return names, spelled(output, len(call.results[0].shape))


def _dot_spelling(axes: Any, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The Dot layer: one axis of each is summed over, of the others none belong together."""
    names = [[f"{number} of {one}" for number in range(rank)] for one, rank in enumerate(ranks)]
    for own, axis in zip(names, [axes, axes] if isinstance(axes, int) else axes, strict=True):
        own[0], own[axis % len(own)] = "batch", "summed"
    rest = [name for own in names for name in own if name not in ("batch", "summed")]
    return names, ["batch", *(rest or ["one"])]  # of two vectors comes an axis of 1


def product(call: Call, found: Analysis) -> None:
    """Sums of products, as einsum, matmul and Dot give: what is summed over goes together."""
    terms, output = spelling(call)
    along: dict[str, list[tuple[Shape, Sequence[Axis]]]] = {}
    for names, value in zip(terms, call.inputs, strict=True):
        if len(set(names)) < len(names):
            raise Barrier("its equation takes a diagonal")
        for name, size, axis in zip(names, value.shape, found.axes(value), strict=True):
            along.setdefault(name, []).append(((size,), (axis,)))
    axes = {name: broadcast(found, operands, 1)[0] for name, operands in along.items()}
    for name, operands in along.items():
        if name not in output and len(operands) == 1:
            found.atoms.pin(axes[name])
    found.reads(
        call,
        *((which, number, found.axes(value)[number])
          for which, (names, value) in enumerate(zip(terms, call.inputs, strict=True))
          for number, name in enumerate(names) if name not in output),
    )  # fmt: skip
    found.give(call.results[0], [axes.get(name) for name in output])


def _along_one(call: Call, found: Analysis) -> None:
    """What mixes the elements along one axis, as sums up to each, or sorting."""
    _across(call, found, [call.operation.axis])


def _triangle(call: Call, found: Analysis) -> None:
    _across(call, found, [-2, -1])


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    from keras.src.ops import linalg, math, nn, numpy

    table: dict[type, Handler] = {
        numpy.Einsum: product, numpy.Matmul: product, layers.Dot: product,
        **named(linalg, {"Norm": reduce}), **named(math, {"Logsumexp": reduce}),
        **named(nn, {"Moments": reduce}),
    }  # fmt: skip
    for names, handler in (
        (_REDUCING, reduce), ("Cumsum Cumprod Nancumsum Nancumprod Sort Argsort Diff", _along_one),
        ("Tril Triu", _triangle),
    ):  # fmt: skip
        table |= named(numpy, dict.fromkeys(names.split(), handler))
    return table
