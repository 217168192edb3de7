"""What a GPU computes beside what the CPU does: differences, NaN, and what 16 bits cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tfcompress.deploy.timing_worker import make_inputs
from tfcompress.runtime import adapter, gpu
from tfcompress.runtime.exposure import stored_values
from tfcompress.runtime.gpu_session import GpuPlacement
from tfcompress.runtime.model import (
    TFLiteModel,
    dequantize,
    input_infos,
    match_inputs,
    numpy_dtype,
    output_infos,
    quantize,
)
from tfcompress.runtime.schema import Tensor
from tfcompress.runtime.surroundings import Surroundings

LARGEST_HALF: Final = 65504.0
"""The largest number that float16 holds."""

NOISE_RUNS: Final = 8
"""On how many inputs of noise a model is compared: one alone may miss what few values show."""


@dataclass(frozen=True)
class GpuFigures:
    """A model on a GPU, beside the same model on XNNPACK with the same inputs.

    Attributes:
        precision: `"fp32"` or `"fp16"`, in which the GPU computes.
        placement: the GPU's name, and how many operators it has.
        examples: how many inputs were compared; of noise how many runs, each of the file's batch.
        largest: the largest difference of an output value.
        mean: the mean difference.
        reach: the largest output value on the CPU, to hold the differences against.
        steps: the largest difference in steps of the output's grid; None for float outputs.
        not_finite: output values that are NaN or infinite on the GPU and not on the CPU.
        overflow: tensors whose values on the CPU are beyond what 16 bits hold (65,504), with the
            largest; empty with `"fp32"`.
        noise: whether the inputs were made up, as none were given.
    """

    precision: str
    placement: GpuPlacement
    examples: int
    largest: float
    mean: float
    reach: float
    steps: int | None
    not_finite: int
    overflow: tuple[tuple[str, float], ...] = ()
    noise: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; infinity and NaN as text."""
        placement = self.placement
        return {
            "precision": self.precision,
            "adapter": vars(placement.adapter) | {"software": placement.adapter.software},
            "placed": placement.placed,
            "operators": placement.operators,
            "fully_accelerated": placement.fully_accelerated,
            "refused": list(placement.refused),
            "examples": self.examples,
            "noise": self.noise,
            "largest": _number(self.largest),
            "mean": _number(self.mean),
            "reach": _number(self.reach),
            "steps": self.steps,
            "not_finite": self.not_finite,
            "overflow": [[name, _number(value)] for name, value in self.overflow],
        }

    def __str__(self) -> str:
        placed = f"{self.placement.placed} of {self.placement.operators} operators on the GPU"
        steps = "" if self.steps is None else f" ({self.steps} steps)"
        wrong = f"{self.not_finite} values NaN or infinite" if self.not_finite else "no NaN"
        parts = [
            f"{placed}, {self.precision}; beside XNNPACK on {self.examples} "
            f"example{'s' * (self.examples != 1)}{' of noise' * self.noise}: largest difference "
            f"{self.largest:.3g}{steps} of {self.reach:.3g}, mean {self.mean:.3g}, {wrong}"
        ]
        if self.overflow:
            name, value = max(self.overflow, key=lambda entry: entry[1])
            parts.append(
                f"{len(self.overflow)} tensors leave the range of fp16, {name!r} with {value:.3g}: "
                "compute in fp32"
            )
        if self.placement.refused:
            parts.append(f"left to the CPU: {', '.join(self.placement.refused)}")
        return "; ".join(parts)


def compare(
    tflite: TFLiteModel,
    inputs: Any = None,
    *,
    precision: str = "fp16",
    threads: int = 1,
    runtime: str = "auto",
    delegate: str | None = None,
) -> GpuFigures:
    """Runs a model on the GPU and on XNNPACK and compares what comes out.

    Args:
        tflite: the model.
        inputs: real values as for `TFLiteModel.predict`; None for 8 runs on noise: over the
            whole grid of a quantized input, also where QUANTIZE reads it, else of a deviation of
            1 (zeros for integer inputs such as token ids).
        precision: `"fp32"` or `"fp16"`, in which the GPU computes.
        threads: threads of the CPU.
        runtime: as for `gpu.run`.
        delegate: as for `gpu.run`.

    Returns:
        The figures; print them.

    Raises:
        CorruptFileError: the file is not sound.
        DeviceError: there is no GPU, or it does not take the model.

    Example:
        >>> print(compare(tfc.TFLiteModel("model.tflite")))  # doctest: +SKIP
        31 of 31 operators on the GPU, fp16; beside XNNPACK on 8 examples of noise: largest ...
    """
    columns = _columns(tflite, inputs)
    ours, placement = gpu.run(
        tflite.content,
        columns,
        precision=precision,
        threads=threads,
        runtime=runtime,
        delegate=delegate,
    )
    infos = output_infos(tflite.parsed)
    session = tflite.session(runtime=runtime, threads=threads)
    chunks = [
        {info.index: value for info, value in zip(session.inputs, values, strict=True)}
        for values in (zip(*columns, strict=True) if columns else [()])
    ]
    theirs = [np.stack(part) for part in zip(*session.run_all(chunks), strict=True)]
    return GpuFigures(
        precision,
        placement,
        len(chunks),
        *_differences(ours, theirs, infos),
        overflow=_overflow(tflite, columns) if precision == "fp16" else (),
        noise=inputs is None,
    )


