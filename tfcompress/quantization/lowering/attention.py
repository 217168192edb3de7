"""Attention and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.graph.flow import Call, Value
from tfcompress.quantization.lowering.builder import (
    Lowering,
    Unsupported,
    array,
    for_layers,
    for_operations,
    one_float,
)

layers = keras.layers


@for_layers(layers.MultiHeadAttention)
def _attention(b: Lowering, call: Call) -> Value:
    """Projections and both products in int8, the softmax between them in float."""
    layer = call.operation
    values = call.inputs
    asked = {k: v for k, v in call.kwargs.items() if k not in ("training", "query", "value", "key")}
    if any(v is not None and v is not False for v in asked.values()):
        raise Unsupported(f"attention with {sorted(k for k, v in asked.items() if v)}")
    if any(v.masked for v in values):
        raise Unsupported("attention under a Keras mask")
    if len(call.args) > 3 or any(not v.dtype.startswith("float") for v in values):
        raise Unsupported("attention with a mask")
    if layer._attention_axes not in (None, (1,), [1]) or len(values[0].shape) != 3:
        raise Unsupported("attention over other axes than that of a sequence")
    query = _named(call, 0, "query")
    value = _named(call, 1, "value")
    key = _named(call, 2, "key") or value
    heads, size = layer.num_heads, layer.key_dim
    projected = []
    for x, dense, width in (
        (query, layer._query_dense, size),
        (key, layer._key_dense, size),
        (value, layer._value_dense, layer.value_dim),
    ):
        y = _projected(b, x, dense, (heads, width))
        shape = (y.shape[0], heads, y.shape[1], width)
        projected.append(b.op("transpose", [y], shape, perm=[0, 2, 1, 3]))
    q, k, v = projected
    weights_shape = (q.shape[0], heads, q.shape[2], k.shape[2])
    scores = b.op("matmul", [q, k], weights_shape, adjoint_b=True)
    weights = b.op("attention_weights", [scores], weights_shape, factor=float(size**-0.5))
    if layer.dropout:
        weights = b.kept(layer._dropout_layer, weights)
    mixed = b.op("matmul", [weights, v], (*q.shape[:3], layer.value_dim), adjoint_b=False)
    back = (q.shape[0], q.shape[2], heads, layer.value_dim)
    mixed = b.op("transpose", [mixed], back, perm=[0, 2, 1, 3])
    kernel = array(layer._output_dense.kernel)
    if kernel.ndim != 3:
        raise Unsupported("attention with an output of several axes")
    return _projected(b, mixed, layer._output_dense, (kernel.shape[-1],), contracted=2)


@for_operations("Matmul")
def _matmul(b: Lowering, call: Call) -> Value:
    given = [*call.args, *call.kwargs.values()]
    if len(given) != 2 or not all(isinstance(v, Value) for v in given):
        raise Unsupported("one of its operands is a constant")
    left, right = given
    if left is right:
        raise Unsupported("both operands are one tensor")
    if any(not v.dtype.startswith(("float", "bfloat")) for v in given):
        raise Unsupported("it computes on whole numbers")
    batches = zip(left.shape[1:-2], right.shape[1:-2], strict=False)
    if (
        len(left.shape) != len(right.shape)
        or len(left.shape) < 3
        or any(one != other and 1 not in (one, other) for one, other in batches)
    ):
        raise Unsupported("a product of tensors that are not (batch, [heads,] rows, columns)")
    return b.op("matmul", [left, right], call.outputs.shape, adjoint_b=False)


def _named(call: Call, position: int, name: str) -> Any:
    if len(call.args) > position:
        return call.args[position]
    return call.kwargs.get(name)


def _projected(
    b: Lowering, x: Value, dense: Any, tail: Sequence[int], contracted: int = 1
) -> Value:
    kernel, bias = array(dense.kernel), array(dense.bias)
    kernel = kernel.reshape(int(np.prod(kernel.shape[:contracted])), -1)
    shape = (*x.shape[:-contracted], *tail)
    return b.linear(
        x, "conv", kernel[None, None], None if bias is None else bias.reshape(-1), shape,
        tail=tuple(tail), contracted=contracted, owner=dense,
    )  # fmt: skip


@for_layers(layers.Embedding)
def _embedding(b: Lowering, call: Call) -> Value:
    (tokens,) = call.inputs
    if call.operation.mask_zero:
        raise Unsupported("an embedding that makes a mask")
    if b.bits == 16:
        raise Unsupported("its table has no 16-bit form")
    return b.table(tokens, array(call.operation.embeddings), call.outputs.shape, call.operation)


def _reversible(b: Lowering, call: Call) -> Value:
    """Rows of a table, or scores of all rows: then its transpose is a kernel of its own."""
    layer = call.operation
    if not (call.kwargs.get("reverse") or (len(call.args) > 1 and call.args[1])):
        return _embedding(b, call)
    if layer.logit_soft_cap is not None:
        raise Unsupported("scores with a soft cap")
    x = one_float(call)
    kernel = array(layer.embeddings).T if layer.tie_weights else array(layer.reverse_embeddings)
    return b.linear(
        x, "conv", kernel[None, None], None, (*x.shape[:-1], kernel.shape[1]),
        tail=(kernel.shape[1],), owner=layer,
    )  # fmt: skip


if hasattr(layers, "ReversibleEmbedding"):  # since Keras 3.13
    for_layers(layers.ReversibleEmbedding)(_reversible)
