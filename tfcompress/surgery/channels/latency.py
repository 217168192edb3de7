"""What the smaller model's latency is, measured on the converted file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.errors import DeviceError
from tfcompress.report import CompressionReport
from tfcompress.surgery.channels.analysis import Analysis


class Latency:
    """(classes that go) -> the share of the latency that goes with them.

    Args:
        model: the model.
        found: its atoms.
        runs: of each measurement.
    """

    def __init__(self, model: Any, found: Analysis, runs: int = 30) -> None:
        self._model, self._found, self._runs = model, found, runs
        self._folder = tempfile.TemporaryDirectory()
        self._whole = self._converted(model, "whole")

    def __call__(self, gone: np.ndarray) -> float:
        """Measures both models in turns, so that noise of the machine hits them alike."""
        from tfcompress.deploy.benchmark import benchmark
        from tfcompress.surgery.shrink import without

        if not gone.any():
            return 0.0
        smaller = without(self._model, self._found, gone, CompressionReport("shrink"))
        path = self._converted(smaller, "smaller")
        rows = benchmark([self._whole, path], runs=self._runs).rows
        failed = [row.error for row in rows if row.error]
        if failed:
            raise DeviceError(f"The latency could not be measured: {failed[0]}")
        return 1 - rows[1].p10_ms / rows[0].p10_ms

    def _converted(self, model: Any, name: str) -> Path:
        from tfcompress.conversion.convert import convert

        path = Path(self._folder.name) / f"{name}.tflite"
        convert(model, "fp32", path=path, overwrite=True)
        return path
