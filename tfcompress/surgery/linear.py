"""Linear layers with `scale * x + shift` on one axis taken into their kernel and bias.

All arithmetic is in float64; the result is rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import activations, layers

from tfcompress.graph.state import same_activations
from tfcompress.surgery.distributed import around, inside
from tfcompress.surgery.rewriting import plain_kernels

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_SPATIAL = (*_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE)
LINEAR = (*_SPATIAL, layers.Dense, layers.EinsumDense)


class NotExact(Exception):
    """The layer cannot take it in without changing its output; the text says why."""


class Linear:
    """The weights of a linear layer, being changed.

    Args:
        layer: a built layer of one of the classes `LINEAR`, or TimeDistributed around one.

    Raises:
        NotExact: its weights are not plain kernels and a bias.
    """

    def __init__(self, layer: Any) -> None:
        self._outer, layer = layer, inside(layer)
        why = plain_kernels(layer)
        if type(layer) not in LINEAR:
            why = f"how {type(layer).__name__} could take it in is not known"
        if why:
            raise NotExact(f"'{layer.name}': {why}")
        self.layer = layer
        weights = [np.asarray(w, np.float64) for w in layer.get_weights()]
        self._dtypes = [np.asarray(w).dtype for w in layer.get_weights()]
        self._bias: Any = weights.pop() if layer.bias is not None else None
        self._kernels = weights
        self._letters: set[str] = set()
        if type(layer) is layers.EinsumDense and self._bias is not None:
            self._letters = set(layer.bias_axes)
            self._bias = self._full_bias()

    def take_behind(self, axis: int, rank: int, scale: np.ndarray, shift: np.ndarray) -> None:
        """Takes in `scale * y + shift` of its output y.

        Args:
            axis: the axis of `scale` and `shift`, counted from 0.
            rank: how many axes the output has.
            scale: (channels,).
            shift: (channels,).

        Raises:
            NotExact: the layer ends in an activation, or the axis is not one of its own.
        """
        if self.layer.activation is not activations.linear:
            raise NotExact(f"'{self.layer.name}' ends in an activation")
        axis, rank = self._within(axis, rank)
        if type(self.layer) is layers.EinsumDense:
            self._einsum_behind(axis, rank, scale, shift)
            return
        self._check_axis(axis, rank)
        kernel = self._kernels[-1]
        if type(self.layer) in _TRANSPOSED:
            scales = scale[:, None]
        elif type(self.layer) in _DEPTHWISE:
            scales = scale.reshape(kernel.shape[-2:])
        else:
            scales = scale
        self._kernels[-1] = kernel * scales
        self._bias = shift + (0 if self._bias is None else self._bias * scale)

    def take_before(self, axis: int, rank: int, scale: np.ndarray, shift: np.ndarray) -> None:
        """Takes in `scale * x + shift` of its input x; the arguments as above.

        Raises:
            NotExact: zeros of padding would be shifted too, or the axis is not one of its own.
        """
        axis, rank = self._within(axis, rank)
        if type(self.layer) is layers.EinsumDense:
            self._einsum_before(axis, rank, scale, shift)
            return
        self._check_axis(axis, rank)
        if type(self.layer) in _SPATIAL and shift.any():
            self._check_padding()
        kernel = self._kernels[0]
        added: Any
        if type(self.layer) is layers.Dense:
            added = shift @ kernel
            self._kernels[0] = kernel * scale[:, None]
        elif type(self.layer) in _TRANSPOSED:
            added = 0.0
            self._kernels[0] = kernel * scale
        elif type(self.layer) in _CONVOLUTIONS:
            channels = _channels_read(kernel.shape[-2], kernel.shape[-1], self.layer.groups)
            added = (kernel * shift[channels]).reshape(-1, kernel.shape[-1]).sum(0)
            self._kernels[0] = kernel * scale[channels]
        else:
            added = (kernel * shift[:, None]).reshape(-1, *kernel.shape[-2:]).sum(0).reshape(-1)
            if type(self.layer) in _SEPARABLE:
                pointwise = self._kernels[1]
                added = added @ pointwise.reshape(pointwise.shape[-2:])
            self._kernels[0] = kernel * scale[:, None]
        if shift.any():
            self._bias = added + (0 if self._bias is None else self._bias)

    def rebuilt(self) -> tuple[Any, list[np.ndarray]]:
        """A new layer and its weights."""
        config = self.layer.get_config()
        if type(self.layer) is layers.EinsumDense:
            config["bias_axes"] = self._bias_axes()
        else:
            config["use_bias"] = self._bias is not None
        kernels = [k.astype(d) for k, d in zip(self._kernels, self._dtypes, strict=False)]
        bias = []
        if self._bias is not None:
            einsum = type(self.layer) is layers.EinsumDense
            bias = [self._trimmed_bias() if einsum else self._bias]
        new = type(self.layer).from_config(config)
        same_activations(self.layer, new)
        if self._outer is not self.layer:
            new = around(self._outer, new)
        return new, [*kernels, *(one.astype(self._dtypes[0]) for one in bias)]

    def _within(self, axis: int, rank: int) -> tuple[int, int]:
        """The axis and the rank as the layer itself has them, which may see one step of several."""
        steps = int(self._outer is not self.layer)
        if axis - steps < 1:
            raise NotExact(f"it normalises axis {axis}, along which '{self._outer.name}' goes")
        return axis - steps, rank - steps

    def _check_axis(self, axis: int, rank: int) -> None:
        own = rank - 1
        if getattr(self.layer, "data_format", "") == "channels_first":
            own = 1
        if axis != own:
            raise NotExact(
                f"it normalises axis {axis}, and the channels of '{self.layer.name}' are axis {own}"
            )

    def _check_padding(self) -> None:
        layer = self.layer
        whole = all(size == 1 for size in layer.kernel_size)
        if type(layer) in _TRANSPOSED:
            raise NotExact(f"at the border of '{layer.name}' fewer of its shifts meet")
        if layer.padding != "valid" and not whole:
            raise NotExact(f"the zeros that '{layer.name}' pads with would need its shift too")

    # -- EinsumDense: its axes have letters

    def _terms(self) -> tuple[str, str, str]:
        operands, output = self.layer.equation.replace(" ", "").split("->")
        source, kernel = operands.split(",")
        return source, kernel, output

    def _letter(self, term: str, axis: int, rank: int) -> str:
        before, dots, after = term.partition("...")
        if axis < len(before):
            letter = before[axis]
        elif dots and axis >= rank - len(after):
            letter = after[axis - rank]
        else:
            letter = ""
        if not letter or letter not in self._terms()[1]:
            raise NotExact(
                f"it normalises axis {axis}, which is none of the kernel's of '{self.layer.name}'"
            )
        return letter

    def _spread(self, values: np.ndarray, letters: str, term: str) -> np.ndarray:
        """Values with an axis for each of the letters, as an array that broadcasts on `term`."""
        order = [one for one in term if one in letters]
        values = np.transpose(values, [letters.index(one) for one in order])
        sizes = iter(values.shape)
        return values.reshape([next(sizes) if one in letters else 1 for one in term])

    def _full_bias(self) -> np.ndarray:
        """The layer's bias with an axis for each letter of the output."""
        length = len(self._terms()[2].replace("...", ""))
        shape = self._bias.shape[: self._bias.ndim - self._trailing()]
        return self._bias.reshape((1,) * (length - len(shape)) + shape)

    def _trailing(self) -> int:
        """How many axes under dots stand behind the letters."""
        output = self._terms()[2]
        if not output.endswith("..."):
            return 0
        return int(self.layer.input_spec.ndim) - len(self._terms()[0].replace("...", ""))

    def _einsum_behind(self, axis: int, rank: int, scale: np.ndarray, shift: np.ndarray) -> None:
        _, kernel, output = self._terms()
        letter = self._letter(output, axis, rank)
        plain = output.replace("...", "")
        self._kernels[0] = self._kernels[0] * self._spread(scale, letter, kernel)
        bias = 0 if self._bias is None else self._bias * self._spread(scale, letter, plain)
        self._bias = bias + self._spread(shift, letter, plain)
        self._letters.add(letter)

    def _einsum_before(self, axis: int, rank: int, scale: np.ndarray, shift: np.ndarray) -> None:
        source, kernel, output = self._terms()
        letter = self._letter(source, axis, rank)
        plain = output.replace("...", "")
        if shift.any():
            if any(one not in kernel + output for one in source.replace("...", "")):
                raise NotExact(f"'{self.layer.name}' sums over an axis that its kernel has not")
            kept = "".join(one for one in kernel if one in output)
            added = np.einsum(f"{kernel},{letter}->{kept}", self._kernels[0], shift)
            bias = 0 if self._bias is None else self._bias
            self._bias = bias + self._spread(added, kept, plain)
            self._letters |= set(kept)
        self._kernels[0] = self._kernels[0] * self._spread(scale, letter, kernel)

    def _bias_axes(self) -> str | None:
        return "".join(one for one in self._terms()[2] if one in self._letters) or None

    def _trimmed_bias(self) -> np.ndarray:
        """The bias in the shape that the layer has it in."""
        first = min(self._terms()[2].replace("...", "").index(one) for one in self._letters)
        return self._bias.reshape(self._bias.shape[first:] + (1,) * self._trailing())


def scale_and_shift(norm: Any) -> tuple[Any, Any]:
    """(scale, shift), each (channels,) in float64: what BatchNormalization does at inference."""
    mean, variance, gamma, beta = (
        None if one is None else np.asarray(one, np.float64)
        for one in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)
    )
    assert mean is not None and variance is not None
    scale = 1 / np.sqrt(variance + norm.epsilon)
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale
    return scale, shift if beta is None else shift + beta


def _channels_read(inputs: int, outputs: int, groups: int) -> np.ndarray:
    """(inputs, outputs): which input channel each weight of a grouped kernel reads."""
    group = np.arange(outputs) // (outputs // groups)
    return group[None, :] * inputs + np.arange(inputs)[:, None]