def _columns(tflite: TFLiteModel, inputs: Any) -> list[np.ndarray]:
    """Stored values of each input, (runs, *shape)."""
    infos = input_infos(tflite.parsed)
    if inputs is None:
        return _noise(tflite, infos)
    arrays, count = match_inputs(infos, inputs, tflite.input_order)
    size = infos[0].shape[0] if infos[0].shape else 1
    rows = np.arange(-(-count // size) * size) % max(count, 1)
    return [
        quantize(array[rows], info).reshape(-1, *info.shape)
        for array, info in zip(arrays, infos, strict=True)
    ]


def _noise(tflite: TFLiteModel, infos: Sequence[adapter.TensorInfo]) -> list[np.ndarray]:
    grids = _grids(tflite)
    stored = [grids.get(info.index, info) for info in infos]
    runs = [make_inputs(stored, seed) for seed in range(NOISE_RUNS)]
    return [
        column if grid is info else dequantize(column, grid).astype(info.dtype)
        for column, grid, info in zip(
            map(np.stack, zip(*runs, strict=True)), stored, infos, strict=True
        )
    ]


def _grids(tflite: TFLiteModel) -> dict[int, adapter.TensorInfo]:
    """The grid of each float tensor that a QUANTIZE of the main graph reads."""
    graph = tflite.parsed.subgraphs[0]
    found = {
        operator.inputs[0]: _info(graph.tensors[operator.outputs[0]])
        for operator in graph.operators
        if operator.name == "QUANTIZE" and graph.tensors[operator.inputs[0]].dtype == "float32"
    }
    return {index: grid for index, grid in found.items() if grid.scale}


def _differences(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], infos: Sequence[adapter.TensorInfo]
) -> tuple[float, float, float, int | None, int]:
    """Largest and mean difference, largest value, largest difference in steps, not finite ones."""
    differences, reach, not_finite = [], 0.0, 0
    steps: int | None = None
    for mine, its, info in zip(ours, theirs, infos, strict=True):
        if info.scale:
            apart = int(np.abs(mine.astype(np.int64) - its.astype(np.int64)).max(initial=0))
            steps = max(steps or 0, apart)
        a, b = (dequantize(values, info).astype(np.float64).ravel() for values in (mine, its))
        finite = np.isfinite(b)
        not_finite += int((finite & ~np.isfinite(a)).sum())
        reach = max(reach, float(np.abs(b[finite]).max(initial=0.0)))
        both = finite & np.isfinite(a)
        differences.append(np.abs(a[both] - b[both]))
    found = np.concatenate(differences) if differences else np.zeros(0)
    largest, mean = float(found.max(initial=0.0)), float(found.mean()) if found.size else 0.0
    return largest, mean, reach, steps, not_finite


def _overflow(tflite: TFLiteModel, columns: Sequence[np.ndarray]) -> tuple[tuple[str, float], ...]:
    """Tensors of the main graph that leave the range of float16, and their largest value."""
    if tflite.keeps_state:  # its tensors cannot be made outputs
        return ()
    surroundings = Surroundings(tflite.parsed, tflite.parsed.subgraphs[0])
    graph = surroundings.graph
    infos = {
        index: _info(graph.tensors[index])
        for operator in graph.operators
        if not surroundings.unpacks(operator)
        for index in operator.outputs
        if graph.tensors[index].dtype in ("float32", "int8", "uint8")
    }
    # A quantized tensor ends where its grid does.
    tensors = [i for i, info in infos.items() if not info.scale or info.scale * 255 > LARGEST_HALF]
    if not tensors:
        return ()
    first = [column[:1] for column in columns]  # every tensor is held in memory
    found = []
    for index, value in zip(tensors, stored_values(tflite, tensors, first), strict=True):
        real = np.abs(dequantize(value, infos[index]).astype(np.float64))
        largest = float(real[~np.isnan(real)].max(initial=0.0))
        if largest > LARGEST_HALF:
            found.append((graph.tensors[index].name.split(";")[0], largest))
    return tuple(found)


def _info(tensor: Tensor) -> adapter.TensorInfo:
    quantization = tensor.quantization
    scale, zero = 0.0, 0
    if quantization is not None and len(quantization.scales) == 1:
        scale, zero = float(quantization.scales[0]), int(quantization.zero_points[0])
    return adapter.TensorInfo(
        tensor.name, tensor.index, tensor.shape, numpy_dtype(tensor.dtype), scale, zero
    )


def _number(value: float) -> float | str:
    return value if np.isfinite(value) else repr(value)
