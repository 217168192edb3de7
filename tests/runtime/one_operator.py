"""Files of one operator, or a few, written tensor by tensor: any type, scale and option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "int4": schema.TensorType.INT4,
    "bool": schema.TensorType.BOOL,
    "resource": schema.TensorType.RESOURCE,
}


@dataclass
class T:
    """One tensor: constant where `data` is set, else computed, or an input of the graph."""

    shape: Sequence[int]
    dtype: str = "float32"
    data: Any = None
    scale: Any = None
    zero: int = 0
    axis: int = 0
    stored: bytes | None = None
    variable: bool = False


@dataclass
class Op:
    """One operator; tensors by name, "" for one that is left out."""

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    options: tuple[str, dict[str, Any]] | None = None
    version: int = 1


@dataclass
class Graph:
    """A file in the making."""

    tensors: dict[str, T]
    operators: list[Op]
    outputs: list[str] = field(default_factory=list)

    def build(self) -> bytes:
        """The file."""
        model = schema.ModelT()
        model.version = 3
        model.buffers = [schema.BufferT()]
        names = list(self.tensors)
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.tensors = [self._tensor(name, model) for name in names]
        produced = {name for op in self.operators for name in op.outputs}
        constant = {name for name in names if self._constant(name)}
        graph.inputs = [
            names.index(name)
            for name in names
            if name not in produced | constant and not self.tensors[name].variable
        ]
        last = list(self.operators[-1].outputs)
        graph.outputs = [names.index(name) for name in self.outputs or last]
        model.operatorCodes, graph.operators = [], []
        for op in self.operators:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, op.name)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = op.version
            model.operatorCodes.append(code)
            node = schema.OperatorT()
            node.opcodeIndex = len(model.operatorCodes) - 1
            node.inputs = [names.index(name) if name else -1 for name in op.inputs]
            node.outputs = [names.index(name) for name in op.outputs]
            if op.options:
                table, values = op.options
                node.builtinOptionsType = getattr(schema.BuiltinOptions, table)
                node.builtinOptions = getattr(schema, f"{table}T")()
                for key, value in values.items():
                    assert hasattr(node.builtinOptions, key), key
                    setattr(node.builtinOptions, key, value)
            graph.operators.append(node)
        model.subgraphs = [graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _constant(self, name: str) -> bool:
        tensor = self.tensors[name]
        return tensor.data is not None or tensor.stored is not None

    def _tensor(self, name: str, model: Any) -> Any:
        source = self.tensors[name]
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(source.shape), _TYPES[source.dtype]
        tensor.hasRank, tensor.isVariable = True, source.variable
        tensor.buffer = 0
        if self._constant(name):
            content = source.stored
            if content is None:
                content = np.broadcast_to(
                    np.asarray(source.data, source.dtype), tuple(source.shape)
                ).tobytes()
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(content, np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        if source.scale is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(source.scale, np.float32))
            quantization.zeroPoint = np.full(quantization.scale.shape, source.zero, np.int64)
            quantization.quantizedDimension = source.axis
            tensor.quantization = quantization
        return tensor
