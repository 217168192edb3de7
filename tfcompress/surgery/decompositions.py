"""Low-rank factors of matrices and convolution kernels, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ITERATIONS = 5


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a matrix.

    Attributes:
        values: largest first.
    """

    values: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> Spectrum:
        """Those of a matrix (rows, columns)."""
        return cls(np.sqrt(np.maximum(np.linalg.eigvalsh(_square(matrix))[::-1], 0)))

    @classmethod
    def along(cls, tensor: np.ndarray, axis: int) -> Spectrum:
        """Those of a tensor unfolded along an axis: (size of the axis, all else)."""
        return cls.of(unfolded(tensor, axis))

    def lost(self, rank: int) -> float:
        """The share of the squared norm that a rank leaves out."""
        squares = self.values**2
        total = squares.sum()
        return float(squares[rank:].sum() / total) if total else 0.0

    def rank(self, energy: float) -> int:
        """The smallest rank, 1 at least, that keeps that share of the squared norm."""
        squares = self.values**2
        total = squares.sum()
        if not total:
            return 1
        # What is lost is summed from the small end, where no large sum swallows it.
        lost = np.concatenate([np.cumsum(squares[::-1])[::-1][1:], [0.0]])
        # Below this lies only the rounding of float32 weights.
        allowed = max((1 - energy) * total, total * len(squares) * 2.0**-48)
        return int(np.argmax(lost <= allowed)) + 1


def unfolded(tensor: np.ndarray, axis: int) -> np.ndarray:
    """(size of the axis, all else)."""
    return np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)


def truncated_svd(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rank) and (rank, columns), whose product is the closest matrix of that rank."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape[0] < matrix.shape[1]:
        rows, columns = truncated_svd(matrix.T, rank)
        return columns.T, rows.T
    directions = _leading(matrix, 1, rank)
    rows, columns = matrix @ directions, directions.T
    # Both sides alike, so that training moves them at one pace.
    norms = np.linalg.norm(rows, axis=0)
    root = np.sqrt(np.where(norms > 0, norms, 1))
    return rows / root, root[:, None] * columns


def _square(matrix: np.ndarray) -> np.ndarray:
    """The matrix times its transpose, the smaller of the two.

    Its eigenvectors are the singular vectors, found in a fraction of the time. What that costs in
    precision is far below the rounding of float32 weights.
    """
    matrix = np.asarray(matrix, np.float64)
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def tucker2(
    kernel: np.ndarray, ranks: Sequence[int]
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """A convolution kernel as 1x1, core and 1x1.

    The factors start from the singular vectors of the two unfoldings (HOSVD) and are bettered in
    turn, each with the other fixed (HOOI).

    Args:
        kernel: (*positions, inputs, outputs).
        ranks: of the inputs and the outputs.

    Returns:
        (inputs, rank), the core (*positions, rank, rank), and (rank, outputs). A side of full rank
        is None: it is in the core.
    """
    kernel = np.asarray(kernel, np.float64)
    inputs, outputs = kernel.shape[-2:]
    first: np.ndarray | None = None
    last: np.ndarray | None = None
    if ranks[0] < inputs:
        first = _leading(kernel, -2, ranks[0])
    if ranks[1] < outputs:
        last = _leading(kernel, -1, ranks[1])
    if first is not None and last is not None:
        for _ in range(_ITERATIONS):
            first = _leading(kernel @ last, -2, ranks[0])
            last = _leading(_narrowed(kernel, first), -1, ranks[1])
    core = kernel if first is None else _narrowed(kernel, first)
    core = core if last is None else core @ last
    return first, core, None if last is None else last.T


def _narrowed(kernel: np.ndarray, first: np.ndarray) -> np.ndarray:
    return first.T @ kernel


def _leading(tensor: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """(size of the axis, rank): the directions along the axis that hold most."""
    matrix = unfolded(tensor, axis)
    return np.linalg.eigh(matrix @ matrix.T)[1][:, ::-1][:, :rank]


def relative_error(wanted: np.ndarray, found: np.ndarray) -> float:
    """The norm of what is missing, of the norm of what is wanted."""
    norm = np.linalg.norm(wanted)
    return float(np.linalg.norm(wanted - found) / norm) if norm else 0.0
