"""`FidelityReport`: how far a file computes what the model computes that it was made of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.files import write_json
from tfcompress.runtime.model import TFLiteModel, output_infos
from tfcompress.tables import aligned


@dataclass(frozen=True)
class LayerFidelity:
    """One layer, computed in Keras and in the file from the same inputs: those in the file.

    Attributes:
        name: the layer's name.
        operator: what writes its output in the file.
        identical: share of its output values that are the same integers.
        max_lsb: the largest difference, in steps of its output grid.
        mean_lsb: the mean one.
        identical_so_far: share that is the same where Keras starts from the model's inputs, so
            that what came before counts too.
        cause: what is likely to make the difference; "" where there is none.
    """

    name: str
    operator: str
    identical: float
    max_lsb: int
    mean_lsb: float
    identical_so_far: float
    cause: str = ""


@dataclass
class FidelityReport:
    """How far a file's outputs are the model's.

    A step (LSB) is that of the file's output grid; where an output is not quantized, 1/255 of
    the range of the model's output on the data.

    Attributes:
        examples: how many were compared.
        agreement: share of answers that are the same: the largest of an output's last axis, or,
            where that holds one value, the value to one step.
        identical: share of output values that are the same: the same integer of the output grid,
            or to 1e-5 of the range where it is not quantized.
        within_one_lsb: share that differs by at most one step.
        max_lsb: largest difference in steps.
        mean_error: mean absolute difference, in the output's own unit.
        histogram: difference in steps -> number of values.
        layers: each quantized layer on the same inputs, in order; [] where the model is not a
            quantize-aware one.
        layer_examples: on how many of the examples the layers were compared.
        first_divergence: the first layer that differs from the file, or None.
        notes: sentences on what could not be compared.
    """

    examples: int
    agreement: float
    identical: float
    within_one_lsb: float
    max_lsb: int
    mean_error: float
    histogram: dict[int, int] = field(default_factory=dict)
    layers: list[LayerFidelity] = field(default_factory=list)
    layer_examples: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def first_divergence(self) -> LayerFidelity | None:
        """The first layer that differs on the same inputs."""
        return next((layer for layer in self.layers if layer.identical < 1), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        first = self.first_divergence
        return {**asdict(self), "first_divergence": first and asdict(first)}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report as JSON."""
        return write_json(path, self.to_dict())

    def summary(self) -> list[str]:
        """Sentences for people."""
        lines = [
            f"{self.examples} examples: {share(self.agreement)} same answer, "
            f"{share(self.identical)} of the values identical, "
            f"{share(self.within_one_lsb)} within one step, the largest "
            f"difference {self.max_lsb} steps, mean error {self.mean_error:.3g}"
        ]
        first = self.first_divergence
        if first is not None:
            lines.append(
                f"The first layer that is off: {first.name!r} ({first.operator}), "
                f"{share(first.identical)} identical on the same inputs, by up to {first.max_lsb} "
                f"steps. {first.cause}".rstrip()
            )
        elif self.layers:
            lines.append(
                f"All {len(self.layers)} quantized layers compute the same integers on the first "
                f"{self.layer_examples} examples."
            )
        return lines + self.notes

    def histogram_table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows."""
        total = max(sum(self.histogram.values()), 1)
        rows = [[f"{k:+d}" if k else "0", f"{n:,}", f"{n / total:.4%}"]
                for k, n in sorted(self.histogram.items())]  # fmt: skip
        return ["steps", "values", "share"], rows

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows of the layers."""
        heads = ["layer", "operator", "identical", "max steps", "mean steps", "so far", "cause"]
        rows = [
            [
                layer.name,
                layer.operator,
                share(layer.identical),
                str(layer.max_lsb),
                f"{layer.mean_lsb:.3g}",
                share(layer.identical_so_far),
                layer.cause,
            ]
            for layer in self.layers
        ]
        return heads, rows

    def __str__(self) -> str:
        heads, rows = self.table()
        off = [row for row in rows if row[2] != "100.000%"]
        return "\n".join([*self.summary(), *(aligned([heads, *off], "  ") if off else [])])


def share(part: float) -> str:
    """A percentage that is 100 only where nothing is missing, and 0 only where nothing is there."""
    if part < 1:
        part = min(part, 1 - 1e-5)
    if part > 0:
        part = max(part, 1e-5)
    return f"{part:.3%}"


def compare_outputs(
    grids: Mapping[str, float], ours: Mapping[str, np.ndarray], file: Mapping[str, np.ndarray]
) -> FidelityReport:
    """Compares outputs by name.

    Args:
        grids: the scale of the file's grid for each output; 0 or missing without any.
        ours: the model's real values, (examples, ...).
        file: the file's.
    """
    agreed, steps, errors, exact = [], [], [], []
    histogram: dict[int, int] = {}
    for name, mine in ours.items():
        theirs = np.asarray(file[name])
        mine = np.asarray(mine)
        if mine.dtype.kind == "f":
            mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
        difference = theirs.astype(np.float64) - mine.astype(np.float64)
        scale = grids.get(name, 0.0)
        spread = float(np.ptp(mine)) if mine.size else 0.0
        step = scale or spread / 255 or 1.0
        off = np.rint(difference / step).astype(np.int64)
        agreed.append(_same_answer(mine, theirs, off))
        same = off == 0 if scale else np.abs(difference) <= 1e-5 * max(spread, 1e-30)
        exact.append(same.reshape(-1))
        steps.append(np.abs(off).reshape(-1))
        errors.append(np.abs(difference).reshape(-1))
        for value, count in zip(*np.unique(off, return_counts=True), strict=True):
            histogram[int(value)] = histogram.get(int(value), 0) + int(count)
    flat = np.concatenate(steps)
    return FidelityReport(
        examples=len(next(iter(ours.values()))),
        agreement=float(np.mean([np.mean(part) for part in agreed])),
        identical=float(np.concatenate(exact).mean()),
        within_one_lsb=float((flat <= 1).mean()),
        max_lsb=int(flat.max()),
        mean_error=float(np.concatenate(errors).mean()),
        histogram=histogram,
    )


def _same_answer(mine: np.ndarray, theirs: np.ndarray, off: np.ndarray) -> np.ndarray:
    if mine.ndim >= 2 and mine.shape[-1] > 1:
        return mine.argmax(-1) == theirs.argmax(-1)
    return np.abs(off) <= 1


def output_grids(tflite: TFLiteModel) -> dict[str, float]:
    """Scale of each output's grid by its name, looking through a DEQUANTIZE; 0 for none."""
    graph = tflite.parsed.subgraphs[0]
    writers = {index: op for op in graph.operators for index in op.outputs}
    found = {}
    for info in output_infos(tflite.parsed):
        index = info.index
        writer = writers.get(index)
        if writer is not None and writer.name in ("DEQUANTIZE", "QUANTIZE"):
            index = writer.inputs[0]
        quantization = graph.tensors[index].quantization
        scales: Any = quantization.scales if quantization is not None else ()
        found[info.name] = float(scales[0]) if len(scales) == 1 else 0.0
    return found
