"""Tables of embeddings in a converted file, stored in 8 bits with a scale for each row."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.conversion.rewriting import drop_tensors, operator_code
from tfcompress.runtime.packing import format_code, opened, packed

_SMALLEST = 1024  # values; less is not worth three operators
_NARROWEST = 4  # channels; below, a scale for each row takes what integers save
_LARGEST = 127


def quantize_tables(content: bytes) -> bytes:
    """Stores the float tables that GATHER reads as int8, a scale for each row beside them.

    Any constant matrix of whose rows an operator takes some is such a table.

    Neither the converter's nor ai-edge-quantizer's weight-only modes take them, and rows of words
    differ in size far more than one scale for all would bear. GATHER of a float table becomes
    GATHER of the integers, DEQUANTIZE with the scale 1, GATHER of the scales, and MUL. What a row
    gives is `integer * scale` exactly, off by half of `largest value / 127` at most.

    Args:
        content: bytes of a `.tflite`.

    Returns:
        The new file; the same bytes where no table is large enough.
    """
    model, schema = opened(content), format_code()
    editor = _Editor(model, schema)
    for graph in model.subgraphs:
        graph.operators = [
            written for op in graph.operators for written in editor.written(graph, op)
        ]
    if not editor.stored:
        return content
    editor.drop_unread()
    return packed(model)


class _Editor:
    def __init__(self, model: Any, schema: Any) -> None:
        self.model, self.schema = model, schema
        self.kinds, self.types = schema.BuiltinOperator, schema.TensorType
        # Buffer of each float table -> those of its integers and scales.
        self.stored: dict[int, tuple[int, int]] = {}

    def written(self, graph: Any, op: Any) -> list[Any]:
        """The operators in place of one."""
        table = self._table(graph, op)
        if table is None:
            return [op]
        if table.buffer not in self.stored:
            values = np.frombuffer(bytes(self.model.buffers[table.buffer].data), "<f4")
            self.stored[table.buffer] = self._store(values.reshape(table.shape))
        integers, scales = self.stored[table.buffer]
        name = _text(table.name)
        ids, out = int(op.inputs[1]), int(op.outputs[0])
        shape = [int(size) for size in graph.tensors[out].shape]
        signature = graph.tensors[out].shapeSignature
        signature = None if signature is None else [int(size) for size in signature]
        inside = [*shape[:-1]], None if signature is None else [*signature[:-1]]

        def tensor(kind: int, sizes: Any, signed: Any, label: str, buffer: int = 0,
                   quantized: bool = False) -> int:  # fmt: skip
            made = self.schema.TensorT()
            made.type, made.shape, made.shapeSignature = kind, sizes, signed
            made.name, made.buffer, made.hasRank = f"{name}/{label}", buffer, True
            if quantized:
                made.quantization = self.schema.QuantizationParametersT()
                made.quantization.scale = np.ones(1, np.float32)
                made.quantization.zeroPoint = np.zeros(1, np.int64)
            graph.tensors.append(made)
            return len(graph.tensors) - 1

        rows, width = (int(size) for size in table.shape)
        held = tensor(self.types.INT8, [rows, width], None, "int8", integers, True)
        sizes = tensor(self.types.FLOAT32, [rows, 1], None, "scales", scales)
        found = tensor(self.types.INT8, shape, signature, "row", quantized=True)
        unscaled = tensor(self.types.FLOAT32, shape, signature, "unscaled")
        one = inside[1] if inside[1] is None else [*inside[1], 1]
        scale = tensor(self.types.FLOAT32, [*inside[0], 1], one, "scale")
        gather = self._operator(op, self.kinds.GATHER, 2, [held, ids], [found])
        again = self._operator(op, self.kinds.GATHER, 1, [sizes, ids], [scale])
        real = self._operator(None, self.kinds.DEQUANTIZE, 2, [found], [unscaled])
        product = self._operator(None, self.kinds.MUL, 1, [unscaled, scale], [out])
        product.builtinOptionsType = self.schema.BuiltinOptions.MulOptions
        product.builtinOptions = self.schema.MulOptionsT()
        return [gather, again, real, product]

    def _table(self, graph: Any, op: Any) -> Any:
        """The float table that an operator takes rows of; None if it is no such operator."""
        if self.model.operatorCodes[op.opcodeIndex].builtinCode != self.kinds.GATHER:
            return None
        table, options = graph.tensors[op.inputs[0]], op.builtinOptions
        data = self.model.buffers[table.buffer].data
        plain = options is None or (options.axis == 0 and options.batchDims == 0)
        # Rows that are needed as they are: ids that are open in rank have no shape to keep.
        sized = graph.tensors[op.outputs[0]].shape is not None
        if (
            not plain
            or not sized
            or table.type != self.types.FLOAT32
            or table.sparsity is not None
            or data is None
            or len(table.shape) != 2
            or np.prod(table.shape) < _SMALLEST
            or table.shape[1] < _NARROWEST
            or not np.isfinite(np.frombuffer(bytes(data), "<f4")).all()
        ):
            return None
        return table

    def drop_unread(self) -> None:
        """Drops the float tables that nothing reads any more."""
        still = set()
        for number, graph in enumerate(self.model.subgraphs):
            read = {int(t) for op in graph.operators for t in op.inputs}
            read |= {int(t) for t in graph.outputs}
            gone = {
                index: index
                for index, tensor in enumerate(graph.tensors)
                if tensor.buffer in self.stored and index not in read
            }
            still |= {graph.tensors[index].buffer for index in read if index >= 0}
            drop_tensors(self.model, number, gone)
        for buffer in self.stored:
            if buffer not in still:
                self.model.buffers[buffer].data = None

    def _store(self, table: np.ndarray) -> tuple[int, int]:
        integers, scales = quantized_rows(table)
        return self._buffer(integers), self._buffer(scales)

    def _buffer(self, values: np.ndarray) -> int:
        made = self.schema.BufferT()
        made.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(made)
        return len(self.model.buffers) - 1

    def _operator(self, like: Any, kind: int, version: int, inputs: Any, outputs: Any) -> Any:
        made = self.schema.OperatorT()
        made.opcodeIndex = operator_code(self.model, kind, version)
        made.inputs, made.outputs = inputs, outputs
        if like is not None:
            made.builtinOptions, made.builtinOptionsType = (
                like.builtinOptions,
                like.builtinOptionsType,
            )
        return made


def quantized_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit integers of a table, with the scale of each row.

    Args:
        table: float32 (rows, width), finite.

    Returns:
        int8 (rows, width) and float32 (rows, 1), whose product stands for the table.
    """
    largest = np.abs(table).max(1, keepdims=True)
    scales = (largest / np.float32(_LARGEST)).astype(np.float32)
    scales[scales == 0] = 1.0  # rows of zeros, and of values that have no 127th part
    integers = np.clip(np.rint(table / scales), -_LARGEST, _LARGEST).astype(np.int8)
    return integers, scales


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "table")
