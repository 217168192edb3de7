"""What a layer of unknown inside does when it is called: its layers, and its operations between.

The call is traced into a TensorFlow graph, with a watch on `Layer.__call__`. What the graph holds
beyond the calls of known layers are the layer's own operations; their matrix products and
convolutions are counted from their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from tfcompress.graph.flow import Value
from tfcompress.surgery.multiply_adds import (
    call_multiply_adds,
    einsum_multiply_adds,
    rule_of,
    shape_of,
    size,
)

# Operations that hold others, which a graph does not show.
_CLOSED = ("While", "StatelessWhile", "If", "StatelessIf", "PyFunc", "EagerPyFunc",
           "PartitionedCall", "StatefulPartitionedCall", "CudnnRNN", "Map")  # fmt: skip
# Operations that make no tensor of activations.
_NOTHING = ("Const", "Placeholder", "ReadVariableOp", "Identity", "NoOp", "Shape", "ResourceGather")


@dataclass(eq=False)
class Step:
    """A part of a model's work, in the order in which it is done.

    Attributes:
        path: the names of the models and layers that hold it, and its own.
        operation: the layer or operation; None for the operations of a layer's own `call`.
        inputs: the tensors that it reads.
        outputs: the tensors that it makes.
        multiply_adds: what it costs.
        listed: it has a row of its own among the layers.
        makes: its outputs are new tensors; False for the row of a layer that stands behind the
            rows of the layers that it holds.
    """

    path: str
    operation: Any
    inputs: list[Value]
    outputs: list[Value]
    multiply_adds: int = 0
    listed: bool = True
    makes: bool = True


@dataclass
class Trace:
    """What was seen.

    Attributes:
        steps: in order.
        outputs: the tensors that came out, flat.
        left_out: sentences on what could not be counted.
    """

    steps: list[Step] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def is_known(layer: Any) -> bool:
    """Whether a call of the layer is one step: there is a rule, or nothing to count in it."""
    wrappers = (keras.layers.Bidirectional, keras.layers.TimeDistributed)
    if isinstance(layer, wrappers):
        inner = getattr(layer, "forward_layer", None) or layer.layer
        if isinstance(inner, wrappers):
            return is_known(inner)
        return rule_of(inner) is not None or not holds_layers(inner)
    if rule_of(layer) is not None:
        return True
    own = not type(layer).__module__.startswith("keras.")
    return not (own or holds_layers(layer) or isinstance(layer, keras.layers.Lambda))


def holds_layers(layer: Any) -> bool:
    """Whether there are layers within it."""
    return any(True for _ in layer._flatten_layers(include_self=False))


def trace(function: Callable[..., Any], args: Any, kwargs: Any, path: str) -> Trace:
    """Traces a call.

    Args:
        function: a layer or model, or a function that calls it.
        args: positional arguments, with Values in place of tensors.
        kwargs: likewise.
        path: the path of what is called.
    """
    tracer = _Tracer(path)

    def placeholder(item: Any) -> Any:
        if not isinstance(item, Value):
            return item
        shape = (1, *item.shape[1:]) if item.shape[:1] == (None,) else item.shape
        tensor = tf.compat.v1.placeholder(item.dtype, shape)
        tracer.values[tensor.name] = item
        return tensor

    def run(*_: Any) -> Any:
        given = keras.tree.map_structure(placeholder, (args, kwargs))
        with tracer.watching():
            results = function(*given[0], **given[1])
        tracer.finish(results)
        return results

    keras.src.backend.compute_output_spec(run)
    return tracer.result


class _Tracer:
    def __init__(self, path: str) -> None:
        self.values: dict[str, Value] = {}
        self.result = Trace()
        # (index of the first operation, of the one behind the last, path, layer, tensors)
        self._known: list[tuple[int, int, str, Any, Any, Any]] = []
        self._holders: list[tuple[int, int, str, Any, Any]] = []
        self._left: set[int] = set()
        self._stack: list[str] = [path]
        self._graph: Any = None
        self._within = False
        self._depth = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        original = keras.layers.Layer.__call__
        self._graph = tf.compat.v1.get_default_graph()

        def watched(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return self._called(original, layer, args, kwargs)

        keras.layers.Layer.__call__ = watched
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = original

    def _called(self, original: Any, layer: Any, args: Any, kwargs: Any) -> Any:
        # The body of a loop or a function has a graph of its own.
        elsewhere = tf.compat.v1.get_default_graph() is not self._graph
        if self._within or elsewhere:
            return original(layer, *args, **kwargs)
        path = self._stack[-1]
        if self._depth:
            path = f"{path}/{layer.name}" if path else layer.name
        start, known = _count(), is_known(layer)
        self._stack.append(path)
        self._depth += 1
        self._within = known
        try:
            results = original(layer, *args, **kwargs)
        finally:
            self._within = False
            self._depth -= 1
            self._stack.pop()
        if known:
            self._known.append((start, _count(), path, layer, (args, kwargs), results))
        else:
            self._holders.append((start, _count(), path, layer, results))
        return results

    def finish(self, results: Any) -> None:
        """Puts what was seen in order."""
        operations = tf.compat.v1.get_default_graph().get_operations()
        owned = {start: entry for start, *entry in self._known if entry[0] > start}
        # A layer that makes no operation, as Dropout, hands its input on.
        index = 0
        own: dict[int, int] = {}
        while index < len(operations):
            self._leave(index, own)
            if index in owned:
                end, path, layer, given, made = owned[index]
                inputs, outputs = self._made(given), self._made(made)
                cost = call_multiply_adds(layer, given[0], given[1], outputs)
                self.result.steps.append(Step(path, layer, inputs, outputs, cost))
                index = end
                continue
            self._own(operations[index], index, own)
            index += 1
        self._leave(index, own)
        self.result.outputs = self._made(results)

    def _leave(self, index: int, own: dict[int, int]) -> None:
        """The rows of the layers whose call ends here, inner ones first."""
        for number, (_, end, path, layer, made) in enumerate(self._holders):
            if number not in self._left and end <= index:
                self._left.add(number)
                cost = own.get(number, 0)
                step = Step(path, layer, [], self._made(made), cost, makes=False)
                self.result.steps.append(step)

    def _own(self, operation: Any, index: int, own: dict[int, int]) -> None:
        """An operation of a layer's own `call`."""
        if operation.type in _NOTHING:
            source = operation.inputs[0].name if len(operation.inputs) else ""
            if operation.type == "Identity" and source in self.values:
                self.values[operation.outputs[0].name] = self.values[source]
            return
        around = [i for i, (start, end, *_) in enumerate(self._holders) if start <= index < end]
        holder = min(around, key=lambda i: self._holders[i][1] - self._holders[i][0], default=None)
        path = self._stack[0] if holder is None else self._holders[holder][2]
        if operation.type in _CLOSED:
            # Keras tries a recurrent cell once before its loop; the loop itself is closed.
            what = "repeats inside its {} is counted once at most"
            what = what if "While" in operation.type else "does inside its {} is not counted"
            self.result.left_out.append(f"what {path!r} {what.format(operation.type)}")
        cost = _operation_multiply_adds(operation)
        if holder is not None:
            own[holder] = own.get(holder, 0) + cost
            cost = 0
        inputs = self._seen(list(operation.inputs))
        if inputs:
            made = self._made(list(operation.outputs))
            self.result.steps.append(Step(path, None, inputs, made, cost, listed=False))

    def _seen(self, nest: Any) -> list[Value]:
        return [self.values[t.name] for t in _tensors(nest) if t.name in self.values]

    def _made(self, nest: Any) -> list[Value]:
        return [self.values.setdefault(t.name, Value.like(t)) for t in _tensors(nest)]


