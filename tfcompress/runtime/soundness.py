"""Static checks that stop a damaged model before native code sees it.

Runtimes trust much of what a file says: the Python interpreter loads it unverified, and an index
out of range, a stride of 0, weights shorter than their shape or a scale of infinity ends the
process or takes all memory. `check` refuses such files. It is strict where native code is known
to be unsafe, and lenient where real files vary.

It does not promise that a runtime accepts the model: that is for the runtime to say. Nor can it
bound how long a WHILE operator runs.

Source: what tflite/core/tools/verifier.cc and interpreter_builder.cc of google-ai-edge/LiteRT ask
of a file (the first runs on Android only), and mutated files run on the real runtime.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np

from tfcompress.runtime.flatbuffer import corrupt
from tfcompress.runtime.schema import (
    MAX_RANK,
    Model,
    Operator,
    Quantization,
    SubGraph,
    Tensor,
    string_offsets,
)
from tfcompress.runtime.schema_tables import DTYPE_BITS
from tfcompress.runtime.shapes import runtime_shapes
from tfcompress.runtime.sparsity import MAX_DENSE_BYTES, stored_values

MAX_TENSOR_BYTES: Final = 2 * 2**30
"""The largest tensor that a runtime may be asked to make."""

MAX_TOTAL_BYTES: Final = 16 * 2**30
"""The most that the tensors of one subgraph may take together, if none shared its memory."""

MAX_UNPROVEN_BYTES: Final = 64 * 2**20
"""The largest tensor whose shape in the file may differ from what its operator computes.

