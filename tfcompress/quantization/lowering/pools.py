"""Pools, reductions, and what only moves values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np

from tfcompress.graph.flow import Call, Value
from tfcompress.quantization.arithmetic.reductions import LARGEST_SUM, LARGEST_WIDE_SUM
from tfcompress.quantization.lowering.builder import (
    Lowering,
    Unsupported,
    check_channels_last,
    for_layers,
    for_operations,
    one_float,
)

layers = keras.layers


NARROW = ("RepeatVector", "UpSampling1D", "UpSampling2D", "Repeat", "Flip")
"""What becomes TILE or REVERSE_V2: the converter has 8 bits only of these."""


def _mean_of(b: Lowering, call: Call, axes: Sequence[int], keepdims: bool) -> Value:
    x = one_float(call)
    if any(x.shape[axis] is None for axis in axes):
        raise Unsupported("it averages over an axis of unknown size")
    # Beyond these the kernels' own sums overflow, or float32 does not hold ours.
    most = LARGEST_WIDE_SUM if b.bits == 16 else LARGEST_SUM
    count = math.prod(x.shape[axis] or 1 for axis in axes)
    if count > most:
        raise Unsupported(f"it averages {count:,} values, and {most:,} are the most in integers")
    return b.op("mean", [x], call.outputs.shape, axes=list(axes), keepdims=bool(keepdims))


@for_layers(layers.GlobalAveragePooling2D)
def _global_average(b: Lowering, call: Call) -> Value:
    check_channels_last(call.operation)
    return _mean_of(b, call, (1, 2), call.operation.keepdims)


@for_layers(layers.GlobalAveragePooling1D)
def _global_average_1d(b: Lowering, call: Call) -> Value:
    check_channels_last(call.operation)
    if call.kwargs.get("mask") is not None or call.inputs[0].masked:
        raise Unsupported("an average over a mask")
    return _mean_of(b, call, (1,), call.operation.keepdims)


@for_operations("Mean")
def _mean(b: Lowering, call: Call) -> Value:
    operation, x = call.operation, one_float(call)
    axis = operation.axis
    given = range(len(x.shape)) if axis is None else [int(a) for a in np.atleast_1d(axis)]
    axes = sorted(a % len(x.shape) for a in given)
    if 0 in axes:
        raise Unsupported("a mean over the batch")
    return _mean_of(b, call, axes, operation.keepdims)


@for_layers(layers.AveragePooling2D)
def _average_pool(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    check_channels_last(layer)
    if None in x.shape[1:3]:
        raise Unsupported("an average pool of images of unknown size")
    return b.op(
        "average_pool", [x], call.outputs.shape, size=list(layer.pool_size),
        strides=list(layer.strides), padding=layer.padding.upper(),
    )  # fmt: skip


@for_layers(layers.MaxPooling1D, layers.MaxPooling2D)
@for_layers(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D)
@for_layers(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping1D, layers.Cropping2D)
@for_layers(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector)
@for_layers(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D)
@for_layers(layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout)
@for_layers(layers.Identity, layers.ActivityRegularization, layers.UpSampling1D)
@for_operations("Reshape", "Transpose", "Squeeze", "ExpandDims", "GetItem", "Max", "Flip", "Repeat")
@for_operations("Split", "StochasticDepth", "Identity", "Ravel", "Swapaxes", "Moveaxis", "MaxPool")
def _move(b: Lowering, call: Call) -> Value:
    one_float(call)
    if b.bits == 16 and type(call.operation).__name__ in NARROW:
        raise Unsupported("the converter has no 16-bit form of it")
    return b.keep(moves=True)


@for_layers(layers.UpSampling2D)
def _upsample(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    check_channels_last(layer)
    if layer.interpolation == "nearest":
        return _move(b, call)
    if layer.interpolation != "bilinear" or None in call.outputs.shape[1:3]:
        raise Unsupported(f"{layer.interpolation} upsampling")
    return b.op("resize_bilinear", [x], call.outputs.shape, size=list(call.outputs.shape[1:3]))
