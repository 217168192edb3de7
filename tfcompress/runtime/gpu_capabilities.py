"""The GPU's rows of the capability table: what LiteRT's WebGPU accelerator takes.

int8 and uint8 graphs are taken as well: they are computed in float, so results may be off by a
step or two. Tensors have at most 4 dimensions; int64 is nowhere taken. Axes that the file leaves
open have the size it is stored with, 1; where sizes are computed at run time the file does not
load. What the table asks for is not all that can go wrong: `hazards` tell what is taken and
computed wrongly.

Source: every row, form and condition is measured on LiteRT 2.3.0 by the tests, on a software
Vulkan driver; what is taken does not depend on the driver.
"""

from __future__ import annotations

from typing import Final

from tfcompress.runtime import gpu_conditions as on
from tfcompress.runtime import gpu_hazards as beware
from tfcompress.runtime.capability import (
    DYNAMIC,
    DYNAMIC_INT4,
    FLOAT,
    HALF,
    HALF_WEIGHTS,
    INT8,
    INT8_INT4,
    STORED_INT8,
    UINT8,
    Capability,
)
from tfcompress.runtime.conditions import Condition

MEASURED: Final = "measured on the WebGPU accelerator of LiteRT 2.3.0"

_BYTES: Final = (INT8, UINT8)
_REAL: Final = (FLOAT, HALF, *_BYTES)
_NUMBERS: Final = (*_REAL, "int16", "int32")
_ANY: Final = (*_NUMBERS, "bool")
_TYPES: Final = ("float32", "float16", "int8", "uint8", "int16", "int32", "bool")
_REMEDY: Final = "Compute in float or int8, with int32 for indices; the GPU has no int64."


def _row(
    operator: str,
    forms: tuple[str, ...],
    *conditions: Condition,
    remedy: str = _REMEDY,
    activations: tuple[int, ...] | None = (0,),
    weights: int | None = None,
    version: int | None = None,
    hazards: tuple[Condition, ...] = (),
) -> Capability:
    return Capability(
        operator,
        forms,
        (on.RANKS, *conditions, on.STATIC) if forms else (),
        remedy,
        activations,
        weights,
        "gpu",
        MEASURED,
        version,
        hazards,
    )


def _rows(
    names: tuple[str, ...], forms: tuple[str, ...], *conditions: Condition, **more: object
) -> tuple[Capability, ...]:
    return tuple(_row(name, forms, *conditions, **more) for name in names)  # type: ignore[arg-type]


def _refused(remedy: str, *names: str) -> tuple[Capability, ...]:
    return tuple(_row(name, (), remedy=remedy, activations=None) for name in names)


_KERNELS: Final = (FLOAT, INT8, UINT8, HALF_WEIGHTS, STORED_INT8, DYNAMIC)
_TRUTH: Final = (*(f"{name} to bool" for name in _NUMBERS), "bool")
_CASTS: Final = tuple(f"{a} to {b}" for a in _TYPES for b in _TYPES if a != b)
_WHOLES: Final = (FLOAT, INT8, "int16", "int32")
_PAIR: Final = (on.NO_SCALARS, on.ACTIVATION)

