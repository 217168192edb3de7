"""Means over the image in the form that sparse kernels take, with the same outputs.

- Behind a mean with keepdims=True, or an average pooling over the whole image, a 1x1 convolution
  is a Dense layer, and Flatten does nothing.
- A mean that is reshaped to (1, 1, channels), as squeeze-and-excite is often written, is a mean
  with keepdims=True.
"""

from __future__ import annotations

from typing import Any, Final

import keras
import numpy as np
from keras import layers

from tfcompress.graph.calls import Calls
from tfcompress.graph.copying import Replacement
from tfcompress.graph.state import same_activations
from tfcompress.surgery.rewriting import resizable_config

_AS_THEY_ARE: Final = (layers.Dropout, layers.Activation, layers.ReLU, layers.Dense)
"""Layers that compute the same on (batch, features) as on (batch, 1, 1, features)."""

_SHARED_BY_DENSE: Final = (
    *("name", "trainable", "dtype", "activation", "use_bias", "activity_regularizer"),
    *("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    *("bias_initializer", "bias_regularizer", "bias_constraint"),
)


def head_replacements(calls: Calls) -> dict[int, Replacement]:
    """Replacements for means over the image and what follows them up to Flatten."""
    found: dict[int, Replacement] = {}
    for layer in calls.layers:
        if len(calls.of(layer)) != 1 or getattr(layer, "data_format", "") != "channels_last":
            continue
        ((x, y),) = calls.of(layer)
        if type(layer) is layers.GlobalAveragePooling2D and not layer.keepdims:
            found |= _gate(calls, layer, y)
        elif type(layer) is layers.GlobalAveragePooling2D or _is_whole(layer, x, y):
            found |= _head(calls, layer, y)
    return found


def _is_whole(layer: keras.Layer, x: Any, y: Any) -> bool:
    """Whether a layer is an average pooling over the whole image."""
    return (
        type(layer) is layers.AveragePooling2D
        and tuple(layer.pool_size) == tuple(x.shape[1:3])
        and tuple(y.shape[1:3]) == (1, 1)
    )


def _gate(calls: Calls, mean: keras.Layer, y: Any) -> dict[int, Replacement]:
    reshape = calls.only_reader(y)
    if type(reshape) is not layers.Reshape or _target(reshape, y) != (1, 1, y.shape[-1]):
        return {}
    new = layers.GlobalAveragePooling2D.from_config({**mean.get_config(), "keepdims": True})
    return {
        id(mean): Replacement([new], why="keepdims=True"),
        id(reshape): Replacement([], why=f"'{mean.name}' keeps the dimensions itself"),
    }


def _head(calls: Calls, start: keras.Layer, y: Any) -> dict[int, Replacement]:
    """The layers from a mean to the Flatten behind it, as they are on (batch, features)."""
    shared = {key: start.get_config()[key] for key in ("name", "dtype", "trainable")}
    mean = layers.GlobalAveragePooling2D(data_format="channels_last", keepdims=False, **shared)
    found = {id(start): Replacement([mean], why="GlobalAveragePooling2D(keepdims=False)")}
    needed = type(start) is layers.AveragePooling2D
    reader = calls.only_reader(y)
    while reader is not None:
        ((_, y),) = calls.of(reader) if isinstance(reader, keras.Layer) else [(None, None)]
        if _flattens(reader, y):
            found[id(reader)] = Replacement([], why="there is nothing left to flatten")
            return found if needed else {}
        if type(reader) is layers.Conv2D and _is_dense(reader):
            found[id(reader)] = _dense(reader)
            needed = True
        elif type(reader) is layers.BatchNormalization and reader.axis in (-1, 3):
            # On (batch, features) the channels are the last axis still, but no longer axis 3.
            new = layers.BatchNormalization.from_config({**reader.get_config(), "axis": -1})
            found[id(reader)] = Replacement([new], reader.get_weights(), "on features")
            needed = True
        elif type(reader) in _AS_THEY_ARE:
            if getattr(reader, "noise_shape", None) is not None:
                return {}
            needed = needed or type(reader) is not layers.Dropout
        else:
            return {}
        reader = calls.only_reader(y)
    return {}


def _flattens(layer: Any, y: Any) -> bool:
    """Whether a layer makes (batch, features) of (batch, 1, 1, features)."""
    return type(layer) in (layers.Flatten, layers.Reshape) and len(y.shape) == 2


def _target(reshape: keras.Layer, x: Any) -> tuple[int, ...]:
    return tuple(reshape.compute_output_shape(x.shape)[1:])


def _is_dense(layer: keras.Layer) -> bool:
    """Whether a convolution is a Dense layer on an image of one pixel."""
    return (
        tuple(layer.kernel_size) == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and not getattr(layer, "lora_enabled", False)
    )


def _dense(layer: keras.Layer) -> Replacement:
    config = resizable_config(layer)
    settings: dict[str, Any] = {key: config[key] for key in _SHARED_BY_DENSE if key in config}
    new = layers.Dense.from_config({**settings, "units": layer.filters})
    same_activations(layer, new)
    kernel, *bias = layer.get_weights()
    weights = [np.reshape(kernel, kernel.shape[2:]), *bias]
    return Replacement([new], weights, f"Dense({layer.filters}) with the same weights")
