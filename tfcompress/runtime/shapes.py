"""The shapes that a runtime computes for the tensors of a graph, whatever the file says they are.

Runtimes take from the file only the shapes of inputs and constants and work out the rest, operator
by operator. So a damaged input size or padding becomes visible as memory only here. Where an
operator is not known, or depends on values that only a run can tell, the file's shape is taken.

Source: the Prepare functions of the kernels in tensorflow/lite/kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from tfcompress.runtime.schema import MAX_RANK, Model, Operator, SubGraph, Tensor

Shape = tuple[int, ...]
Rule = Callable[[Operator, list[Shape], list[np.ndarray | None]], Shape | None]
"""From an operator, its inputs' shapes and their values where they are constant, to a shape."""

_UNARY: Final = """
    ABS CAST CEIL COS CUMSUM DENSIFY DEQUANTIZE ELU EXP FAKE_QUANT FLOOR GELU HARD_SWISH
    L2_NORMALIZATION LEAKY_RELU LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_NOT LOGISTIC LOG_SOFTMAX
    NEG PRELU QUANTIZE RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 REVERSE_SEQUENCE REVERSE_V2 ROUND RSQRT
    SIGN SIN SOFTMAX SQRT SQUARE TANH ZEROS_LIKE
"""
_BINARY: Final = """
    ADD ATAN2 DIV EQUAL FLOOR_DIV FLOOR_MOD GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND
    LOGICAL_OR MAXIMUM MINIMUM MUL NOT_EQUAL POW SQUARED_DIFFERENCE SUB
"""
_READS_VALUES: Final = """
    BROADCAST_TO FILL MEAN MIRROR_PAD PAD PADV2 REDUCE_MAX REDUCE_MIN REDUCE_PROD RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SUM TILE TRANSPOSE TRANSPOSE_CONV
"""
_MAX_VALUES: Final = 2 * MAX_RANK  # of a constant that says something about a shape: paddings
_MAX_SIZE: Final = 2**40  # more than any limit: keeps numbers small where sizes multiply


def runtime_shapes(model: Model, subgraph: SubGraph) -> list[Shape]:
    """Returns the shape of each tensor of a subgraph as a runtime will see it.

    Args:
        model: the model, for its constants.
        subgraph: one of its subgraphs; every index in it must be in range.

    Returns:
        One shape for each tensor.

    Example:
        >>> runtime_shapes(model, model.subgraphs[0])  # doctest: +SKIP
        [(1, 96, 96, 3), (8, 3, 3, 3), (8,), (1, 48, 48, 8), ...]
    """
    shapes = [tensor.shape for tensor in subgraph.tensors]
    reads_values = _READS_VALUES.split()
    values: list[np.ndarray | None]
    # Where the converter did not know a size the file says 1, which is true of the inputs of an
    # entry point only. What follows from any other such size would be a guess.
    entries = {0, *(signature.subgraph for signature in model.signatures)}
    guessed = {tensor.index for tensor in subgraph.tensors if -1 in (tensor.shape_signature or ())}
    guessed -= set(subgraph.inputs) if subgraph.index in entries else set()
    for operator in subgraph.operators:
        rule = _RULES.get(operator.name)
        if rule is None or len(operator.outputs) != 1 or -1 in operator.inputs[:2]:
            continue
        known = [index for index in operator.inputs if index != -1]
        if not guessed.isdisjoint(known):
            continue
        values = [None] * len(known)
        if operator.name in reads_values:
            values = [_small_integers(model, subgraph.tensors[index]) for index in known]
        try:
            shape = rule(operator, [shapes[index] for index in known], values)
        except (IndexError, ValueError, KeyError, ZeroDivisionError):
            continue  # too few inputs or dimensions: the runtime refuses it, and says why
        if shape is not None and len(shape) <= MAX_RANK:
            shapes[operator.outputs[0]] = tuple(min(max(0, size), _MAX_SIZE) for size in shape)
            guessed.discard(operator.outputs[0])
    return shapes


def _small_integers(model: Model, tensor: Tensor) -> np.ndarray | None:
    """Returns the value of a constant that may stand for a shape, None for any other tensor."""
    if tensor.dtype not in ("int32", "int64") or tensor.sparsity or tensor.elements > _MAX_VALUES:
        return None
    return model.data(tensor)


def _unary(operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]) -> Shape:
    return shapes[0]


def _binary(operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]) -> Shape:
    rank = max(len(shapes[0]), len(shapes[1]))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes[:2]]
    return tuple(b if a == 1 else a for a, b in zip(*padded, strict=True))


