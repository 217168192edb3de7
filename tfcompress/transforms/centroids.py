"""`Centroids`: few values that a kernel's weights share."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.transforms.base import WeightTransform, read, valued
from tfcompress.transforms.sharing import pairs


@keras.saving.register_keras_serializable("tfcompress")
class Centroids(WeightTransform):
    """A kernel as `centroids[assignments]`: the centroids train, the assignments stay.

    The gradient of a centroid is the sum of those of its weights, added up in float64 in the order
    of the kernel, whatever the number of threads. What comes in is not read: the kernel itself has
    no gradient and does not train. Its regularizer sees the shared weights.

    Args:
        count: how many centroids train.
        zero: there is one more, which is 0 and does not train.

    Attributes:
        centroids: variable (count,) of the kernel's dtype; None before `build`.
        assignments: whole numbers of the kernel's shape: which centroid each weight has; with
            `zero`, 0 stands for that and 1 for the first of `centroids`. None before `build`.

    Source: Han et al. 2016, "Deep Compression" (arXiv:1510.00149), section 3.
    """

    replaces = True

    def __init__(self, count: int, zero: bool = False) -> None:
        self.count, self.zero = count, zero
        self.centroids: Any = None
        self.assignments: Any = None
        self._start: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def sharing(
        cls, values: np.ndarray, *, zero: bool, groups: np.ndarray | None = None
    ) -> Centroids:
        """Centroids that begin as the different values of a kernel.

        Args:
            values: the kernel; what is equal in it stays equal.
            zero: its zeros stay zeros.
            groups: whole numbers of its shape; equal values of different groups do not hang
                together. None: all are one group.
        """
        table, index, _ = pairs(values, groups)
        if zero:
            trained = np.flatnonzero(table != 0)
            places = np.zeros(len(table), np.int64)
            places[trained] = 1 + np.arange(len(trained))
            table, index = table[trained], places[index]
        made = cls(len(table), zero)
        made._start = table, index.reshape(values.shape)
        return made

    @property
    def variables(self) -> list[Any]:
        """The centroids, then the assignments."""
        return [] if self.centroids is None else [self.centroids, self.assignments]

    def build(self, kernel: Any) -> None:
        """Makes both, with the values of `sharing`, or zeros to load others into."""
        shape = tuple(kernel.shape)
        table, index = self._start or (np.zeros(self.count), np.zeros(shape))
        self._start = None
        self.centroids = keras.Variable(
            valued(table),
            shape=(self.count,),
            dtype=kernel.dtype,
            trainable=True,
            autocast=False,
            name="centroids",
        )
        largest = self.count + int(self.zero)
        # Whole numbers of 32 bits would lie in the host's memory; those need no more bytes.
        width = "uint8" if largest <= 256 else "uint16" if largest <= 65536 else "int32"
        self.assignments = keras.Variable(
            valued(index), shape=shape, dtype=width, trainable=False, name="assignments"
        )

    def settle(self, kernel: Any) -> None:
        """The kernel no longer trains, and leaves its regularizer to what does."""
        kernel.trainable = False
        if kernel.regularizer is not None:
            self.centroids.regularizer = _OfKernel(kernel.regularizer, self)

    def __call__(self, value: Any, training: Any = None) -> Any:
        """The kernel of shared weights."""
        return self.spread(read(self.centroids))

    def spread(self, centroids: Any) -> Any:
        """The kernel that these centroids make.

        Args:
            centroids: tensor (count,).
        """
        # Read outside: a function with a gradient of its own must not read variables.
        indices = tf.cast(read(self.assignments), tf.int32)
        first = int(self.zero)

        @tf.custom_gradient
        def gathered(centroids: Any) -> Any:
            def gradient(upstream: Any) -> Any:
                members = indices
                if isinstance(upstream, tf.IndexedSlices):  # some rows of an embedding
                    members, upstream = tf.gather(indices, upstream.indices), upstream.values
                sums = tf.math.unsorted_segment_sum(
                    tf.cast(upstream, tf.float64), members, self.count + first
                )
                return tf.cast(sums[first:], centroids.dtype)

            table = tf.pad(centroids, [[first, 0]])
            return tf.gather(table, indices), gradient

        return gathered(centroids)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {"count": self.count, "zero": self.zero}


class _OfKernel(keras.regularizers.Regularizer):
    """A kernel's regularizer as one of its centroids."""

    def __init__(self, own: Any, transform: Centroids) -> None:
        self._own, self._transform = own, transform

    def __call__(self, centroids: Any) -> Any:
        return self._own(self._transform.spread(tf.convert_to_tensor(centroids)))
