"""`tfc.fold_batchnorm`: BatchNormalization taken into the linear layers beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfcompress.report import CompressionReport

if TYPE_CHECKING:
    import keras


def fold_batchnorm(model: keras.Model) -> keras.Model:
    """A model without the BatchNormalization layers that a linear layer can take in.

    At inference BatchNormalization is `scale * x + shift` on one axis. The convolution (of one to
    three dimensions, transposed, depthwise, separable, grouped), Dense or EinsumDense layer before
    it takes that into its kernel and bias, if it has no activation and nothing else reads its
    output. Where there is none, the layer after it does, if that is exact: padding, whose zeros
    would have to be shifted too, rules it out. Layers that are called several times are folded
    where all their calls stand beside each other in the same way.

    The outputs are the same to float rounding. What is gone is training with batch statistics: fold
    when training is over. (`tfc.convert` folds by itself, and `tfc.quantize_aware` does in a way
    that trains on.)

    Args:
        model: a Functional or built Sequential model, nested ones included; it does not change.

    Returns:
        A new plain Keras model, not compiled. Its `compression_report` says which layer took in
        each BatchNormalization, and why others are left.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.

    Example:
        >>> folded = tfc.fold_batchnorm(model)
        >>> print(folded.compression_report)

    Source: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference"
    (arXiv:1806.08342), section 3.2.2.
    """
    from tfcompress.surgery.rewriting import check_graph, replaced

    check_graph(model)
    report = CompressionReport("fold_batchnorm")
    folding = _Folding(model, report)
    return replaced(model, folding.replacements(), report)


class _Folding:
    """Decides what takes in what, over the flow of a model.

    Args:
        model: the model.
        report: where to tell it.
    """

    def __init__(self, model: keras.Model, report: CompressionReport) -> None:
        from keras import layers, tree

        from tfcompress import registry
        from tfcompress.graph.flow import read_flow

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
        self._norms = [
            (path, layer)
            for path, layer in registry.walk(model)
            if type(layer) is layers.BatchNormalization
        ]
        order = {operation: number for number, operation in enumerate(self._calls)}
        self._norms.sort(key=lambda item: order.get(id(item[1]), len(order)))

    def replacements(self) -> dict[int, Any]:
        """Folds; gives the new layers by the `id` of the old ones."""
        from tfcompress.graph.copying import Replacement
        from tfcompress.surgery.linear import NotExact

        for path, norm in self._norms:
            kind = type(norm).__name__
            try:
                into = self._fold(norm)
            except NotExact as why:
                self._report.add(path, kind, "left", str(why))
            else:
                self._gone.append(norm)
                self._report.add(path, kind, "folded", f"into '{into}'")
        found = {id(norm): Replacement(self._in_place(norm)) for norm in self._gone}
        for key, linear in self._linear.items():
            new, weights = linear.rebuilt()
            found[key] = Replacement([new], weights)
        return found

    def _fold(self, norm: Any) -> str:
        """Takes one in; gives the path of the layer that did."""
        from tfcompress.surgery.linear import NotExact
        from tfcompress.surgery.rewriting import UNKNOWN_PLACE

        calls = self._calls.get(id(norm), [])
        if not calls:
            raise NotExact(UNKNOWN_PLACE)
        if any(call.kwargs.get("training") for call in calls):
            raise NotExact("it is called with training=True")
        rank = len(calls[0].inputs[0].shape)
        scale, shift = _scale_and_shift(norm)
        axis = norm.axis % rank
        try:
            layer = self._layer_before(calls)
            self._taken(norm, layer, lambda linear: linear.take_behind(axis, rank, scale, shift))
        except NotExact as before:
            try:
                layer = self._layer_after(calls)
                self._taken(
                    norm, layer, lambda linear: linear.take_before(axis, rank, scale, shift)
                )
            except NotExact as after:
                raise NotExact(f"before it: {before}; after it: {after}") from None
        for call in calls:
            self._join(call)
        return str(self._calls[id(layer)][0].path)

    def _taken(self, norm: Any, layer: Any, take: Any) -> None:
        from tfcompress.surgery.linear import Linear, NotExact

        linear = self._linear.get(id(layer)) or Linear(layer)
        if layer.compute_dtype != norm.compute_dtype:
            raise NotExact(
                f"'{layer.name}' computes in {layer.compute_dtype}, and it in {norm.compute_dtype}"
            )
        take(linear)
        self._linear[id(layer)] = linear

    def _layer_before(self, calls: list[Any]) -> Any:
        """The layer that makes what these calls read, if it makes it for them only."""
        from tfcompress.surgery.linear import NotExact

        made: list[Any] = [self._makers.get(id(self._value(call.inputs[0]))) for call in calls]
        if None in made:
            raise NotExact("the model's input")
        layer = made[0].operation
        if any(call.operation is not layer for call in made):
            raise NotExact("several layers")
        if len(self._calls[id(layer)]) != len({id(call) for call in made}):
            raise NotExact(f"'{layer.name}' is called elsewhere too")
        for call in made:
            (result, *others) = call.results
            readers = self._readers.get(id(result), [])
            if others or id(result) in self._outputs or any(one not in calls for one in readers):
                raise NotExact(f"what '{layer.name}' gives is read elsewhere too")
        return layer

    def _layer_after(self, calls: list[Any]) -> Any:
        """The layer that reads what these calls make, if it reads nothing else."""
        from tfcompress.surgery.linear import NotExact

        found: list[Any] = []
        for call in calls:
            result = call.results[0]
            readers = self._readers.get(id(result), [])
            if id(result) in self._outputs:
                raise NotExact("it is an output of the model")
            if not readers:
                raise NotExact("nothing")
            found += readers
        layer = found[0].operation
        if any(call.operation is not layer for call in found):
            raise NotExact("several layers")
        if len(self._calls[id(layer)]) != len({id(call) for call in found}):
            raise NotExact(f"'{layer.name}' is called elsewhere too")
        if any(len(call.inputs) != 1 for call in found):
            raise NotExact(f"'{layer.name}' has several inputs")
        return layer

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
        from keras import layers

        from tfcompress.graph.copying import is_graph

        gone = {id(one) for one in self._gone}
        for graph in filter(is_graph, self._model._flatten_layers()):
            inner = [one for one in graph.layers if not isinstance(one, layers.InputLayer)]
            if inner and inner[-1] is norm and all(id(one) in gone for one in inner):
                return [layers.Identity(name=norm.name, dtype=norm.dtype_policy)]
        return []


def _scale_and_shift(norm: Any) -> tuple[Any, Any]:
    """(scale, shift), each (channels,) in float64: what the layer computes at inference."""
    import numpy as np

    mean, variance, gamma, beta = (
        None if one is None else np.asarray(one, np.float64)
        for one in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)
    )
    assert mean is not None and variance is not None
    scale = 1 / np.sqrt(variance + norm.epsilon)
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale
    return scale, shift if beta is None else shift + beta
