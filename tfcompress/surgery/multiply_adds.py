"""How many multiply-adds one call of a layer or operation costs.

Counted are the products that convolutions, Dense, EinsumDense, recurrent and attention layers and
matrix products sum up, padding included, as published counts have it. Biases, activations,
normalisation, pooling and element-wise arithmetic count as nothing.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import tree

Shape = tuple[int | None, ...]
# (layer or operation, shapes of its inputs, shapes of its outputs) -> multiply-adds
Rule = Callable[[Any, Sequence[Shape], Sequence[Shape]], int]


def rule_of(operation: Any) -> Rule | None:
    """How the calls of a layer or operation are counted; None where it is not known."""
    table = _rules()
    for cls in operation.__class__.__mro__:
        if cls in table:
            rule = table[cls]
            return None if rule is _recurrent and not _has_known_cells(operation) else rule
    return None


def multiply_adds(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Multiply-adds of one call; sizes that are not known count as 1, the batch too.

    Args:
        operation: a layer or operation with a rule; without one it counts as 0.
        inputs: shapes of its operands (see `operands`), with the batch axis.
        outputs: shapes of what it gives.
    """
    rule = rule_of(operation)
    return 0 if rule is None else rule(operation, inputs, outputs)


def all_multiply_adds(layer: Any, calls: Sequence[Any]) -> int:
    """Multiply-adds of a layer over all its calls, whose first input it computes with."""
    return sum(
        multiply_adds(layer, [call.inputs[0].shape], [call.results[0].shape]) * call.results[0].rows
        for call in calls
    )


def call_multiply_adds(operation: Any, args: Any, kwargs: Any, results: Sequence[Any]) -> int:
    """Multiply-adds of a call, given its arguments and results: tensors, or what has a shape."""
    if rule_of(operation) is None:
        return 0
    shapes = [
        [shape_of(one) for one in some] for some in (operands(operation, args, kwargs), results)
    ]
    return multiply_adds(operation, *shapes)


def operands(operation: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """What a call computes with, in the order of its parameters: tensors and constant arrays.

    Masks, which cost nothing, are left out.
    """
    signature = inspect.signature(operation.call)
    known = {name: one for name, one in kwargs.items() if name in signature.parameters}
    given = signature.bind_partial(*args, **known).arguments
    return [
        one
        for name, nest in given.items()
        if "mask" not in name
        for one in tree.flatten(nest)
        if hasattr(one, "shape")
    ]


def shape_of(tensor: Any) -> Shape:
    """The shape of a tensor or an array; () where not even its rank is known."""
    return () if getattr(tensor.shape, "rank", 0) is None else tuple(tensor.shape)


def size(shape: Sequence[int | None]) -> int:
    """How many elements a tensor of that shape has; sizes that are not known count as 1."""
    return math.prod(1 if one is None else int(one) for one in shape)


def einsum_multiply_adds(equation: str, shapes: Sequence[Shape]) -> int:
    """Multiply-adds of an einsum: the product of the sizes of all its letters.

    `"abc,cd->abd"` on (1, 4, 5) and (5, 6) is 1 * 4 * 5 * 6.
    """
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.partition("...")
        middle = len(shape) - len(before) - len(after)
        # The axes under the dots are counted from their end, as they broadcast.
        names = [*before, *(f"...{middle - i}" for i in range(middle if dots else 0)), *after]
        for name, one in zip(names, shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), 1 if one is None else int(one))
    return math.prod(sizes.values())


def _spatial(layer: Any, shape: Shape) -> int:
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return size((shape[0], *(shape[2:] if first else shape[1:-1])))


