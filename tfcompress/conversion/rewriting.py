"""Edits of a converted file that the converter has no option for."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.runtime.packing import format_code, opened, packed

BOUNDARY = "tfcompress_boundary"
"""In the name of a FLOOR, with a CEIL behind it, that only stand between integers and float.

The converter computes MEAN and a few others in int8 wherever their input is; nothing but an
operator that has no int8 form keeps it from that. On the way out both operators go. The second is
there since the converter renames what a model returns.
"""

REQUANTIZE = "tfcompress_requantize"
"""Likewise between two grids: without it the converter takes one of them for both.

DEQUANTIZE, FLOOR, CEIL, QUANTIZE become one QUANTIZE.
"""


def finish_annotated(content: bytes) -> bytes:
    """Completes what the converter makes of a quantize-aware graph.

    Takes the markers out, so that what read them reads their inputs, and gives the biases of
    operators on 16-bit integers the 64 bits that their kernels read: the converter stores 32, and
    the kernels would read past the end (measured: each channel saturates).

    Args:
        content: bytes of a `.tflite`.

    Returns:
        The finished file; the same bytes where there is nothing to do.
    """
    schema = format_code()
    marked = any(name.encode() in content for name in (BOUNDARY, REQUANTIZE))
    model = opened(content)
    if marked:
        for index in range(len(model.subgraphs)):
            _Graph(model, index, schema.BuiltinOperator).edit()
    if not _widen_biases(model, schema) and not marked:
        return content
    return packed(model)


def _widen_biases(model: Any, schema: Any) -> bool:
    """Biases of 32 bits beside inputs of 16 bits become such of 64; whether there were any."""
    kinds = schema.BuiltinOperator
    places = {  # of the activation and the bias among the inputs
        kinds.CONV_2D: (0, 2),
        kinds.DEPTHWISE_CONV_2D: (0, 2),
        kinds.FULLY_CONNECTED: (0, 2),
        kinds.TRANSPOSE_CONV: (2, 3),
    }
    found = False
    for graph in model.subgraphs:
        for op in graph.operators:
            place = places.get(model.operatorCodes[op.opcodeIndex].builtinCode)
            if place is None or len(op.inputs) <= place[1] or op.inputs[place[1]] < 0:
                continue
            bias = graph.tensors[op.inputs[place[1]]]
            wide = graph.tensors[op.inputs[place[0]]].type == schema.TensorType.INT16
            if not wide or bias.type != schema.TensorType.INT32:
                continue
            values = np.frombuffer(bytes(model.buffers[bias.buffer].data), "<i4").astype("<i8")
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            model.buffers.append(buffer)  # The old one may be another tensor's as well.
            bias.buffer, bias.type = len(model.buffers) - 1, schema.TensorType.INT64
            found = True
    return found


class _Graph:
    def __init__(self, model: Any, index: int, kinds: Any) -> None:
        self.model, self.index, self.kinds = model, index, kinds
        self.graph = model.subgraphs[index]

    def edit(self) -> None:
        makers: dict[int, Any] = {int(t): op for op in self.graph.operators for t in op.outputs}
        replaced: dict[int, int] = {}
        direct: set[int] = set()
        for op in list(self.graph.operators):
            if self._kind(op) != self.kinds.CEIL:
                continue
            floor: Any = makers.get(int(op.inputs[0]))
            if self._kind(floor) != self.kinds.FLOOR:
                continue
            name = self.graph.tensors[floor.outputs[0]].name or b""
            if not any(marker.encode() in name for marker in (BOUNDARY, REQUANTIZE)):
                continue
            source = int(floor.inputs[0])
            before: Any = makers.get(source)
            if REQUANTIZE.encode() in name and self._kind(before) == self.kinds.DEQUANTIZE:
                source = int(before.inputs[0])
                direct.add(int(op.outputs[0]))
            replaced[int(floor.outputs[0])] = replaced[int(op.outputs[0])] = source
            self.graph.operators = [o for o in self.graph.operators if o not in (op, floor)]
        for op in self.graph.operators:
            if self._kind(op) == self.kinds.QUANTIZE and int(op.inputs[0]) in direct:
                op.opcodeIndex = operator_code(self.model, self.kinds.QUANTIZE, 2)
        drop_tensors(self.model, self.index, replaced)
        self._drop_unread()

    def _kind(self, op: Any) -> int:
        return -1 if op is None else self.model.operatorCodes[op.opcodeIndex].builtinCode

    def _drop_unread(self) -> None:
        """Drops DEQUANTIZE operators that nothing reads any more."""
        read = {int(t) for op in self.graph.operators for t in op.inputs}
        read |= {int(t) for t in self.graph.outputs}
        dead = [
            op
            for op in self.graph.operators
            if self._kind(op) == self.kinds.DEQUANTIZE and int(op.outputs[0]) not in read
        ]
        self.graph.operators = [op for op in self.graph.operators if op not in dead]
        drop_tensors(self.model, self.index, {int(op.outputs[0]): int(op.inputs[0]) for op in dead})


def operator_code(model: Any, kind: int, version: int) -> int:
    """The place of an operator's code of at least that version, added where there is none."""
    codes = model.operatorCodes
    for index, code in enumerate(codes):
        if code.builtinCode == kind and code.version >= version:
            return index
    fresh = format_code().OperatorCodeT()
    fresh.builtinCode, fresh.deprecatedBuiltinCode = kind, min(kind, 127)  # the old field's end
    fresh.version = version
    codes.append(fresh)
    return len(codes) - 1


def drop_tensors(model: Any, index: int, replaced: dict[int, int]) -> None:
    """Drops the replaced tensors, and lets all that named them name what replaced them.

    Args:
        model: a file's parts.
        index: of the subgraph.
        replaced: each tensor that goes -> what is to be read in its place, or itself where nothing
            reads it.
    """
    graph = model.subgraphs[index]
    left = [i for i in range(len(graph.tensors)) if i not in replaced]
    place = {old: new for new, old in enumerate(left)}

    def now(tensor: Any) -> int:
        tensor = int(tensor)
        while tensor in replaced:
            tensor = replaced[tensor]
        return tensor if tensor < 0 else place[tensor]

    graph.tensors = [graph.tensors[i] for i in left]
    for tensor in graph.tensors:  # weights in blocks name the tensors that hold their scales
        details = getattr(tensor.quantization, "details", None)
        for field in ("scales", "zeroPoints"):
            if getattr(details, field, 0) > 0:  # 0 is the format's default: none
                setattr(details, field, now(getattr(details, field)))
    graph.inputs = [now(t) for t in graph.inputs]
    graph.outputs = [now(t) for t in graph.outputs]
    for op in graph.operators:
        for field in ("inputs", "outputs", "intermediates"):
            values = getattr(op, field)
            if values is not None:
                setattr(op, field, [now(t) for t in values])
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == index:
            for named in [*(signature.inputs or []), *(signature.outputs or [])]:
                named.tensorIndex = now(named.tensorIndex)
