"""The capability table: which operator, in which form, a target's fast kernels take.

One row for each operator and target says in which forms the target takes it (element type of the
activations, and of the weights where those differ), what else must hold, and what to do where it
does not. Nothing else in this package knows a target's rules: verbs ask `decide`.

An operator without a row has no kernel on the target. DENSIFY and DEQUANTIZE of constants need
none: XNNPACK expands such weights once, when it loads the model. The runtime's builtin kernels
run what a target leaves: the results are right, but each such operator splits the graph, and most
run slower there.

Source: every row, form and condition is measured on LiteRT 2.3.0 by the tests, which build the
operator, load it and read from the runtime whether it was taken. Conditions' limits come from
tflite/delegates/xnnpack/xnnpack_delegate.cc of google-ai-edge/LiteRT of August 2026.
Older runtimes take less: tflite-runtime 2.14 as installed from PyPI takes float operators only
(measured on x86-64). The GPU's rows are in `gpu_capabilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tfcompress.errors import ConfigError
from tfcompress.runtime import conditions as on
from tfcompress.runtime.capability import (
    DYNAMIC,
    DYNAMIC_INT4,
    FLOAT,
    FLOATS,
    FLOATS_AND_8_BIT,
    HALF,
    HALF_WEIGHTS,
    INT8,
    INT8_INT4,
    PLACED,
    STORED_INT8,
    UINT8,
    Capability,
    Decision,
)
from tfcompress.runtime.gpu_capabilities import GPU_CAPABILITIES
from tfcompress.runtime.partitions import largest, partitions
from tfcompress.runtime.schema import Model, Operator, SubGraph, Tensor
from tfcompress.runtime.surroundings import Case, Surroundings, is_half_constant

TARGETS: Final = ("xnnpack", "gpu")
"""The targets that the table knows."""

_INDEX_TYPES: Final = ("int32", "int64", "bool")
_INDEX_REMEDY: Final = (
    "Arithmetic on token ids, indices and masks stays outside; at the head or tail of the graph "
    "it does no harm."
)
_FLOAT_REMEDY: Final = "Keep it in float: it has no quantized kernel."
_UNARY_RANK: Final = on.rank(0)
_BINARY: Final = (on.rank(0), on.rank(1))
_SUM_SCALES: Final = on.scale_ratio(1 / 1024, 256)
_BREAKING_RANK: Final = on.rank(0, breaks=True)
_REDUCTION: Final = (on.fixed(1, "axes", integers=True), on.AXES, _BREAKING_RANK)


def _float_unary(remedy: str, *operators: str) -> tuple[Capability, ...]:
    return tuple(Capability(name, FLOATS, (_UNARY_RANK,), remedy) for name in operators)


def _refused(remedy: str, *operators: str) -> tuple[Capability, ...]:
    return tuple(Capability(name, (), (), remedy, None) for name in operators)


XNNPACK_CAPABILITIES: Final[tuple[Capability, ...]] = (
    # -- matrix kernels
    Capability(
        "CONV_2D",
        (FLOAT, HALF, INT8, UINT8, HALF_WEIGHTS, STORED_INT8, DYNAMIC),
        (
            on.fixed(1, "weights"),
            on.weight_axis(1, 0),
            on.SYMMETRIC_WEIGHTS,
            on.bias(2),
            on.CLAMPING_ACTIVATION,
        ),
        "Use weights of 8 bits or float; keep a 4-bit grid in int8 tensors (precision 'int8-w4').",
        weights=1,
    ),
    Capability(
        "DEPTHWISE_CONV_2D",
        (FLOAT, HALF, INT8, UINT8, HALF_WEIGHTS, STORED_INT8),
        (
            on.fixed(1, "weights"),
            on.weight_axis(1, 3),
            on.SYMMETRIC_WEIGHTS,
            on.bias(2),
            on.CLAMPING_ACTIVATION,
        ),
        "Depthwise convolutions have no dynamic-range or 4-bit kernel: use precision 'int8', "
        "'fp16' or 'fp32'.",
        weights=1,
    ),
    Capability(
        "FULLY_CONNECTED",
        (
            FLOAT,
            HALF,
            INT8,
            UINT8,
            HALF_WEIGHTS,
            STORED_INT8,
            DYNAMIC,
            DYNAMIC_INT4,
            INT8_INT4,
            "float16 with int8 weights",
            "float16 with int4 weights",
        ),
        (
            on.DENSE_WEIGHTS,
            on.fixed(1, "weights"),
            on.weight_axis(1, 0),
            on.SYMMETRIC_WEIGHTS,
            on.EVEN_ROWS,
            on.bias(2),
        ),
        "Use float or int8 activations.",
        weights=1,
    ),
    Capability(
        "TRANSPOSE_CONV",
        (FLOAT, INT8, UINT8, HALF_WEIGHTS, STORED_INT8, DYNAMIC),
        (
            on.fixed(0, "output shape", integers=True),
            on.fixed(1, "weights"),
            on.weight_axis(1, 0),
            on.bias(3),
            on.TRANSPOSED_SIZE,
            on.CLAMPING_ACTIVATION,
        ),
        "Use float or int8 activations.",
        activations=(2,),
        weights=1,
    ),
    Capability(
        "BATCH_MATMUL",
        (FLOAT, HALF, INT8, HALF_WEIGHTS, STORED_INT8, DYNAMIC),
        (on.MATMUL_OPERAND, on.rank(0, breaks=True), on.rank(1, breaks=True)),
        "Use float operands, or int8 ones with a symmetric second operand.",
        weights=1,
    ),
    # -- element by element
    Capability(
        "ADD",
        FLOATS_AND_8_BIT,
        (*_BINARY, _SUM_SCALES, on.CLAMPING_ACTIVATION),
        "Compute in float or int8.",
        (0, 1),
    ),
    Capability(
        "SUB",
        FLOATS_AND_8_BIT,
        (*_BINARY, _SUM_SCALES, on.CLAMPING_ACTIVATION),
        "Compute in float or int8.",
        (0, 1),
    ),
    Capability(
        "MUL",
        FLOATS_AND_8_BIT,
        (*_BINARY, on.PRODUCT_SCALE, on.CLAMPING_ACTIVATION),
        "Compute in float or int8.",
        (0, 1),
    ),
    Capability(
        "DIV",
        FLOATS,
        (*_BINARY, on.CLAMPING_ACTIVATION),
        "Multiply by the reciprocal where the divisor is constant, else keep it in float.",
        (0, 1),
    ),
    Capability(
        "MAXIMUM", FLOATS, _BINARY, "Use ReLU where one side is 0, else keep it in float.", (0, 1)
    ),
    Capability("MINIMUM", FLOATS, _BINARY, "Use ReLU6 or keep it in float.", (0, 1)),
    Capability(
        "SQUARED_DIFFERENCE", FLOATS, _BINARY, "Use SUB and MUL, or keep it in float.", (0, 1)
    ),
    Capability(
        "PRELU",
        (FLOAT, HALF, HALF_WEIGHTS, STORED_INT8),
        (on.rank(0), on.fixed(1, "slopes")),
        "Use ReLU, ReLU6 or LeakyReLU in int8, or keep it in float.",
        weights=1,
    ),
    *_float_unary(
        "Fuse it: a ReLU right after a convolution, Dense or Add, before its fake-quant, becomes "
        "part of that operator.",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
    ),
    *_float_unary(
        "Use ReLU6, or sigmoid and tanh, which have int8 kernels; or keep it in float "
        "(precision 'dynamic').",
        "GELU",
        "HARD_SWISH",
    ),
    *_float_unary(
        _FLOAT_REMEDY,
        "ABS",
        "CEIL",
        "COS",
        "EXP",
        "FLOOR",
        "LOG",
        "NEG",
        "ROUND",
        "RSQRT",
        "SIN",
        "SQRT",
        "SQUARE",
    ),
    Capability("ELU", (FLOAT, HALF, INT8), (_UNARY_RANK,), "Compute in float or int8."),
    Capability(
        "LEAKY_RELU", FLOATS_AND_8_BIT, (_UNARY_RANK, on.SLOPE), "Compute in float or int8."
    ),
    Capability("LOGISTIC", FLOATS_AND_8_BIT, (_UNARY_RANK,), "Compute in float or int8."),
    Capability("TANH", FLOATS_AND_8_BIT, (_UNARY_RANK,), "Compute in float or int8."),
    Capability(
        "SOFTMAX",
        FLOATS,
        (on.BETA, _BREAKING_RANK),
        "Leave it out of the model and apply it to the logits, or keep it in float (precision "
        "'dynamic'). At the end of the graph it costs little.",
    ),
    Capability(
        "QUANTIZE",
        ("float32 to int8", "float32 to uint8", "int8", "uint8"),
        (_UNARY_RANK, on.REQUANTIZATION),
        "Use one type of 8-bit tensors throughout: io='float32' or io='int8'.",
    ),
    Capability(
        "DEQUANTIZE",
        ("int8 to float32", "uint8 to float32"),
        (_UNARY_RANK,),
        "Store weights as int8 or float16 constants.",
    ),
    # -- pooling, resizing, reductions
    Capability(
        "AVERAGE_POOL_2D",
        FLOATS,
        (on.WINDOW, on.CLAMPING_ACTIVATION),
        "Over the whole image use GlobalAveragePooling2D (MEAN); else a strided depthwise "
        "convolution, or max pooling.",
    ),
    Capability(
        "MAX_POOL_2D",
        (FLOAT, INT8, UINT8),
        (on.WINDOW, on.CLAMPING_ACTIVATION),
        "Compute in float32 or int8.",
    ),
    Capability(
        "RESIZE_BILINEAR",
        (FLOAT, INT8, UINT8),
        (on.fixed(1, "size", integers=True),),
        "Compute in float32 or int8.",
    ),
    *(
        Capability(name, FLOATS_AND_8_BIT, _REDUCTION, "Compute in float or int8.")
        for name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
    ),
    # -- layout
    Capability(
        "RESHAPE",
        FLOATS_AND_8_BIT,
        (on.rank(0), on.fixed(1, "shape", integers=True), on.RESHAPE_TARGET, on.SAME_SCALE),
        "Reshape before the cast to integers, or in float.",
    ),
    Capability(
        "TRANSPOSE",
        FLOATS_AND_8_BIT,
        (on.rank(0), on.fixed(1, "order", integers=True)),
        "Transpose in float or int8.",
    ),
    Capability(
        "CONCATENATION",
        FLOATS_AND_8_BIT,
        (on.FEW_INPUTS, on.SAME_UINT8_SCALE, _BREAKING_RANK),
        "Concatenate in float or int8.",
        None,
    ),
    Capability(
        "SPLIT",
        FLOATS_AND_8_BIT,
        (on.fixed(0, "axis", integers=True), on.PIECES, on.rank(1, breaks=True)),
        "Split in float or int8.",
        (1,),
    ),
    Capability("SLICE", FLOATS_AND_8_BIT, (on.rank(0), on.SLICE_SIZES), "Slice in float or int8."),
    Capability(
        "STRIDED_SLICE",
        FLOATS_AND_8_BIT,
        (
            on.SLICE_MASKS,
            on.fixed(1, "begin", integers=True),
            on.fixed(2, "end", integers=True),
            on.fixed(3, "strides", integers=True),
            on.SLICE_STRIDES,
        ),
        "Slice in float or int8.",
    ),
    Capability(
        "PAD",
        FLOATS_AND_8_BIT,
        (on.fixed(1, "padding", integers=True),),
        "Pad in float or int8.",
    ),
    Capability("DEPTH_TO_SPACE", FLOATS_AND_8_BIT, (on.BLOCK,), "Compute in float or int8."),
    Capability("SPACE_TO_DEPTH", (FLOAT, INT8, UINT8), (on.BLOCK,), "Compute in float32 or int8."),
    # -- variables: judged by the type of what they hold, so they have a form of their own
    *(
        Capability(name, ("resource",), (on.VARIABLE,), "", ())
        for name in ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
    ),
    # -- no kernel at all, and what to use instead
    *_refused(
        "Look embeddings up at the head of the graph, where they do no harm.",
        "GATHER",
        "GATHER_ND",
        "EMBEDDING_LOOKUP",
    ),
    *_refused("Cast at the head or tail of the graph; hold masks as floats.", "CAST"),
    *_refused(
        "Add a mask in place of selecting by it: (cast(mask, float) - 1) * 1e4, computed once.",
        "SELECT",
        "SELECT_V2",
        "EQUAL",
        "NOT_EQUAL",
        "LESS",
        "LESS_EQUAL",
        "GREATER",
        "GREATER_EQUAL",
        "LOGICAL_AND",
        "LOGICAL_OR",
        "LOGICAL_NOT",
    ),
    *_refused(
        "Use RESHAPE and CONCATENATION in place of stacking and unstacking.", "PACK", "UNPACK"
    ),
    *_refused("ADD and MUL broadcast by themselves: leave it out.", "TILE", "BROADCAST_TO"),
    *_refused("Use RESHAPE.", "EXPAND_DIMS", "SQUEEZE"),
    *_refused(
        "Convert with a fixed batch size and fixed input shapes.",
        "SHAPE",
        "FILL",
        "RANGE",
        "ONE_HOT",
    ),
    *_refused("Multiply with a triangular matrix.", "CUMSUM"),
    *_refused("Write it as x * rsqrt(sum(x * x)).", "L2_NORMALIZATION"),
    *_refused("Return the logits and take the logarithm outside.", "LOG_SOFTMAX"),
    *_refused(
        "Return the scores and search outside; at the tail it does no harm.",
        "ARG_MAX",
        "ARG_MIN",
        "TOPK_V2",
    ),
    *_refused(
        "Return the new part only, and CONCATENATION it outside.",
        "SCATTER_ND",
        "DYNAMIC_UPDATE_SLICE",
    ),
    *_refused("Use SPLIT into equal pieces, or SLICE.", "SPLIT_V"),
    *_refused("Pad with zeros.", "PADV2", "MIRROR_PAD"),
    *_refused(
        "Use bilinear resizing, or RESHAPE and CONCATENATION for whole factors.",
        "RESIZE_NEAREST_NEIGHBOR",
    ),
    *_refused(
        "Give the convolution its dilation or padding instead.",
        "SPACE_TO_BATCH_ND",
        "BATCH_TO_SPACE_ND",
    ),
    *_refused("Use MUL for whole powers, SQRT and RSQRT for halves.", "POW"),
    *_refused("Use REDUCE_MAX or MEAN.", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"),
    *_refused("Use MAXIMUM and MINIMUM, or FLOOR of a product.", "SIGN", "FLOOR_DIV", "FLOOR_MOD"),
    *_refused("Write the order out with SLICE and CONCATENATION.", "REVERSE_V2"),
    *_refused(
        "Unroll the layer (unroll=True): its steps then run one after the other, each fast.",
        "WHILE",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    ),
)
"""XNNPACK's part of the table."""