Runtimes make both. A mismatch in a small tensor is let pass: files edited by hand have it.
"""

MAX_CALL_DEPTH: Final = 32
"""How deep subgraphs may call each other: runtimes do it by recursion."""

MAX_STEP: Final = 2**16
"""The largest stride, dilation, window or block: runtimes multiply them as int32."""

_ZERO_POINTS: Final = {
    "int2": (-2, 1),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
}
_SMALLEST_NORMAL: Final = float(np.finfo(np.float32).tiny)
_SMALLEST: Final = 1e-45  # rounds to the smallest float32 above 0
_INT32: Final = (-(2**31), 2**31 - 1)

_OPTIONS: Final = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "CONV_3D": "Conv3DOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "CONCATENATION": "ConcatenationOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "SPLIT": "SplitOptions",
    "SPLIT_V": "SplitVOptions",
    "PACK": "PackOptions",
    "UNPACK": "UnpackOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "CALL": "CallOptions",
    "CALL_ONCE": "CallOnceOptions",
    "IF": "IfOptions",
    "WHILE": "WhileOptions",
    "VAR_HANDLE": "VarHandleOptions",
    "HASHTABLE": "HashtableOptions",
}
"""Operators whose kernels divide by an option or follow it, and so must not run without them."""

_POSITIVE: Final = (
    "stride_d",
    "stride_h",
    "stride_w",
    "dilation_d",
    "dilation_h",
    "dilation_w",
    "filter_height",
    "filter_width",
    "block_size",
    "num_splits",
)

_OPTIONAL: Final[dict[str, tuple[int, ...]]] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "FULLY_CONNECTED"), (2,)),
    **dict.fromkeys(("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE", "SVDF"), (3,)),
    **dict.fromkeys(
        (
            "LSTM",
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
            "BIDIRECTIONAL_SEQUENCE_LSTM",
            "BIDIRECTIONAL_SEQUENCE_RNN",
            "STABLEHLO_COMPOSITE",
            "STABLEHLO_CUSTOM_CALL",
        ),
        tuple(range(1, 64)),
    ),
}
"""Inputs that may be left out, by operator: mostly the bias. Other kernels index with the -1."""

_LEAST_INPUTS: Final = {"DEPTHWISE_CONV_2D": 3}
"""Operators whose kernel reads an input (here the bias) without asking whether there is one."""

_EXPANDERS: Final = ("DENSIFY", "DEQUANTIZE")
"""Operators that XNNPACK runs once, on constants, into memory of the size that the file gives."""

_SPARSE_READERS: Final = ("DENSIFY", "FULLY_CONNECTED")


def check(model: Model) -> None:
    """Refuses a model that could crash a runtime or exhaust the memory.

    Args:
        model: what `schema.parse` returned.

    Raises:
        CorruptFileError: the first rule that the model breaks.

    Example:
        >>> check(parse(path.read_bytes()))  # doctest: +SKIP
    """
    if not model.subgraphs:
        corrupt("A model has at least one subgraph", "none")
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            _check_tensor(model, subgraph, tensor)
        _check_order(model, subgraph)
        for operator in subgraph.operators:
            _check_operator(model, subgraph, operator)
        _check_memory(model, subgraph)
    _check_calls(model)
    _check_variables(model)
    for signature in model.signatures:
        what = f"signature {signature.key!r}"
        _check_index(signature.subgraph, len(model.subgraphs), f"{what}, subgraph")
        count = len(model.subgraphs[signature.subgraph].tensors)
        for name, index in (*signature.inputs.items(), *signature.outputs.items()):
            _check_index(index, count, f"{what}, tensor {name!r}")


def _check_index(index: int, count: int, what: str) -> None:
    if not 0 <= index < count:
        corrupt(f"An index lies from 0 to {count - 1} here", f"{index} for {what}")


def _describe(subgraph: SubGraph, tensor: Tensor) -> str:
    return f"tensor {tensor.index} ({tensor.name!r}) of subgraph {subgraph.index}"


def _check_tensor(model: Model, subgraph: SubGraph, tensor: Tensor) -> None:
    """Checks one tensor by itself: shape, data, quantization."""
    what = _describe(subgraph, tensor)
    if tensor.buffer:
        _check_index(tensor.buffer, len(model.buffers), f"the buffer of {what}")
    if len(tensor.shape) > MAX_RANK or min(tensor.shape, default=0) < 0:
        corrupt(
            f"A shape has at most {MAX_RANK} dimensions, all from 0 on",
            f"{tensor.shape[:MAX_RANK]} for {what}",
        )
    if min(tensor.shape_signature or (), default=0) < -1:
        corrupt("A shape signature has sizes, or -1", f"{tensor.shape_signature} for {what}")
    content = model.constant(tensor)
    if tensor.quantization is not None:
        _check_quantization(tensor.quantization, tensor, subgraph, content is not None)
    if content is None:
        return
    if tensor.is_variable:
        corrupt("A variable has no constant data", f"{len(content)} bytes for {what}")
    if tensor.dtype == "string":
        string_offsets(content, tensor)
    elif tensor.sparsity is not None:
        _check_sparse(content, tensor, what)
    elif tensor.nbytes not in (len(content), None):
        corrupt(
            f"A constant {tensor.dtype} of shape {tensor.shape} has {tensor.nbytes} bytes",
            f"{len(content)} bytes for {what}",
        )


def _check_sparse(content: memoryview, tensor: Tensor, what: str) -> None:
    """Checks that a sparse constant has as many values as its levels say."""
    assert tensor.sparsity is not None
    if tensor.nbytes is None:
        corrupt("A sparse tensor has numbers", f"{tensor.dtype} for {what}")
    if tensor.nbytes > MAX_DENSE_BYTES:
        corrupt(
            f"A sparse tensor has at most {MAX_DENSE_BYTES} bytes when expanded",
            f"shape {tensor.shape}, {tensor.nbytes} bytes for {what}",
        )
    values = stored_values(tensor.sparsity, tensor.shape)
    expected = (values * DTYPE_BITS[tensor.dtype] + 7) // 8
    if len(content) != expected:
        corrupt(
            f"A sparse {tensor.dtype} with {values} stored values has {expected} bytes",
            f"{len(content)} bytes for {what}",
        )


def _check_quantization(
    quantization: Quantization, tensor: Tensor, subgraph: SubGraph, constant: bool
) -> None:
    what = _describe(subgraph, tensor)
    blocks, shape = quantization.blocks, tensor.shape
    if blocks is not None:
        count = len(subgraph.tensors)
        _check_index(blocks.scales, count, f"the scales of {what}")
        if blocks.zero_points != -1:
            _check_index(blocks.zero_points, count, f"the zero points of {what}")
        if blocks.block_size < (blocks.kind == "blockwise"):
            corrupt("A block has at least one weight", f"{blocks.block_size} for {what}")
        for axis in blocks.axes:
            _check_index(axis, len(shape), f"a quantized axis of {what}")
    scales, zero_points = quantization.scales, quantization.zero_points
    if blocks is not None or not len(scales):  # runtimes then ignore the rest
        return
    if len(scales) != len(zero_points):
        corrupt(
            "There are as many zero points as scales",
            f"{len(zero_points)} and {len(scales)} for {what}",
        )
    if quantization.axis < 0 or (shape and quantization.axis >= len(shape)):
        corrupt(
            f"The quantized axis is a dimension of shape {shape}", f"{quantization.axis} for {what}"
        )
    if len(scales) != 1 and shape and len(scales) != shape[quantization.axis]:
        corrupt(
            f"There is one scale, or one for each index along axis {quantization.axis} of {shape}",
            f"{len(scales)} scales for {what}",
        )
    # A channel of zeros may have a scale of 0; for a whole tensor native code divides by it. On
    # activations below the normal numbers XNNPACK crashes.
    smallest = _SMALLEST_NORMAL if not constant else _SMALLEST if len(scales) == 1 else 0.0
    if not (np.isfinite(scales) & (scales >= smallest)).all():
        corrupt(
            f"Scales are finite and at least {smallest:g} here",
            f"{scales.min()} to {scales.max()} for {what}",
        )
    low, high = _ZERO_POINTS.get(tensor.dtype, _INT32)
    if zero_points.min() < low or zero_points.max() > high:
        corrupt(
            f"Zero points of {tensor.dtype} lie from {low} to {high}",
            f"{zero_points.min()} to {zero_points.max()} for {what}",
        )


def _check_order(model: Model, subgraph: SubGraph) -> None:
    """Checks that every tensor has its value before it is read, and gets it once."""
    tensors, count = subgraph.tensors, len(subgraph.tensors)
    fixed = {tensor.index for tensor in tensors if model.constant(tensor) is not None}
    fixed |= {tensor.index for tensor in tensors if tensor.external_buffer}
    variables = {tensor.index for tensor in tensors if tensor.is_variable}
    # Nothing is read from a tensor without elements, so it needs no producer.
    known = fixed | variables | {tensor.index for tensor in tensors if not tensor.elements}
    produced = set()
    for index in subgraph.inputs:
        _check_index(index, count, f"an input of subgraph {subgraph.index}")
        if index in fixed:  # the caller would write into the file's own memory
            corrupt("An input is not a constant", _describe(subgraph, tensors[index]))
        produced.add(index)
    for operator in subgraph.operators:
        what = _name(subgraph, operator)
        optional = _OPTIONAL.get(operator.name, ())
        for place, index in enumerate(operator.inputs):
            if index == -1 and (operator.is_custom or place in optional):
                continue
            _check_index(index, count, f"input {place} of {what}")
            if index not in produced and index not in known:
                corrupt(
                    "An operator's input is a constant, a variable, an input of the subgraph or "
                    "the output of an earlier operator",
                    f"{_describe(subgraph, tensors[index])} for {what}",
                )
            sparse = index in fixed and tensors[index].sparsity is not None
            if sparse and operator.name not in _SPARSE_READERS:
                corrupt(
                    f"A sparse constant is read by {' or '.join(_SPARSE_READERS)}",
                    f"{_describe(subgraph, tensors[index])} for {what}",
                )
        for place, index in enumerate(operator.outputs):
            _check_index(index, count, f"output {place} of {what}")
            if index in fixed or index in variables or index in produced:
                corrupt(
                    "An operator writes tensors that nothing else writes",
                    f"{_describe(subgraph, tensors[index])}, which is a constant, a variable, an "
                    f"input or another operator's output, for {what}",
                )
            produced.add(index)
        for index in operator.intermediates:
            if index != -1:
                _check_index(index, count, f"an intermediate tensor of {what}")
    for index in subgraph.outputs:
        _check_index(index, count, f"an output of subgraph {subgraph.index}")
        if index not in produced and index not in known:
            corrupt(
                "An output has a value", f"{_describe(subgraph, tensors[index])}, which has none"
            )
        if index in fixed and tensors[index].sparsity is not None:
            corrupt("A sparse constant is no output", _describe(subgraph, tensors[index]))


def _name(subgraph: SubGraph, operator: Operator) -> str:
    return f"operator {operator.index} ({operator.name}) of subgraph {subgraph.index}"


def _check_operator(model: Model, subgraph: SubGraph, operator: Operator) -> None:
    """Checks an operator's options, and what it calls."""
    what, options = _name(subgraph, operator), operator.options
    least = _LEAST_INPUTS.get(operator.name, 0)
    if len(operator.inputs) < least:
        corrupt(
            f"{operator.name} has at least {least} inputs", f"{len(operator.inputs)} for {what}"
        )
    needed = _OPTIONS.get(operator.name)
    if needed is not None and operator.options_name != needed:
        corrupt(f"{operator.name} has {needed}", f"{operator.options_name} for {what}")
    for name in _POSITIVE:
        if name in options and not 1 <= options[name] <= MAX_STEP:
            corrupt(f"{name} lies from 1 to {MAX_STEP}", f"{options[name]} for {what}")
    lengths = {
        "PACK": ("values_count", len(operator.inputs)),
        "UNPACK": ("num", len(operator.outputs)),
        "SPLIT": ("num_splits", len(operator.outputs)),
        "SPLIT_V": ("num_splits", len(operator.outputs)),
    }
    if operator.name in lengths:
        name, count = lengths[operator.name]
        if options[name] != count:
            corrupt(f"{name} is the number of tensors, {count}", f"{options[name]} for {what}")
    if operator.name in ("ADD", "SUB"):
        _check_sum(subgraph, operator, what)
    if operator.name in _EXPANDERS and operator.inputs and operator.outputs:
        source = subgraph.tensors[operator.inputs[0]]
        shape = subgraph.tensors[operator.outputs[0]].shape
        if model.constant(source) is not None and shape != source.shape:
            corrupt(
                f"{operator.name} of a constant keeps its shape, {source.shape}",
                f"{shape} for {what}",
            )
    for index in operator.subgraphs:
        _check_index(index, len(model.subgraphs), f"a subgraph that {what} runs")
    called = [model.subgraphs[index] for index in operator.subgraphs]
    ins, outs = len(operator.inputs), len(operator.outputs)
    expected: Iterable[tuple[int, int]] = ()
    given = operator.inputs
    if operator.name == "WHILE":
        expected = ((ins, 1), (ins, outs))
    elif operator.name == "IF":
        expected = ((ins - 1, outs), (ins - 1, outs))
        given = operator.inputs[1:]
    elif operator.name == "CALL_ONCE":
        expected = ((0, 0),)
    for graph, (inputs, outputs) in zip(called, expected, strict=False):
        if (len(graph.inputs), len(graph.outputs)) != (inputs, outputs):
            corrupt(
                f"{what} runs a subgraph of {inputs} inputs and {outputs} outputs",
                f"{len(graph.inputs)} and {len(graph.outputs)} in subgraph {graph.index}",
            )
        for outer, inner in zip(given, graph.inputs, strict=False):
            _check_index(inner, len(graph.tensors), f"an input of subgraph {graph.index}")
            if outer != -1:
                _check_same(subgraph.tensors[outer], graph.tensors[inner], what)


