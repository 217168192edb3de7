"""The process in which `tfc.benchmark` loads one model and times blocks of runs of it."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import numpy as np

from tfcompress.runtime import adapter, exchange, placement, proof, xnnpack
from tfcompress.runtime.helper_process import answer_questions


def serve() -> int:
    """Answers requests: load, then run, then memory."""
    sessions: dict[int, Any] = {}
    base = 0.0

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal base
        number = request.get("number", 0)  # of several models in one process
        found: dict[str, Any] = {}
        if "load" in request:
            adapter.interpreter_module(request["runtime"])
            if _has_options(request):
                xnnpack.environment()
            base = _reset_peak()
            sessions[number], found["init_ms"] = _load(request)
        elif "run" in request:
            found["ms"], found["on_cpu"] = _time(sessions[number], request["run"])
        elif "forget" in request:
            sessions.clear()
        elif "fp16" in request:
            xnnpack.check_fp16(
                _content(request["fp16"]), _inputs(sessions[number], request["inputs"])
            )
        elif "placement" in request:
            found["placed"] = _placement(request)
        elif "memory" in request:
            found["peak_mb"] = max(0.0, _peak_mb() - base)
        return found

    return answer_questions(answer)


def _load(request: dict[str, Any]) -> tuple[Any, float]:
    content = _content(request["load"])
    make: Any = adapter.Session
    settings = {name: request[name] for name in ("runtime", "backend")}
    if request["backend"] == adapter.GPU:
        from tfcompress.runtime.gpu_session import open_session

        make = open_session
        settings = {name: request[name] for name in ("precision", "runtime", "delegate")}
    elif _has_options(request):
        make = xnnpack.XnnpackSession
        settings = {"fp16": request["fp16_arithmetic"], "cache": request["cache"]}
    start = time.perf_counter()
    session = make(content, threads=request["threads"], **settings)
    elapsed = (time.perf_counter() - start) * 1e3
    session.run(_inputs(session, request["inputs"]))
    return session, elapsed


def _has_options(request: dict[str, Any]) -> bool:
    return bool(request.get("fp16_arithmetic") or request.get("cache"))


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _inputs(session: Any, path: str) -> dict[int, np.ndarray]:
    with np.load(path) as arrays:
        return {info.index: arrays[f"arr_{i}"] for i, info in enumerate(session.inputs)}


def _placement(request: dict[str, Any]) -> list[bool]:
    content = _content(request["placement"])
    session = adapter.Session(content, runtime=request["runtime"])
    return placement.placement_in(session, proof.read_sound(content).subgraphs[0])


def _time(session: Any, runs: int) -> tuple[float, float]:
    """Milliseconds of wall-clock time a run, and the share of it that this thread computed."""
    invoke = session.invoke
    cpu, start = time.thread_time(), time.perf_counter()
    for _ in range(runs):
        invoke()
    wall, cpu = time.perf_counter() - start, time.thread_time() - cpu
    return wall * 1e3 / runs, cpu / wall


def _reset_peak() -> float:
    """Resets the kernel's high-water mark, where it can be, and returns the memory now in MB."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _peak_mb()


def _peak_mb() -> float:
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def make_inputs(infos: list[adapter.TensorInfo], seed: int = 0) -> list[np.ndarray]:
    """Valid stored values: noise for floats and quantized inputs, zeros for ids."""
    generator = np.random.default_rng(seed)
    values = []
    for info in infos:
        if info.dtype.kind == "f":
            values.append(generator.standard_normal(info.shape).astype(info.dtype))
        elif info.scale and info.dtype.kind in "iu":
            limits = np.iinfo(info.dtype)
            noise = generator.integers(limits.min, limits.max, info.shape, endpoint=True)
            values.append(noise.astype(info.dtype))
        else:
            values.append(exchange.idle_value(info))
    return values
