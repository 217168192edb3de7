"""`LowRank`: a kernel that stays, plus a product of two small matrices that trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.transforms.base import WeightTransform, read


@keras.saving.register_keras_serializable("tfcompress")
class LowRank(WeightTransform):
    """Adds scale * a @ b to a kernel, and keeps its zeros.

    The sum is computed in float64 and rounded once, so that it is the same numbers in every
    compiled form of the model and when it is merged. The kernel itself does not train.

    Args:
        rank: columns of a and rows of b.
        scale: of the product.
        columns: axes of the kernel that b's columns stand for, its outputs; all others are a's
            rows.
        keep_zeros: where the kernel is 0 nothing is added.

    Attributes:
        a: float32 variable (rows, rank), by He's uniform initializer; None before `build`.
        b: float32 variable (rank, columns), zeros at first: the kernel begins as it was.

    Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"
    (arXiv:2106.09685).
    """

    freezes = ends = True

    def __init__(
        self, rank: int, scale: float = 1.0, columns: Sequence[int] = (-1,), keep_zeros: bool = True
    ) -> None:
        self.rank, self.scale = rank, float(scale)
        self.columns, self.keep_zeros = tuple(columns), keep_zeros
        self.a: Any = None
        self.b: Any = None

    @property
    def variables(self) -> list[Any]:
        """The two matrices."""
        return [] if self.a is None else [self.a, self.b]

    def build(self, kernel: Any) -> None:
        """Makes both."""
        shape = tuple(kernel.shape)
        columns = int(np.prod([shape[axis] for axis in self.columns]))
        rows = int(np.prod(shape)) // columns
        for name, size, initial in (
            ("a", (rows, self.rank), keras.initializers.HeUniform()),
            ("b", (self.rank, columns), keras.initializers.Zeros()),
        ):
            variable = keras.Variable(
                initial, shape=size, dtype="float32", trainable=True, autocast=False,
                name=f"low_rank_{name}",
            )  # fmt: skip
            setattr(self, name, variable)

    def settle(self, kernel: Any) -> None:
        """The kernel no longer trains."""
        kernel.trainable = False

    def __call__(self, value: Any, training: Any = None) -> Any:
        """The kernel with what is added."""
        shape = [int(size) for size in value.shape]
        last = [axis % len(shape) for axis in self.columns]
        order = [axis for axis in range(len(shape)) if axis not in last] + last
        a, b = (tf.cast(read(variable), tf.float64) for variable in (self.a, self.b))
        added = tf.reshape(self.scale * tf.matmul(a, b), [shape[axis] for axis in order])
        added = tf.transpose(added, np.argsort(order))
        total = tf.cast(tf.cast(value, tf.float64) + added, value.dtype)
        return tf.where(value != 0, total, tf.zeros_like(total)) if self.keep_zeros else total

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {
            "rank": self.rank,
            "scale": self.scale,
            "columns": list(self.columns),
            "keep_zeros": self.keep_zeros,
        }


@keras.saving.register_keras_serializable("tfcompress")
class Frozen(WeightTransform):
    """A weight as it is, which does not train until `tfc.strip` ends it."""

    freezes = ends = True

    @property
    def variables(self) -> list[Any]:
        """None."""
        return []

    def build(self, kernel: Any) -> None:
        """Nothing to make."""

    def settle(self, kernel: Any) -> None:
        """The weight does not train."""
        kernel.trainable = False

    def __call__(self, value: Any, training: Any = None) -> Any:
        """The weight."""
        return value


@keras.saving.register_keras_serializable("tfcompress")
class Still(Frozen):
    """A moving statistic of a layer that works as in inference until `tfc.strip` ends it."""
