"""`tfc.inspect`: what is in a `.tflite` file, and what becomes of it on a target.

Only the file is read: no TensorFlow, no Keras and no runtime are needed. Which operators a target
takes is asked of the capability table (`tfcompress.runtime.capabilities`), which has it from the
runtime itself, and for XNNPACK's sparse kernels of `tfcompress.runtime.sparse_rules`, which decides
what `tfc.convert(sparse=True)` writes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tfcompress.errors import ConfigError
from tfcompress.files import write_json
from tfcompress.runtime import capabilities, schema, sparse_rules, versions
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.model import Sizes, TFLiteModel, numpy_dtype
from tfcompress.runtime.partitions import partitions as group
from tfcompress.runtime.sparse_rules import Violation
from tfcompress.runtime.surroundings import Surroundings
from tfcompress.tables import aligned

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
_QUICK_TO_PACK: Final = 32_000_000  # bytes; above, a printed report does not wait for zstd -19


@dataclass(frozen=True)
class QuantizationSummary:
    """How the stored values of a tensor stand for real ones: (stored - zero point) * scale.

    Attributes:
        scales: one, or one for each index along `axis`; empty where they are in another tensor.
        zero_points: as many.
        axis: the dimension that the scales run along; None for one scale.
        blocks: weights that share a scale, where they are fewer than a channel; else None.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None
    blocks: int | None = None

    def __str__(self) -> str:
        if self.blocks is not None:
            return f"blocks of {self.blocks}"
        if not self.scales:
            return "of its own kind"
        zeros = sorted(set(self.zero_points))
        zero = f", zero {zeros[0]}" if len(zeros) == 1 else ", zeros by channel" if zeros else ""
        low, high = min(self.scales), max(self.scales)
        if self.axis is None:
            return f"{low:.4g}{zero}"
        return f"{len(self.scales)} x {low:.3g}..{high:.3g} on axis {self.axis}{zero}"


@dataclass(frozen=True)
class InspectedTensor:
    """One tensor.

    Attributes:
        subgraph: the subgraph that it is in.
        index: its index there.
        name: as the converter named it.
        shape: with 1 where a dimension is open.
        shape_signature: the shape with -1 where a dimension is open; None where all are fixed.
        dtype: NumPy's name, or `"int4"`, `"string"`, ...
        quantization: None where the tensor is not quantized.
        constant: whether its values are in the file.
        nbytes: bytes of its values in the file, with the indices of a sparse encoding; 0 where
            it is computed.
        parameters: elements, where they are trained values (kernels, biases, tables), else 0.
        sparsity: share of zeros in a kernel or table (stored values that mean 0), 0 to 1; None
            for all other tensors.
        sparse_encoded: whether it is stored by its non-zero values and their places.
    """

    subgraph: int
    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...] | None
    dtype: str
    quantization: QuantizationSummary | None
    constant: bool
    nbytes: int
    parameters: int
    sparsity: float | None
    sparse_encoded: bool


@dataclass(frozen=True)
class InspectedOperator:
    """One operator and what becomes of it.

    Attributes:
        subgraph: the subgraph that it is in; 0 is the model's own.
        index: its place in the order of execution there.
        name: the format's name, such as `"CONV_2D"`.
        version: the operator's version in the format.
        inputs: names of its inputs; `""` where an optional one is left out.
        outputs: names of its outputs.
        input_shapes: shapes of the inputs.
        output_shapes: shapes of the outputs.
        input_dtypes: types of the inputs.
        output_dtypes: types of the outputs.
        options: its settings by name, as plain values.
        weight_bytes: bytes of the constants that it reads, as the file stores them.
        placed: whether the target's kernels run it; with `"xnnpack-sparse"`, whether it keeps all
            their rules (they start only where every operator does).
        reason: why not; `""` where it is placed.
        remedy: what to do about it; `""` where it is placed.
        warning: what is known to come out wrong although it is placed, and what to do; else `""`.
        layer: the Keras layer that it comes from, as far as the file tells.
    """

    subgraph: int
    index: int
    name: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    input_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]
    options: dict[str, Any]
    weight_bytes: int
    placed: bool
    reason: str
    remedy: str
    layer: str
    warning: str = ""


