"""The nodes of a graph on its way to integers: linear, operators, and what stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.graph.flow import Call, Value


@dataclass(eq=False)
class Node:
    """One step.

    Attributes:
        call: the layer call it comes from; its last, where it comes from several.
        inputs: the tensors that it reads.
        outputs: the tensors that it makes.
        paths: of the layers that it does the work of.
    """

    call: Call
    inputs: list[Value]
    outputs: list[Value]
    paths: list[str] = field(default_factory=list)

    @property
    def output(self) -> Value:
        """Its one output."""
        return self.outputs[0]


@dataclass(eq=False)
class Affine:
    """y = x * scale + shift for each channel: BatchNorm and its like, in float64."""

    scale: np.ndarray
    shift: np.ndarray

    @property
    def trivial(self) -> bool:
        """It changes nothing."""
        return bool((self.scale == 1).all() and (self.shift == 0).all())


@dataclass(eq=False)
class Linear(Node):
    """What `QuantizedLinear` computes.

    Attributes:
        kind: "conv", "depthwise" or "transpose".
        kernel: float32, four axes.
        bias: float32 (channels,), or None.
        options: further arguments of `QuantizedLinear`.
        activation: what is fused.
        affine: what it computes where it was made of an `Affine` alone.
        owner: the Keras layer whose kernel this is.
        norm: the BatchNormalization behind it.
        input_factor: what its input channels were multiplied by, float32; None for nothing.
        added: what a shift of its input channels adds to its sums, float64 (channels,).
        trainable: whether its kernel is a weight of the original.
    """

    kind: str = "conv"
    kernel: Any = None
    bias: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    activation: Any = None
    affine: Affine | None = None
    owner: Any = None
    norm: Any = None
    input_factor: Any = None
    added: Any = None
    trainable: bool = True

    @property
    def channels(self) -> int:
        """Its output channels."""
        third, last = self.kernel.shape[2:]
        return {"conv": last, "depthwise": third * last, "transpose": third}[self.kind]

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """The axes of its kernel whose indices tell the output channel."""
        return {"conv": (3,), "depthwise": (2, 3), "transpose": (2,)}[self.kind]


@dataclass(eq=False)
class Operator(Node):
    """What `QuantizedOperation` computes.

    Attributes:
        kind: a row of `PRIMITIVES`.
        arguments: its options.
        constants: position -> constant operand.
    """

    kind: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    constants: dict[int, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Table(Node):
    """What `QuantizedEmbedding` computes.

    Attributes:
        rows: float32 (count, width).
        owner: the Keras layer whose weights these are.
    """

    rows: Any = None
    owner: Any = None


@dataclass(eq=False)
class Kept(Node):
    """A Keras layer or operation that is called as it is.

    Attributes:
        moves: it only moves values of its first input, so that they stay on their grid.
        joins: it puts values of several inputs together, which must be on one grid.
        reason: why it stays in float, where it does.
    """

    moves: bool = False
    joins: bool = False
    reason: str = ""

    @property
    def operation(self) -> keras.Operation:
        """The layer or operation."""
        return self.call.operation
