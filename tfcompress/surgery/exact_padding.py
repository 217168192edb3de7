"""Strided and padded depthwise convolutions in the form that sparse kernels take, same outputs.

A depthwise convolution with kernel w, stride s and p zeros before computes
out[i] = sum over k of w[k] x[s i + k - p]. The kernels want K in (3, 5) with K // 2 zeros on every
side. With w put into a kernel of K at place K // 2 - p, zeros around it, each output is the same
sum. That is exact where w fits in and where as many outputs come out, at every size of image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.graph.calls import Calls
from tfcompress.graph.copying import Replacement
from tfcompress.graph.state import same_activations
from tfcompress.surgery.rewriting import resizable_config

_SIDES = (3, 5)


@dataclass(frozen=True)
class _Axis:
    """A convolution along rows or columns.

    Attributes:
        size: of the image, without any zeros.
        kernel: size of the kernel.
        stride: its stride.
        before: zeros before the image.
        outputs: how many outputs there are.
    """

    size: int
    kernel: int
    stride: int
    before: int
    outputs: int

    def place(self, side: int) -> int | None:
        """Where in a kernel of `side` this one computes the same; None where it does not."""
        place = side // 2 - self.before
        fits = place >= 0 and place + self.kernel <= side
        return place if fits and (self.size - 1) // self.stride + 1 == self.outputs else None


def padding_replacements(calls: Calls) -> dict[int, Replacement]:
    """Replacements for depthwise and separable convolutions, and the padding before them."""
    found: dict[int, Replacement] = {}
    for layer in calls.layers:
        if type(layer) in (layers.DepthwiseConv2D, layers.SeparableConv2D):
            found |= _replace(calls, layer)
    return found


def _replace(calls: Calls, layer: keras.Layer) -> dict[int, Replacement]:
    if (
        layer.data_format != "channels_last"
        or layer.depth_multiplier != 1
        or tuple(layer.dilation_rate) != (1, 1)
        or tuple(layer.strides) not in ((1, 1), (2, 2))
    ):
        return {}
    forms = {_form(calls, layer, x, y) for x, y in calls.of(layer)}
    form = forms.pop()
    if forms or form is None:  # a shared layer needs one form for all its calls
        return {}
    side, places, pads = form
    stride = layer.strides[0]
    pad = _own_padding(calls, layer)
    now = (pads, layer.padding, tuple(layer.kernel_size))
    half = side // 2
    if stride == 1:
        wanted = (((0, 0), (0, 0)), "same", (side, side))
    else:
        wanted = (((half, half), (half, half)), "valid", (side, side))
    if now == wanted:
        return {}
    config = {**resizable_config(layer), "kernel_size": (side, side), "padding": wanted[1]}
    new: list[keras.Layer] = [type(layer).from_config(config)]
    same_activations(layer, new[0])
    why = f"kernel {side}x{side}, {'same' if stride == 1 else f'{half} zeros on every side'}"
    found: dict[int, Replacement] = {}
    if stride == 2:
        name = f"{layer.name}_pad" if pad is None else pad.name
        zeros = layers.ZeroPadding2D(half, data_format="channels_last", name=name)
        if pad is None:
            new.insert(0, zeros)
        else:
            found[id(pad)] = Replacement([zeros], why=f"{half} zeros on every side")
    elif pad is not None:
        found[id(pad)] = Replacement([], why=f"its zeros are now the padding of '{layer.name}'")
    kernel, *others = layer.get_weights()
    found[id(layer)] = Replacement(new, [_embedded(kernel, side, places), *others], why)
    return found


_Form = tuple[int, tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]


def _form(calls: Calls, layer: keras.Layer, x: Any, y: Any) -> _Form | None:
    """(side of the new kernel, places of the old one in it, zeros added before); None for none."""
    maker = calls.maker(x)
    pads = ((0, 0), (0, 0))
    if type(maker) is layers.ZeroPadding2D and maker.data_format == "channels_last":
        if _own_padding(calls, layer) is None:
            return None  # others read the zeros too
        pads = tuple(tuple(pair) for pair in maker.padding)  # type: ignore[assignment]
    axes = []
    for axis, pair in enumerate(pads, start=1):
        if x.shape[axis] is None:
            return None
        kernel, stride = layer.kernel_size[axis - 1], layer.strides[axis - 1]
        padded, outputs = int(x.shape[axis]), int(y.shape[axis])
        same = max((outputs - 1) * stride + kernel - padded, 0) if layer.padding == "same" else 0
        size = padded - sum(pair)
        axes.append(_Axis(size, kernel, stride, pair[0] + same // 2, outputs))
    if axes[0].stride == 2 and axes[0].size % 2 and axes[1].size % 2:
        return None  # the converter would make the symmetric zeros "same"
    for side in _SIDES:
        places = tuple(axis.place(side) for axis in axes)
        if None not in places:
            return side, places, pads  # type: ignore[return-value]
    return None


def _own_padding(calls: Calls, layer: keras.Layer) -> keras.Layer | None:
    """The ZeroPadding2D before a layer, where it serves nothing else."""
    ((x, _), *more) = calls.of(layer)
    pad = calls.maker(x)
    if more or type(pad) is not layers.ZeroPadding2D or calls.only_reader(x) is not layer:
        return None
    return pad if len(calls.of(pad)) == 1 else None


def _embedded(kernel: np.ndarray, side: int, places: Sequence[int]) -> np.ndarray:
    """A kernel (rows, columns, channels, 1) within one of zeros (side, side, channels, 1)."""
    larger = np.zeros((side, side, *kernel.shape[2:]), kernel.dtype)
    row, column = places
    larger[row : row + kernel.shape[0], column : column + kernel.shape[1]] = kernel
    return larger