GPU_CAPABILITIES: Final[tuple[Capability, ...]] = (
    # -- matrix kernels
    _row(
        "CONV_2D",
        (*_KERNELS, DYNAMIC_INT4),
        on.constant(2, "bias", dies=True),
        on.SCALED_BIAS,
        on.weight_axis(1),
        on.SYMMETRIC,
        on.ACTIVATION,
        weights=1,
        version=6,
        hazards=(beware.STRIDED_POINTWISE, beware.GROUPS, beware.IMAGE_ROWS),
    ),
    _row(
        "DEPTHWISE_CONV_2D",
        _KERNELS,
        on.constant(2, "bias", dies=True),
        on.SCALED_BIAS,
        on.ACTIVATION,
        weights=1,
        version=6,
        hazards=(beware.ZERO_POINT, beware.IMAGE_ROWS),
    ),
    _row(
        "FULLY_CONNECTED",
        (FLOAT, INT8, HALF_WEIGHTS, DYNAMIC, DYNAMIC_INT4, INT8_INT4),
        on.constant(2, "bias", dies=True),
        on.SCALED_BIAS,
        weights=1,
        remedy="Use float or int8 activations, and precision 'fp16', 'dynamic' or 'int8'.",
        hazards=(beware.COMPUTED_WEIGHTS, beware.FLATTENING, beware.ZERO_POINT, beware.BATCH_ROWS),
    ),
    _row(
        "TRANSPOSE_CONV",
        _KERNELS,
        on.constant(0, "output shape"),
        on.constant(3, "bias", dies=True),
        activations=(2,),
        weights=1,
        version=3,
        hazards=(beware.TRANSPOSED_ACTIVATION, beware.ZERO_POINT),
    ),
    _row(
        "BATCH_MATMUL",
        (FLOAT, INT8, HALF_WEIGHTS, STORED_INT8, DYNAMIC),
        weights=1,
        hazards=(beware.PRODUCT_BATCHES, beware.BATCH_ROWS),
    ),
    # -- element by element
    _row("ADD", _NUMBERS, *_PAIR, activations=(0, 1), hazards=(beware.BATCH_CONSTANT,)),
    _row("SUB", _NUMBERS, *_PAIR, activations=(0, 1), version=2, hazards=(beware.BATCH_CONSTANT,)),
    *_rows(
        ("MUL", "DIV", "MAXIMUM", "MINIMUM"),
        _NUMBERS,
        *_PAIR,
        activations=(0, 1),
        hazards=(beware.BATCH_CONSTANT,),
    ),
    _row(
        "SQUARED_DIFFERENCE",
        _REAL,
        on.NO_SCALARS,
        activations=(0, 1),
        hazards=(beware.BATCH_CONSTANT,),
    ),
    _row("POW", (FLOAT,), on.NO_SCALARS, activations=(0, 1)),
    *_rows(
        ("FLOOR_DIV", "FLOOR_MOD"),
        (FLOAT, INT8, "int16", "int32"),
        on.NO_SCALARS,
        activations=(0, 1),
    ),
    *_rows(("ADD_N", "ATAN2"), (FLOAT,), activations=None),
    _row(
        "PRELU",
        (FLOAT, HALF, INT8, HALF_WEIGHTS),
        on.SLOPES,
        weights=1,
        remedy="Use LeakyReLU or ReLU.",
    ),
    *_rows(("RELU", "RELU6", "LOGISTIC", "TANH"), _REAL, version=2),
    *_rows(("RELU_N1_TO_1", "ELU", "LEAKY_RELU", "GELU", "HARD_SWISH", "EXP"), _REAL),
    *_rows(("COS", "SIN", "FLOOR", "ROUND"), (FLOAT, HALF)),
    *_rows(("CEIL", "SQUARE"), (FLOAT,)),
    *_rows(("LOG", "SQRT"), (FLOAT, INT8)),
    _row("RSQRT", (FLOAT, INT8), version=2),
    _row("ABS", _WHOLES),
    _row("NEG", (FLOAT, HALF, UINT8, "int16", "int32")),
    _row("SIGN", _NUMBERS),
    _row("SOFTMAX", _REAL, on.BETA, hazards=(beware.VECTOR,)),
    _row(
        "QUANTIZE",
        ("float32 to int8", "float32 to uint8", "int8 to uint8", "uint8 to int8", *_BYTES),
        version=2,
    ),
    _row("DEQUANTIZE", ("int8 to float32", "uint8 to float32"), version=3),
    _row("CAST", _CASTS, hazards=(beware.CAST,)),
    # -- choices
    *_rows(
        ("EQUAL", "NOT_EQUAL", "LESS", "GREATER_EQUAL"),
        _TRUTH,
        on.NO_SCALARS,
        activations=(0, 1),
        version=2,
    ),
    *_rows(("GREATER", "LESS_EQUAL"), _TRUTH, on.NO_SCALARS, activations=(0, 1)),
    *_rows(("LOGICAL_AND", "LOGICAL_OR"), ("bool",), on.NO_SCALARS, activations=(0, 1)),
    _row("LOGICAL_NOT", ("bool",)),
    *_rows(("SELECT", "SELECT_V2"), _ANY, on.CHOICES, activations=(1, 2), version=1),
    # -- pooling, resizing, reductions
    *_rows(
        ("AVERAGE_POOL_2D", "MAX_POOL_2D"),
        _REAL,
        on.ACTIVATION,
        version=2,
        hazards=(beware.PADDED_POOL,),
    ),
    *_rows(
        ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _REAL, on.constant(1, "size"), version=3
    ),
    _row("MEAN", (FLOAT, *_BYTES), on.constant(1, "axes")),
    *_rows(
        ("SUM", "REDUCE_MAX", "REDUCE_MIN"),
        (FLOAT, *_BYTES, "int16", "int32"),
        on.constant(1, "axes"),
    ),
    _row("REDUCE_PROD", _WHOLES, on.constant(1, "axes")),
    *_rows(("REDUCE_ANY", "REDUCE_ALL"), ("bool",), on.constant(1, "axes")),
    _row(
        "ARG_MAX",
        (*(f"{name} to int32" for name in (FLOAT, *_BYTES, "bool")), "int32"),
        on.constant(1, "axis"),
        hazards=(beware.SEARCHED_AXIS,),
    ),
    _row("TOPK_V2", ("float32 to float32 and int32",), on.CANDIDATES, version=1),
    _row("CUMSUM", (FLOAT,), on.constant(1, "axis"), on.AXIS, hazards=(beware.SUMMED_AXIS,)),
    # -- layout
    _row("RESHAPE", _ANY, on.constant(1, "shape")),
    _row("TRANSPOSE", _ANY, on.constant(1, "order"), on.ORDER),
    _row("CONCATENATION", _ANY, activations=None, version=6, hazards=(beware.ONE_PART,)),
    _row("SPLIT", (FLOAT, *_BYTES), on.constant(0, "axis"), on.PIECES, activations=(1,)),
    _row("SPLIT_V", (FLOAT,), on.constant(1, "sizes"), on.constant(2, "axis")),
    _row("SLICE", _ANY, on.constant(1, "begin"), on.constant(2, "sizes")),
    _row(
        "STRIDED_SLICE",
        _ANY,
        on.constant(1, "begin"),
        on.constant(2, "end"),
        on.constant(3, "strides"),
        on.SLICE_FORM,
        version=2,
    ),
    _row(
        "PAD",
        _ANY,
        on.PADDINGS,
        on.constant(1, "padding"),
        version=5,
        hazards=(beware.PADDED_BATCH,),
    ),
    _row("PADV2", _REAL, on.PADDINGS, on.constant(1, "padding"), hazards=(beware.PADDED_BATCH,)),
    _row("MIRROR_PAD", _REAL, on.PADDINGS, on.constant(1, "padding"), on.REFLECTS),
    *_rows(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), (FLOAT, *_BYTES), on.BLOCK),
    _row("PACK", (FLOAT, *_BYTES, "int16", "int32"), on.PACKED, activations=None),
    _row("UNPACK", _REAL),
    _row("TILE", _NUMBERS, on.constant(1, "multiples")),
    _row("REVERSE_V2", _ANY, on.constant(1, "axes")),
    # -- looking up
    _row("GATHER", (*_REAL, "int32", "bool"), on.INDICES, remedy=on.INDICES.remedy),
    _row("EMBEDDING_LOOKUP", (FLOAT,), activations=(1,)),
    _row("ONE_HOT", ("int32 to float32",)),
    _row("DYNAMIC_UPDATE_SLICE", (FLOAT,)),
    # -- no kernel
    *_refused("Use RESHAPE.", "EXPAND_DIMS", "SQUEEZE"),
    *_refused("ADD and MUL broadcast by themselves: leave it out.", "BROADCAST_TO"),
    *_refused(
        "Convert with a fixed batch size and fixed input shapes.",
        "SHAPE",
        "FILL",
        "RANGE",
        "ZEROS_LIKE",
    ),
    *_refused("Write it as x * rsqrt(sum(x * x)).", "L2_NORMALIZATION"),
    *_refused("Return the logits and take the logarithm outside.", "LOG_SOFTMAX"),
    *_refused("Return the scores and search outside.", "ARG_MIN"),
    *_refused("Return the new part only, and join it outside.", "SCATTER_ND"),
    *_refused("Look up at the head of the graph, where it does no harm.", "GATHER_ND"),
    *_refused(
        "Give the convolution its dilation or padding instead.",
        "SPACE_TO_BATCH_ND",
        "BATCH_TO_SPACE_ND",
    ),
    *_refused("Convert without sparse=True: the GPU has no sparse weights.", "DENSIFY"),
    *_refused(
        "Return the state as an output and feed it back as an input.",
        "VAR_HANDLE",
        "READ_VARIABLE",
        "ASSIGN_VARIABLE",
    ),
    *_refused("Unroll the layer (unroll=True).", "WHILE", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
)
"""The GPU's part of the table."""
