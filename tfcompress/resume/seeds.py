"""The random generators of Python, NumPy, Keras and TensorFlow, as they are."""

from __future__ import annotations

import random
from typing import Any

import numpy as np


def seed() -> int | None:
    """TensorFlow's global seed."""
    from tensorflow.python.eager import context

    seed = context.global_seed()  # keras.utils.set_random_seed and tf.random.set_seed set it
    return None if seed is None else int(seed)


def has_global_seed_generator() -> bool:
    """Whether `keras.random` was used without a seed: to make the generator draws a number."""
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute("global_seed_generator") is not None


def global_seed_generator() -> Any:
    """What `keras.random` draws from without a seed."""
    from keras.src.random import seed_generator

    return seed_generator.global_seed_generator()


def random_state() -> dict[str, Any]:
    """Python's and NumPy's global random state, as JSON knows it."""
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(numbers), gauss]}
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state["numpy"] = [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)]
    return state


def set_random_state(state: dict[str, Any], where: dict[str, Any] | None = None) -> None:
    """Sets the generators to `state`: all of them, or those that are now as in `where`."""
    now = random_state()
    if where is None or now["python"] == where["python"]:
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
    if where is None or now["numpy"] == where["numpy"]:
        np.random.set_state(tuple(state["numpy"]))
