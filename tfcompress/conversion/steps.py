"""TimeDistributed in an exported graph: once for all steps, where Keras has a copy for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tfcompress.graph.flow import steps_apart


@contextlib.contextmanager
def steps_in_one_batch() -> Iterator[None]:
    """Lets TimeDistributed compute its steps as rows of one batch while the block runs.

    Keras calls the layer inside once for each step, on a slice, and stacks the results: a file
    has its operators as often, between slices and stacks that XNNPACK leaves. It stays so where
    steps have a mask or may look at each other's examples (see `steps_apart`).
    """
    one_by_one = keras.layers.TimeDistributed.call

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        masked = mask is not None and self.layer._call_has_mask_arg
        if masked or not steps_apart(self, inputs, bool(training)):
            return one_by_one(self, inputs, training, mask)
        rows = keras.ops.reshape(inputs, (-1, *inputs.shape[2:]))
        options = {"training": training} if self.layer._call_has_training_arg else {}
        made = self.layer.call(rows, **options)
        return keras.ops.reshape(made, (-1, inputs.shape[1], *made.shape[1:]))

    keras.layers.TimeDistributed.call = call
    try:
        yield
    finally:
        keras.layers.TimeDistributed.call = one_by_one
