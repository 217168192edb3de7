"""Layers with kernels."""

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
    check_channels_last,
    for_layers,
    one_float,
)

layers = keras.layers


@for_layers(layers.Dense)
def _dense(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    kernel = array(layer.kernel)
    y = b.linear(
        x, "conv", kernel[None, None], array(layer.bias), (*x.shape[:-1], layer.units),
        tail=(layer.units,), owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@for_layers(layers.EinsumDense)
def _einsum_dense(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    equation = layer.equation.replace(" ", "")
    operands, output = equation.split("->")
    source, weights = operands.split(",")
    summed = [axis for axis in weights if axis not in output]
    made = [axis for axis in weights if axis in output]
    count = len(summed)
    fits = (
        count
        and source.endswith("".join(summed))
        and weights == "".join(summed + made)
        and output == source[:-count] + "".join(made)
    )
    if not fits:
        raise Unsupported(f"its equation {layer.equation!r} is no dense layer on the last axes")
    kernel = array(layer.kernel)
    tail = kernel.shape[count:]
    kernel = kernel.reshape(int(np.prod(kernel.shape[:count])), -1)
    bias = array(layer.bias)
    if bias is not None:
        bias = np.broadcast_to(bias, tail).reshape(-1)
    y = b.linear(
        x, "conv", kernel[None, None], bias, (*x.shape[:-count], *tail),
        tail=tail, contracted=count, owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@for_layers(layers.Conv2D)
def _conv2d(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    check_channels_last(layer)
    kind, kernel = "conv", array(layer.kernel)
    if (
        layer.groups > 1 and layer.groups == x.shape[-1]
    ):  # What ConvNeXt calls a depthwise convolution.
        _equal_strides(layer.strides)
        kind, kernel = "depthwise", kernel.reshape(*kernel.shape[:2], layer.groups, -1)
    elif layer.groups != 1:
        raise Unsupported("grouped convolutions have no gradient on TensorFlow's CPU")
    y = b.linear(
        x, kind, kernel, array(layer.bias), call.outputs.shape,
        strides=layer.strides, padding=layer.padding.upper(), dilations=layer.dilation_rate,
        owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@for_layers(layers.Conv1D)
def _conv1d(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    check_channels_last(layer)
    if layer.groups != 1:
        raise Unsupported("grouped convolutions have no gradient on TensorFlow's CPU")
    padding = layer.padding.upper()
    if padding == "CAUSAL":
        before = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        pad = layers.ZeroPadding1D((before, 0), name=f"{layer.name}_pad")
        length = x.shape[1] and x.shape[1] + before
        x, padding = b.kept(pad, x, shape=(x.shape[0], length, x.shape[2])), "VALID"
    y = b.linear(
        x, "conv", array(layer.kernel)[None], array(layer.bias), call.outputs.shape,
        strides=(1, *layer.strides), padding=padding,
        dilations=(1, *layer.dilation_rate), lifted=True, owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


def _equal_strides(strides: Sequence[int]) -> None:
    if len(set(strides)) > 1:
        raise Unsupported("depthwise kernels need equal strides")


@for_layers(layers.DepthwiseConv2D)
def _depthwise2d(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    check_channels_last(layer)
    _equal_strides(layer.strides)
    y = b.linear(
        x, "depthwise", array(layer.kernel), array(layer.bias), call.outputs.shape,
        strides=layer.strides, padding=layer.padding.upper(), dilations=layer.dilation_rate,
        owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@for_layers(layers.DepthwiseConv1D)
def _depthwise1d(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    check_channels_last(layer)
    stride = layer.strides[0]
    y = b.linear(
        x, "depthwise", array(layer.kernel)[None], array(layer.bias), call.outputs.shape,
        strides=(stride, stride), padding=layer.padding.upper(),
        dilations=(1, *layer.dilation_rate), lifted=True, owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)


@for_layers(layers.SeparableConv2D, layers.SeparableConv1D)
def _separable(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    check_channels_last(layer)
    _equal_strides(layer.strides)
    depthwise, pointwise = array(layer.depthwise_kernel), array(layer.pointwise_kernel)
    strides, rates = layer.strides, layer.dilation_rate
    options: dict[str, Any] = {}
    if depthwise.ndim == 3:
        depthwise, pointwise = depthwise[None], pointwise[None]
        strides, rates = (strides[0], strides[0]), (1, *rates)
        options = {"lifted": True}
    middle = (*call.outputs.shape[:-1], pointwise.shape[2])
    x = b.linear(
        x, "depthwise", depthwise, None, middle, strides=strides,
        padding=layer.padding.upper(), dilations=rates, owner=layer, **options,
    )  # fmt: skip
    y = b.linear(
        x, "conv", pointwise, array(layer.bias), call.outputs.shape, owner=layer, **options
    )
    return b.activation(y, layer.activation)


@for_layers(layers.Conv2DTranspose)
def _transposed(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    check_channels_last(layer)
    if layer.output_padding is not None or set(layer.dilation_rate) != {1}:
        raise Unsupported("output_padding and dilation of a transposed convolution do not convert")
    y = b.linear(
        x, "transpose", array(layer.kernel), array(layer.bias), call.outputs.shape,
        strides=layer.strides, padding=layer.padding.upper(), owner=layer,
    )  # fmt: skip
    return b.activation(y, layer.activation)
