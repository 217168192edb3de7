"""A factor and a shift for each channel."""

from __future__ import annotations

import keras
import numpy as np

from tfcompress.graph.flow import Call, Value
from tfcompress.quantization.lowering.builder import Lowering, Unsupported, for_layers, one_float

layers = keras.layers


@for_layers(layers.BatchNormalization)
def _batchnorm(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    if axis not in (-1, len(x.shape) - 1):
        raise Unsupported("a BatchNormalization on another axis than the last")
    mean, variance = (
        keras.ops.convert_to_numpy(v).astype(np.float64)
        for v in (layer.moving_mean, layer.moving_variance)
    )
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * keras.ops.convert_to_numpy(layer.gamma)
    shift = -mean * scale
    if layer.center:
        shift = shift + keras.ops.convert_to_numpy(layer.beta)
    return b.affine(x, scale, shift, layer)


@for_layers(layers.Rescaling)
def _rescaling(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    return b.affine(x, layer.scale, layer.offset)


@for_layers(layers.Normalization)
def _normalization(b: Lowering, call: Call) -> Value:
    layer, x = call.operation, one_float(call)
    mean, variance = np.asarray(layer.mean), np.asarray(layer.variance)
    if layer.invert or any(np.size(v) not in (1, x.shape[-1]) for v in (mean, variance)):
        raise Unsupported("a Normalization of other axes than the last, or an inverted one")
    scale = 1 / np.maximum(np.sqrt(variance), keras.backend.epsilon())
    return b.affine(x, scale, -mean * scale)