def _convolution(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    # A grouped kernel holds a share of the input channels only: its size says it all.
    return size(layer.kernel.shape) * _spatial(layer, outputs[0])


def _transposed(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return size(layer.kernel.shape) * _spatial(layer, inputs[0])


def _separable(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    weights = size(layer.depthwise_kernel.shape) + size(layer.pointwise_kernel.shape)
    return weights * _spatial(layer, outputs[0])


def _dense(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return size(layer.kernel.shape) * size(inputs[0][:-1])


def _einsum_dense(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return einsum_multiply_adds(layer.equation, [inputs[0], tuple(layer.kernel.shape)])


def attention_multiply_adds(
    layer: Any, inputs: Sequence[Shape], widths: Sequence[int] | None = None
) -> int:
    """Of MultiHeadAttention and GroupQueryAttention.

    Four projections, the scores, and the values that they weigh.

    Args:
        layer: the layer.
        inputs: shapes of query, value and, where it is another, key.
        widths: of the keys and of the values of a head, if they were others than the layer's.
    """
    query, value, key = _attended(inputs)
    dense = (layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense)
    q, k, v, o = (size(one.kernel.shape) for one in dense)
    heads, own = dense[0].kernel.shape[1:]
    deep = dense[2].kernel.shape[2]
    targets, sources = size(query[:-1]), size(value[:-1])
    # Sources that each target sees: those along the attention axes.
    seen = size([value[axis] for axis in getattr(layer, "_attention_axes", (1,))])
    by_key = (q * targets + k * size(key[:-1])) // own + targets * seen * heads
    by_value = (o * targets + v * sources) // deep + targets * seen * heads
    gate = getattr(layer, "_gate_dense", None)
    gating = 0 if gate is None else size(gate.kernel.shape) * targets
    width, depth = widths or (own, deep)
    return by_key * width + by_value * depth + gating


def _attention(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return attention_multiply_adds(layer, inputs)


def _attended(inputs: Sequence[Shape]) -> tuple[Shape, Shape, Shape]:
    """Shapes of query, value and key."""
    query, value = inputs[:2]
    return query, value, inputs[2] if len(inputs) > 2 else value


def _dot_attention(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Attention and AdditiveAttention: a product or a sum of as many terms for each score."""
    query, value, key = _attended(inputs)
    pairs = size(query[:-1]) * size(value[1:-1])
    return pairs * (size(key[-1:]) + size(value[-1:]))


def _cells(layer: Any) -> Sequence[Any]:
    return layer.cell.cells if hasattr(layer.cell, "cells") else [layer.cell]


def _has_known_cells(layer: Any) -> bool:
    from keras import layers

    known = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
    return all(isinstance(cell, known) for cell in _cells(layer))


def _recurrent(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    weights = sum(
        size(cell.kernel.shape) + size(cell.recurrent_kernel.shape) for cell in _cells(layer)
    )
    return weights * size(inputs[0][:2])


def _convolutional_recurrent(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    cell = layer.cell
    weights = size(cell.kernel.shape) + size(cell.recurrent_kernel.shape)
    image = outputs[0]
    if layer.return_sequences:
        image = (image[0], *image[2:])
    return weights * size(inputs[0][1:2]) * _spatial(layer, image)


def _bidirectional(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    directions = (layer.forward_layer, layer.backward_layer)
    return sum(multiply_adds(one, inputs, outputs) for one in directions)


def _time_distributed(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    one = [(shape[0], *shape[2:]) for shape in (inputs[0], outputs[0])]
    return size(inputs[0][1:2]) * multiply_adds(layer.layer, one[:1], one[1:])


def _dot_layer(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    axes = layer.axes if isinstance(layer.axes, (tuple, list)) else (layer.axes,)
    return size(outputs[0]) * size((inputs[0][axes[0]],))


def _last_axis(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Matmul, dot and inner: the last axis of the first operand is summed over."""
    return size(outputs[0]) * size(inputs[0][-1:])


def _einsum(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return einsum_multiply_adds(operation.subscripts, inputs)


def _tensordot(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    axes, first = operation.axes, inputs[0]
    if isinstance(axes, int):
        return size(outputs[0]) * size(first[len(first) - axes :])
    summed = axes[0] if isinstance(axes[0], (tuple, list)) else [axes[0]]
    return size(outputs[0]) * size([first[axis] for axis in summed])


def _vdot(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return size(inputs[0])


def _attention_operation(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    query, key, value = inputs[:3]  # (batch, sequence, heads, size) each
    return size(query[:-1]) * size((value[1],)) * (size(key[-1:]) + size(value[-1:]))


def _reversible(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """A table that is looked up costs nothing; read the other way it is a Dense layer."""
    backwards = len(inputs[0]) == len(outputs[0])
    return size(outputs[0]) * layer.output_dim if backwards else 0


def _convolution_operation(
    operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> int:
    return size(inputs[1]) * _spatial(operation, outputs[0])


def _transposed_operation(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return size(inputs[1]) * _spatial(operation, inputs[0])


def _separable_operation(operation: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return (size(inputs[1]) + size(inputs[2])) * _spatial(operation, outputs[0])


@functools.cache
def _rules() -> dict[type, Rule]:
    from keras import layers
    from keras.src.ops import nn, numpy  # the classes of operations are not public

    table: dict[type, Rule] = {
        layers.Dense: _dense,
        layers.EinsumDense: _einsum_dense,
        layers.Dot: _dot_layer,
        layers.Bidirectional: _bidirectional,
        layers.TimeDistributed: _time_distributed,
        layers.MultiHeadAttention: _attention,
        layers.GroupQueryAttention: _attention,
        layers.Attention: _dot_attention,
        numpy.Matmul: _last_axis,
        numpy.Dot: _last_axis,
        numpy.Inner: _last_axis,
        numpy.Einsum: _einsum,
        numpy.Tensordot: _tensordot,
        numpy.Vdot: _vdot,
        nn.Conv: _convolution_operation,
        nn.DepthwiseConv: _convolution_operation,
        nn.SeparableConv: _separable_operation,
        nn.ConvTranspose: _transposed_operation,
        nn.DotProductAttention: _attention_operation,
    }
    for name, rule in (
        ("Conv{}D", _convolution),
        ("Conv{}DTranspose", _transposed),
        ("DepthwiseConv{}D", _convolution),
        ("SeparableConv{}D", _separable),
        ("ConvLSTM{}D", _convolutional_recurrent),
    ):
        for rank in (1, 2, 3):
            cls = getattr(layers, name.format(rank), None)
            if cls is not None:
                table[cls] = rule
    if hasattr(layers, "ReversibleEmbedding"):
        table[layers.ReversibleEmbedding] = _reversible
    table |= dict.fromkeys((layers.LSTM, layers.GRU, layers.SimpleRNN, layers.RNN), _recurrent)
    return table
