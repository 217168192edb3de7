"""`tfc.inspect`: what is in a `.tflite` file, and what becomes of it on a target.

Only the file is read: no TensorFlow, no Keras and no runtime are needed. Which operators a target
takes is asked of the capability table (`tfcompress.runtime.capabilities`), which has it from the
runtime itself, and for XNNPACK's sparse kernels of `tfcompress.runtime.sparse_rules`, which decides
what `tfc.convert(sparse=True)` writes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tfcompress.deploy.inspection_report import (
    Copy,
    InspectedOperator,
    InspectedSignature,
    InspectedTensor,
    InspectionReport,
    Partition,
    QuantizationSummary,
    plain,
)
from tfcompress.errors import ConfigError
from tfcompress.runtime import capabilities, schema, sparse_rules, versions
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.model import TFLiteModel, numpy_dtype
from tfcompress.runtime.partitions import partitions as group
from tfcompress.runtime.sparse_rules import Violation
from tfcompress.runtime.surroundings import Surroundings

SPARSE: Final = "xnnpack-sparse"
TARGETS: Final = (*capabilities.TARGETS, SPARSE)
"""The targets that `inspect` knows."""

_WEIGHTED: Final = {
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE"),
    *("FULLY_CONNECTED", "BATCH_MATMUL", "GATHER", "EMBEDDING_LOOKUP", "SVDF", "RNN", "LSTM"),
    *("UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN"),
    *("UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM"),
}
"""Operators whose constants of rank 2 and more are kernels or tables: what pruning makes zero."""

_EXPANDERS: Final = ("DEQUANTIZE", "DENSIFY")


def inspect(
    model: str | os.PathLike[str] | bytes | TFLiteModel, target: str = "xnnpack"
) -> InspectionReport:
    """Says what is in a `.tflite` file and what of it a target's kernels run.

    Args:
        model: path of a file, its bytes, or a `TFLiteModel`.
        target: `"xnnpack"`, the CPU kernels that are on by default, as LiteRT has them. Older
            runtimes take less: tflite-runtime 2.14 leaves all int8 operators.
            `"xnnpack-sparse"`, its kernels for pruned 1x1 convolutions on ARM: which rules the
            file breaks, and the changes that would satisfy them. A file stored dense is judged by
            the same rules; that it is stored dense is told where all others hold.
            `"gpu"`, LiteRT's accelerator, which takes one group of operators, the largest: what
            it leaves, what is copied, and in `.warnings` what it takes and computes wrongly.

    Returns:
        The report; print it, or read `.operators`, `.tensors`, `.fully_placed`, ...

    Raises:
        ConfigError: the target is not known, or the file does not exist.
        CorruptFileError: it is not a sound TFLite file.

    Example:
        >>> report = tfc.inspect("model.tflite")
        >>> report.fully_placed
        False
        >>> print(report.left[0].name, report.left[0].reason)
        SOFTMAX XNNPACK runs SOFTMAX in float32 or float16; here it is int8.
        >>> for violation in tfc.inspect("pruned.tflite", target="xnnpack-sparse").violations:
        ...     print(violation.layers, violation.reason, violation.remedy)

    Source: placement as measured on LiteRT 2.3.0 (`tfcompress.runtime.capabilities`); the rules of
    the sparse kernels as compared on its aarch64 build (`tfcompress.runtime.sparse_rules`).
    """
    if target not in TARGETS:
        raise ConfigError(f"`target` must be one of {TARGETS}. Received: {target!r}")
    loaded = model if isinstance(model, TFLiteModel) else TFLiteModel(model)
    parsed = loaded.parsed
    operators: list[InspectedOperator] = []
    tensors: list[InspectedTensor] = []
    groups: list[Partition] = []
    copies: list[Copy] = []
    counted = _Totals()
    violations = sparse_rules.violations(parsed) if target == SPARSE else []
    for graph in parsed.subgraphs:
        names = LayerNames(parsed, graph, Surroundings(parsed, graph))
        decisions = (
            _sparse_decisions(graph, violations, names)
            if target == SPARSE
            else capabilities.decide_all(parsed, graph, target)
        )
        operators += [
            _operator(parsed, graph, operator, decision, names.of(operator))
            for operator, decision in zip(graph.operators, decisions, strict=True)
        ]
        weights = _weights(graph)
        tensors += [_tensor(parsed, graph, tensor, weights, counted) for tensor in graph.tensors]
        # Sparse kernels compute all that they are proven for, or nothing.
        taken = [decision.placed and not violations for decision in decisions]
        groups += [Partition(graph.index, indices) for indices in group(graph, taken)]
        if target == "gpu":
            copies += _copies(parsed, graph, taken)
    return InspectionReport(
        name=loaded.name,
        target=target,
        operators=operators,
        tensors=tensors,
        partitions=groups,
        copies=copies,
        signatures=[_signature(parsed, signature) for signature in parsed.signatures],
        minimum_runtime=versions.minimum_runtime(parsed),
        total_parameters=counted.parameters,
        sparsity=counted.zeros / counted.weights if counted.weights else 0.0,
        float_tensors=loaded.float_tensors,
        subgraphs=len(parsed.subgraphs),
        violations=violations,
        model=loaded,
    )


def _copies(model: schema.Model, graph: schema.SubGraph, taken: Sequence[bool]) -> list[Copy]:
    """What crosses between the operators that a target has taken and everything else."""
    inside = [operator for operator in graph.operators if taken[operator.index]]
    outside = [operator for operator in graph.operators if not taken[operator.index]]
    made = {index for operator in inside for index in operator.outputs}
    read = {index for operator in inside for index in operator.inputs if index >= 0}
    wanted = {index for operator in outside for index in operator.inputs} | set(graph.outputs)
    moved = [(index, True) for index in sorted(read - made)]
    moved += [(index, False) for index in sorted(made & wanted)]
    return [
        Copy(graph.index, tensor.name, tensor.elements * width, to_target)
        for tensor, to_target in ((graph.tensors[index], side) for index, side in moved)
        if model.constant(tensor) is None and (width := numpy_dtype(tensor.dtype).itemsize)
    ]


def _sparse_decisions(
    graph: schema.SubGraph, violations: Sequence[Violation], names: LayerNames
) -> list[capabilities.Decision]:
    """What the violations mean for each operator of a subgraph."""
    found: dict[int, list[Violation]] = {}
    for violation in violations:
        for subgraph, index in violation.operators:
            if subgraph == graph.index:
                found.setdefault(index, []).append(violation)
    return [
        capabilities.Decision(
            False,
            "; ".join(violation.reason for violation in found[operator.index]),
            " ".join(v.remedy_for(names.of(operator)) for v in found[operator.index]),
            found[operator.index][0].rule,
        )
        if operator.index in found
        else capabilities.PLACED
        for operator in graph.operators
    ]


@dataclass
class _Totals:
    """Sums over the file's buffers, which tensors and subgraphs may share."""

    parameters: int = 0
    weights: int = 0
    zeros: int = 0
    parameter_buffers: set[int] = field(default_factory=set)
    weight_buffers: set[int] = field(default_factory=set)


