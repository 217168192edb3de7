"""Which layer takes in a BatchNormalization: its neighbour, or one behind what hands it on."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, tree

from tfcompress import registry
from tfcompress.graph.calls import is_graph
from tfcompress.graph.copying import Replacement
from tfcompress.graph.flow import read_flow
from tfcompress.report import CompressionReport
from tfcompress.surgery.distributed import inside, open_wrappers, operands
from tfcompress.surgery.linear import Linear, NotExact, scale_and_shift
from tfcompress.surgery.passing import Affine, handed_on, passes
from tfcompress.surgery.rewriting import UNKNOWN_PLACE


class Folding:
    """Decides what takes in what, over the flow of a model.

    Args:
        model: the model.
        report: where to tell it.
    """

    def __init__(self, model: keras.Model, report: CompressionReport) -> None:
        flow = read_flow(model)
        self._model = model
        self._report = report
        self._calls: dict[int, list[Any]] = {}
        self._readers: dict[int, list[Any]] = {}
        self._makers: dict[int, Any] = {}
        for call in flow.calls:
            self._calls.setdefault(id(call.operation), []).append(call)
            for value in call.inputs:
                self._readers.setdefault(id(value), []).append(call)
            for value in call.results:
                self._makers[id(value)] = call
        self._outputs = {id(value) for value in tree.flatten(flow.outputs)}
        # What stands for the output of a layer that is gone.
        self._now: dict[int, Any] = {}
        self._linear: dict[int, Any] = {}
        self._gone: list[Any] = []
        holders = open_wrappers({key: list(calls) for key, calls in self._calls.items()})
        # A layer in TimeDistributed goes with its wrapper, where that alone calls it.
        self._alone = {id(wrapper) for wrapper in holders.values()}
        self._norms = [
            (path, holders.get(id(layer), layer))
            for path, layer in registry.walk(model)
            if type(layer) is layers.BatchNormalization
        ]
        order = {operation: number for number, operation in enumerate(self._calls)}
        self._norms.sort(key=lambda item: order.get(id(item[1]), len(order)))

    def replacements(self) -> dict[int, Any]:
        """Folds; gives the new layers by the `id` of the old ones."""
        told: dict[str, tuple[Any, str, str]] = {}
        before = -1
        while before < len(self._gone):  # one that is gone may make way for another
            before = len(self._gone)
            for path, norm in self._norms:
                if norm in self._gone:
                    continue
                try:
                    told[path] = (norm, "folded", f"into {self._fold(norm)}")
                    self._gone.append(norm)
                except NotExact as why:
                    told[path] = (norm, "left", str(why))
        for path, (norm, action, reason) in told.items():
            self._report.add(path, type(inside(norm)).__name__, action, reason)
        found = {id(norm): Replacement(self._in_place(norm)) for norm in self._gone}
        for key, linear in self._linear.items():
            new, weights = linear.rebuilt()
            found[key] = Replacement([new], weights)
        return found

    def _fold(self, norm: Any) -> str:
        """Takes one in; gives the path of the layer that did."""
        calls = self._calls.get(id(norm), [])
        if not calls:
            raise NotExact(UNKNOWN_PLACE)
        if any(call.kwargs.get("training") for call in calls):
            raise NotExact("it is called with training=True")
        rank = len(calls[0].inputs[0].shape)
        own = Affine(_axis(norm, rank), rank, *scale_and_shift(inside(norm)))
        try:
            layer, affine, between = self._layer_before(calls, own)
            self._taken(norm, [layer, *between], affine, Linear.take_behind)
        except NotExact as before:
            try:
                layer, affine, between = self._layer_after(calls, own)
                self._taken(norm, [layer, *between], affine, Linear.take_before)
            except NotExact as after:
                raise NotExact(f"before it: {before}; after it: {after}") from None
        for call in calls:
            self._join(call)
        path = f"'{self._calls[id(layer)][0].path}'"
        return path + "".join(f", through '{one.name}'" for one in between)

    def _taken(self, norm: Any, met: list[Any], affine: Affine, take: Any) -> None:
        layer = met[0]
        if inside(layer) is not layer and id(layer) not in self._alone:
            raise NotExact(f"what '{layer.name}' holds is called elsewhere too")
        linear = self._linear.get(id(layer)) or Linear(layer)
        own = inside(norm).compute_dtype
        for one in (outer for held in (*met, norm) for outer in (held, inside(held))):
            if one.compute_dtype != own:
                raise NotExact(f"'{one.name}' computes in {one.compute_dtype}, and it in {own}")
        take(linear, affine.axis, affine.rank, affine.scale, affine.shift)
        self._linear[id(layer)] = linear

    def _layer_before(self, calls: list[Any], own: Affine) -> tuple[Any, Affine, list[Any]]:
        """The layer that makes what these calls read, if it makes it for them only."""
        found: list[Any] = []
        for call in calls:
            affine, between, reader = own, [], call
            while True:
                maker = self._makers.get(id(self._value(reader.inputs[0])))
                if maker is None:
                    raise NotExact("the model's input")
                self._check_readers(maker, calls if reader is call else [reader])
                if not passes(maker.operation):
                    break
                affine = handed_on(affine, maker, backwards=True)
                between.append(maker.operation)
                reader = maker
            found.append((maker, affine, between))
        return self._one(found)

    def _check_readers(self, maker: Any, readers: list[Any]) -> None:
        """Checks that nothing else reads what a call makes."""
        (result, *others) = maker.results
        found = self._readers.get(id(result), [])
        if others or id(result) in self._outputs or any(one not in readers for one in found):
            raise NotExact(f"what '{maker.operation.name}' gives is read elsewhere too")

    def _layer_after(self, calls: list[Any], own: Affine) -> tuple[Any, Affine, list[Any]]:
        """The layer that reads what these calls make, if it reads nothing else."""
        if not all(keras.backend.is_float_dtype(call.inputs[0].dtype) for call in calls):
            raise NotExact("it also makes floats of what it reads")
        found: list[Any] = []
        ahead: list[Any] = [(call, own, []) for call in calls]
        while ahead:
            call, affine, between = ahead.pop(0)
            result = call.results[0]
            readers = self._readers.get(id(result), [])
            if id(result) in self._outputs:
                raise NotExact("it is an output of the model")
            if not readers:
                raise NotExact("nothing")
            for reader in readers:
                if passes(reader.operation):
                    ahead.append((reader, handed_on(affine, reader), [*between, reader.operation]))
                else:
                    found.append((reader, affine, between))
        layer, affine, between = self._one(found)
        if any(len(operands(call)) != 1 for call, _, _ in found):
            raise NotExact(f"'{layer.name}' has several inputs")
        return layer, affine, between

    def _one(self, found: list[Any]) -> tuple[Any, Affine, list[Any]]:
        """The layer of these calls, if there is one, and all its calls are among them."""
        call, affine, between = found[0]
        layer = call.operation
        if any(other.operation is not layer for other, _, _ in found):
            raise NotExact("several layers")
        if len(self._calls[id(layer)]) != len({id(other) for other, _, _ in found}):
            raise NotExact(f"'{layer.name}' is called elsewhere too")
        if not all(affine.same(other) for _, other, _ in found):
            raise NotExact(f"'{layer.name}' would have to take in several")
        return layer, affine, between

    def _join(self, call: Any) -> None:
        """The call is gone: who read its output reads its input now."""
        source, result = self._value(call.inputs[0]), call.results[0]
        self._now[id(result)] = source
        readers = [one for one in self._readers.get(id(source), []) if one is not call]
        self._readers[id(source)] = readers + self._readers.get(id(result), [])
        if id(result) in self._outputs:
            self._outputs.add(id(source))
            maker = self._makers.get(id(source))
            if maker is not None:
                self._report.notes.append(
                    f"the output of {call.path!r} is now that of {maker.path!r}"
                )

    def _value(self, value: Any) -> Any:
        while id(value) in self._now:
            value = self._now[id(value)]
        return value

    def _in_place(self, norm: Any) -> list[Any]:
        """What stays where it was: nothing, or a layer where a nested model would be left empty."""
        gone = {id(one) for one in self._gone}
        for graph in filter(is_graph, self._model._flatten_layers()):
            inner = [one for one in graph.layers if not isinstance(one, layers.InputLayer)]
            if inner and inner[-1] is norm and all(id(one) in gone for one in inner):
                return [layers.Identity(name=norm.name, dtype=norm.dtype_policy.name)]
        return []


def _axis(norm: Any, rank: int) -> int:
    """The axis that it normalises, of tensors of that rank."""
    inner = inside(norm)
    return int(inner.axis % rank if inner is norm else inner.axis % (rank - 1) + 1)
