"""Tensors inside a file made outputs, so that what the fast kernels compute can be seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tfcompress.runtime.model import TFLiteModel
from tfcompress.runtime.packing import opened, packed


def expose(tflite: TFLiteModel, tensors: Sequence[int]) -> TFLiteModel:
    """The same graph with these tensors as its outputs.

    XNNPACK runs it as before: it hands over every output of its part of the graph.

    Args:
        tflite: a file of one graph.
        tensors: indices into the main graph's tensors.

    Returns:
        A file whose outputs are these tensors, in that order, without signatures.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    (content,) = cut(tflite, [(None, tensors)])
    return TFLiteModel(content)


def cut(
    tflite: TFLiteModel, parts: Iterable[tuple[Sequence[int] | None, Sequence[int]]]
) -> Iterator[bytes]:
    """Parts of a graph as files of their own, with the same inputs and without signatures.

    Args:
        tflite: a file.
        parts: for each file to make the operators of the main graph that it holds, in their
            order (None for all of them), and the tensors that are its outputs.

    Yields:
        The bytes of each file; constants that none of its operators reads are left out.

    Raises:
        DeviceError: no package that can write the format is installed.
    """
    model = opened(tflite.content)
    model.signatureDefs = []
    graph = model.subgraphs[0]
    operators, data = graph.operators, [buffer.data for buffer in model.buffers]
    others = {tensor.buffer for other in model.subgraphs[1:] for tensor in other.tensors}
    for chosen, outputs in parts:
        graph.outputs = list(outputs)
        if chosen is not None:
            graph.operators = [operators[index] for index in chosen]
            read = {int(i) for operator in graph.operators for i in operator.inputs if i >= 0}
            needed = others | {graph.tensors[tensor].buffer for tensor in read}
            for index, buffer in enumerate(model.buffers):
                buffer.data = data[index] if index in needed else None
        yield packed(model)


def stored_values(
    tflite: TFLiteModel, tensors: Sequence[int], inputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What these tensors hold, run by run.

    Args:
        tflite: the file.
        tensors: indices into its main graph's tensors.
        inputs: stored values of each input in the file's order, (runs, *shape).

    Returns:
        An array (runs, *shape) for each tensor, of its stored type.
    """
    session = expose(tflite, tensors).session()
    runs = []
    for values in zip(*inputs, strict=True):
        chunk = {info.index: v for info, v in zip(session.inputs, values, strict=True)}
        runs.append([np.array(v) for v in session.run(chunk)])
    return [np.stack(column) for column in zip(*runs, strict=True)]
