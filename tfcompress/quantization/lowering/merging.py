"""Operations of several inputs."""

from __future__ import annotations

import keras
import numpy as np

from tfcompress.graph.flow import Call, Value
from tfcompress.quantization.lowering.builder import (
    Lowering,
    Unsupported,
    for_layers,
    for_operations,
    one_float,
)

layers = keras.layers


def _refuse_mask(b: Lowering, call: Call) -> None:
    """Scores and what is added to them in front of a softmax: a mask, as a rule.

    Raises:
        Unsupported: it is that; the mask's size would leave no steps for the scores.
    """
    if b.weighs(call.outputs) and any(b.are_scores(value) for value in call.inputs):
        raise Unsupported("it masks scores, in front of a softmax in float")


def _pair(b: Lowering, call: Call, kind: str) -> Value:
    """Two operands, of which one may be a constant."""
    _refuse_mask(b, call)
    given = [*call.args, *call.kwargs.values()]
    if len(given) == 1 and isinstance(given[0], (list, tuple)):
        given = list(given[0])
    xs = [item for item in given if isinstance(item, Value)]
    constants = {
        i: np.asarray(item, np.float32)
        for i, item in enumerate(given)
        if not isinstance(item, Value)
    }
    if any(not x.dtype.startswith(("float", "bfloat")) for x in xs):
        raise Unsupported("it computes on whole numbers")
    if len(given) != 2 or any(not np.isfinite(c).all() for c in constants.values()):
        raise Unsupported("it does not have two operands")
    if len(xs) == 2 and (xs[0] is xs[1]):
        raise Unsupported("both operands are one tensor")
    return b.op(kind, xs, call.outputs.shape, constants)


def _chained(b: Lowering, call: Call, kind: str) -> Value:
    _refuse_mask(b, call)
    values = call.inputs
    if len({id(v) for v in values}) < len(values):
        raise Unsupported("it takes one tensor twice")
    total = values[0]
    for value in values[1:]:
        shape = np.broadcast_shapes(
            *(tuple(1 if s is None else s for s in v.shape) for v in (total, value))
        )
        total = b.op(kind, [total, value], (call.outputs.shape[0], *shape[1:]))
    return total


@for_layers(layers.Add)
def _add(b: Lowering, call: Call) -> Value:
    return _chained(b, call, "add")


@for_layers(layers.Multiply)
def _multiply(b: Lowering, call: Call) -> Value:
    return _chained(b, call, "multiply")


@for_layers(layers.Subtract)
def _subtract(b: Lowering, call: Call) -> Value:
    return _chained(b, call, "subtract")


@for_layers(layers.Average)
def _average(b: Lowering, call: Call) -> Value:
    total = _chained(b, call, "add")
    return b.op("multiply", [total], total.shape, {1: 1 / len(call.inputs)})


@for_operations("CustomScaleLayer")
def _scaled_sum(b: Lowering, call: Call) -> Value:
    """A layer of keras.applications.InceptionResNetV2: inputs[0] + scale * inputs[1]."""
    straight, scaled = call.inputs
    scaled = b.affine(scaled, call.operation.scale, 0.0)
    return b.op("add", [straight, scaled], call.outputs.shape)


@for_operations("LayerScale")
def _layer_scale(b: Lowering, call: Call) -> Value:
    """A layer of keras.applications' ConvNeXt: a factor for each channel."""
    return b.affine(one_float(call), keras.ops.convert_to_numpy(call.operation.gamma), 0.0)


@for_operations("Add", "Subtract", "Multiply")
def _arithmetic(b: Lowering, call: Call) -> Value:
    return _pair(b, call, type(call.operation).__name__.lower())


@for_operations("TrueDivide", "Divide")
def _divide(b: Lowering, call: Call) -> Value:
    given = [*call.args, *call.kwargs.values()]
    if len(given) != 2 or not isinstance(given[0], Value) or isinstance(given[1], Value):
        raise Unsupported("the runtime's int8 division overflows: only a constant divisor is taken")
    divisor = np.asarray(given[1], np.float64)
    if not np.isfinite(1 / divisor).all():
        raise Unsupported("it divides by zero")
    return b.op("multiply", [one_float(call)], call.outputs.shape, {1: (1 / divisor).astype("f4")})


@for_layers(layers.Concatenate, layers.Maximum, layers.Minimum)
@for_operations("Concatenate", "Maximum", "Minimum", "Stack")
def _join(b: Lowering, call: Call) -> Value:
    given = keras.tree.flatten((call.args, call.kwargs))
    tensors = [item for item in given if isinstance(item, Value)]
    named = type(call.operation).__name__ in ("Maximum", "Minimum")
    if named and len(tensors) != len(given):
        raise Unsupported("one of its operands is a constant")
    if any(not v.dtype.startswith(("float", "bfloat")) for v in tensors):
        raise Unsupported("it computes on whole numbers")
    if b.bits == 16:
        raise Unsupported("the converter has no concatenation of 16 bits")
    return b.keep(joins=True)
