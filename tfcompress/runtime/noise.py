"""Which operator of a quantized file adds the noise, found beside its float twin."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from tfcompress.runtime import adapter, proof, schema
from tfcompress.runtime.isolation import run_isolated
from tfcompress.runtime.model import dequantize, input_infos, output_infos, quantize

EXACT_DB: Final = 300.0
"""What stands for no noise at all."""

_CARRIERS: Final = ("QUANTIZE", "DEQUANTIZE", "DENSIFY")
"""Operators that only bring values from one form of storing them to another."""


@dataclass(frozen=True)
class TensorNoise:
    """The error of one operator's output.

    Attributes:
        tensor: the tensor's name in the float file; for an output, that in the signature.
        operator: the operator that writes it in the quantized file.
        snr_db: signal to quantization noise at this tensor, in dB.
        added: noise-to-signal ratio that appears here and is not in the operator's inputs.
        index: the operator's place in the quantized file's main graph.
    """

    tensor: str
    operator: str
    snr_db: float
    added: float
    index: int


def signal_to_noise(actual: np.ndarray, expected: np.ndarray) -> float:
    """10 log10 of the power of `expected` over that of the difference, in dB; inf if equal."""
    expected = np.asarray(expected, np.float64)
    noise = float(np.square(np.asarray(actual, np.float64) - expected).sum())
    signal = float(np.square(expected).sum())
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")


def trace_noise(
    quantized: bytes, reference: bytes, inputs: list[np.ndarray], *, runtime: str = "auto"
) -> list[TensorNoise]:
    """Runs a quantized file and its float twin side by side, in a child process.

    Tensors are matched by name (outputs by their name in the signature), as both files come
    from the same graph; where a name has no match, and both files compute the same operators in
    the same order, by their place.

    Args:
        quantized: bytes of a quantized `.tflite`.
        reference: bytes of the same model in float32.
        inputs: real values for each input of the float file, (runs, *shape).
        runtime: runtime to run them on; without XNNPACK, which hides intermediate tensors.

    Returns:
        One entry for each operator's output that both files hold, in execution order.

    Raises:
        CorruptFileError: a file is not sound.
        JobError: a file does not run.
    """
    for content in (quantized, reference):
        proof.read_sound(content)
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        paths = [os.path.join(folder, name) for name in ("q.tflite", "f.tflite", "inputs.npz")]
        for path, content in zip(paths, (quantized, reference), strict=False):
            with open(path, "wb") as file:
                file.write(content)
        np.savez(paths[2], *inputs)
        rows, _ = run_isolated(
            f"{__name__}:_trace_job",
            {"paths": paths, "runtime": adapter.resolve_runtime(runtime)},
            preload=proof.preload(runtime),
            seconds=600,
        )
    return [TensorNoise(**row) for row in rows]


def _trace_job(paths: list[str], runtime: str) -> list[dict[str, Any]]:
    sides = []
    for path in paths[:2]:
        with open(path, "rb") as file:
            sides.append(_Side(file.read(), runtime))
    quantized, reference = sides
    quantized.take_names(reference)
    shared = [name for name in quantized.tensors if name in reference.tensors]
    signal = dict.fromkeys(shared, 0.0)
    noise = dict.fromkeys(shared, 0.0)
    with np.load(paths[2]) as arrays:
        inputs = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    by_name = {info.name: i for i, info in enumerate(input_infos(reference.parsed))}
    for run in range(len(inputs[0])):
        for side in sides:
            infos = input_infos(side.parsed)
            side.session.run(
                {info.index: quantize(inputs[by_name[info.name]][run], info) for info in infos}
            )
        for name in shared:
            expected = reference.read(name)
            signal[name] += float(np.square(expected).sum())
            noise[name] += float(np.square(quantized.read(name) - expected).sum())
    ratio = {name: noise[name] / signal[name] if signal[name] else 0.0 for name in shared}
    rows = []
    for operator in quantized.graph.operators:
        if operator.name in _CARRIERS:
            continue
        keys = quantized.keys
        before = max((ratio.get(keys.get(i, ""), 0.0) for i in operator.inputs), default=0.0)
        for name in (keys[i] for i in operator.outputs):
            if name in ratio:
                snr = float(-10 * np.log10(ratio[name])) if ratio[name] else EXACT_DB
                added = max(0.0, ratio[name] - before)
                rows.append(TensorNoise(name, operator.name, snr, added, operator.index))
    return [asdict(row) for row in rows]


class _Side:
    """One of the two files, loaded so that every tensor can be read after a run."""

    def __init__(self, content: bytes, runtime: str) -> None:
        self.parsed: schema.Model = schema.parse(content)
        self.graph = self.parsed.subgraphs[0]
        self.session = adapter.Session(content, runtime=runtime, backend="reference", keep_all=True)
        # Weights that are only unpacked are no results, and may have the names of such.
        written = {
            i
            for operator in self.graph.operators
            if operator.name not in _CARRIERS or not self._is_constant(operator.inputs[0])
            for i in operator.outputs
        }
        details = {d["index"]: d for d in self.session.interpreter.get_tensor_details()}
        self.keys = {tensor.index: tensor.name for tensor in self.graph.tensors}
        for info in output_infos(self.parsed):
            self.keys[info.index] = info.name
        for operator in self.graph.operators:
            # What is quantized only to be dequantized is the same value as its float twin.
            if operator.name == "DEQUANTIZE":
                self.keys[operator.inputs[0]] = self.keys[operator.outputs[0]]
        self.tensors = {
            self.keys[index]: adapter.tensor_info(details[index])
            for index in sorted(written)
            if details[index]["dtype"] is not np.bytes_
        }

    def _is_constant(self, index: int) -> bool:
        return self.parsed.constant(self.graph.tensors[index]) is not None

    def take_names(self, other: _Side) -> None:
        """Gives tensors that the other file does not know the name of the one in their place."""
        mine, theirs = ([o for o in side.graph.operators if o.name not in _CARRIERS]
                        for side in (self, other))  # fmt: skip
        steps = [(operator.name, len(operator.outputs)) for operator in mine]
        if steps != [(operator.name, len(operator.outputs)) for operator in theirs]:
            return
        for one, two in zip(mine, theirs, strict=True):
            for i, j in zip(one.outputs, two.outputs, strict=True):
                old, new = self.keys[i], other.keys[j]
                same_shape = self.graph.tensors[i].shape == other.graph.tensors[j].shape
                unknown = old not in other.tensors and new not in self.tensors
                if same_shape and unknown and old in self.tensors:
                    self.keys[i] = new
                    self.tensors[new] = self.tensors.pop(old)

    def read(self, name: str) -> np.ndarray:
        info = self.tensors[name]
        value = self.session.interpreter.get_tensor(info.index)
        return np.asarray(dequantize(value, info), np.float64)
