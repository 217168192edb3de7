"""A model's work as a list of steps, from its flow where Keras knows it, or else from a trace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from tfcompress.graph.flow import Call, Value, read_flow
from tfcompress.surgery.multiply_adds import call_multiply_adds, size
from tfcompress.surgery.tracing import Step, Trace, is_known, trace


@dataclass
class Work:
    """What a model does.

    Attributes:
        steps: in the order in which they are done.
        inputs: the model's inputs.
        outputs: the model's outputs.
        notes: what is not counted.
    """

    steps: list[Step] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def peak_bytes(self) -> int:
        """The largest sum of tensors alive at once, for one example."""
        last: dict[int, int] = {}
        for index, step in enumerate(self.steps):
            last.update((id(value), index) for value in step.inputs)
        last.update((id(value), len(self.steps)) for value in self.outputs)
        alive = {id(value): _bytes(value) for value in self.inputs}
        peak = sum(alive.values())
        for index, step in enumerate(self.steps):
            if step.makes:
                alive.update((id(value), _bytes(value)) for value in step.outputs)
            peak = max(peak, sum(alive.values()))
            alive = {key: n for key, n in alive.items() if last.get(key, -1) > index}
        return peak


def read_work(model: keras.Model, interface: Any = None) -> Work:
    """A model's steps.

    Args:
        model: a built model.
        interface: its inputs, where it must be traced: it is subclassed, or has open sizes.
    """
    if interface is not None:
        return _traced(model, interface)
    flow = read_flow(model, opens=lambda _: False)
    outputs = keras.tree.flatten(flow.outputs)
    work = Work(inputs=flow.input_values, outputs=outputs)
    if any(None in v.shape[1:] for c in flow.calls for v in (*c.inputs, *c.results)):
        work.notes.append(
            "sizes that the model leaves open count as 1: pass input_shapes for real ones"
        )
    batch = max((v.shape[0] or 1 for v in flow.input_values if v.shape), default=1)
    if batch > 1:
        work.notes.append(f"the model has a batch of {batch}, which counts as a whole")
    for call in flow.calls:
        work.steps += _steps(call, work.notes)
    return work


def _steps(call: Call, notes: list[str]) -> Sequence[Step]:
    layer = call.operation
    if not isinstance(layer, keras.layers.Layer) or is_known(layer):
        cost = call_multiply_adds(layer, call.args, call.kwargs, call.results)
        cost *= call.results[0].rows
        return [Step(call.path, layer, call.inputs, call.results, cost)]
    found = _try(layer, call.args, call.kwargs, call.path, notes)
    if found is None or len(found.outputs) != len(call.results):
        return [Step(call.path, layer, call.inputs, call.results)]
    # The rest of the flow knows the outputs as its own Values.
    own = {id(a): b for a, b in zip(found.outputs, call.results, strict=True)}
    for step in found.steps:
        step.multiply_adds *= call.results[0].rows
        step.inputs = [own.get(id(v), v) for v in step.inputs]
        step.outputs = [own.get(id(v), v) for v in step.outputs]
    return found.steps


def _traced(model: keras.Model, interface: Any) -> Work:
    values = [Value((None, *spec.shape[1:]), spec.dtype) for spec in interface.specs]
    nest = keras.tree.map_structure(lambda index: values[index], interface.structure)
    work = Work(inputs=values)
    args, kwargs = ((), nest) if interface.separate else ((nest,), {})
    found = _try(model, args, kwargs, "", work.notes)
    if found is not None:
        work.steps, work.outputs = found.steps, found.outputs
        for step in work.steps:
            step.path = step.path or model.name
    if any(None in value.shape[1:] for value in values):
        work.notes.append(
            "sizes that the model leaves open are not counted: pass input_shapes for real ones"
        )
    return work


def _try(layer: Any, args: Any, kwargs: Any, path: str, notes: list[str]) -> Trace | None:
    try:
        found = trace(layer, args, kwargs, path)
    except Exception as error:
        # Whatever a layer of the user's raises: the rest of the model is counted all the same.
        said = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
        notes.append(
            f"what {path or layer.name!r} does inside is not counted: its call cannot be traced "
            f"({type(error).__name__}: {said:.200})"
        )
        return None
    notes += found.left_out
    return found


def item_bytes(dtype: str) -> int:
    """Bytes of one element; 0 for strings, whose size is not known."""
    if dtype in ("bool", "int8", "uint8") or dtype.startswith("float8"):
        return 1
    digits = "".join(c for c in dtype if c.isdigit())
    return int(digits) // 8 if digits else 0


def _bytes(value: Value) -> int:
    return size(value.shape) * value.rows * item_bytes(value.dtype)