CAPABILITIES: Final = (*XNNPACK_CAPABILITIES, *GPU_CAPABILITIES)
"""The table. One row for each operator and target."""

_ROWS: Final = {(row.operator, row.target): row for row in CAPABILITIES}

_NAMES: Final = {"xnnpack": "XNNPACK", "gpu": "LiteRT's GPU accelerator"}


def decide(
    model: Model, subgraph: SubGraph, operator: Operator, target: str = "xnnpack"
) -> Decision:
    """Says whether a target's kernels run an operator, and if not, why and what to do.

    Args:
        model: the parsed file.
        subgraph: the subgraph that the operator is in.
        operator: the operator.
        target: one of `TARGETS`.

    Returns:
        The decision. It is the one that the runtime takes, as `placement.actual_placement` reads
        it from there. A GPU leaves more, as it takes one group of operators only: `decide_all`.

    Raises:
        ConfigError: the table does not know the target.

    Example:
        >>> decide(model, graph, graph.operators[-1])  # doctest: +SKIP
        Decision(placed=False, reason='XNNPACK runs SOFTMAX in float32 or float16; ...', ...)
    """
    check_target(target)
    return _decide(operator, Surroundings(model, subgraph), target)


def decide_all(model: Model, subgraph: SubGraph, target: str = "xnnpack") -> list[Decision]:
    """`decide` for every operator of a subgraph, in time linear in their number."""
    check_target(target)
    surroundings = Surroundings(model, subgraph)
    decisions = [_decide(operator, surroundings, target) for operator in subgraph.operators]
    return _one_partition(subgraph, decisions) if target == "gpu" else decisions