def _count() -> int:
    return len(tf.compat.v1.get_default_graph().get_operations())


def _tensors(nest: Any) -> list[Any]:
    """The tensors of a graph in a nest; handles and those of unknown rank left out."""
    found = [t for t in keras.tree.flatten(nest) if tf.is_tensor(t) and hasattr(t, "op")]
    handles = (tf.variant, tf.resource)
    return [t for t in found if t.shape.rank is not None and t.dtype not in handles]


def _operation_multiply_adds(operation: Any) -> int:
    """Multiply-adds of a TensorFlow operation, from its shapes."""
    shapes = [shape_of(tensor) for tensor in operation.inputs]
    kind = operation.type
    if kind == "Einsum":
        return einsum_multiply_adds(operation.get_attr("equation").decode(), shapes)
    if kind == "MatMul":
        summed = shapes[0][0 if operation.get_attr("transpose_a") else 1]
        return size(shape_of(operation.outputs[0])) * size((summed,))
    if kind in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        summed = shapes[0][-2 if operation.get_attr("adj_x") else -1]
        return size(shape_of(operation.outputs[0])) * size((summed,))
    if kind in ("Conv2D", "Conv3D"):
        return size(shape_of(operation.outputs[0])) * size(shapes[1][:-1])
    if kind == "DepthwiseConv2dNative":
        return size(shape_of(operation.outputs[0])) * size(shapes[1][:2])
    if kind in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        return size(shapes[2]) * size(shapes[1][:-1])  # transposed: each input meets the kernel
    return 0
