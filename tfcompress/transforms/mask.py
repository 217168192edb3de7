"""`Mask`: zeros where it is False."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.transforms.base import WeightTransform, read, valued


@keras.saving.register_keras_serializable("tfcompress")
class Mask(WeightTransform):
    """Sets a kernel's masked weights to zero.

    The gradient passes straight through: masked weights get one too, by which criteria may judge
    them.

    Attributes:
        mask: bool variable of the kernel's shape, False where masked; None before `build`.
    """

    def __init__(self) -> None:
        self.mask: Any = None
        self._start: Any = None

    @classmethod
    def keeping(cls, values: Any) -> Mask:
        """A mask that keeps the zeros of a kernel.

        Args:
            values: array, the kernel.
        """
        made = cls()
        made._start = values != 0
        return made

    @property
    def variables(self) -> list[Any]:
        """The mask."""
        return [] if self.mask is None else [self.mask]

    def build(self, kernel: Any) -> None:
        """Makes the mask; without `keeping` one that keeps everything."""
        start, self._start = self._start, None
        self.mask = keras.Variable(
            keras.initializers.Ones() if start is None else valued(start),
            shape=tuple(kernel.shape),
            dtype="bool",
            trainable=False,
            name="mask",
        )

    def __call__(self, value: Any, training: Any = None) -> Any:
        """The masked kernel; a product would leave negative zeros, and NaN where it is NaN."""
        # Read outside: a function with a gradient of its own must not read variables.
        mask = read(self.mask)

        @keras.ops.custom_gradient
        def masked(value: Any) -> Any:
            def gradient(*args: Any, upstream: Any = None) -> Any:
                if training is True:  # not where an export traces the gradient as well
                    self.differentiated()
                return args[0] if upstream is None else upstream

            return keras.ops.where(mask, value, keras.ops.zeros((), value.dtype)), gradient

        return masked(value)

    def differentiated(self) -> None:
        """Called where a training step computes the gradient: when it is traced, or each time."""


@keras.saving.register_keras_serializable("tfcompress")
class KeptZeros(Mask):
    """The zeros of a kernel that trains in a model of `tfc.adapt`, until `tfc.strip` ends it."""

    ends = True
