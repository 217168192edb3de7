"""Linear layers as matrices: what they read as rows, their kernels, and their biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.surgery.channels.linear import spelled
from tfcompress.surgery.overriding import computes_as
from tfcompress.surgery.rewriting import plain_kernels


@dataclass(frozen=True)
class LinearPart:
    """What a layer computes before its bias and activation: rows @ matrix.

    Attributes:
        layer: the layer whose weights these are; of attention, the projection of its output.
        kernel: its weight; of a separable convolution, the pointwise one.
        rows: (a tensor that the layer read, numbers of rows) -> (rows, features) of float32.
        count: how many rows an example has.
        to_matrix: (kernel) -> (features, outputs).
        to_kernel: the inverse.
    """

    layer: Any
    kernel: Any
    rows: Callable[[Any, np.ndarray], np.ndarray]
    count: int
    to_matrix: Callable[[np.ndarray], np.ndarray]
    to_kernel: Callable[[np.ndarray], np.ndarray]

    @property
    def matrix(self) -> np.ndarray:
        """(features, outputs) of float64."""
        return self.to_matrix(np.asarray(self.kernel, np.float64))

    @property
    def bias(self) -> np.ndarray | None:
        """(outputs,), or None where the layer has none or one of another form."""
        if self.layer.bias is None:
            return None
        flat = np.asarray(self.layer.bias, np.float64).reshape(-1)
        return flat if len(flat) == self.matrix.shape[1] else None

    def assign(self, matrix: np.ndarray, bias: np.ndarray | None) -> None:
        """Sets the weights."""
        self.kernel.assign(self.to_kernel(matrix).astype(self.kernel.dtype))
        if bias is not None:
            self.layer.bias.assign(bias.reshape(self.layer.bias.shape))


def linear_part(operation: Any, shape: tuple[int, ...]) -> LinearPart | None:
    """The linear part of a layer that reads a tensor of this shape; None where it has none.

    Args:
        operation: what is called.
        shape: of what the linear part reads, batch axis first.
    """
    layer = getattr(operation, "_output_dense", operation)
    if not isinstance(layer, keras.Layer) or plain_kernels(layer):
        return None  # nor where its kernel is no variable, as with LoRA
    if type(layer) is layers.TimeDistributed:
        return _distributed(layer, shape)
    if computes_as(layer, layers.Conv1D, layers.Conv2D, layers.Conv3D):
        return None if layer.groups > 1 else _convolution(layer, shape)
    if computes_as(layer, layers.SeparableConv1D, layers.SeparableConv2D):
        return _separable(layer, shape)
    if computes_as(layer, layers.Dense):
        return _dense(layer, shape)
    if computes_as(layer, layers.EinsumDense):
        return _einsum(layer, shape)
    return None


def _dense(layer: Any, shape: tuple[int, ...]) -> LinearPart:
    def rows(value: Any, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(value, np.float32).reshape(-1, shape[-1])[numbers]

    return LinearPart(
        layer, layer.kernel, rows, int(np.prod(shape[1:-1])), lambda k: k, lambda m: m
    )


def _distributed(layer: Any, shape: tuple[int, ...]) -> LinearPart | None:
    """Each step is an example to the layer inside."""
    attention = hasattr(layer.layer, "_output_dense")  # which reads something else than its part
    part = None if attention else linear_part(layer.layer, (shape[0], *shape[2:]))
    if part is None:
        return None
    return replace(
        part,
        rows=lambda value, numbers: part.rows(np.reshape(value, (-1, *shape[2:])), numbers),
        count=shape[1] * part.count,
    )


def _separable(layer: Any, shape: tuple[int, ...]) -> LinearPart:
    first = layer.data_format == "channels_first"

    def depthwise(value: Any) -> np.ndarray:
        result = keras.ops.depthwise_conv(
            keras.ops.cast(value, layer.depthwise_kernel.dtype),
            layer.depthwise_kernel,
            layer.strides[0] if len(set(layer.strides)) == 1 else layer.strides,
            layer.padding,
            layer.data_format,
            layer.dilation_rate,
        )
        array = np.asarray(result, np.float32)
        return np.moveaxis(array, 1, -1) if first else array

    example = depthwise(np.zeros((1, *shape[1:]), np.float32))
    kernel_shape = tuple(layer.pointwise_kernel.shape)
    return LinearPart(
        layer,
        layer.pointwise_kernel,
        lambda value, numbers: depthwise(value).reshape(-1, example.shape[-1])[numbers],
        int(np.prod(example.shape[1:-1])),
        lambda k: k.reshape(-1, kernel_shape[-1]),
        lambda m: m.reshape(kernel_shape),
    )


def _einsum(layer: Any, shape: tuple[int, ...]) -> LinearPart | None:
    operands, output = layer.equation.replace(" ", "").split("->")
    source, kernel = operands.split(",")
    if "." in kernel:
        return None
    names = spelled(source, len(shape))
    summed = [n for n in kernel if n in names and n not in output]
    made = [n for n in kernel if n not in names]
    others = [n for n in names if n not in summed]
    if len(summed) + len(made) != len(kernel) or others[0] != names[0]:
        return None  # some of the kernel's axes are batches
    if [n for n in output.replace(".", "") if n in made] != made:
        return None
    order = [names.index(n) for n in (*others, *summed)]
    axes = [kernel.index(n) for n in (*summed, *made)]
    sizes = [layer.kernel.shape[a] for a in axes]
    features = int(np.prod(sizes[: len(summed)]))

    def rows(value: Any, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(value, np.float32).transpose(order).reshape(-1, features)[numbers]

    return LinearPart(
        layer,
        layer.kernel,
        rows,
        int(np.prod([shape[names.index(n)] for n in others[1:]])),
        lambda k: k.transpose(axes).reshape(features, -1),
        lambda m: m.reshape(sizes).transpose(np.argsort(axes)),
    )


def _convolution(layer: Any, shape: tuple[int, ...]) -> LinearPart | None:
    size = layer.kernel_size
    first = layer.data_format == "channels_first"
    space = shape[2:] if first else shape[1:-1]
    before, counts = [], []
    for length, kernel, stride, dilation in zip(
        space, size, layer.strides, layer.dilation_rate, strict=True
    ):
        reach = (kernel - 1) * dilation
        if layer.padding == "same":
            count = -(-length // stride)
            before.append(max((count - 1) * stride + reach + 1 - length, 0) // 2)
        elif layer.padding == "causal":
            count = -(-length // stride)
            before.append(reach)
        else:
            count = (length - reach - 1) // stride + 1
            before.append(0)
        counts.append(count)
    inside = layer.kernel.shape[-2]

    def rows(value: Any, numbers: np.ndarray) -> np.ndarray:
        array = np.asarray(value, np.float32)
        array = np.moveaxis(array, 1, -1) if first else array
        example, *places = np.unravel_index(numbers, (len(array), *counts))
        window = np.zeros((len(numbers), *size, inside), np.float32)
        for offset in np.ndindex(*size):
            at = [
                index * stride - pad + o * dilation
                for index, stride, pad, o, dilation in zip(
                    places, layer.strides, before, offset, layer.dilation_rate, strict=True
                )
            ]
            within = np.logical_and.reduce(
                [(a >= 0) & (a < length) for a, length in zip(at, space, strict=True)]
            )
            source = (example[within], *(a[within] for a in at))
            place = (within, *offset)
            window[place] = array[source]
        return window.reshape(len(numbers), -1)

    kernel_shape = tuple(layer.kernel.shape)
    return LinearPart(
        layer,
        layer.kernel,
        rows,
        int(np.prod(counts)),
        lambda k: k.reshape(-1, kernel_shape[-1]),
        lambda m: m.reshape(kernel_shape),
    )