def _check_sum(subgraph: SubGraph, operator: Operator, what: str) -> None:
    """Checks the scales of a quantized sum: the kernel aborts on a multiplier of 1 or more."""
    tensors = [subgraph.tensors[i] for i in (*operator.inputs[:2], *operator.outputs[:1])]
    scales = [
        float(tensor.quantization.scales[0])
        for tensor in tensors
        if tensor.quantization is not None and len(tensor.quantization.scales) == 1
    ]
    if len(scales) < 3:
        return
    bits = {"int8": 20, "uint8": 20, "int16": 15}.get(tensors[2].dtype)
    if bits is None:
        return
    if 2 * max(scales[:2]) >= 2**bits * scales[2]:
        corrupt(
            f"The scales of a sum's inputs are below {2 ** (bits - 1)} times its output's",
            f"{scales[:2]} and {scales[2]} for {what}",
        )


def _check_same(one: Tensor, other: Tensor, what: str) -> None:
    """Checks that two tensors which share their value are alike, where the file knows it."""
    shapes = [one.shape, other.shape]
    open_ended = any(
        -1 in (tensor.shape_signature or ()) or not (tensor.shape or tensor.has_rank)
        for tensor in (one, other)
    )
    if one.dtype != other.dtype or (shapes[0] != shapes[1] and not open_ended):
        corrupt(
            "Tensors that share a value have the same type and shape",
            f"{one.dtype} {one.shape} and {other.dtype} {other.shape} for {what}",
        )