def _one_partition(subgraph: SubGraph, decisions: list[Decision]) -> list[Decision]:
    """LiteRT gives the GPU one group of operators, the largest."""
    groups = partitions(subgraph, [decision.placed for decision in decisions])
    kept = largest(groups)
    barriers = dict.fromkeys(
        operator.name
        for operator, decision in zip(subgraph.operators, decisions, strict=True)
        if not decision.placed
    )
    for group in groups:
        for index in group if group != kept else ():
            decisions[index] = Decision(
                False,
                "LiteRT gives the GPU one group of operators, the largest: this one is in another.",
                f"See to the operators that part them: {', '.join(barriers)}.",
                "partition",
            )
    return decisions


def check_target(target: str) -> None:
    """Raises ConfigError for a target that the table does not know."""
    if target not in TARGETS:
        raise ConfigError(f"`target` must be one of {TARGETS}. Received: {target!r}")


def _decide(operator: Operator, surroundings: Surroundings, target: str) -> Decision:
    case = Case(operator, surroundings)
    if _unpacks(case, target):
        return _decide_unpacking(case, target)
    name = operator.name
    row = _ROWS.get((name, target))
    if row is None or operator.is_custom or not row.forms:
        kind = "custom operator" if operator.is_custom else "operator"
        return Decision(
            False,
            f"{_NAMES[target]} has no kernel for the {kind} {name}.",
            (row.remedy if row else "")
            or "Build it from operators that have one; at the head or tail of the graph it does "
            "no harm.",
            "operator",
        )
    if row.version is not None and operator.version > row.version:
        return Decision(
            False,
            f"{_NAMES[target]} takes {name} up to version {row.version}; here it is version "
            f"{operator.version}.",
            "Convert with an older converter, or without what the newer version is for (16-bit "
            "activations, unusual options).",
            "version",
        )
    form = form_of(row, case)
    if form not in row.forms:
        return Decision(
            False,
            f"{_NAMES[target]} runs {name} in {_listed(row.forms)}; here it is {form}.",
            _INDEX_REMEDY if form in _INDEX_TYPES else row.remedy,
            "form",
        )
    for tensor in _activations(row, case) + case.outputs if target == "xnnpack" else ():
        wrong = on.one_scale(tensor)
        if wrong:
            return Decision(
                False, f"{name}: {wrong}.", "Quantize activations per tensor.", "quantization"
            )
    for condition in row.conditions:
        wrong = condition.check(case)
        if wrong:
            return Decision(
                False,
                f"{_NAMES[target]} does not take this {name}: {wrong}.",
                condition.remedy,
                condition.name,
            )
    found = [(hazard.check(case), hazard.remedy) for hazard in row.hazards]
    warnings = [f"{wrong}. {remedy}" for wrong, remedy in found if wrong]
    return replace(PLACED, warning=" ".join(warnings)) if warnings else PLACED


