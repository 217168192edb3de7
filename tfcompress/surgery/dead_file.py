"""`tfc.remove_dead` of a `.tflite`: channels that make no difference taken out of the file."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.errors import VerificationError
from tfcompress.report import CompressionReport
from tfcompress.runtime import proof
from tfcompress.runtime.exposure import stored_values
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.model import TFLiteModel, input_infos
from tfcompress.runtime.packing import opened, packed
from tfcompress.runtime.surroundings import Surroundings
from tfcompress.surgery.file_channels import FileChannels

# Random inputs on which the file is run, to read constants and to check what came out.
RUNS = 3


def remove_dead_of_file(tflite: TFLiteModel) -> TFLiteModel:
    """A file without the channels that make no difference; see `tfc.remove_dead`.

    Raises:
        VerificationError: the smaller file does not compute what the file did; it is not given out.
        CorruptFileError: the file is damaged, or asks for more memory than any honest one.
        DeviceError: no package that can write the format is installed.
    """
    proof.prove(tflite.content)  # before inputs of the declared sizes are made
    report = CompressionReport("remove_dead")
    widths: dict[int, list[int]] = {}
    smaller = tflite
    if len(tflite.parsed.subgraphs) != 1:
        report.notes.append("It has several graphs, which call each other: left as it is.")
    while len(tflite.parsed.subgraphs) == 1:
        # What only fed channels that are gone is dead in the next turn.
        channels = FileChannels(smaller, _channel_values(smaller))
        for number, width in channels.made().items():
            widths.setdefault(number, []).append(width)
        if not channels.gone.any():
            break
        smaller = TFLiteModel(_without(smaller, channels))
    _check(tflite, smaller)
    graph = tflite.parsed.subgraphs[0]
    names = LayerNames(tflite.parsed, graph, Surroundings(tflite.parsed, graph))
    for number, found in widths.items():
        operator = graph.operators[number]
        name = f"{names.of(operator) or operator.name} #{number}"
        if found[0] != found[-1]:
            report.add(name, operator.name, "shrunk", channels=f"{found[0]} -> {found[-1]}")
        else:
            why = "its channels make a difference, or meet an operator that keeps all of them"
            report.add(name, operator.name, "left", why)
    result = TFLiteModel(smaller, report=report)
    result.name, result.input_order = tflite.name, tflite.input_order
    return result


def _inputs(tflite: TFLiteModel, seed: int) -> list[np.ndarray]:
    """(runs, *shape) of stored values for each input."""
    generator = np.random.default_rng(seed)
    found = []
    for info in input_infos(tflite.parsed):
        shape = (RUNS, *info.shape)
        if info.dtype.kind == "f":
            found.append(generator.standard_normal(shape, np.float32).astype(info.dtype))
        elif info.scale:
            limits = np.iinfo(info.dtype)
            found.append(generator.integers(limits.min, limits.max + 1, shape, info.dtype))
        else:  # numbers of rows, as of an embedding: small ones are valid
            found.append(generator.integers(0, 2, shape).astype(info.dtype))
    return found


def _channel_values(tflite: TFLiteModel) -> dict[int, np.ndarray]:
    """(channels,) of each tensor that an operator makes: its value if all that was seen is one."""
    graph = tflite.parsed.subgraphs[0]
    made = [
        index
        for operator in graph.operators
        for index in operator.outputs
        if graph.tensors[index].shape
        and tflite.parsed.constant(graph.tensors[index]) is None
        # What is made of constants alone, as by DEQUANTIZE, is a weight.
        and any(
            i >= 0 and tflite.parsed.constant(graph.tensors[i]) is None for i in operator.inputs
        )
    ]
    found = {}
    values = stored_values(tflite, made, _inputs(tflite, 0))
    for index, array in zip(made, values, strict=True):
        flat = array.reshape(-1, array.shape[-1])
        same = (flat == flat[:1]).all(0)
        found[index] = np.where(same, flat[0].astype(np.float64), np.nan)
    return found


def _without(tflite: TFLiteModel, channels: FileChannels) -> bytes:
    """The file without what is gone."""
    model = opened(tflite.content)
    graph = model.subgraphs[0]
    for index, shape in channels.new_shapes().items():
        graph.tensors[index].shape = np.array(shape, np.int32)
        if graph.tensors[index].shapeSignature is not None:
            signature = np.array(graph.tensors[index].shapeSignature)
            graph.tensors[index].shapeSignature = np.where(signature < 0, signature, shape).astype(
                np.int32
            )
        _shrink_scales(graph.tensors[index], channels, index)
    for index, values in channels.new_constants().items():
        buffer = type(model.buffers[0])()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        graph.tensors[index].buffer = len(model.buffers)
        model.buffers.append(buffer)
    for number, shape in channels.new_reshapes().items():
        options = graph.operators[number].builtinOptions
        if options is not None and options.newShape is not None:
            options.newShape = np.array(shape, np.int32)
    read = {tensor.buffer for tensor in graph.tensors}
    read |= {entry.buffer for entry in model.metadata or []}
    for number, buffer in enumerate(model.buffers):
        if number not in read:
            buffer.data = None
    return packed(model)


def _shrink_scales(tensor: Any, channels: FileChannels, index: int) -> None:
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) < 2:
        return
    mask = channels.mask(index, quantization.quantizedDimension)
    if mask is None:
        return
    for name in ("scale", "zeroPoint", "min", "max"):
        values = getattr(quantization, name)
        if values is not None and len(values) == len(mask):
            setattr(quantization, name, np.asarray(values)[mask])


def _check(tflite: TFLiteModel, smaller: TFLiteModel) -> None:
    """Both give the same: integers exactly, floats to rounding."""
    if smaller is tflite:
        return
    inputs = _inputs(tflite, 1)
    pairs = zip(*(
        stored_values(one, one.parsed.subgraphs[0].outputs, inputs) for one in (tflite, smaller)
    ), strict=True)  # fmt: skip
    for before, after in pairs:
        room = 1e-4 * np.abs(before).max(initial=1e-30) if before.dtype.kind == "f" else 0
        off = np.abs(before.astype(np.float64) - after).max(initial=0.0)
        if not off <= room:
            raise VerificationError(
                "The file without its dead channels must compute what the file does. Received: "
                f"outputs that are {off:.3g} apart. Please report this file."
            )