def _operator(
    model: schema.Model,
    graph: schema.SubGraph,
    operator: schema.Operator,
    decision: capabilities.Decision,
    layer: str,
) -> InspectedOperator:
    inputs = [graph.tensors[i] if i >= 0 else None for i in operator.inputs]
    outputs = [graph.tensors[i] for i in operator.outputs]
    constants = {tensor.buffer: tensor for tensor in inputs if tensor is not None}
    return InspectedOperator(
        subgraph=graph.index,
        index=operator.index,
        name=operator.name,
        version=operator.version,
        inputs=tuple(tensor.name if tensor else "" for tensor in inputs),
        outputs=tuple(tensor.name for tensor in outputs),
        input_shapes=tuple(tensor.shape if tensor else () for tensor in inputs),
        output_shapes=tuple(tensor.shape for tensor in outputs),
        input_dtypes=tuple(tensor.dtype if tensor else "" for tensor in inputs),
        output_dtypes=tuple(tensor.dtype for tensor in outputs),
        options=plain(operator.options),
        weight_bytes=sum(_stored_bytes(model, tensor) for tensor in constants.values()),
        placed=decision.placed,
        reason=decision.reason,
        remedy=decision.remedy,
        layer=layer,
        warning=decision.warning,
    )


def _stored_bytes(model: schema.Model, tensor: schema.Tensor) -> int:
    content = model.constant(tensor)
    if content is None:
        return 0
    levels = tensor.sparsity.dim_metadata if tensor.sparsity is not None else ()
    return len(content) + sum(level.segments.nbytes + level.indices.nbytes for level in levels)