def _unpacks(case: Case, target: str) -> bool:
    """Whether an operator is gone once the model is loaded, for it only expands weights."""
    if not case.surroundings.unpacks(case.operator):
        return False
    packed = case.input(0)
    return target == "xnnpack" or (packed is not None and is_half_constant(case, packed))


def _decide_unpacking(case: Case, target: str) -> Decision:
    """Expanding weights costs nothing, unless an operator that is left needs them expanded."""
    for reader in case.surroundings.consumers[case.operator.outputs[0]]:
        if _unpacks(Case(reader, case.surroundings), target):
            continue
        if not _decide(reader, case.surroundings, target).placed:
            return Decision(
                False,
                f"{reader.name}, which is not placed, reads what this {case.operator.name} "
                "expands at every run.",
                f"See the {reader.name} it feeds.",
                "consumer",
            )
    return PLACED


def form_of(row: Capability, case: Case) -> str:
    """The form that an operator is in: the type of its activations, and of its weights.

    Args:
        row: its row of the table, which says which inputs are what.
        case: the operator.

    Returns:
        Such as `"int8"`, `"float32 with int8 weights"`, `"float32 to int8"`, `"int32"`.
    """
    if not row.activations and row.activations is not None:
        return "resource"
    given = sorted({tensor.dtype for tensor in _activations(row, case)})
    made = sorted({tensor.dtype for tensor in case.outputs})
    form = " and ".join(given)
    if given != made:
        return f"{form} to {' and '.join(made)}"
    weights = None if row.weights is None else case.input(row.weights)
    if weights is None:
        return form
    stored = case.surroundings.stored_dtype(weights.index)
    if stored != weights.dtype:
        if weights.dtype == form:
            return HALF_WEIGHTS if stored == HALF else f"{form} with stored {stored} weights"
    elif stored == form:
        return form
    return f"{form} with {weights.dtype} weights"


def _activations(row: Capability, case: Case) -> list[Tensor]:
    if row.activations is None:
        return case.inputs
    found = (case.input(place) for place in row.activations)
    return [tensor for tensor in found if tensor is not None]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
