"""What linear layers make of channels that are constant."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
READERS = (layers.Dense, *_CONVOLUTIONS, *_TRANSPOSED, *_SEPARABLE)
FOLDING = (*READERS, *_DEPTHWISE)


def sees_no_border(layer: Any) -> bool:
    """Whether a constant input gives the same at every position."""
    if isinstance(layer, _TRANSPOSED):
        return False  # at the border fewer of its products meet
    if isinstance(layer, layers.Dense):
        return True
    return layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)


def constant_outputs(layer: Any, constants: np.ndarray) -> np.ndarray:
    """(outputs,): what a linear layer gives before its activation; NaN where that varies.

    Args:
        layer: a layer of one of the classes `FOLDING`.
        constants: (inputs,), NaN for channels that vary.
    """
    whole = sees_no_border(layer)
    outputs: Any = constants
    for sums, read, channels in _kernels(layer):
        given = outputs[channels]
        known = ~np.isnan(given) & (whole | (given == 0))
        varies = (read & ~known).any(0)
        outputs = np.where(varies, np.nan, np.where(known, given * sums, 0).sum(0))
    if layer.bias is not None:
        outputs = outputs + np.asarray(layer.bias, np.float64)
    return np.asarray(outputs)


def added(layer: Any, constants: np.ndarray) -> np.ndarray:
    """(outputs,): what constant channels add to each output, those that vary left out.

    Args:
        layer: a layer of one of the classes `READERS`.
        constants: (inputs,), 0 for channels to leave out.
    """
    outputs: Any = constants
    for sums, _, channels in _kernels(layer):
        outputs = (outputs[channels] * sums).sum(0)
    return np.asarray(outputs)


def _kernels(layer: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One after the other, (read, outputs) each: sums over positions, whether read, and by which.

    The last array gives the input channel that each weight reads.
    """
    if isinstance(layer, layers.Dense):
        return [_plain(np.asarray(layer.kernel, np.float64))]
    if isinstance(layer, _SEPARABLE):
        return [
            _each(layer.depthwise_kernel),
            _plain(np.asarray(layer.pointwise_kernel, np.float64)),
        ]
    if isinstance(layer, _DEPTHWISE):
        return [_each(layer.kernel)]
    kernel = np.asarray(layer.kernel, np.float64)
    if isinstance(layer, _TRANSPOSED):
        return [_plain(np.swapaxes(kernel, -1, -2))]
    return [_plain(kernel, layer.groups)]


def _plain(kernel: np.ndarray, groups: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    flat = kernel.reshape(-1, *kernel.shape[-2:])
    inputs, outputs = kernel.shape[-2:]
    group = np.arange(outputs) // (outputs // groups)
    channels = group[None, :] * inputs + np.arange(inputs)[:, None]
    return flat.sum(0), (flat != 0).any(0), channels


def _each(variable: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A depthwise kernel: each output reads one channel."""
    kernel = np.asarray(variable, np.float64)
    inputs, times = kernel.shape[-2:]
    flat = kernel.reshape(-1, 1, inputs * times)
    return flat.sum(0), (flat != 0).any(0), np.repeat(np.arange(inputs), times)[None]
