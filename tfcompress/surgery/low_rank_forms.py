"""Each kind of layer as a chain of low-rank ones: what ranks cost, and the layers themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from tfcompress.graph.copying import Replacement
from tfcompress.graph.flow import Call
from tfcompress.graph.state import same_activations
from tfcompress.surgery.decompositions import Spectrum, relative_error, truncated_svd, tucker2
from tfcompress.surgery.low_rank_attention import ATTENTION, AttentionForm
from tfcompress.surgery.low_rank_plans import MULTIPLY_ADDS, PARAMETERS, Namer, NoForm, Plan
from tfcompress.surgery.multiply_adds import all_multiply_adds
from tfcompress.surgery.rewriting import UNKNOWN_PLACE, plain_kernels, resizable_config

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
FACTORIZED = (*_CONVOLUTIONS, layers.Dense, layers.EinsumDense, *ATTENTION)


def form_of(
    layer: Any, calls: Sequence[Call]
) -> MatrixForm | ConvolutionForm | TableForm | AttentionForm:
    """The form of a layer.

    Args:
        layer: a built layer.
        calls: its calls; none where they are not known.

    Raises:
        NoForm: there is none.
    """
    if type(layer) not in (*FACTORIZED, layers.Embedding):
        raise NoForm(f"{type(layer).__name__} has no low-rank form here")
    if not calls:
        raise NoForm(UNKNOWN_PLACE)
    why = plain_kernels(layer)
    if why:
        raise NoForm(why)
    if type(layer) is layers.Embedding:
        return TableForm(layer)
    if type(layer) in ATTENTION:
        return AttentionForm(layer, calls)
    if type(layer) not in _CONVOLUTIONS:
        return MatrixForm(layer, calls)
    if layer.groups > 1:
        raise NoForm(f"it has {layer.groups} groups, and each would need factors of its own")
    whole = all(size == 1 for size in layer.kernel_size)
    return MatrixForm(layer, calls) if whole else ConvolutionForm(layer, calls)


class MatrixForm:
    """Dense, EinsumDense or a 1x1 convolution: its kernel is a matrix, (inputs, outputs).

    Args:
        layer: the layer.
        calls: its calls.

    Attributes:
        layer: likewise.
        unit: of costs.
        before: its multiply-adds over all calls.
        full: the ranks at which nothing is lost.
    """

    unit = MULTIPLY_ADDS

    def __init__(self, layer: Any, calls: Sequence[Call]) -> None:
        self.layer, self._calls = layer, calls
        self.before = all_multiply_adds(layer, calls)
        self._kernel = np.asarray(layer.kernel)
        self._letters = _letters(layer)
        if type(layer) is layers.EinsumDense:
            source, kernel, _ = self._letters
            summed = [axis for axis, one in enumerate(kernel) if one in source]
            kept = [axis for axis, one in enumerate(kernel) if one not in source]
            self._order = [*summed, *kept]
            self._split = len(summed)
        else:
            self._order = list(range(self._kernel.ndim))
            self._split = self._kernel.ndim - 1
        shape = [self._kernel.shape[axis] for axis in self._order]
        self._sides = tuple(shape[: self._split]), tuple(shape[self._split :])
        rows, columns = (math.prod(side) for side in self._sides)
        self._matrix = np.transpose(self._kernel, self._order).reshape(rows, columns)
        self._spectrum = Spectrum.of(self._matrix)
        self.full = (min(rows, columns),)

    def keeping(self, energy: float) -> Plan:
        """The smallest rank that keeps that share of the squared norm."""
        return self.of_rank(self._spectrum.rank(energy))

    def of_rank(self, rank: int) -> Plan:
        """A plan of that rank at most."""
        rows, columns = self._matrix.shape
        rank = min(rank, *self.full)
        return Plan((rank,), self.before // (rows * columns) * rank * (rows + columns))

    def build(self, plan: Plan, name: Namer) -> tuple[Replacement, float]:
        """The layers, and the error of their product."""
        (rank,) = plan.ranks
        rows, columns = truncated_svd(self._matrix, rank)
        error = relative_error(self._matrix, rows @ columns)
        config, reduce = resizable_config(self.layer), _inner(self.layer, name("reduce"))
        if type(self.layer) is layers.Dense:
            reduce["units"] = rank
        elif type(self.layer) is layers.EinsumDense:
            self._split_equation(reduce, config, rank)
        else:
            reduce["filters"] = rank
            ones = (1,) * len(self.layer.kernel_size)
            config |= {"strides": ones, "dilation_rate": ones, "padding": "valid"}
        weights = [rows.reshape(*self._sides[0], rank), columns.reshape(rank, *self._sides[1])]
        if type(self.layer) in _CONVOLUTIONS:
            ones = self._sides[0][:-1]
            weights[1] = columns.reshape(*ones, rank, *self._sides[1])
        return _chain(
            self.layer, [reduce, config], weights, f"rank {rank} of {self.full[0]}"
        ), error

    def _split_equation(self, reduce: dict[str, Any], config: dict[str, Any], rank: int) -> None:
        """`abc,cde->abde` becomes `abc,cr->abr` and `abr,rde->abde`."""
        source, kernel, output = self._letters
        letter = next(
            one for one in "rqpuvwxyzabcdefghijklmnost" if one not in source + kernel + output
        )
        letters = [kernel[axis] for axis in self._order]
        summed, kept = "".join(letters[: self._split]), "".join(letters[self._split :])
        place = min(source.index(one) for one in summed)
        middle = "".join(one for one in source[:place] if one not in summed) + letter
        middle += "".join(one for one in source[place:] if one not in summed)
        reduce["equation"] = f"{source},{summed}{letter}->{middle}"
        config["equation"] = f"{middle},{letter}{kept}->{output}"
        shapes = {tuple(call.inputs[0].shape) for call in self._calls}
        sizes = _sizes(source, shapes.pop()) if len(shapes) == 1 else {}
        plain = middle.replace("...", "")
        if not middle.startswith("..."):
            plain = plain[1:]  # the batch
        reduce["output_shape"] = tuple(rank if one == letter else sizes.get(one) for one in plain)


class ConvolutionForm:
    """A convolution of a kernel larger than 1: 1x1, core and 1x1; the arguments as above."""

    unit = MULTIPLY_ADDS

    def __init__(self, layer: Any, calls: Sequence[Call]) -> None:
        self.layer = layer
        self.before = all_multiply_adds(layer, calls)
        self._kernel = np.asarray(layer.kernel)
        self.full = tuple(self._kernel.shape[-2:])
        self._spectra = [Spectrum.along(self._kernel, axis) for axis in (-2, -1)]
        self._out = self.before // self._kernel.size
        first = layer.data_format == "channels_first"
        self._in = sum(
            math.prod(n or 1 for n in (call.inputs[0].shape[2:] if first else
                                       call.inputs[0].shape[1:-1]))
            * call.inputs[0].rows
            for call in calls
        )  # fmt: skip

    def keeping(self, energy: float) -> Plan:
        """The cheapest ranks that are sure to keep that share of the squared norm.

        What both sides lose adds up at most: each may lose half, or one of them all.
        """
        half = (1 + energy) / 2
        (inputs, outputs), full = self._spectra, self.full
        plans = [
            self._plan(inputs.rank(half), outputs.rank(half)),
            self._plan(inputs.rank(energy), full[1]),
            self._plan(full[0], outputs.rank(energy)),
        ]
        return min(plans, key=lambda plan: plan.cost)

    def of_rank(self, rank: int) -> Plan:
        """A plan of that rank at most, on both sides."""
        return self._plan(min(rank, self.full[0]), min(rank, self.full[1]))

    def _plan(self, first: int, last: int) -> Plan:
        inputs, outputs = self.full
        cost = self._out * (self._kernel.size // (inputs * outputs)) * first * last
        if first < inputs:
            cost += self._in * inputs * first
        if last < outputs:
            cost += self._out * last * outputs
        return Plan((first, last), cost)

    def build(self, plan: Plan, name: Namer) -> tuple[Replacement, float]:
        """The layers, and the error of the kernel that they make up."""
        first, core, last = tucker2(self._kernel, plan.ranks)
        made = core if first is None else first @ core
        error = relative_error(self._kernel, made if last is None else made @ last)
        ones = (1,) * len(self.layer.kernel_size)
        narrow = {"kernel_size": ones, "strides": ones, "dilation_rate": ones, "padding": "valid"}
        configs, weights = [], []
        if first is not None:
            configs.append(
                {**_inner(self.layer, name("reduce")), **narrow, "filters": plan.ranks[0]}
            )
            weights.append(first.reshape(*ones, *first.shape))
        config = resizable_config(self.layer)
        if last is None:
            configs.append(config)
            weights.append(core)
        else:
            configs.append({**_inner(self.layer, name("core")), "filters": plan.ranks[1]})
            configs.append({**config, **narrow})
            weights += [core, last.reshape(*ones, *last.shape)]
        shown = "ranks {} and {} of {} and {}".format(*plan.ranks, *self.full)
        return _chain(self.layer, configs, weights, shown), error


class TableForm:
    """An Embedding: rows of a narrow table, and what makes them wide again.

    It is there for its size: a row cost no multiply-adds before, and costs some now.
    """

    unit = PARAMETERS

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._table = np.asarray(layer.embeddings)
        self._spectrum = Spectrum.of(self._table)
        self.before = self._table.size
        self.full = (min(self._table.shape),)

    def keeping(self, energy: float) -> Plan:
        """The smallest rank that keeps that share of the squared norm."""
        return self.of_rank(self._spectrum.rank(energy))

    def of_rank(self, rank: int) -> Plan:
        """A plan of that rank at most."""
        rank = min(rank, *self.full)
        return Plan((rank,), rank * sum(self._table.shape))

    def build(self, plan: Plan, name: Namer) -> tuple[Replacement, float]:
        """The layers, and the error of their product."""
        (rank,) = plan.ranks
        rows, columns = truncated_svd(self._table, rank)
        error = relative_error(self._table, rows @ columns)
        config = resizable_config(self.layer) | {"output_dim": rank, "name": name("narrow")}
        config["embeddings_constraint"] = None
        wide = layers.Dense(
            self._table.shape[1],
            use_bias=False,
            name=self.layer.name,
            dtype=self.layer.dtype_policy,
        )
        why = f"rank {rank} of {self.full[0]}"
        if self.layer.embeddings_constraint is not None:
            why += "; without the constraint that was on the table"
        weights = [one.astype(self._table.dtype) for one in (rows, columns)]
        return Replacement([layers.Embedding.from_config(config), wide], weights, why), error


def _letters(layer: Any) -> tuple[str, str, str]:
    """The terms of an EinsumDense's equation, if its kernel is a matrix."""
    if type(layer) is not layers.EinsumDense:
        return "", "", ""
    operands, output = layer.equation.replace(" ", "").split("->")
    source, kernel = operands.split(",")
    if any(one in source and one in output for one in kernel):
        raise NoForm(f"{layer.equation!r} has a kernel of its own for each place on an axis")
    if all(one in output for one in kernel) or not any(one in output for one in kernel):
        raise NoForm(f"the kernel of {layer.equation!r} has one side only")
    return source, kernel, output


def _sizes(term: str, shape: Sequence[int | None]) -> dict[str, int | None]:
    before, _, after = term.partition("...")
    sizes = dict(zip(before, shape, strict=False))
    return sizes | dict(zip(reversed(after), reversed(shape), strict=False))


def _inner(layer: Any, name: str) -> dict[str, Any]:
    """The config of a layer before the last: linear, without a bias."""
    config = resizable_config(layer)
    bias = {"bias_axes": None} if "bias_axes" in config else {"use_bias": False}
    return {**config, **bias, "activation": "linear", "activity_regularizer": None,
            "bias_regularizer": None, "bias_constraint": None, "name": name}  # fmt: skip


def _chain(
    layer: Any, configs: Sequence[dict[str, Any]], kernels: Sequence[np.ndarray], why: str
) -> Replacement:
    """Layers of the same class from these configs; the last has the old one's bias."""
    new = [type(layer).from_config({**config, "kernel_constraint": None}) for config in configs]
    same_activations(layer, new[-1])
    if layer.kernel_constraint is not None:
        why += "; without the constraint that was on the kernel"
    kernel, *bias = layer.get_weights()
    return Replacement(new, [*(one.astype(kernel.dtype) for one in kernels), *bias], why)
