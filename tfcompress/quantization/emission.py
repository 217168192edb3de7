"""From planned nodes to a Functional model of quantized and plain layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.graph.copying import Copier, same_input
from tfcompress.graph.flow import Flow, Value
from tfcompress.quantization.embedding_layer import QuantizedEmbedding
from tfcompress.quantization.layers import QuantizedLayer, QuantizedOperation
from tfcompress.quantization.linear_layer import QuantizedLinear
from tfcompress.quantization.model import QuantizedModel
from tfcompress.quantization.nodes import Kept, Linear, Node, Operator, Table
from tfcompress.quantization.planning import GridPlan, Plan
from tfcompress.quantization.preserving import preserved
from tfcompress.quantization.ranges import GridSource
from tfcompress.quantization.scheme import QuantizationScheme


@dataclass
class Emitter:
    """Builds the model.

    Args:
        plan: nodes and grids.
        schemes: `id` of each layer with a scheme of its own, to it.
        scheme: that of the others.
        preserve: what kernels keep, see `preserving`.

    Attributes:
        layers: `id` of each node to its layer.
        copier: made the copies of what stays as it is.
    """

    plan: Plan
    scheme: QuantizationScheme
    schemes: dict[int, QuantizationScheme]
    preserve: Sequence[str] = ()
    layers: dict[int, Any] = field(default_factory=dict)
    copier: Copier = field(default_factory=Copier)
    _names: dict[int, str] = field(default_factory=dict)
    _shared: dict[Any, Any] = field(default_factory=dict)

    def build(
        self, flow: Flow, outputs: Any, name: str, output_names: Sequence[str]
    ) -> QuantizedModel:
        """The model, with weights.

        Args:
            flow: the original's.
            outputs: the nest of tensors that stand for its outputs.
            name: its name.
            output_names: the names of its outputs, which they keep: losses and signatures go by it.
        """
        nodes = self.plan.graph.nodes
        self._name_all(nodes)
        inputs = keras.tree.map_structure(same_input, flow.inputs)
        tensors: dict[int, Any] = {
            id(value): tensor
            for value, tensor in zip(flow.input_values, keras.tree.flatten(inputs), strict=True)
        }
        for node in nodes:
            results = keras.tree.flatten(self._call(node, tensors))
            for value, tensor in zip(node.outputs, results, strict=True):
                tensors[id(value)] = tensor
        made = keras.tree.map_structure(lambda value: tensors[id(value)], outputs)
        model = QuantizedModel(inputs, made, name=name)
        # A layer and its activation are two operators here, and the first has the layer's name.
        model.output_names = list(output_names)
        return model

    def _call(self, node: Node, tensors: dict[int, Any]) -> Any:
        given = [tensors[id(value)] for value in node.inputs]
        if isinstance(node, Kept):
            replaced = {
                id(value): tensor for value, tensor in zip(node.call.inputs, given, strict=True)
            }

            def placed(item: Any) -> Any:
                return replaced[id(item)] if isinstance(item, Value) else item

            args, kwargs = keras.tree.map_structure(placed, (node.call.args, node.call.kwargs))
            return self.copier.operation(node.operation)(*args, **kwargs)
        layer = self._layer(node)
        self.layers[id(node)] = layer
        result = layer(given[0] if len(given) == 1 else given)
        if isinstance(layer, QuantizedEmbedding) and not layer.weights_of:
            layer.table.assign(node.rows)  # type: ignore[attr-defined]
        if isinstance(layer, QuantizedLinear) and not layer.weights_of:
            self._fill(layer, node)
        return result

    def _layer(self, node: Any) -> QuantizedLayer:
        if isinstance(node, Linear):
            return self._linear(node)
        if isinstance(node, Table):
            return self._table(node)
        return self._operator(node)

    def _table(self, node: Table) -> QuantizedEmbedding:
        first = self._shared.get((id(node.owner), "table"))
        layer = QuantizedEmbedding(
            *node.rows.shape,
            weight_bits=self.schemes.get(id(node.owner), self.scheme).weight_bits,
            weights_of="" if first is None else first.name,
            transforms=preserved(node.rows, (), self.preserve if first is None else ()),
            trainable=node.owner is None or node.owner.trainable,
            **self._grids(node),
        )
        if first is None:
            self._shared[id(node.owner), "table"] = layer
        else:
            layer.share(first)
        return layer

    def _fill(self, layer: QuantizedLinear, node: Any) -> None:
        """Gives a layer its weights."""
        layer.kernel.assign(node.kernel)
        if layer.input_factor is not None:
            layer.input_factor.assign(node.input_factor)
        added = 0.0 if node.added is None else node.added
        if layer.bias is not None:
            layer.bias.assign((node.bias if node.bias is not None else 0.0) + added)
            added = 0.0
        if layer.norm is not None:
            layer.norm.take(node.norm)
            layer.norm.mean.assign_sub(np.broadcast_to(added, (node.channels,)))
            if self.scheme.batchnorm == "frozen":
                layer.norm.freeze()

    def _linear(self, node: Linear) -> QuantizedLinear:
        scheme = self.schemes.get(id(node.owner), self.scheme)
        key = (id(node.owner), node.kind, id(node.norm), _bytes(node.input_factor))
        first = None if node.owner is None else self._shared.get(key)
        keeps = self.preserve if first is None and node.trainable else ()
        parts = [part for part in (node.owner, node.norm) if part is not None]
        layer = QuantizedLinear(
            node.kind,
            node.kernel.shape,
            use_bias=node.bias is not None or (node.added is not None and node.norm is None),
            activation=node.activation,
            weight_bits=scheme.weight_bits,
            batchnorm=None if node.norm is None else _batchnorm(node.norm),
            train_kernel=node.trainable and (node.owner is None or node.owner.trainable),
            trainable=not parts or any(part.trainable for part in parts),
            scaled_input=node.input_factor is not None,
            transforms=preserved(node.kernel, node.channel_axes, keeps),
            weights_of=first.name if first is not None else "",
            **node.options,
            **self._grids(node),
        )
        if first is None:
            self._shared[key] = layer
        else:
            layer.share(first)
        return layer

    def _operator(self, node: Operator) -> QuantizedOperation:
        return QuantizedOperation(
            node.kind,
            node.arguments,
            node.output.shape[1:],
            constants=node.constants,
            **self._grids(node),
        )

    def _grids(self, node: Node) -> dict[str, Any]:
        plans = [self.plan.grid(value) for value in node.inputs]
        output = self.plan.grid(node.output)
        return {
            "name": self._names[id(node)],
            "inputs": [plan and self._source(plan) for plan in plans],
            "output": output and self._source(output),
            "owns_range": output is not None and node in output.owners,
            "range_method": self.scheme.range_method,
        }

    def _source(self, plan: GridPlan) -> GridSource:
        if plan.fixed is not None:
            grid = plan.fixed()
            return GridSource(scale=float(grid.scale), zero_point=float(grid.zero_point))
        names = [self._names[id(owner)] for owner in plan.owners]
        return GridSource(names, symmetric=plan.symmetric, bits=self.plan.bits)

    def _name_all(self, nodes: list[Node]) -> None:
        outputs = {id(value) for value in self.plan.graph.outputs}
        kept = [node for node in nodes if isinstance(node, Kept)]
        taken = {node.operation.name for node in kept if node.call.added is None}
        for one in kept:
            if one.call.added is not None:
                path = one.call.path
                if any(id(value) in outputs for value in one.outputs):
                    path = path.removesuffix("/steps")
                one.operation.name = self._fresh(path.replace("/", "."), taken)
        for node in nodes:
            if isinstance(node, Kept):
                continue
            path = node.paths[0] if node.paths else f"{node.call.path}_{node.kind}"  # type: ignore[attr-defined]
            if any(id(value) in outputs for value in node.outputs):
                path = node.call.path
                if node.call.added is not None:
                    path = path.removesuffix("/steps")
            base = path.replace("/", ".")
            if isinstance(node, Operator) and not node.paths:
                base = f"{node.call.path}_{node.kind}".replace("/", ".")
            self._names[id(node)] = self._fresh(base, taken)

    @staticmethod
    def _fresh(base: str, taken: set[str]) -> str:
        """The name, or with a number behind it where it is taken; it is taken then."""
        name, count = base, 1
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        taken.add(name)
        return name


def _bytes(array: Any) -> bytes:
    return b"" if array is None else array.tobytes()


def _batchnorm(layer: keras.layers.BatchNormalization) -> dict[str, Any]:
    names = ("momentum", "epsilon", "center", "scale", "trainable")
    return {name: getattr(layer, name) for name in names}
