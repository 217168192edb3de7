"""`Flow`: the layer calls of a Functional or Sequential model, nested models laid open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from tfcompress.graph.calls import functional, inputs_among, is_graph
from tfcompress.graph.distributed import (
    apart,
    holds_graph,
    is_elementwise,
    is_known,
    reshape,
)


@dataclass(eq=False)
class Value:
    """A tensor that flows through the model.

    Attributes:
        shape: with the batch axis first; None where a size is not known.
        dtype: its dtype's name.
        masked: Keras carries a mask along with it.
        rows: how many of its batch an example has: more than one behind a reshape that folds
            other axes into the batch.
    """

    shape: tuple[int | None, ...]
    dtype: str
    masked: bool = False
    rows: int = 1

    @classmethod
    def like(cls, tensor: Any) -> Value:
        """A value of that tensor's shape and dtype."""
        dtype = str(keras.backend.standardize_dtype(tensor.dtype))
        return cls(tuple(tensor.shape), dtype, getattr(tensor, "_keras_mask", None) is not None)


@dataclass(eq=False)
class Call:
    """One call of a layer or operation.

    Attributes:
        operation: what is called.
        args: its arguments, with Values in place of tensors.
        kwargs: likewise.
        outputs: a nest of Values.
        path: the operation's name, behind the names of the models that hold it.
        added: None for the model's own calls. Those that make rows of steps, and steps of rows,
            are not: the layer that they stand around.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any
    path: str
    added: Any = None

    @property
    def inputs(self) -> list[Value]:
        """The Values among the arguments, in order."""
        return [v for v in keras.tree.flatten((self.args, self.kwargs)) if isinstance(v, Value)]

    @property
    def results(self) -> list[Value]:
        """The outputs, flat."""
        return keras.tree.flatten(self.outputs)


@dataclass
class Flow:
    """A model as a list of calls.

    Attributes:
        calls: in an order in which they can be run.
        inputs: the model's inputs in its own nest, as KerasTensors.
        input_values: the same as Values, flat.
        outputs: a nest of Values.
    """

    calls: list[Call]
    inputs: Any
    input_values: list[Value]
    outputs: Any


def read_flow(model: keras.Model, *, opens: Callable[[Any], bool] = holds_graph) -> Flow:
    """The calls of a Functional or built Sequential model.

    Models nested in it are laid open: their calls stand in the list as if they were the model's
    own. A layer that is called several times has a call each time. What TimeDistributed holds is
    laid open between two calls that are not the model's: one makes steps rows of the batch, one
    makes steps of them again. It stays a call where that may not compute the same (`apart`).

    Args:
        model: the model.
        opens: whether a TimeDistributed is to be laid open; those around models, unless told.
    """
    graph = functional(model)
    reader = _Reader(opens)
    inputs = [Value.like(tensor) for tensor in graph.inputs]
    outputs = reader.read(model, inputs, "")
    return Flow(reader.calls, graph._inputs_struct, inputs, outputs)


def steps_apart(wrapper: Any, given: Any, training: bool = False) -> bool:
    """Whether all steps of a TimeDistributed may be computed as rows of one batch.

    Args:
        wrapper: the TimeDistributed.
        given: the tensor that it reads, or its Value.
        training: whether it is called with training=True.
    """
    value = Value((None, *given.shape[1:]), keras.backend.standardize_dtype(given.dtype))
    return _Reader(lambda _: True).opened(wrapper, (value,), {}, "", training) is not None


@dataclass
class _Reader:
    opens: Callable[[Any], bool]
    calls: list[Call] = field(default_factory=list)
    # By `id` of steps that were rows of the batch, these, and the steps, which are to live on.
    rows: dict[int, tuple[Value, Value]] = field(default_factory=dict)

    def read(self, model: Any, inputs: list[Value], prefix: str, training: bool = False) -> Any:
        """Appends the model's calls on these inputs; returns its outputs.

        Args:
            model: the model.
            inputs: what it is called with.
            prefix: of paths.
            training: whether it is called with training=True, as then all is that it holds.
        """
        graph = functional(model)
        values: dict[int, Value] = {
            id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)
        }
        # What a nested model leaves open, as the size of images, the tensors that it gets may tell.
        told = any(
            a is None and b is not None
            for tensor, value in zip(graph.inputs, inputs, strict=True)
            for a, b in zip(tensor.shape[1:], value.shape[1:], strict=False)
        )

        def seen(item: Any) -> Any:
            return values[id(item)] if isinstance(item, keras.KerasTensor) else item

        for node in _in_order(graph):
            args, kwargs = node.arguments.convert(seen)
            operation = node.operation
            path = f"{prefix}{operation.name}"
            if training and getattr(operation, "_call_has_training_arg", False):
                kwargs = {**kwargs, "training": True}
            if is_graph(operation):
                nested = [v for v in keras.tree.flatten(inputs_among(args, kwargs))
                          if isinstance(v, Value)]  # fmt: skip
                trains = bool(kwargs.get("training"))
                outputs = self.read(operation, nested, f"{path}/", trains)
                results = keras.tree.flatten(outputs)
            elif (opened := self.opened(operation, args, kwargs, path, training)) is not None:
                outputs, results = opened, [opened]
            elif (moved := self._on_rows(operation, args, kwargs, path)) is not None:
                outputs, results = moved, [moved]
            else:
                results = [Value.like(tensor) for tensor in node.outputs]
                if told:
                    _tell_shapes(operation, args, kwargs, results)
                _tell_rows(operation, args, kwargs, results)
                outputs = results[0] if len(results) == 1 else results
                self.calls.append(Call(operation, args, kwargs, outputs, path))
            for tensor, value in zip(node.outputs, results, strict=True):
                values[id(tensor)] = value
        return keras.tree.map_structure(seen, graph._outputs_struct)

    def opened(
        self, wrapper: Any, args: Any, kwargs: Any, path: str, training: bool
    ) -> Value | None:
        """Appends the calls of what a TimeDistributed holds; None where it is to stay a call."""
        if type(wrapper) is not keras.layers.TimeDistributed or not self.opens(wrapper):
            return None
        (given, *_) = [v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, Value)]
        batch, length, *step = given.shape
        masked = given.masked or kwargs.get("mask") is not None
        if masked or batch is not None or None in (length, *step):
            return None
        before = len(self.calls)
        rows = self.rows.get(id(given), (None,))[0]
        if rows is None:
            rows = self._reshaped(given, step, f"{path}/rows", wrapper)
        inside = len(self.calls)
        trains = training or bool(kwargs.get("training"))
        made = self._held(wrapper.layer, rows, f"{path}/{wrapper.layer.name}", trains)
        if isinstance(made, Value) and all(_apart(c, rows.rows) for c in self.calls[inside:]):
            return self._steps(made, (length, *made.shape[1:]), f"{path}/steps", wrapper)
        del self.calls[before:]
        return None

    def _on_rows(self, operation: Any, args: Any, kwargs: Any, path: str) -> Value | None:
        """Appends the call of an activation on the rows that its steps were, if they were."""
        given = [v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, Value)]
        if len(given) != 1 or id(given[0]) not in self.rows or not is_elementwise(operation):
            return None
        if kwargs.get("training"):
            return None
        rows, steps = self.rows[id(given[0])]
        made = Value(rows.shape, rows.dtype, rows=rows.rows)
        self.calls.append(Call(operation, (rows,), {}, made, path))
        return self._steps(made, steps.shape[1:], f"{path}/steps", operation)

    def _held(self, layer: Any, rows: Value, path: str, training: bool) -> Any:
        """Appends the calls of a layer or model on rows."""
        if type(layer) is keras.layers.TimeDistributed:
            return self.opened(layer, (rows,), {}, path, training)
        if is_graph(layer):
            apart = is_known(layer)
            return self.read(layer, [rows], f"{path}/", training) if apart else None
        if not is_known(layer):
            return None
        kwargs = {"training": True} if training and layer._call_has_training_arg else {}
        try:
            made = Value.like(layer.compute_output_spec(keras.KerasTensor(rows.shape, rows.dtype)))
        except Exception:
            return None  # whatever a layer raises that cannot say what it gives
        made.rows = rows.rows
        self.calls.append(Call(layer, (rows,), kwargs, made, path))
        return made

    def _steps(self, rows: Value, shape: Sequence[int | None], path: str, of: Any) -> Value:
        """Appends the call that makes steps of rows."""
        steps = self._reshaped(rows, shape, path, of)
        self.rows[id(steps)] = (rows, steps)
        return steps

    def _reshaped(self, value: Value, shape: Sequence[int | None], path: str, of: Any) -> Value:
        """Appends a call that gives a value's examples another shape."""
        operation = reshape((-1, *shape), path.replace("/", "."))
        result = Value((None, *shape), value.dtype)
        _tell_rows(operation, (value,), {}, [result])
        self.calls.append(Call(operation, (value,), {}, result, path, added=of))
        return result