def _check_variables(model: Model) -> None:
    """Checks that all operators on one variable agree on what it holds: runtimes copy blindly."""
    held: dict[tuple[str, str], Tensor] = {}
    for subgraph in model.subgraphs:
        handles: dict[int, tuple[str, str]] = {}
        for operator in subgraph.operators:
            ins, outs = operator.inputs, operator.outputs
            if operator.name == "VAR_HANDLE" and outs:
                handles[outs[0]] = operator.options["container"], operator.options["shared_name"]
                continue
            if operator.name == "READ_VARIABLE" and ins and outs:
                value = outs[0]
            elif operator.name == "ASSIGN_VARIABLE" and len(ins) > 1 and ins[1] != -1:
                value = ins[1]
            else:
                continue
            key = handles.get(ins[0])
            if key is not None:
                tensor = subgraph.tensors[value]
                _check_same(held.setdefault(key, tensor), tensor, _name(subgraph, operator))


def _check_memory(model: Model, subgraph: SubGraph) -> None:
    """Checks what the tensors that a run makes would take, one by one and together."""
    total = 0
    shapes = runtime_shapes(model, subgraph)
    for tensor, computed in zip(subgraph.tensors, shapes, strict=True):
        if model.constant(tensor) is not None:
            continue  # not made: it lies in the file
        bits = DTYPE_BITS.get(tensor.dtype, 64)
        sizes = []
        for shape in (tensor.shape, computed):
            # Zeros do not make a shape small: runtimes multiply the other sizes by themselves, too.
            size = math.prod(size or 1 for size in shape) * bits // 8
            sizes.append(size)
            if size > MAX_TENSOR_BYTES:
                corrupt(
                    f"A tensor has at most {MAX_TENSOR_BYTES} bytes",
                    f"{shape}, {size} bytes for {_describe(subgraph, tensor)}",
                )
        if computed != tensor.shape and max(sizes) > MAX_UNPROVEN_BYTES:
            corrupt(
                f"A tensor over {MAX_UNPROVEN_BYTES} bytes has the shape that its operator "
                f"computes, here {computed}",
                f"{tensor.shape} for {_describe(subgraph, tensor)}",
            )
        total += max(sizes)
    if total > MAX_TOTAL_BYTES:
        corrupt(
            f"The tensors of a subgraph take at most {MAX_TOTAL_BYTES} bytes together",
            f"{total} bytes in subgraph {subgraph.index}",
        )


def _check_calls(model: Model) -> None:
    """Checks that no subgraph calls itself, directly or through others, and bounds the depth."""
    calls = [
        sorted({index for operator in subgraph.operators for index in operator.subgraphs})
        for subgraph in model.subgraphs
    ]
    depth = dict.fromkeys(range(len(calls)), 0)  # 0: not yet known
    for start in range(len(calls)):
        # Depth first with a stack of its own: a hostile file could exhaust Python's.
        stack = [start]
        path: list[int] = []
        while stack:
            index = stack[-1]
            if path and path[-1] == index:  # everything it calls is known by now
                path.pop()
                stack.pop()
                depth[index] = 1 + max((depth[called] for called in calls[index]), default=0)
                continue
            if depth[index]:
                stack.pop()
                continue
            path.append(index)
            if len(path) + max((depth[called] for called in calls[index]), default=0) > (
                MAX_CALL_DEPTH
            ):
                corrupt(
                    f"Subgraphs call each other at most {MAX_CALL_DEPTH} deep", f"{path} and deeper"
                )
            for called in calls[index]:
                if called in path:
                    corrupt("No subgraph calls itself", f"subgraph {called}, through {path}")
                stack.append(called)
