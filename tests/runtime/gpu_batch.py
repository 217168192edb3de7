"""Many files on the GPU in one child process: loading a driver for each would take too long."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from one_operator import Graph

from tfcompress.errors import DeviceError
from tfcompress.runtime import gpu
from tfcompress.runtime.gpu_session import MODULE, GpuSession, set_environment
from tfcompress.runtime.isolation import run_isolated


def run_all(files: Sequence[bytes], inputs: Sequence[Sequence[np.ndarray]]) -> list[Any]:
    """For each file what it was placed like and its outputs, or the accelerator's refusal."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (content, arrays) in enumerate(zip(files, inputs, strict=True)):
            with open(f"{folder}/{number}.tflite", "wb") as file:
                file.write(content)
            np.savez(f"{folder}/{number}-in.npz", *arrays)
        found, _ = run_isolated(
            f"{__name__}:job",
            {"folder": folder, "count": len(files), "environment": gpu.environment()},
            preload=("tfcompress.runtime.gpu_session", MODULE),
        )
        results: list[Any] = []
        for number, value in enumerate(found):
            if isinstance(value, str):
                results.append(value)
                continue
            with np.load(f"{folder}/{number}-out.npz") as arrays:
                outputs = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
            results.append((value["placed"], value["refused"], outputs))
    return results


def job(folder: str, count: int, environment: dict[str, str | None]) -> list[Any]:
    set_environment(environment)
    found: list[Any] = []
    for number in range(count):
        path = os.path.join(folder, str(number))
        with open(f"{path}.tflite", "rb") as file:
            content = file.read()
        try:
            session = GpuSession(content, precision="fp32")
            with np.load(f"{path}-in.npz") as arrays:
                given = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
            outputs = []
            if given:
                pairs = zip(session.inputs, given, strict=True)
                outputs = session.run({info.index: value for info, value in pairs})
            np.savez(f"{path}-out.npz", *outputs)
            placement = session.placement
            found.append({"placed": placement.placed, "refused": list(placement.refused)})
        except DeviceError as error:
            found.append(str(error))
    return found


def together(graphs: Sequence[Graph]) -> Graph:
    """One graph of all of these, side by side: independent branches end up in one group."""
    tensors, operators, outputs = {}, [], []
    for number, graph in enumerate(graphs):
        names = {name: f"{number}/{name}" for name in graph.tensors} | {"": ""}
        tensors |= {names[name]: tensor for name, tensor in graph.tensors.items()}
        operators += [
            replace(o, inputs=[names[n] for n in o.inputs], outputs=[names[n] for n in o.outputs])
            for o in graph.operators
        ]
        outputs += [names[n] for n in graph.outputs or graph.operators[-1].outputs]
    return Graph(tensors, operators, outputs)
