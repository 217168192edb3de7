"""A file's operators with their weights, ranges and histograms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfcompress.deploy.inspection_report import InspectionReport
from tfcompress.reporting.findings import Histogram, Layer
from tfcompress.runtime import schema

BINS = 40
_EXPANDERS = ("DEQUANTIZE", "DENSIFY")


def describe_layers(
    found: InspectionReport,
    noise: Mapping[int, float],
    times: Mapping[int, tuple[float, float]],
) -> list[Layer]:
    """The operators of the main graph; what only unpacks weights is left out.

    Args:
        found: the file, inspected.
        noise: signal to noise in dB by operator index.
        times: milliseconds and their standard error by operator index.
    """
    model = found.model.parsed
    graph = model.subgraphs[0]
    makers = {i: operator for operator in graph.operators for i in operator.outputs}
    known = {
        tensor.index: tensor
        for tensor in found.tensors
        if tensor.subgraph == 0 and tensor.sparsity is not None
    }
    rows = []
    for seen, operator in zip(found.operators, graph.operators, strict=False):
        if operator.name in _EXPANDERS and model.constant(graph.tensors[operator.inputs[0]]):
            continue
        packed = [_packed(graph, makers, index) for index in operator.inputs if index >= 0]
        weights = next((i for i in packed if i in known), None)
        values = None if weights is None else real_values(model, graph.tensors[weights])
        if values is not None and not values.size:
            values = None
        constants = {t.index: t for t in found.tensors if t.subgraph == 0 and t.constant}
        read = [constants[i] for i in dict.fromkeys(packed) if i in constants]
        output = graph.tensors[operator.outputs[0]]
        low, high = _grid(output)
        time = times.get(operator.index)
        rows.append(
            Layer(
                index=operator.index,
                layer=seen.layer,
                operator=operator.name,
                output=output.shape,
                dtype=output.dtype,
                parameters=sum(tensor.parameters for tensor in read),
                nbytes=sum(tensor.nbytes for tensor in read),
                weight_low=None if values is None else float(values.min()),
                weight_high=None if values is None else float(values.max()),
                output_low=low,
                output_high=high,
                sparsity=None if weights is None else known[weights].sparsity,
                sqnr_db=noise.get(operator.index),
                time_ms=None if time is None else time[0],
                time_error_ms=None if time is None else time[1],
                placed=seen.placed,
                histogram=None if values is None else histogram(values),
            )
        )
    return rows


def _packed(graph: schema.SubGraph, makers: Mapping[int, schema.Operator], index: int) -> int:
    """The tensor that the file stores for a constant that is unpacked first."""
    while index in makers and makers[index].name in _EXPANDERS:
        index = makers[index].inputs[0]
    return index


def real_values(model: schema.Model, tensor: schema.Tensor) -> np.ndarray | None:
    """A constant's values in the unit that the model computes in; None where it has none."""
    stored = model.data(tensor)
    if stored is None or stored.dtype.kind not in "iuf":
        return None
    values = np.asarray(stored, np.float64)
    grid = tensor.quantization
    if grid is None or not len(grid.scales):
        return values
    scales, zeros = grid.scales.astype(np.float64), np.asarray(grid.zero_points, np.float64)
    if len(scales) > 1:
        shape = [1] * values.ndim
        shape[grid.axis] = len(scales)
        scales = scales.reshape(shape)
        zeros = zeros.reshape(shape) if len(zeros) > 1 else zeros
    if not len(grid.zero_points):
        zeros = np.zeros(1)
    return (values - zeros) * scales


def histogram(values: np.ndarray) -> Histogram:
    """Counts of the values that are not 0, in equally wide bins over all of them."""
    flat = values.reshape(-1)
    flat = flat[np.isfinite(flat)]
    others = flat[flat != 0]
    low, high = (float(others.min()), float(others.max())) if others.size else (0.0, 0.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(others, BINS, (low, high))
    return Histogram(low, high, tuple(counts.tolist()), int(flat.size - others.size))


def _grid(tensor: schema.Tensor) -> tuple[float | None, float | None]:
    """The smallest and the largest value that a quantized tensor can hold."""
    grid = tensor.quantization
    if grid is None or len(grid.scales) != 1 or tensor.dtype not in ("int8", "uint8", "int16"):
        return None, None
    limits, scale = np.iinfo(tensor.dtype), float(grid.scales[0])
    zero = int(grid.zero_points[0]) if len(grid.zero_points) else 0
    return (limits.min - zero) * scale, (limits.max - zero) * scale