def _weights(graph: schema.SubGraph) -> set[int]:
    """Indices of the tensors that matrix kernels and look-ups read, packed forms included."""
    found = {
        index
        for operator in graph.operators
        if operator.name in _WEIGHTED
        for index in operator.inputs
    }
    for operator in reversed(graph.operators):
        if operator.name in _EXPANDERS and not found.isdisjoint(operator.outputs):
            found.update(operator.inputs)
    return found


def _is_parameter(tensor: schema.Tensor) -> bool:
    """Whether a constant holds trained values, and not a shape, an axis or a formula's number."""
    if not tensor.shape:
        return False
    return tensor.dtype not in ("int32", "int64", "bool", "string") or (
        tensor.quantization is not None
    )


def _tensor(
    model: schema.Model,
    graph: schema.SubGraph,
    tensor: schema.Tensor,
    weights: set[int],
    counted: _Totals,
) -> InspectedTensor:
    constant = model.constant(tensor) is not None
    parameters = tensor.elements if constant and _is_parameter(tensor) else 0
    sparsity = None
    if parameters and tensor.buffer not in counted.parameter_buffers:
        counted.parameter_buffers.add(tensor.buffer)
        counted.parameters += parameters
    if parameters and len(tensor.shape) >= 2 and tensor.index in weights:
        zeros = _zeros(model, tensor)
        sparsity = zeros / parameters
        if tensor.buffer not in counted.weight_buffers:
            counted.weight_buffers.add(tensor.buffer)
            counted.weights += parameters
            counted.zeros += zeros
    return InspectedTensor(
        subgraph=graph.index,
        index=tensor.index,
        name=tensor.name,
        shape=tensor.shape,
        shape_signature=tensor.shape_signature,
        dtype=tensor.dtype,
        quantization=_quantization(tensor),
        constant=constant,
        nbytes=_stored_bytes(model, tensor),
        parameters=parameters,
        sparsity=sparsity,
        sparse_encoded=tensor.sparsity is not None,
    )


def _zeros(model: schema.Model, tensor: schema.Tensor) -> int:
    """How many values of a constant stand for 0: stored values equal to their zero point."""
    values = model.data(tensor)
    if values is None:
        return 0
    zero: Any = 0
    quantization = tensor.quantization
    if quantization is not None and quantization.zero_points.any():
        zero = quantization.zero_points
        if len(zero) > 1:
            shape = [1] * values.ndim
            shape[quantization.axis] = len(zero)
            zero = zero.reshape(shape)
    return int(np.count_nonzero(values == zero))


def _quantization(tensor: schema.Tensor) -> QuantizationSummary | None:
    found = tensor.quantization
    if found is None or not (len(found.scales) or found.blocks or found.custom):
        return None
    return QuantizationSummary(
        scales=tuple(found.scales.tolist()),
        zero_points=tuple(found.zero_points.tolist()),
        axis=found.axis if len(found.scales) > 1 else None,
        blocks=found.blocks.block_size if found.blocks is not None else None,
    )


def _signature(model: schema.Model, signature: schema.Signature) -> InspectedSignature:
    tensors = model.subgraphs[signature.subgraph].tensors
    return InspectedSignature(
        signature.key,
        {name: tensors[index].name for name, index in signature.inputs.items()},
        {name: tensors[index].name for name, index in signature.outputs.items()},
        signature.subgraph,
    )
