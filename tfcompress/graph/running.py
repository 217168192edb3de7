"""`Run`: a flow computed call by call, so that layers can be changed on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.graph.flow import Call, Flow, Value

# Examples that go through a call at a time.
CHUNK = 64


class Run:
    """Computes the calls of a model in inference mode, one after the other.

    What no later call reads is forgotten, so that only the tensors between the calls done and
    those to come are held, and the outputs.

    Args:
        flow: the calls.
        inputs: (examples, ...) of each of the model's inputs, flat, in its own order.

    Example:
        >>> run = Run(read_flow(model), [x])
        >>> for call in flow.calls:
        ...     run.step(call)  # after whatever was done to call.operation
    """

    def __init__(self, flow: Flow, inputs: Sequence[np.ndarray]) -> None:
        self._readers: dict[int, list[Call]] = defaultdict(list)
        for call in flow.calls:
            for value in set(call.inputs):
                self._readers[id(value)].append(call)
        self._makers = {id(value): call for call in flow.calls for value in call.results}
        self._done: set[int] = set()
        self._outputs = {id(value) for value in keras.tree.flatten(flow.outputs)}
        self._values: dict[int, list[Any]] = {}
        for value, array in zip(flow.input_values, inputs, strict=True):
            self._values[id(value)] = [
                keras.ops.convert_to_tensor(array[start : start + CHUNK], dtype=value.dtype)
                for start in range(0, len(array), CHUNK)
            ]

    def done(self, call: Call) -> bool:
        """Whether a call has been computed already: what it read may be forgotten."""
        return id(call) in self._done

    def value(self, value: Value) -> list[Any]:
        """A tensor of the model, in chunks of its examples."""
        return self._values[id(value)]

    def readers(self, value: Value) -> list[Call]:
        """The calls to come that read a tensor."""
        return self._readers[id(value)]

    def reach(self, call: Call) -> None:
        """Computes what a call reads, as far as that has not been done."""
        waiting = [call]
        while waiting:
            makers = [self._makers[id(v)] for v in waiting[-1].inputs if id(v) in self._makers]
            missing = [maker for maker in makers if id(maker) not in self._done]
            if missing:
                waiting.append(missing[0])
            elif len(waiting) > 1:
                self.step(waiting.pop())
            else:
                return

    def compute(self, call: Call) -> list[list[Any]]:
        """What a call gives: for each of its results, the chunks."""
        count = max((len(self._values[id(value)]) for value in call.inputs), default=1)
        chunks = [self._call(call, number) for number in range(count)]
        return [list(result) for result in zip(*chunks, strict=True)]

    def step(self, call: Call) -> None:
        """Computes a call, unless that has been done, and forgets what is no longer read."""
        if id(call) in self._done:
            return
        self._done.add(id(call))
        results = self.compute(call)
        for value in set(call.inputs):
            self._readers[id(value)].remove(call)
            if not self._is_read(value):
                del self._values[id(value)]
        for value, chunks in zip(call.results, results, strict=True):
            if self._is_read(value):
                self._values[id(value)] = chunks

    def _is_read(self, value: Value) -> bool:
        return bool(self._readers[id(value)]) or id(value) in self._outputs

    def _call(self, call: Call, number: int) -> list[Any]:
        def given(item: Any) -> Any:
            if not isinstance(item, Value):
                return item
            chunks = self._values[id(item)]
            # What was made of no input, as a constant, has a single chunk.
            return chunks[min(number, len(chunks) - 1)]

        args, kwargs = keras.tree.map_structure(given, (call.args, call.kwargs))
        operation = call.operation
        if getattr(operation, "_call_has_training_arg", False):
            # Whatever the call says, as in `predict`: Keras notes training=True for augmentation.
            kwargs = {**kwargs, "training": False}
        # Attention takes the masks off the tensors that it reads; other readers are to find them.
        tensors = [t for t in keras.tree.flatten((args, kwargs)) if keras.ops.is_tensor(t)]
        masks = [getattr(tensor, "_keras_mask", None) for tensor in tensors]
        results = keras.tree.flatten(operation(*args, **kwargs))
        for tensor, mask in zip(tensors, masks, strict=True):
            if mask is not None:
                tensor._keras_mask = mask
        return results
