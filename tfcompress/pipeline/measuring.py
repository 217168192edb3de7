"""What a step's model, or a file, is worth: loss and metrics, parameters, work, bytes."""

from __future__ import annotations

import gzip
import math
from typing import Any

import numpy as np
from keras import tree

from tfcompress.conversion.convert import is_quantize_aware
from tfcompress.conversion.export import read_interface
from tfcompress.errors import CompressError, TrainingError
from tfcompress.pipeline.data import Data
from tfcompress.pipeline.objective import Objective
from tfcompress.pipeline.report import StepRow
from tfcompress.runtime.model import TFLiteModel
from tfcompress.transforms.wrapper import wrappers


class Measuring:
    """Measures on the validation data.

    Args:
        objective: loss and metrics.
        data: examples.
        original: the model that the pipeline began with, whose inputs all others have.
    """

    def __init__(self, objective: Objective, data: Data, original: Any) -> None:
        self._objective, self._data = objective, data
        self._inputs = [spec.name for spec in read_interface(original).specs]

    def model(self, name: str, number: int, model: Any) -> StepRow:
        """The row of a Keras model.

        Raises:
            TrainingError: its loss is NaN or infinite.
        """
        import tfcompress as tfc

        if wrappers(model):  # what trains is not what ships
            model = tfc.strip(model)
        found = model.predict(self._data.x_val, batch_size=256, verbose=0)
        metrics = self._metrics(name, [np.asarray(own) for own in tree.flatten(found)])
        if is_quantize_aware(model):  # it also holds grids and masks; its file tells the rest
            return StepRow(name, number, metrics, None, None, None, None, None)
        try:
            work: int | None = tfc.complexity(model).multiply_adds
        except CompressError:
            work = None
        values = [np.asarray(variable) for variable in model.weights]
        stored = b"".join(value.tobytes() for value in values)
        count = int(sum(value.size for value in values))
        zeros = float(tfc.sparsity(model)["total"])
        return StepRow(name, number, metrics, count, work, zeros, len(stored), _zipped(stored))

    def file(self, name: str, number: int, content: bytes) -> StepRow:
        """The row of a file.

        Raises:
            TrainingError: its loss is NaN or infinite.
        """
        metrics: dict[str, float | None] = {}
        if name.endswith(".tflite"):
            flat = tree.flatten(self._data.x_val)
            named = dict(zip(self._inputs, flat, strict=True)) if len(flat) > 1 else flat[0]
            found = TFLiteModel(content).predict(named)
            values = [found]
            if isinstance(found, dict):
                values = [found[own] for own in self._objective.outputs.names]
            metrics = self._metrics(name, [_float(own) for own in values])
        return StepRow(name, number, metrics, None, None, None, len(content), _zipped(content))

    def _metrics(self, name: str, predictions: list[np.ndarray]) -> dict[str, float | None]:
        found = self._objective.measure(predictions, self._data.y_val)
        if not math.isfinite(found.get("loss", 0.0)):
            raise TrainingError(
                f"The loss of {name} on the validation data must be finite. Received: "
                f"{found['loss']}. Its training has diverged, or the data holds what the loss "
                "cannot take."
            )
        return {key: value if math.isfinite(value) else None for key, value in found.items()}


def _float(values: np.ndarray) -> np.ndarray:
    return values.astype("float32") if values.dtype.kind == "f" else values


def _zipped(content: bytes) -> int:
    return len(gzip.compress(content, 9, mtime=0))
