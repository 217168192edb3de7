"""Expands the sparse weights of a .tflite file to plain arrays.

A sparse tensor is stored as a tree: one level for each dimension, in traversal order, and for block
sparsity one more for each dimension of the block. A dense level has all its indices, a sparse one
lists those that hold something, as compressed rows do: `segments[parent]` to `segments[parent + 1]`
are the places in `indices` that belong to one node of the level above. The leaves are the values.

Source: `SparsityParameters` in the TFLite schema; tensorflow/lite/kernels/internal/utils/
sparsity_format_converter.cc, whose results the tests compare with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from tfcompress.runtime.flatbuffer import corrupt

MAX_DENSE_BYTES: Final = 512 * 2**20
"""The largest dense form that is expanded: a few bytes may claim any shape."""


@dataclass(frozen=True, eq=False, slots=True)
class Level:
    """One level of the tree.

    Attributes:
        dense: whether every index is there.
        size: number of indices of a dense level; 0 for a sparse one.
        segments: for a sparse level, where each parent's indices start, shape (parents + 1,).
        indices: for a sparse level, the indices that hold something, shape (nodes,).
    """

    dense: bool
    size: int
    segments: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True, eq=False, slots=True)
class Sparsity:
    """How a sparse tensor is stored.

    Attributes:
        traversal_order: for each level the dimension it stands for; numbers from the tensor's rank
            on are dimensions of the block.
        block_map: for each dimension of the block the tensor's dimension that it divides.
        dim_metadata: the levels, outermost first.
    """

    traversal_order: tuple[int, ...]
    block_map: tuple[int, ...]
    dim_metadata: tuple[Level, ...]


def level_sizes(sparsity: Sparsity, shape: tuple[int, ...]) -> list[int]:
    """Returns how many indices each level has, after checking the description against itself.

    Args:
        sparsity: the description.
        shape: the tensor's shape.

    Raises:
        CorruptFileError: the description contradicts itself or the shape.

    Example:
        >>> order = Sparsity((0, 1), (), (Level(True, 4, E, E), Level(False, 0, seg, ind)))
        ... # doctest: +SKIP
        >>> level_sizes(order, (4, 8))  # doctest: +SKIP
        [4, 8]
    """
    rank, order, levels = len(shape), sparsity.traversal_order, sparsity.dim_metadata
    blocks = len(sparsity.block_map)
    if not len(order) == len(levels) == rank + blocks:
        corrupt(
            "A sparse tensor has one level for each dimension of its shape and of its block",
            f"{len(levels)} levels, traversal order {order} and block map {sparsity.block_map} "
            f"for shape {shape}",
        )
    if sorted(order[:rank]) != list(range(rank)) or (
        sorted(order[rank:]) != list(range(rank, rank + blocks))
    ):
        corrupt(
            "A traversal order lists the dimensions once each, those of the block last",
            f"{order} for rank {rank}",
        )
    # The runtime walks the block map once, in step with the dimensions.
    if any(not 0 <= d < rank for d in sparsity.block_map) or (
        list(sparsity.block_map) != sorted(set(sparsity.block_map))
    ):
        corrupt(
            f"A block map lists dimensions below {rank}, in order and once each",
            sparsity.block_map,
        )
    sizes = [0] * (rank + blocks)
    sizes[:rank] = shape
    for place in range(rank, rank + blocks):
        level = levels[place]
        block, dimension = order[place], sparsity.block_map[order[place] - rank]
        if not level.dense or level.size < 1 or shape[dimension] % level.size:
            corrupt(
                "A block is dense and divides its dimension evenly",
                f"size {level.size} in a dimension of {shape[dimension]}",
            )
        sizes[block] = level.size
        sizes[dimension] //= level.size
    return [sizes[dimension] for dimension in order]


def stored_values(sparsity: Sparsity, shape: tuple[int, ...]) -> int:
    """Returns how many values a sound sparse tensor stores.

    Args:
        sparsity: the description.
        shape: the tensor's shape.

    Raises:
        CorruptFileError: the description contradicts itself or the shape.
    """
    nodes = 1
    for level, size in zip(sparsity.dim_metadata, level_sizes(sparsity, shape), strict=True):
        if level.dense:
            if level.size != size:
                corrupt(
                    f"A dense level has its dimension's size, {size}", f"{level.size}: {sparsity}"
                )
            nodes *= size
            continue
        segments, indices = level.segments, level.indices
        if len(segments) != nodes + 1:
            corrupt(f"A sparse level has {nodes} segments here", f"{len(segments) - 1} segments")
        # Compared, not subtracted: unsigned numbers would wrap round.
        if segments[0] != 0 or (segments[1:] < segments[:-1]).any():
            corrupt("Segments start at 0 and do not go back", f"segments {segments[:8]}...")
        if segments[-1] != len(indices):
            corrupt(f"The segments end at {len(indices)}, the number of indices", segments[-1])
        if len(indices) and not 0 <= indices.min() <= indices.max() < size:
            corrupt(
                f"An index lies within its dimension of {size}", f"{indices.min()}, {indices.max()}"
            )
        nodes = len(indices)
    return nodes


def densify(values: np.ndarray, sparsity: Sparsity, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the dense form of a sparse tensor.

    Args:
        values: the stored values in file order, shape (stored,).
        sparsity: how they are stored.
        shape: the tensor's shape.

    Returns:
        A new array of `shape`, zero where nothing is stored.

    Raises:
        CorruptFileError: the description contradicts itself, the shape or the number of values, or
            the dense form would exceed `MAX_DENSE_BYTES`.
    """
    stored = stored_values(sparsity, shape)
    if stored != len(values):
        corrupt(f"This sparse tensor stores {stored} values", f"{len(values)} values")
    dense_bytes = math.prod(shape) * values.itemsize
    if dense_bytes > MAX_DENSE_BYTES:
        corrupt(
            f"A sparse tensor has at most {MAX_DENSE_BYTES} bytes when expanded",
            f"shape {shape}, {dense_bytes} bytes",
        )
    if not stored:  # also where a dimension is 0 and the levels before it are not
        return np.zeros(shape, values.dtype)
    rank = len(shape)
    # The step in the flat array that one index of each dimension makes. Within a block it is the
    # tensor's own; from block to block as many times that as the block is long.
    steps = [math.prod(shape[d + 1 :]) for d in range(rank)]
    steps += [steps[d] for d in sparsity.block_map]
    for dimension, level in zip(sparsity.traversal_order, sparsity.dim_metadata, strict=True):
        if dimension >= rank:
            steps[sparsity.block_map[dimension - rank]] *= level.size
    # Level by level, the place in the flat array that each node stands for.
    places = np.zeros(1, np.int64)
    for dimension, level in zip(sparsity.traversal_order, sparsity.dim_metadata, strict=True):
        step = steps[dimension]
        if level.dense:
            places = (places[:, None] + step * np.arange(level.size, dtype=np.int64)).ravel()
        else:
            ends = level.segments.astype(np.int64)
            places = np.repeat(places, ends[1:] - ends[:-1]) + step * level.indices.astype(np.int64)
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[places] = values
    return dense.reshape(shape)
