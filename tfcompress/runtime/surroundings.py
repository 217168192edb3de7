"""An operator with what surrounds it: who writes and who reads each tensor of a subgraph."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tfcompress.runtime.schema import Model, Operator, SubGraph, Tensor

_READS_WEIGHTS: Final = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
_SIZES: Final = {
    **dict.fromkeys(
        ("RESHAPE", "TRANSPOSE", "PAD", "PADV2", "MIRROR_PAD", "TILE", "TOPK_V2"), (1,)
    ),
    **dict.fromkeys(("BROADCAST_TO", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (1,)),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), (1,)),
    **dict.fromkeys(("REDUCE_ANY", "REDUCE_ALL"), (1,)),
    **dict.fromkeys(("TRANSPOSE_CONV", "SPLIT", "FILL"), (0,)),
    "RANGE": (0, 1, 2),
    "STRIDED_SLICE": (1, 2, 3),
    "SPLIT_V": (1, 2),
    "SLICE": (2,),
}
"""Inputs of operators that make the sizes of what comes out."""


class Surroundings:
    """Who writes and who reads each tensor of a subgraph.

    Args:
        model: the parsed file.
        graph: one of its subgraphs.
    """

    def __init__(self, model: Model, graph: SubGraph) -> None:
        self.model = model
        self.graph = graph
        self.producers: dict[int, Operator] = {}
        self.consumers: dict[int, list[Operator]] = defaultdict(list)
        for operator in graph.operators:
            for tensor in operator.outputs:
                self.producers[tensor] = operator
            for tensor in operator.inputs:
                self.consumers[tensor].append(operator)

    def is_constant(self, tensor: int) -> bool:
        """Whether a tensor's values are in the file."""
        return self.model.constant(self.graph.tensors[tensor]) is not None

    @functools.cached_property
    def sized_at_run_time(self) -> str:
        """The first tensor whose sizes depend on computed values; "" where there is none.

        What a SHAPE puts out is known when the model is loaded, what is made of it is not.
        """
        for operator in self.graph.operators:
            sizes = [operator.inputs[i : i + 1] for i in _SIZES.get(operator.name, ())]
            for tensor in (size[0] for size in sizes if size and size[0] >= 0):
                producer = self.producers.get(tensor)
                measured = producer is not None and producer.name == "SHAPE"
                if not measured and not self.is_constant(tensor):
                    return self.graph.tensors[operator.outputs[0]].name
        return ""

    def is_unpacked(self, tensor: int) -> bool:
        """Whether a tensor is made of constants once, when the model is loaded."""
        producer = self.producers.get(tensor)
        return producer is not None and self.unpacks(producer)

    def is_fixed(self, tensor: int) -> bool:
        """Whether a tensor's values are known when the model is loaded."""
        return self.is_constant(tensor) or self.is_unpacked(tensor)

    def unpacks(self, operator: Operator) -> bool:
        """Whether an operator only expands weights: XNNPACK does that once, while loading."""
        if operator.name not in ("DEQUANTIZE", "DENSIFY"):
            return False
        if len(operator.inputs) != 1 or len(operator.outputs) != 1:
            return False
        packed = self.graph.tensors[operator.inputs[0]]
        result = self.graph.tensors[operator.outputs[0]]
        if operator.name == "DENSIFY":
            return (
                self.is_constant(packed.index)
                and packed.sparsity is not None
                and packed.dtype in ("float16", "int8", "float32")
                and result.dtype == packed.dtype
            )
        return (
            packed.sparsity is None
            and self.is_fixed(packed.index)
            and (packed.dtype == "float16" or (packed.dtype == "int8" and is_affine(packed)))
            and result.dtype == "float32"
        )

    def stored_dtype(self, tensor: int) -> str:
        """The type in which a fixed tensor is in the file, before anything expands it."""
        while self.is_unpacked(tensor):
            tensor = self.producers[tensor].inputs[0]
        return self.graph.tensors[tensor].dtype

    def computed_dtype(self, tensor: int) -> str:
        """A tensor's type as XNNPACK sees it.

        Weights that are stored as float16 and read by nothing but matrix kernels stay float16.
        """
        producer = self.producers.get(tensor)
        if (
            producer is not None
            and producer.name == "DEQUANTIZE"
            and self.unpacks(producer)
            and self.graph.tensors[producer.inputs[0]].dtype == "float16"
            and all(
                reader.name in _READS_WEIGHTS and reader.inputs[0] != tensor
                for reader in self.consumers[tensor]
            )
        ):
            return "float16"
        return self.graph.tensors[tensor].dtype


@dataclass(frozen=True)
class Case:
    """An operator with what surrounds it.

    Attributes:
        operator: the operator.
        surroundings: its subgraph's.
    """

    operator: Operator
    surroundings: Surroundings

    def input(self, place: int) -> Tensor | None:
        """An input by its place; None where it is left out."""
        inputs = self.operator.inputs
        if not -len(inputs) <= place < len(inputs) or inputs[place] < 0:
            return None
        return self.surroundings.graph.tensors[inputs[place]]

    def output(self, place: int = 0) -> Tensor | None:
        """An output by its place; None where there is none."""
        outputs = self.operator.outputs
        return self.surroundings.graph.tensors[outputs[place]] if place < len(outputs) else None

    @property
    def inputs(self) -> list[Tensor]:
        """The inputs that are not left out."""
        return [self.surroundings.graph.tensors[i] for i in self.operator.inputs if i >= 0]

    @property
    def outputs(self) -> list[Tensor]:
        """The outputs."""
        return [self.surroundings.graph.tensors[i] for i in self.operator.outputs]

    def option(self, name: str, default: Any = 0) -> Any:
        """One of the operator's settings."""
        return self.operator.options.get(name, default)

    def values(self, place: int) -> np.ndarray | None:
        """The values of a constant input, flat; None where they are not in the file."""
        tensor = self.input(place)
        values = None if tensor is None else self.surroundings.model.data(tensor)
        return None if values is None else values.ravel()


def is_half_constant(case: Case, tensor: Tensor) -> bool:
    """Whether a tensor stands in the file as dense float16 values."""
    known = case.surroundings.is_constant(tensor.index)
    return known and tensor.dtype == "float16" and tensor.sparsity is None


def is_affine(tensor: Tensor) -> bool:
    """Whether a tensor has scales."""
    return tensor.quantization is not None and len(tensor.quantization.scales) > 0
