"""TimeDistributed: what it holds, and whether its steps can be examples of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from tfcompress.graph.calls import is_graph, runs_its_graph

if TYPE_CHECKING:
    from tfcompress.graph.flow import Call

_KNOWN = ("keras.", "keras_hub.", "tfcompress.")
_FUNCTIONS = [one for one in vars(keras.activations).values() if callable(one)]
# Activations that look at more than one value.
_ALONG = ("softmax", "log_softmax", "glu", "sparsemax")
_ELEMENTWISE = (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout)
# Operations of keras.ops, by the names of their classes: of each value alone, and those that go
# along the axis that they name.
_ALONE = (
    "Abs", "Absolute", "Add", "Cast", "Ceil", "Clip", "Cos", "Cosh", "Divide", "DivideNoNan",
    "Elu", "Equal", "Erf", "Exp", "Expm1", "Floor", "FloorDivide", "Gelu", "Greater",
    "GreaterEqual", "HardSigmoid", "HardSilu", "HardTanh", "Identity", "Isfinite", "LeakyRelu",
    "Less", "LessEqual", "Log", "Log1p", "Log2", "LogSigmoid", "LogicalAnd", "LogicalNot",
    "LogicalOr", "Maximum", "Minimum", "Mod", "Multiply", "Negative", "NotEqual", "OnesLike",
    "Power", "Reciprocal", "Relu", "Relu6", "Round", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Square", "Subtract", "Tanh", "TrueDivide",
    "Where", "ZerosLike",
)  # fmt: skip
_NAMED = (
    "All", "Amax", "Amin", "Any", "Argmax", "Argmin", "Concatenate", "Cumprod", "Cumsum",
    "ExpandDims", "Flip", "LogSoftmax", "Logsumexp", "Max", "Mean", "Median", "Min", "Norm",
    "Normalize", "Prod", "Roll", "Softmax", "Sort", "Split", "Squeeze", "Stack", "Std", "Sum",
    "Take", "Var",
)  # fmt: skip
# Those that keep the batch where it is, as the shapes say.
_MOVING = (
    "BroadcastTo", "DotProductAttention", "Matmul", "Resize", "Reshape", "Transpose",
)  # fmt: skip


def holds_graph(layer: Any) -> bool:
    """Whether it is TimeDistributed, once or more often, around a model of known layer calls."""
    while type(layer) is layers.TimeDistributed:
        layer = layer.layer
        if is_graph(layer):
            return True
    return False


def model_in(operation: Any) -> Any:
    """The model that a TimeDistributed holds; other operations are what they are."""
    while holds_graph(operation):
        operation = operation.layer
    return operation


def around(wrapper: Any, layer: Any, name: str = "") -> Any:
    """A TimeDistributed like another one, around a layer."""
    return layers.TimeDistributed(
        layer,
        name=name or wrapper.name,
        trainable=wrapper.trainable,
        dtype=wrapper.dtype_policy,
    )


def reshape(shape: Sequence[int | None], name: str) -> Any:
    """An operation that gives a tensor that shape, batch axis first."""
    from keras.src.ops import numpy  # the classes of operations are not public

    return numpy.Reshape(tuple(shape), name=name)


def apart(call: Call, rows: int) -> bool:
    """Whether a call is known to keep examples apart.

    TimeDistributed hands its model the examples of one step at a time. Where none of its calls
    looks from one example to another, those of all steps may be in one batch.

    Args:
        call: a call of what the TimeDistributed holds; not of another TimeDistributed.
        rows: how many of the batch an example has where its steps have become rows.
    """
    operation = call.operation
    for value in (*call.inputs, *call.results):
        if len(value.shape) < 2 or value.shape[0] is not None or None in value.shape[1:]:
            return False
        if value.rows % rows:  # several steps in a row
            return False
    if not isinstance(operation, keras.Layer):
        return _operation_apart(call)
    normalizes = any(isinstance(o, layers.BatchNormalization) for o in operation._flatten_layers())
    if normalizes and call.kwargs.get("training"):
        return False
    return is_known(operation) and _along_others(call)


def is_known(layer: Any) -> bool:
    """Whether a layer, with all that it holds, is known to look at each example alone.

    Somebody's own layers and functions may do anything.
    """
    for one in layer._flatten_layers():
        functions = [value for name, value in vars(one).items() if "activation" in name]
        if (
            not type(one).__module__.startswith(_KNOWN)
            or isinstance(one, layers.Lambda)
            or getattr(one, "stateful", False)
            or any(f is not None and not any(f is own for own in _FUNCTIONS) for f in functions)
            or (isinstance(one, keras.Model) and not runs_its_graph(one))
            or (one is not layer and not _behind_first(one))
        ):
            return False
    return True


def is_elementwise(operation: Any) -> bool:
    """Whether a layer computes each value alone, whatever the shape."""
    if type(operation) is layers.Activation:
        name = getattr(operation.activation, "__name__", "")
        return is_known(operation) and name not in _ALONG
    if type(operation) is layers.Dropout:
        return operation.noise_shape is None
    return type(operation) in _ELEMENTWISE


def _behind_first(layer: Any) -> bool:
    """Whether a layer goes along other axes than the first, if along any."""
    axes = [getattr(layer, name, None) for name in ("axis", "axes")]
    return all(axis > 0 or axis == -1 for axis in keras.tree.flatten(axes) if axis is not None)


def _operation_apart(call: Call) -> bool:
    kind = type(call.operation).__name__
    if not type(call.operation).__module__.startswith("keras.src.ops."):
        return False
    if kind == "GetItem":
        key = call.args[1] if len(call.args) > 1 else call.kwargs.get("key")
        first = key[0] if isinstance(key, tuple) and key else key
        return first is Ellipsis or (isinstance(first, slice) and first == slice(None))
    if kind == "Matmul" and any(len(value.shape) < 3 for value in call.inputs[1:]):
        return False
    if kind in _NAMED:
        named = getattr(call.operation, "axis", None) is not None or kind == "Squeeze"
        return named and _along_others(call)
    return kind in _ALONE or kind in _MOVING


def _along_others(call: Call) -> bool:
    """Whether what an operation goes along are other axes than the batch's."""
    ranks = {len(value.shape) for value in (*call.inputs, *call.results)}
    axes = [getattr(call.operation, name, None) for name in ("axis", "axes")]
    known = [axis for axis in keras.tree.flatten(axes) if axis is not None]
    return not any(axis == 0 or -axis in ranks for axis in known)
