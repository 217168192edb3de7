"""From a traced function to an ONNX graph, with Q/DQ pairs where fake-quant operators stand.

tf2onnx knows TensorFlow's operators. What it does not know are fake-quant operators with a grid of
their own: these are written here, from the same ranges that the TFLite converter reads, so that
both files hold the same integers.

Source: QuantizeLinear and DequantizeLinear of the ONNX operator set (opset 13 on).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tfcompress.conversion.export import Exported, quiet
from tfcompress.errors import ConversionError

OPSETS = range(13, 19)
"""From the first with scales for each channel to the last that tf2onnx writes."""

_TOO_LARGE = 2**31 - 1


def to_graph(exported: Exported, name: str, opset: int) -> Any:
    """An ONNX model of a traced function.

    Args:
        exported: the function, from named inputs to named outputs.
        name: the graph's name.
        opset: of the default domain, 13 to 18.

    Returns:
        `onnx.ModelProto`, checked; kernels on grids behind a DequantizeLinear, their
        transpositions still to be computed ahead (`tfcompress.onnx.constants`).

    Raises:
        ConversionError: an operator has no ONNX form, or the graph is too large for one file.
    """
    import onnx
    from tf2onnx import convert

    function = SimpleNamespace(get_concrete_function=lambda *_: exported.function)
    handlers: dict[str, Any] = {
        "FakeQuantWithMinMaxVars": (_activation, []),
        "Erfc": (_erfc, []),
    }
    with quiet():
        try:
            model, _ = convert.from_function(function, (), opset=opset, custom_op_handlers=handlers)
        except Exception as error:  # tf2onnx raises whatever it comes upon
            raise ConversionError(f"The model has no ONNX form: {error}") from error
    model.graph.name = name
    model.producer_name = "tfcompress"
    if model.ByteSize() > _TOO_LARGE:
        raise ConversionError(
            f"An ONNX file holds at most 2 GB. Received: {model.ByteSize():,} bytes"
        )
    known = {"", "ai.onnx"}
    unknown = sorted({n.op_type for n in model.graph.node if n.domain not in known}) or sorted(
        {n.op_type for n in model.graph.node if not onnx.defs.has(n.op_type)}
    )
    if unknown:
        raise ConversionError(
            f"tf2onnx knows no ONNX form of the operators {unknown}. Replace the layers that use "
            "them, or convert to .tflite."
        )
    return model


def _numbers(node: Any, index: int) -> np.ndarray:
    return np.asarray(node.inputs[index].get_tensor_value(as_list=False), np.float64)


def _activation(ctx: Any, node: Any, name: str, args: Any) -> None:
    """FakeQuantWithMinMaxVars: Quantize and Dequantize, on the grid that TFLite finds too."""
    from onnx import TensorProto

    narrow = bool(node.get_attr_value("narrow_range"))
    lowest, highest = -128 + narrow, 127
    low, high = (float(_numbers(node, i)) for i in (1, 2))
    scale = np.float32((high - low) / (highest - lowest))
    zero_point = int(np.clip(np.rint(lowest - low / np.float64(scale)), lowest, highest))
    shape, source = ctx.get_shape(node.output[0]), node.input[0]
    base = node.name.rpartition("/")[2] or node.name
    grid = [
        ctx.make_const(f"{node.name}/scale", np.asarray(scale)).output[0],
        ctx.make_const(f"{node.name}/zero", np.asarray(zero_point, np.int8)).output[0],
    ]
    ctx.remove_node(node.name)
    stored = ctx.make_node(
        "QuantizeLinear",
        [source, *grid],
        name=f"{base}/Quantize/{node.name}",
        shapes=[shape],
        dtypes=[TensorProto.INT8],
    )
    ctx.make_node(
        "DequantizeLinear",
        [stored.output[0], *grid],
        name=f"{base}/Dequantize/{node.name}",
        outputs=node.output,
        shapes=[shape],
        dtypes=[TensorProto.FLOAT],
    )


def _erfc(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Erfc, which the exact GELU is made of: 1 - Erf."""
    shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
    source = node.input[0]
    one = ctx.make_const(f"{node.name}/one", np.asarray(1, np.float32)).output[0]
    ctx.remove_node(node.name)
    erf = ctx.make_node("Erf", [source], shapes=[shape], dtypes=[dtype])
    ctx.make_node("Sub", [one, erf.output[0]], name=node.name, outputs=node.output,
                  shapes=[shape], dtypes=[dtype])  # fmt: skip
