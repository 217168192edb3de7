"""Functions that Keras 3 has under the same name with other values. No Keras at import time."""

from __future__ import annotations

from typing import Any


def hard_sigmoid_of_keras2(x: Any) -> Any:
    """clip(0.2 x + 0.5, 0, 1): Keras 3's has a slope of 1/6.

    Args:
        x: a tensor of any shape.

    Source: `hard_sigmoid` of Keras 2, the recurrent activation of its first LSTM and GRU layers.
    """
    import keras

    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)
