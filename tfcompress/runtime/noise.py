"""Which operator of a quantized file adds the noise, found beside its float twin."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tfcompress.runtime import adapter, proof, schema
from tfcompress.runtime.isolation import run_isolated
from tfcompress.runtime.model import dequantize, input_infos, output_infos, quantize


@dataclass(frozen=True)
class TensorNoise:
    """The error of one operator's output.

    Attributes:
        tensor: the tensor's name, the same in both files; for an output, that in the signature.
        operator: the operator that writes it in the quantized file.
        snr_db: signal to quantization noise at this tensor, in dB.
        added: noise-to-signal ratio that appears here and is not in the operator's inputs.
    """

    tensor: str
    operator: str
    snr_db: float
    added: float


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
    from the same graph.

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
        if operator.name in ("QUANTIZE", "DEQUANTIZE"):
            continue
        keys = quantized.keys
        before = max((ratio.get(keys.get(i, ""), 0.0) for i in operator.inputs), default=0.0)
        for name in (keys[i] for i in operator.outputs):
            if name in ratio:
                snr = float(-10 * np.log10(ratio[name])) if ratio[name] else 300.0
                rows.append(TensorNoise(name, operator.name, snr, max(0.0, ratio[name] - before)))
    return [asdict(row) for row in rows]


class _Side:
    """One of the two files, loaded so that every tensor can be read after a run."""

    def __init__(self, content: bytes, runtime: str) -> None:
        self.parsed: schema.Model = schema.parse(content)
        self.graph = self.parsed.subgraphs[0]
        self.session = adapter.Session(content, runtime=runtime, backend="reference", keep_all=True)
        written = {i for operator in self.graph.operators for i in operator.outputs}
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

    def read(self, name: str) -> np.ndarray:
        info = self.tensors[name]
        value = self.session.interpreter.get_tensor(info.index)
        return np.asarray(dequantize(value, info), np.float64)
