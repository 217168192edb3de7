"""Which Keras layer an operator of a converted file comes from, as far as the file tells.

Converters name tensors after the scopes that they were computed in, and join the names of what they
have fused: `"net_1/relu_1/Relu6;net_1/conv_1/convolution"` is a convolution of the layer `conv`
with the ReLU behind it. The first scope is the model's, the last part is the operation's. Keras 3
enters every scope twice and so numbers all of them (`_1`); of a file where all scopes of kernels
are numbered, one number is taken off each.
"""

from __future__ import annotations

import re

from tfcompress.runtime.schema import Model, Operator, SubGraph
from tfcompress.runtime.surroundings import Surroundings

_OF_KERNELS = re.compile(
    r"^(?P<scope>.+?)/(separable_conv2d/depthwise|separable_conv2d|convolution|depthwise"
    r"|Conv2D|Tensordot/MatMul|MatMul)\d*$"
)
"""What ends the name of a tensor that a kernel makes or is."""

_OF_OPERATIONS = re.compile(
    r"^(?P<scope>.+?)/((batchnorm|Tensordot|einsum|separable_conv2d)/)?[^/]+$"
)
_NUMBER = re.compile(r"_\d+$")


class LayerNames:
    """The layers' names of one subgraph.

    Args:
        model: the parsed file.
        graph: one of its subgraphs.
        surroundings: who writes and reads each tensor.

    Example:
        >>> LayerNames(model, graph, surroundings).of(graph.operators[3])  # doctest: +SKIP
        'body/conv_pw_1'
    """

    def __init__(self, model: Model, graph: SubGraph, surroundings: Surroundings) -> None:
        self._graph = graph
        self._surroundings = surroundings
        self._scopes: dict[int, str] = {}
        of_kernels: list[str] = []
        for operator in graph.operators:
            names = self._names(operator)
            if scope := _first(_OF_KERNELS, names):
                of_kernels.append(scope)
            self._scopes[operator.index] = scope or _first(_OF_OPERATIONS, names)
        # A kernel's scope is its layer's; that of other tensors may be one of the operation's own.
        scopes = of_kernels or list(self._scopes.values())
        parts = [part for scope in scopes if scope for part in scope.split("/")]
        self._numbered = all(_NUMBER.search(part) for part in parts)

    def of(self, operator: Operator) -> str:
        """The layer's name, behind those of nested models and layers that hold it, with "/".

        Returns:
            Where the file does not tell: the operator's name and index, such as "SOFTMAX #12".
        """
        scope = self._scopes.get(operator.index, "")
        parts = [_NUMBER.sub("", p) if self._numbered else p for p in scope.split("/")]
        # An operation of the model itself, such as a plain keras.ops.mean, is in no layer's scope.
        return "/".join(parts[1:]) or f"{operator.name} #{operator.index}"

    def _names(self, operator: Operator) -> list[str]:
        """All names of an operator's outputs and kernel, those of fused operators one by one."""
        # A kernel is named after its layer even where an output has been given the signature's name
        # ("StatefulPartitionedCall:0").
        names = [self._graph.tensors[i].name for i in operator.outputs]
        names += [self._graph.tensors[i].name for i in self._packed(operator)]
        return [part for name in names for part in name.split(";") if part]

    def _packed(self, operator: Operator) -> list[int]:
        """The operator's kernel and what it is expanded from; [] where it has none."""
        if operator.name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            return []
        found = [index for index in operator.inputs[1:2] if index >= 0]
        while found and self._surroundings.is_unpacked(found[-1]):
            found.append(self._surroundings.producers[found[-1]].inputs[0])
        return found


def _first(pattern: re.Pattern[str], names: list[str]) -> str:
    """The first scope that a pattern finds; "" where it finds none."""
    return next((found["scope"] for name in names if (found := pattern.match(name))), "")
