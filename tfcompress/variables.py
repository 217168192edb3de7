"""Reading Keras variables, under `tf.distribute` strategies too."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def value_of(variable: Any) -> np.ndarray:
    """A variable's value.

    Under a distribution strategy that of the first replica, or the sum over all replicas of a
    variable that adds up (`synchronization="on_read"`).
    """
    native = getattr(variable, "value", variable)
    if hasattr(native, "values"):  # distributed: has no conversion to an array of its own
        return native.numpy()
    return keras.ops.convert_to_numpy(variable)
