"""Operators that hand `scale * x + shift` of channels on: before and behind them it is the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import activations, layers

from tfcompress.surgery.distributed import inside, step_of
from tfcompress.surgery.linear import NotExact

_SILENT = (  # at inference they do nothing
    layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout, layers.Identity,
    layers.ActivityRegularization,
)  # fmt: skip
_MAXIMA = (
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
)  # fmt: skip
_MEANS = (  # what "same" pads with is not counted
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D,
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D,
    layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D,
    layers.Cropping1D, layers.Cropping2D, layers.Cropping3D,
)  # fmt: skip
_PADDING = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
_FLAT = (layers.Flatten, layers.Reshape)


@dataclass(frozen=True)
class Affine:
    """`scale * x + shift` along one axis of a tensor.

    Attributes:
        axis: counted from 0.
        rank: how many axes the tensor has.
        scale: (channels,) of float64.
        shift: (channels,) of float64.
    """

    axis: int
    rank: int
    scale: np.ndarray
    shift: np.ndarray

    def same(self, other: Affine) -> bool:
        """Whether the other one is this one."""
        return (self.axis, self.rank) == (other.axis, other.rank) and all(
            np.array_equal(one, two)
            for one, two in ((self.scale, other.scale), (self.shift, other.shift))
        )


def passes(operation: Any) -> bool:
    """Whether an operator may hand it on."""
    operation = inside(operation)
    kind = type(operation)
    if kind is layers.Activation:
        return operation.activation is activations.linear
    return kind in (*_SILENT, *_MAXIMA, *_MEANS, *_PADDING, *_FLAT)


def handed_on(affine: Affine, call: Any, backwards: bool = False) -> Affine:
    """What on the other side of a call is the same.

    Args:
        affine: of what the call reads; backwards, of what it gives.
        call: of an operator that `passes`.
        backwards: from what it gives to what it reads.

    Raises:
        NotExact: there is none.
    """
    operation = call.operation
    kind, name = type(operation), f"'{operation.name}'"
    if inside(operation) is not operation:
        if type(inside(operation)) in _SILENT and not call.kwargs.get("training"):
            return affine
        if affine.axis < 2:
            raise NotExact(f"it normalises axis {affine.axis}, along which {name} goes")
        each = replace(affine, axis=affine.axis - 1, rank=affine.rank - 1)
        each = handed_on(each, step_of(call), backwards)
        return replace(each, axis=each.axis + 1, rank=each.rank + 1)
    if len(call.inputs) != 1:
        raise NotExact(f"{name} has several inputs")
    (given,), (result,) = call.inputs, call.results
    if call.kwargs.get("training"):
        raise NotExact(f"{name} is called with training=True")
    if kind in _SILENT or kind is layers.Activation:
        return affine
    if kind in _FLAT:
        return _flat(affine, call, backwards)
    if getattr(operation, "interpolation", "nearest") not in ("nearest", "bilinear"):
        raise NotExact(f"{name} interpolates by {operation.interpolation}")
    near, far = len(given.shape), len(result.shape)
    if backwards:
        near, far = far, near
    first = getattr(operation, "data_format", "") == "channels_first"
    if affine.axis != (1 if first else near - 1):
        raise NotExact(f"it normalises axis {affine.axis}, along which {name} moves things")
    if kind in _PADDING and affine.shift.any():
        raise NotExact(f"the zeros that {name} pads with would need its shift too")
    if kind in _MAXIMA and (affine.scale < 0).any():
        raise NotExact(f"where its scale is below 0, the maxima of {name} would be minima")
    return Affine(1 if first else far - 1, far, affine.scale, affine.shift)


def _flat(affine: Affine, call: Any, backwards: bool) -> Affine:
    """Reshaped to one axis, it has a scale for each element."""
    shape, name = call.inputs[0].shape[1:], f"'{call.operation.name}'"
    kept = getattr(call.operation, "data_format", "channels_last") != "channels_first"
    if backwards or len(call.results[0].shape) != 2 or None in shape or not kept:
        raise NotExact(f"{name} reshapes the channels")
    if affine.axis == 0:
        raise NotExact("it normalises the batch axis")
    sizes = [1] * len(shape)
    sizes[affine.axis - 1] = shape[affine.axis - 1]
    scale, shift = (
        np.broadcast_to(one.reshape(sizes), shape).reshape(-1)
        for one in (affine.scale, affine.shift)
    )
    return Affine(1, 2, scale, shift)
