"""`WeightTransform`: what is done to a kernel each time its layer uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import keras
import tensorflow as tf


class WeightTransform(ABC):
    """A function of one kernel, applied whenever its layer is called.

    Several of them on one kernel are applied one after the other, each to what the one before it
    made: mask, then centroids, then fake-quant. The gradient that reaches the kernel is what a
    transform lets through; it says so itself.

    Subclasses are registered with `keras.saving.register_keras_serializable("tfcompress")`.

    Attributes:
        replaces: what it makes depends on its variables alone: they train, and not the kernel.
        freezes: the kernel does not train while it is there, and did before.
        ends: `tfc.strip` takes it out of a quantize-aware layer, too.
    """

    replaces: ClassVar[bool] = False
    freezes: ClassVar[bool] = False
    ends: ClassVar[bool] = False

    @property
    @abstractmethod
    def variables(self) -> list[Any]:
        """What it keeps, in the order in which it is saved; [] before `build`."""

    @abstractmethod
    def build(self, kernel: Any) -> None:
        """Makes its variables for that kernel, from initializers (see `keras.Variable`)."""

    def settle(self, kernel: Any) -> None:  # noqa: B027
        """Called once the kernel is as it is to be, and whenever it was made trainable."""

    @abstractmethod
    def __call__(self, value: Any, training: Any = None) -> Any:
        """The transformed kernel, of the same shape and dtype.

        Args:
            value: the kernel, or what the transform before this one made of it.
            training: as the layer is called with.
        """

    @classmethod
    def driver(cls) -> type[keras.callbacks.Callback] | None:
        """The callback class, made without arguments, that training needs; None for none."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Arguments that make it again, without its variables' values."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightTransform:
        """The inverse of `get_config`."""
        return cls(**config)


def read(variable: Any) -> Any:
    """A variable's value here and now as a tensor; `keras.ops` may hand on the variable itself."""
    return tf.convert_to_tensor(variable.value)


def valued(array: Any) -> Any:
    """An initializer that gives these values; also where Keras traces a layer to build it."""

    def initial(shape: Any, dtype: Any = None) -> Any:
        return tf.cast(tf.constant(array), dtype)

    return initial
