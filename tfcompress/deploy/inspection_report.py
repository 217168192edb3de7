"""What `tfc.inspect` returns: a file's operators, tensors and groups, as text, tables and JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tfcompress.files import write_json
from tfcompress.runtime.model import Sizes, TFLiteModel
from tfcompress.runtime.sparse_rules import Violation
from tfcompress.tables import aligned

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
            "signatures": [plain(asdict(signature)) for signature in self.signatures],
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
            "partitions": [plain(asdict(partition)) for partition in self.partitions],
            "copies": [plain(asdict(copy)) for copy in self.copies],
            "operators": [plain(asdict(operator)) for operator in self.operators],
            "tensors": [plain(asdict(tensor)) for tensor in self.tensors],
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


def plain(value: Any) -> Any:
    """A value as JSON has it; bytes as hexadecimal, infinity and NaN as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
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