def _windows(operator: Operator, size: int, window: int, axis: str) -> int:
    """Returns how many windows fit along one axis, `axis` being "h" or "w"."""
    stride = operator.options[f"stride_{axis}"]
    reach = (window - 1) * operator.options.get(f"dilation_{axis}", 1)
    if operator.options["padding"] == "VALID":
        size -= reach
    return -(-size // stride)


def _convolution(
    operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]
) -> Shape | None:
    (batch, height, width, _), kernel = shapes[0], shapes[1]
    channels = kernel[3] if operator.name == "DEPTHWISE_CONV_2D" else kernel[0]
    rows = _windows(operator, height, kernel[1], "h")
    return batch, rows, _windows(operator, width, kernel[2], "w"), channels


def _pool(operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]) -> Shape:
    batch, height, width, channels = shapes[0]
    rows = _windows(operator, height, operator.options["filter_height"], "h")
    columns = _windows(operator, width, operator.options["filter_width"], "w")
    return batch, rows, columns, channels


def _dense(operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]) -> Shape:
    outputs, inputs = shapes[1]
    if operator.options["keep_num_dims"]:
        return *shapes[0][:-1], outputs
    return math.prod(shapes[0]) // inputs, outputs


def _matmul(operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]) -> Shape:
    left, right = shapes[:2]
    rows = left[-1] if operator.options.get("adj_x") else left[-2]
    columns = right[-2] if operator.options.get("adj_y") else right[-1]
    return *_binary(operator, [left[:-2], right[:-2]], values), rows, columns


def _pad(operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]) -> Shape | None:
    if values[1] is None:
        return None
    added = values[1].reshape(len(shapes[0]), 2).sum(axis=1, dtype=np.int64)
    return tuple(size + int(more) for size, more in zip(shapes[0], added, strict=True))


def _tile(operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]) -> Shape | None:
    if values[1] is None:
        return None
    return tuple(a * int(b) for a, b in zip(shapes[0], values[1].ravel(), strict=True))


def _resize(
    operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]
) -> Shape | None:
    if values[1] is None:
        return None
    height, width = values[1].ravel().tolist()
    return shapes[0][0], height, width, shapes[0][3]


def _reduce(
    operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]
) -> Shape | None:
    if values[1] is None:
        return None
    shape = shapes[0]
    gone = {axis % len(shape) for axis in values[1].ravel().tolist()}
    kept = (1 if place in gone else size for place, size in enumerate(shape))
    if operator.options["keep_dims"]:
        return tuple(kept)
    return tuple(size for place, size in enumerate(shape) if place not in gone)


def _reshape(
    operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]
) -> Shape | None:
    if len(values) > 1:
        if values[1] is None:
            return None
        wanted = tuple(values[1].ravel().tolist())
    else:
        wanted = operator.options["new_shape"]
    rest = math.prod(size for size in wanted if size != -1)
    return tuple(math.prod(shapes[0]) // rest if size == -1 else size for size in wanted)


def _transpose(
    operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]
) -> Shape | None:
    if values[1] is None:
        return None
    return tuple(shapes[0][axis] for axis in values[1].ravel().tolist())


def _given(place: int) -> Rule:
    """Returns the rule of operators whose output shape is the value of input `place`."""

    def rule(
        operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]
    ) -> Shape | None:
        value = values[place]
        return None if value is None else tuple(value.ravel().tolist())

    return rule


def _concatenation(
    operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]
) -> Shape:
    axis = operator.options["axis"]
    joined = list(shapes[0])
    joined[axis] = sum(shape[axis] for shape in shapes)
    return tuple(joined)


def _gather(operator: Operator, shapes: list[Shape], values: list[np.ndarray | None]) -> Shape:
    table, indices = shapes[:2]
    axis = operator.options.get("axis", 0) % len(table)
    shared = operator.options.get("batch_dims", 0)
    shared += len(indices) if shared < 0 else 0
    return table[:axis] + indices[shared:] + table[axis + 1 :]


_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_UNARY.split(), _unary),
    **dict.fromkeys(_BINARY.split(), _binary),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), _pool),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    **dict.fromkeys(("FILL", "TRANSPOSE_CONV"), _given(0)),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _reduce),
    "BATCH_MATMUL": _matmul,
    "BROADCAST_TO": _given(1),
    "CONCATENATION": _concatenation,
    "FULLY_CONNECTED": _dense,
    "GATHER": _gather,
    "RESHAPE": _reshape,
    "TILE": _tile,
    "TRANSPOSE": _transpose,
}