@dataclass(frozen=True)
class Partition:
    """Operators that the target runs in one go.

    Attributes:
        subgraph: the subgraph that they are in.
        operators: their indices, ascending.
    """

    subgraph: int
    operators: tuple[int, ...]


@dataclass(frozen=True)
class Copy:
    """A tensor that is copied between the target's memory and the CPU's at every run.

    Attributes:
        subgraph: the subgraph that it is in.
        tensor: its name.
        nbytes: its size in bytes.
        to_target: from the CPU to the target, or back.
    """

    subgraph: int
    tensor: str
    nbytes: int
    to_target: bool


@dataclass(frozen=True)
class InspectedSignature:
    """A named entry point.

    Attributes:
        key: its name, mostly `"serving_default"`.
        inputs: name of each input to the name of its tensor.
        outputs: name of each output to the name of its tensor.
        subgraph: the subgraph that it runs.
    """

    key: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    subgraph: int


@dataclass
class InspectionReport:
    """What is in a file, and what becomes of it on a target.

    Attributes:
        name: the file's name.
        target: the target asked for.
        operators: all operators, subgraph by subgraph, in the order of execution.
        tensors: all tensors, subgraph by subgraph.
        partitions: the groups of operators that the target takes, subgraph by subgraph. Fewer and
            larger is faster; one is best.
        copies: with target `"gpu"`, the tensors that are copied between its memory and the CPU's
            at every run, the model's inputs and outputs among them; empty with any other.
        signatures: the named entry points.
        minimum_runtime: the oldest TensorFlow Lite that knows all operators, such as `"2.3.0"`.
        total_parameters: trained values in the file, each counted once.
        sparsity: share of zeros in the kernels and tables, each counted once, 0 to 1.
        float_tensors: names of the floating-point tensors, the graph's inputs and outputs left
            out: empty for a model that is int8 throughout.
        subgraphs: how many subgraphs there are.
        violations: with target `"xnnpack-sparse"`, the rules that the file breaks, each with all
            layers that break it; empty with any other.
        model: the model itself.
    """

    name: str
    target: str
    operators: list[InspectedOperator]
    tensors: list[InspectedTensor]
    partitions: list[Partition]
    copies: list[Copy]
    signatures: list[InspectedSignature]
    minimum_runtime: str
    total_parameters: int
    sparsity: float
    float_tensors: list[str]
    subgraphs: int
    violations: list[Violation]
    model: TFLiteModel = field(repr=False)

    @property
    def fully_placed(self) -> bool:
        """Whether the target's kernels run every operator, and no rule of theirs is broken."""
        return not self.violations and all(operator.placed for operator in self.operators)

    @property
    def warnings(self) -> list[InspectedOperator]:
        """The operators that the target takes and is known to compute wrongly."""
        return [operator for operator in self.operators if operator.warning]

    @property
    def left(self) -> list[InspectedOperator]:
        """The operators that the target leaves to the runtime's builtin kernels."""
        return [operator for operator in self.operators if not operator.placed]

    @property
    def sizes(self) -> Sizes:
        """Bytes of the file raw, gzipped and zstandard-compressed; computed when asked for."""
        return self.model.sizes

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "target": self.target,
            "fully_placed": self.fully_placed,
            "minimum_runtime": self.minimum_runtime,
            "total_parameters": self.total_parameters,
            "sparsity": self.sparsity,
            "sizes": asdict(self.sizes),
            "subgraphs": self.subgraphs,
            "signatures": [_plain(asdict(signature)) for signature in self.signatures],
            "violations": [
                {
                    "rule": violation.rule,
                    "reason": violation.reason,
                    "remedy": violation.remedy,
                    "layers": list(violation.layers),
                    "operators": [list(place) for place in violation.operators],
                }
                for violation in self.violations
            ],
            "partitions": [_plain(asdict(partition)) for partition in self.partitions],
            "copies": [_plain(asdict(copy)) for copy in self.copies],
            "operators": [_plain(asdict(operator)) for operator in self.operators],
            "tensors": [_plain(asdict(tensor)) for tensor in self.tensors],
            "float_tensors": list(self.float_tensors),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report as JSON.

        Raises:
            ConfigError: the path cannot be written.
        """
        return write_json(path, self.to_dict())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells of the operators, for printing."""
        heads = ["operator", "#", "output", "type", "constants", self.target, "why not"]
        return heads, [
            [
                operator.name,
                self._place(operator.subgraph, operator.index),
                ", ".join(_shape(shape) for shape in operator.output_shapes),
                ", ".join(dict.fromkeys(operator.output_dtypes)),
                f"{operator.weight_bytes:,} B" if operator.weight_bytes else "",
                "yes" if operator.placed else "no",
                self._why_not(operator) or operator.warning,
            ]
            for operator in self.operators
        ]

    def tensor_table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells of the tensors, for printing."""
        heads = ["tensor", "#", "shape", "type", "quantization", "bytes", "zeros"]
        return heads, [
            [
                _short_name(tensor.name),
                self._place(tensor.subgraph, tensor.index),
                _shape(tensor.shape_signature or tensor.shape),
                tensor.dtype + (" sparse" if tensor.sparse_encoded else ""),
                str(tensor.quantization or ""),
                f"{tensor.nbytes:,}" if tensor.constant else "",
                "" if tensor.sparsity is None else f"{tensor.sparsity:.1%}",
            ]
            for tensor in self.tensors
        ]

    def summary(self) -> list[str]:
        """The whole in a few lines."""
        raw = len(self.model.content)
        packed = ""
        if raw <= _QUICK_TO_PACK:
            packed = f" (gzip {self.sizes.gzip:,}"
            packed += f", zstd {self.sizes.zstd:,})" if self.sizes.zstd is not None else ")"
        placed = len(self.operators) - len(self.left)
        count = len(self.partitions)
        return [
            f"{self.name}: {raw:,} bytes{packed}, {self.total_parameters:,} parameters, "
            f"{self.sparsity:.1%} of the weights zero",
            f"needs the runtime of TensorFlow {self.minimum_runtime} or later"
            if self.minimum_runtime[0].isdigit()
            else f"minimum runtime: {self.minimum_runtime}",
            f"{self.target}: {placed} of {len(self.operators)} operators placed, in {count} "
            f"partition{'' if count == 1 else 's'}"
            + (
                f"; {len(self.copies)} tensors of {sum(c.nbytes for c in self.copies):,} bytes are "
                "copied to it and back at each run"
                if self.copies
                else ""
            ),
        ]

    def advice(self) -> list[str]:
        """What to do about the operators that are left, each piece of advice once."""
        if self.violations:
            return [f"{v.rule}: {v}. {v.remedy}" for v in self.violations]
        pieces: dict[tuple[str, str], list[str]] = {}
        for operator in self.left:
            place = self._place(operator.subgraph, operator.index)
            pieces.setdefault((operator.name, operator.remedy), []).append(place)
        for operator in self.warnings:
            place = self._place(operator.subgraph, operator.index)
            pieces.setdefault((operator.name, f"computed wrongly: {operator.warning}"), []).append(
                place
            )
        return [f"{name} ({_few(places)}): {remedy}" for (name, remedy), places in pieces.items()]

    def _why_not(self, operator: InspectedOperator) -> str:
        """The reason in a table: what many operators share stands below it, in full."""
        place = (operator.subgraph, operator.index)
        rules = [violation.rule for violation in self.violations if place in violation.operators]
        return f"{operator.layer}: {', '.join(rules)}" if rules else operator.reason

    def _place(self, subgraph: int, index: int) -> str:
        return str(index) if self.subgraphs == 1 else f"{subgraph}/{index}"

    def __str__(self) -> str:
        heads, rows = self.table()
        return "\n".join([*self.summary(), "", *aligned([heads, *rows]), *self.advice()])


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
        options=_plain(operator.options),
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


def _plain(value: Any) -> Any:
    """A value as JSON has it; bytes as hexadecimal, infinity and NaN as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


def _short_name(name: str) -> str:
    """The first of the names that the converter joins for what it has fused."""
    first, *others = name.split(";")
    return f"{first} (+{len(others)})" if others else first


def _shape(shape: Sequence[int]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape) or "scalar"


def _few(places: Sequence[str]) -> str:
    shown = ", ".join(f"#{place}" for place in places[:5])
    return shown if len(places) <= 5 else f"{shown} and {len(places) - 5} more"
