"""Products alone in integers, as islands in a float graph: the scheme `"int8-matmul"`."""

from __future__ import annotations

from typing import Any

from keras import layers

from tfcompress.graph.flow import Flow

PRODUCTS = (
    layers.Dense,
    layers.EinsumDense,
    layers.MultiHeadAttention,
    layers.Embedding,  # and its subclass ReversibleEmbedding
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
# A factor behind a product, and what moves values or does nothing at inference.
BETWEEN = (
    layers.Rescaling,
    layers.Reshape,
    layers.Permute,
    layers.Flatten,
    layers.Identity,
    layers.Dropout,
    layers.Activation,  # ReLU goes into the product before it; others stay float
    layers.ReLU,
)
OPERATIONS = {"Matmul", "Reshape", "Transpose", "Swapaxes", "Moveaxis", "Squeeze", "ExpandDims"}
KINDS = {"matmul", "transpose"}
"""Rows of `PRIMITIVES` that are computed in integers."""

BOUNDARIES = {"quantize", "dequantize", "requantize"}
"""Rows that lead from floats to integers and back."""

_REASON = "float, as the scheme has products alone in integers"


def left_float(flow: Flow) -> dict[int, str]:
    """`id` of each layer and operation that is to stay float, to the reason."""
    return {id(call.operation): _REASON for call in flow.calls if not _belongs(call.operation)}


def _belongs(operation: Any) -> bool:
    if isinstance(operation, layers.Layer):
        return isinstance(operation, (*PRODUCTS, *BETWEEN))
    return type(operation).__name__ in OPERATIONS
