"""Sparsity patterns: which weights are masked together.

A kernel is looked at as `(spatial, inputs, outputs)`, whatever its rank: a Dense kernel is
`(1, in, out)`, a convolution's `(h * w, in, out)`, an EinsumDense's has its summed axes as inputs.
A pattern cuts it into units, each of which is masked as a whole.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.errors import ConfigError


@dataclass(frozen=True)
class Units:
    """What a pattern makes of one kernel.

    Attributes:
        scores: importance of each unit, 1-D; infinite where a unit must stay.
        sizes: weights in each unit, 1-D.
        gone: which are masked already, 1-D bool: of equal scores they go first, so that a mask
            changes no more than its scores do.
    """

    scores: np.ndarray
    sizes: np.ndarray
    gone: np.ndarray


class Pattern(ABC):
    """How a kernel's weights are grouped."""

    limit: float = 1.0

    @abstractmethod
    def units(self, scores: np.ndarray, mask: np.ndarray) -> Units:
        """Units of a kernel's scores and mask so far, both `(spatial, inputs, outputs)`."""

    @abstractmethod
    def pooled(self, values: np.ndarray) -> np.ndarray:
        """A value for each unit, 1-D, from a value for each weight."""

    @abstractmethod
    def expand(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The weights' mask of that shape from the units' (1-D), both True where kept."""

    def refuses(self, shape: tuple[int, ...]) -> str:
        """Why the pattern cannot be applied to a kernel of that shape; "" if it can."""
        return ""


class Unstructured(Pattern):
    """Each weight for itself."""

    def units(self, scores: np.ndarray, mask: np.ndarray) -> Units:
        """One unit for each weight, in memory order."""
        flat = scores.reshape(-1)
        return Units(flat, np.ones(flat.shape, np.int64), ~mask.reshape(-1))

    def pooled(self, values: np.ndarray) -> np.ndarray:
        """The values themselves."""
        return values.reshape(-1)

    def expand(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The mask itself."""
        return kept.reshape(shape)

    def __str__(self) -> str:
        return "unstructured"


class Blocks(Pattern):
    """Blocks of `rows` inputs by `columns` outputs; smaller ones at the edges.

    Args:
        rows: inputs in a block.
        columns: outputs in a block.
        pool: `"mean"` or `"max"`, how the scores of a block's weights become its own.
    """

    def __init__(self, rows: int, columns: int, pool: str) -> None:
        self.rows, self.columns, self.pool = rows, columns, pool

    def _blocks(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Values as (spatial, block rows, block columns, weights of a block)."""
        spatial, inputs, outputs = values.shape
        high, wide = -(-inputs // self.rows), -(-outputs // self.columns)
        padded = np.full(
            (spatial, high * self.rows, wide * self.columns), fill, np.result_type(values, 0.0)
        )
        padded[:, :inputs, :outputs] = values
        blocks = padded.reshape(spatial, high, self.rows, wide, self.columns)
        return blocks.transpose(0, 1, 3, 2, 4).reshape(spatial, high, wide, -1)

    def _sizes(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._blocks(np.ones(shape, np.int64), 0).sum(-1).astype(np.int64).reshape(-1)

    def units(self, scores: np.ndarray, mask: np.ndarray) -> Units:
        """One unit for each block."""
        gone = ~self._blocks(mask, 0.0).any(-1).reshape(-1)
        return Units(self.pooled(scores), self._sizes(scores.shape), gone)

    def pooled(self, values: np.ndarray) -> np.ndarray:
        """Mean or largest value of each block."""
        if self.pool == "max":
            return self._blocks(values, -np.inf).max(-1).reshape(-1)
        return self._blocks(values, 0.0).sum(-1).reshape(-1) / self._sizes(values.shape)

    def expand(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Every weight gets its block's mask."""
        spatial, inputs, outputs = shape
        blocks = kept.reshape(spatial, -(-inputs // self.rows), -(-outputs // self.columns))
        mask = blocks.repeat(self.rows, axis=1).repeat(self.columns, axis=2)
        return mask[:, :inputs, :outputs]

    def refuses(self, shape: tuple[int, ...]) -> str:
        """A kernel needs two blocks at least."""
        spatial, inputs, outputs = shape
        if spatial > 1 or inputs > self.rows or outputs > self.columns:
            return ""
        return f"{self} is as large as its kernel of {inputs} inputs by {outputs} outputs"

    def __str__(self) -> str:
        return f"block:{self.rows}x{self.columns}" + (":max" if self.pool == "max" else "")


class NofM(Pattern):
    """At most `keep` of `group` neighbours along the inputs are not zero.

    A group at the end that is cut short keeps as many as a whole one.

    Args:
        keep: N, the weights kept in each group.
        group: M, the weights of a group.

    Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (arXiv:2104.08378).
    """

    def __init__(self, keep: int, group: int) -> None:
        self.keep, self.group = keep, group
        self.limit = 1.0 - keep / group

    def units(self, scores: np.ndarray, mask: np.ndarray) -> Units:
        """One unit for each weight; those that a group keeps have an infinite score."""
        grouped = self._grouped(scores, -np.inf)
        # Of equal scores the last stay, as everywhere the first go first; masked ones before all.
        order = np.lexsort((self._grouped(mask, 0.0), grouped), axis=2)
        best = order[:, :, self.group - self.keep :]
        np.put_along_axis(grouped, best, np.inf, axis=2)
        spatial, inputs, outputs = scores.shape
        flat = grouped.reshape(spatial, -1, outputs)[:, :inputs].reshape(-1)
        return Units(flat, np.ones(flat.shape, np.int64), ~mask.reshape(-1))

    def _grouped(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Values as (spatial, groups, weights of a group, outputs), filled up at the end."""
        spatial, inputs, outputs = values.shape
        groups = -(-inputs // self.group)
        padded = np.full((spatial, groups * self.group, outputs), fill, np.float64)
        padded[:, :inputs] = values
        return padded.reshape(spatial, groups, self.group, outputs)

    def pooled(self, values: np.ndarray) -> np.ndarray:
        """The values themselves."""
        return values.reshape(-1)

    def expand(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The mask itself."""
        return kept.reshape(shape)

    def refuses(self, shape: tuple[int, ...]) -> str:
        """A kernel needs more inputs than a group keeps."""
        if shape[1] > self.keep:
            return ""
        return f"{self} needs more than {self.keep} inputs for each output, and it has {shape[1]}"

    def __str__(self) -> str:
        return f"{self.keep}:{self.group}"


def as_pattern(pattern: Any) -> Pattern:
    """The pattern of that name.

    Raises:
        ConfigError: there is none of that name.
    """
    if isinstance(pattern, Pattern):
        return pattern
    text = pattern.strip().lower() if isinstance(pattern, str) else ""
    if text == "unstructured":
        return Unstructured()
    block = re.fullmatch(r"block:([1-9]\d*)x([1-9]\d*)(?::(mean|max))?", text)
    if block:
        return Blocks(int(block[1]), int(block[2]), block[3] or "mean")
    share = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
    if share and int(share[1]) < int(share[2]):
        return NofM(int(share[1]), int(share[2]))
    raise ConfigError(
        '`pattern` must be "unstructured", "block:RxC" such as "block:1x4" (R inputs by C outputs; '
        '"block:1x4:max" pools the scores by their maximum instead of their mean), or "N:M" with '
        f'N < M such as "2:4" (N of M neighbouring inputs kept). Received: {pattern!r}'
    )


def to_matrix(values: np.ndarray, axes: str) -> np.ndarray:
    """A kernel as `(spatial, inputs, outputs)`; `axes` as `registry.axes` gives them."""
    order = _order(axes)
    sizes = [
        int(np.prod([values.shape[axis] for axis in order if axes[axis] == role], dtype=np.int64))
        for role in "sio"
    ]
    return values.transpose(order).reshape(sizes)


def from_matrix(matrix: np.ndarray, shape: tuple[int, ...], axes: str) -> np.ndarray:
    """The inverse of `to_matrix` for a kernel of that shape."""
    order = _order(axes)
    return matrix.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def _order(axes: str) -> list[int]:
    return [axis for role in "sio" for axis in range(len(axes)) if axes[axis] == role]
