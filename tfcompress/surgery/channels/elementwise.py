"""Operators that treat every element alone, one tensor or several that broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.graph.flow import Call, Value
from tfcompress.surgery.channels.analysis import Analysis, Barrier, Handler
from tfcompress.surgery.channels.atoms import Axis, Kept

Operand = tuple[Sequence[int | None], Sequence[Axis]]

# Activations that look across channels; every other one of Keras is elementwise.
_ACROSS = ("softmax", "log_softmax", "sparsemax", "glu")


def broadcast(found: Analysis, operands: Sequence[Operand], rank: int) -> list[Axis]:
    """The axes of what comes of tensors that broadcast, as NumPy has it."""
    result: list[Axis] = []
    for back in range(rank, 0, -1):
        here = [(s[-back], a[-back]) for s, a in operands if len(s) >= back]
        wide = [axis for size, axis in here if size != 1] or [axis for _, axis in here]
        for size, axis in here:
            if size == 1 and not any(axis is one for one in wide):
                found.atoms.pin(axis)
        carrying = [axis for axis in wide if axis is not None]
        if len(carrying) < len(wide):
            for axis in carrying:
                found.atoms.pin(axis)
            carrying = []
        for axis in carrying[1:]:
            found.atoms.unite(carrying[0], axis)
        result.append(carrying[0] if carrying else None)
    return result


def operand(found: Analysis, item: Any) -> Operand:
    """(shape, axes) of an argument: a tensor of the model, or a constant."""
    if isinstance(item, Value):
        return item.shape, found.axes(item)
    shape = tuple(np.shape(item))
    return shape, (None,) * len(shape)


def check_activation(activation: Any) -> None:
    """Checks that an activation is elementwise.

    Raises:
        Barrier: it is not, or may not be.
    """
    if activation is None:
        return
    if isinstance(activation, layers.Layer):
        from tfcompress.surgery.channels.handlers import handler_of

        if isinstance(activation, layers.Softmax):
            raise Barrier("Softmax looks across channels")
        if handler_of(activation) is not _one or activation.weights:
            raise Barrier(f"its activation is a {type(activation).__name__}")
        return
    name = getattr(activation, "__name__", type(activation).__name__)
    if name in _ACROSS:
        raise Barrier(f"{name} looks across channels")
    if not any(getattr(module, name, None) is activation for module in _modules(name)):
        raise Barrier(f"its activation {name!r} is not one of Keras's")


def _modules(name: str) -> list[Any]:
    """Where a function of that name is elementwise."""
    operation = "".join(part.capitalize() for part in name.split("_"))
    if operation not in _OPERATIONS_OF_ONE.split():
        return [keras.activations]
    import tensorflow as tf

    return [keras.activations, keras.ops, keras.ops.nn, keras.ops.numpy, tf.nn]


def _one(call: Call, found: Analysis) -> None:
    (value,), (result,) = call.inputs, call.results
    found.give(result, found.axes(value))


def _activation(call: Call, found: Analysis) -> None:
    activation = call.operation.activation
    name = getattr(activation, "__name__", "")
    if name in _ACROSS and name != "glu":
        if any(axis is not None for axis in found.axes(call.inputs[0])[-1:]):
            raise Barrier(f"{name} looks across channels")
    else:
        check_activation(activation)
    _one(call, found)


def _softmax(call: Call, found: Analysis) -> None:
    """Softmax: the axes that it looks across stay."""
    axes = call.operation.axis
    _across(call, found, axes if isinstance(axes, (tuple, list)) else (axes,))


def _across(call: Call, found: Analysis, across: Sequence[int | None]) -> None:
    value, result = call.inputs[0], call.results[0]
    axes = list(found.axes(value))
    for mask in call.inputs[1:]:
        for axis in found.axes(mask):
            found.atoms.pin(axis)
    everywhere = any(number is None for number in across)
    for number in range(len(axes)) if everywhere else across:
        if axes[number or 0] is not None:
            raise Barrier(f"{type(call.operation).__name__} looks across channels")
    found.give(result, axes)


def _several(call: Call, found: Analysis) -> None:
    """Constants along channels, as tables of positions, follow the channels that they meet."""
    arguments = [item for item in (*call.args, *call.kwargs.values()) if item is not None]
    (result,) = call.results
    rank = len(result.shape)
    tensors = [operand(found, item) for item in arguments if isinstance(item, Value)]
    met: list[Axis] = [None] * rank
    for shape, axes in tensors:
        for back in range(1, len(shape) + 1):
            if met[-back] is None and shape[-back] == result.shape[-back]:
                met[-back] = axes[-back]
    constants = [np.shape(item) for item in arguments if not isinstance(item, Value)]
    wide = {n - len(shape) for shape in constants for n, size in enumerate(shape) if size != 1}
    along = [n for n in range(rank) if met[n] is not None and n - rank in wide]
    for n in along:
        met[n] = found.same(call, f"axis {n}", met[n])
    for shape in constants:
        own = met[rank - len(shape) :]
        axes = [None if size == 1 else axis for size, axis in zip(shape, own, strict=True)]
        tensors.append((shape, axes))
    found.give(result, broadcast(found, tensors, rank))
    if along:
        found.record(call).rebuild = lambda kept: _following(call.operation, met, kept)


def _following(operation: Any, met: Sequence[Axis], kept: Kept) -> Any:
    """The operation on smaller tensors, its constants cut to what is left of the channels."""
    new = type(operation).from_config(operation.get_config())
    new.name = operation.name

    def cut(item: Any) -> Any:
        if item is None or isinstance(item, keras.KerasTensor) or not np.ndim(item):
            return item
        own = met[len(met) - np.ndim(item) :]
        sizes = zip(np.shape(item), own, strict=True)
        axes = tuple(None if size == 1 else axis for size, axis in sizes)
        return kept.take(np.asarray(item), axes)

    def called(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(cut, (args, kwargs))
        return new(*args, **kwargs)

    return called


def _merge(call: Call, found: Analysis) -> None:
    (result,) = call.results
    if len({len(value.shape) for value in call.inputs}) != 1:
        raise Barrier("it merges tensors of several ranks")
    operands = [operand(found, value) for value in call.inputs]
    found.give(result, broadcast(found, operands, len(result.shape)))


def _dropout(call: Call, found: Analysis) -> None:
    _one(call, found)
    shape, axes = getattr(call.operation, "noise_shape", None), found.axes(call.inputs[0])
    if shape is None:
        return
    sized = [n for n, one in enumerate(shape) if one not in (None, 1) and axes[n] is not None]

    def rebuild(kept: Kept) -> Any:
        config = call.operation.get_config()
        new = list(config["noise_shape"])
        for n in sized:
            new[n] = kept.count(axes[n])
        return type(call.operation).from_config({**config, "noise_shape": new})

    if sized:
        found.record(call).rebuild = rebuild


def _rescaling(call: Call, found: Analysis) -> None:
    layer, (value,), (result,) = call.operation, call.inputs, call.results
    constants = [operand(found, np.asarray(one)) for one in (layer.scale, layer.offset)]
    found.give(result, broadcast(found, [operand(found, value), *constants], len(result.shape)))


def _normalization(call: Call, found: Analysis) -> None:
    """What was learned of the data by `adapt`: for inputs, which stay anyway."""
    if found.pin_all(call):
        raise Barrier("it normalises channels by what it has learned of the data")


_OPERATIONS_OF_ONE = (
    "Absolute Abs Fabs Arccos Arccosh Arcsin Arcsinh Arctan Arctanh Cbrt Ceil Copy Cos Cosh Exp "
    "Exp2 Expm1 Floor Isfinite Isinf Isnan Log Log10 Log1p Log2 LogicalNot NanToNum Negative "
    "OnesLike Reciprocal Round Sign Sin Sinc Sinh Sqrt Square Tan Tanh Trunc ZerosLike "
    "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus "
    "LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink "
    "Threshold StopGradient Cast SaturateCast Rsqrt Erf Erfc Erfinv Deg2rad Rad2deg Isneginf "
    "Isposinf Isreal Signbit I0 ConvertToTensor"
)
_OPERATIONS_OF_SEVERAL = (
    "Add Subtract Multiply Divide DivideNoNan TrueDivide FloorDivide Power Maximum Minimum Fmax "
    "Fmin Mod Fmod Arctan2 Hypot Logaddexp Equal NotEqual Greater GreaterEqual Less LessEqual "
    "LogicalAnd LogicalOr LogicalXor Heaviside Clip FullLike Isclose Logaddexp2 Nextafter "
    "BitwiseAnd BitwiseOr BitwiseXor"
)


def handlers() -> dict[type, Handler]:
    """The classes that this file knows."""
    from keras.src.applications import convnext
    from keras.src.ops import core, math, nn, numpy  # the classes of operations are not public

    table: dict[type, Handler] = {}
    for names, handler in ((_OPERATIONS_OF_ONE, _one), (_OPERATIONS_OF_SEVERAL, _several)):
        for name in names.split():
            for module in (numpy, nn, core, math):
                if hasattr(module, name):
                    table[getattr(module, name)] = handler
    table[numpy.Where] = _several
    table |= {nn.Softmax: _softmax, nn.LogSoftmax: _softmax, layers.Softmax: _softmax}
    for cls in (
        layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity, layers.GaussianNoise,
        layers.GaussianDropout, layers.ActivityRegularization, layers.SpatialDropout1D,
        layers.SpatialDropout2D, layers.SpatialDropout3D, convnext.StochasticDepth,
    ):  # fmt: skip
        table[cls] = _one
    table |= {layers.Dropout: _dropout, layers.AlphaDropout: _dropout}
    table |= {layers.Activation: _activation, layers.Rescaling: _rescaling}
    table[layers.Normalization] = _normalization
    for cls in (
        layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum,
        layers.Minimum,
    ):  # fmt: skip
        table[cls] = _merge
    return table


# Handlers of what gives constants for constants, element by element.
ELEMENTWISE: tuple[Handler, ...] = (_one, _several, _merge, _activation, _dropout, _rescaling)
