"""TensorRT's rules for explicitly quantized models, and which of them an ONNX graph breaks.

TensorRT builds int8 engines of graphs with QuantizeLinear and DequantizeLinear operators, and only
of such as keep to these rules. Nothing of NVIDIA's is needed to check them.

Source: NVIDIA TensorRT Documentation, "Working with Quantized Types" and "Explicit Quantization"
(Q/DQ layer-placement recommendations, ONNX support), and the checks of its ONNX parser
(`QuantDequantLinearHelper` of onnx/onnx-tensorrt).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tfcompress.onnx.links import DEQUANTIZE, QUANTIZE, Links, attribute, output_axis


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        asks: what it asks for.
        remedy: what to do where it is broken.
        refused: TensorRT refuses a graph that breaks it; otherwise the engine is slower.
    """

    asks: str
    remedy: str
    refused: bool = True


RULES: Final = {
    "symmetric": Rule(
        "zero points must be 0",
        "train with QuantizationScheme(symmetric=True)",
    ),
    "type": Rule(
        "quantized tensors must be int8; a DequantizeLinear takes no int32",
        "tfc.to_onnx(..., target='tensorrt') leaves biases float; activations of 16 bits have no "
        "form there",
    ),
    "constant-scale": Rule(
        "scales and zero points must be constants",
        "freeze the ranges before the export",
    ),
    "activation-scale": Rule(
        "an activation has one scale",
        "quantize it per tensor",
    ),
    "weight-axis": Rule(
        "a kernel has one scale, or one for each of its output channels",
        "quantize it along the output axis: 0 for Conv, 1 for ConvTranspose, the last for MatMul",
    ),
    "weight-range": Rule(
        "weights lie in -127 to 127",
        "quantize them in the narrow range",
        refused=False,
    ),
    "both-inputs": Rule(
        "a convolution or a matrix product runs in int8 where all its inputs come from a "
        "DequantizeLinear",
        "quantize the layer before it too, or leave this one float (`exclude=`)",
        refused=False,
    ),
    "residual": Rule(
        "both inputs of an addition should be quantized, or none",
        "quantize what makes the other input",
        refused=False,
    ),
}
"""The rules by name."""

_NUMBER = re.compile(r"_\d+$")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Violation:
    """A rule that a graph breaks.

    Attributes:
        rule: its name in `RULES`.
        layer: the layer concerned, as far as the graph tells its name.
        operator: the ONNX operator.
        found: what is there.
    """

    rule: str
    layer: str
    operator: str
    found: str

    @property
    def refused(self) -> bool:
        """TensorRT refuses the graph; otherwise it is slower than it could be."""
        return RULES[self.rule].refused

    @property
    def remedy(self) -> str:
        """What to do."""
        return RULES[self.rule].remedy

    def __str__(self) -> str:
        return (
            f"{self.layer!r} ({self.operator}): {RULES[self.rule].asks}. Received: {self.found}. "
            f"Remedy: {self.remedy}."
        )


def find_violations(model: Any) -> list[Violation]:
    """The rules that a quantized graph breaks, in the graph's order.

    Args:
        model: `onnx.ModelProto`. A graph without Q/DQ operators breaks none: it is a float one.
    """
    links = Links(model.graph)
    if not any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph.node):
        return []
    found: list[Violation] = []
    numbered = all(_NUMBER.search(n.name.split("/")[0]) for n in model.graph.node if "/" in n.name)
    for node in model.graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            checks = _grid(node, links)
        elif node.op_type in _WEIGHTED:
            checks = _weighted(node, links)
        elif node.op_type == "Add":
            checks = _addition(node, links)
        else:
            continue
        layer = layer_of(node, links, numbered)
        found += [Violation(rule, layer, node.op_type, text) for rule, text in checks]
    return list(dict.fromkeys(found))


def layer_of(node: Any, links: Links, numbered: bool) -> str:
    """The layer that a node comes from, by its name's scopes; that of its reader for a constant.

    Args:
        node: the node.
        links: of its graph.
        numbered: take a number off each scope: Keras enters all of them twice.
    """
    name = node.name
    if node.op_type == DEQUANTIZE and links.readers.get(node.output[0]):
        name = links.readers[node.output[0]][0].name
    parts = name.split("/")
    for part in parts:
        if part.startswith("grid."):
            return str(part.removeprefix("grid.").partition(".of")[0])
    return "/".join(_NUMBER.sub("", p) if numbered else p for p in parts[1:-1]) or str(name)


def _grid(node: Any, links: Links) -> Iterator[tuple[str, str]]:
    constant = links.value(node.input[0]) if node.op_type == DEQUANTIZE else None
    if constant is None and node.op_type == DEQUANTIZE:
        source = links.source(node.input[0])
        if source is not None and source.op_type == QUANTIZE:
            return  # It has the grid of that one.
    scale, zero_point = links.grid(node)
    if scale is None or zero_point is None:
        yield "constant-scale", "a scale or zero point that is computed"
        return
    dtype = zero_point.dtype if constant is None else constant.dtype
    if dtype != np.int8:
        yield "type", str(dtype)
    if zero_point.any():
        yield "symmetric", f"zero point {np.ravel(zero_point)[0]}"
    if constant is None:
        if scale.size > 1:
            yield "activation-scale", f"{scale.size} scales"
        return
    if constant.dtype == np.int8 and (constant == -128).any():
        yield "weight-range", "-128"
    if scale.ndim and constant.dtype == np.int8:
        axis = attribute(node, "axis", 1) % constant.ndim
        for reader in links.readers.get(node.output[0], []):
            index = list(reader.input).index(node.output[0])
            if axis != output_axis(reader, index, constant.ndim):
                yield "weight-axis", f"scales along axis {axis} of a {reader.op_type}'s operand"


def _weighted(node: Any, links: Links) -> Iterator[tuple[str, str]]:
    sides = [links.source(name) for name in list(node.input)[:2]]
    quantized = [side is not None and side.op_type == DEQUANTIZE for side in sides]
    if any(quantized) and not all(quantized):
        which = "input" if quantized[1] else "kernel"
        yield "both-inputs", f"its {which} is float"


def _addition(node: Any, links: Links) -> Iterator[tuple[str, str]]:
    if any(links.value(name) is not None for name in node.input):
        return
    sides = [links.source(name) for name in node.input]
    quantized = [side is not None and side.op_type == DEQUANTIZE for side in sides]
    if any(quantized) and not all(quantized):
        yield "residual", "one that is float"
