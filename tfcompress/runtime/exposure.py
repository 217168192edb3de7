"""Tensors inside a file made outputs, so that what the fast kernels compute can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcompress.runtime.model import TFLiteModel
from tfcompress.runtime.packing import repacked


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

    def change(model: Any) -> None:
        model.subgraphs[0].outputs = list(tensors)
        model.signatureDefs = []

    return TFLiteModel(repacked(tflite.content, change))


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
