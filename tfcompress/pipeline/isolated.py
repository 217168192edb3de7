"""A step as if it ran alone: seeds, names and determinism of its own, the caller's put back."""

from __future__ import annotations

import collections
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

# Keras's own state by which names are numbered and random numbers are drawn.
_ATTRIBUTES = ("object_name_uids", "global_seed_generator", "global_random_seed")


@contextlib.contextmanager
def alone(seed: int, *, deterministic: bool) -> Iterator[None]:
    """Runs the block with every generator seeded and with fresh names for layers.

    What it computes then depends on what it is given and not on what ran before in the process.

    Args:
        seed: of Python's, NumPy's, TensorFlow's and Keras's generators.
        deterministic: TensorFlow's kernels give the same bits every time, or an error where one
            cannot (`tf.config.experimental.enable_op_determinism`).
    """
    import keras
    from keras.src.backend.common import global_state
    from tensorflow.python.eager import context
    from tensorflow.python.framework import config

    python, numpy_ = random.getstate(), np.random.get_state()
    kept = {name: global_state.get_global_attribute(name) for name in _ATTRIBUTES}
    seed_before, was_deterministic = context.global_seed(), config.is_op_determinism_enabled()
    try:
        fresh: Any = collections.defaultdict(int)
        global_state.set_global_attribute("object_name_uids", fresh)
        global_state.set_global_attribute("global_seed_generator", None)
        keras.utils.set_random_seed(seed)
        if deterministic and not was_deterministic:
            config.enable_op_determinism()
        yield
    finally:
        if deterministic and not was_deterministic:
            config.disable_op_determinism()
        for name, value in kept.items():
            global_state.set_global_attribute(name, value)
        random.setstate(python)
        np.random.set_state(numpy_)
        context.set_global_seed(seed_before)