def _apart(call: Call, rows: int) -> bool:
    if type(call.operation) is keras.layers.TimeDistributed:  # it has stayed a call
        whole = not call.inputs[0].masked and call.kwargs.get("mask") is None
        training = bool(call.kwargs.get("training"))
        return whole and steps_apart(call.operation, call.inputs[0], training)
    return call.added is not None or apart(call, rows)


def _tell_shapes(operation: Any, args: Any, kwargs: Any, results: list[Value]) -> None:
    """Gives the results the shapes that they have for these arguments, as far as that is known."""

    def tensor(item: Any) -> Any:
        return keras.KerasTensor(item.shape, item.dtype) if isinstance(item, Value) else item

    args, kwargs = keras.tree.map_structure(tensor, (args, kwargs))
    try:
        made = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
        shapes = [tuple(tensor.shape) for tensor in made]
    except Exception:
        return  # as a layer of somebody's own may: open sizes stay open
    for value, shape in zip(results, shapes, strict=False):
        if len(shape) == len(value.shape):
            value.shape = tuple(
                b if a is None else a for a, b in zip(value.shape, shape, strict=True)
            )


def _tell_rows(operation: Any, args: Any, kwargs: Any, results: list[Value]) -> None:
    """Gives the results the rows that their example has in them."""
    given = [v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, Value)]
    rows = max((value.rows for value in given), default=1)
    for result in results:
        result.rows = rows
        if type(operation).__name__ == "Reshape" and given and given[0].shape[:1] == (None,):
            before, after = (math.prod(n or 0 for n in v.shape[1:]) for v in (given[0], result))
            if result.shape[:1] == (None,) and before and after and rows * before % after == 0:
                result.rows = rows * before // after


def _in_order(graph: Any) -> Iterator[Any]:
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input and node.operation is not None:
                yield node
