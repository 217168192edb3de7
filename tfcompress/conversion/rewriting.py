"""Edits of a converted file that the converter has no option for."""

from __future__ import annotations

from typing import Any

BOUNDARY = "tfcompress_boundary"
"""In the name of a FLOOR operator that only stood between integers and float operators.

The converter computes MEAN and a few others in int8 wherever their input is; nothing but an
operator that has no int8 form keeps it from that. On the way out that operator goes.
"""


def remove_boundaries(content: bytes) -> bytes:
    """Takes the markers out, so that what read them reads their inputs.

    Args:
        content: bytes of a `.tflite`.

    Returns:
        The file without them; the same bytes where there are none.
    """
    if BOUNDARY.encode() not in content:
        return content
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    floor = schema.BuiltinOperator.FLOOR
    for index, graph in enumerate(model.subgraphs):
        replaced: dict[int, int] = {}
        kept = []
        for op in graph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            name = graph.tensors[op.outputs[0]].name if len(op.outputs) else b""
            if code.builtinCode == floor and BOUNDARY.encode() in (name or b""):
                source = int(op.inputs[0])
                replaced[int(op.outputs[0])] = replaced.get(source, source)
            else:
                kept.append(op)
        graph.operators = kept
        _renumber(model, index, replaced)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _renumber(model: Any, index: int, replaced: dict[int, int]) -> None:
    """Drops the replaced tensors, and lets all that named them name what replaced them."""
    graph = model.subgraphs[index]
    left = [i for i in range(len(graph.tensors)) if i not in replaced]
    place = {old: new for new, old in enumerate(left)}

    def now(tensor: Any) -> int:
        tensor = int(tensor)
        return tensor if tensor < 0 else place[replaced.get(tensor, tensor)]

    graph.tensors = [graph.tensors[i] for i in left]
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
