"""`tfc.benchmark`: latency of `.tflite` files on this machine, measured so that it can be trusted.

Every model runs in a process of its own, which gives its initialisation time and peak memory and
keeps a bad file from harming this process. The models take turns in blocks of at least 5 ms:
noise of the machine hits all alike, and each runs on warm caches.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.deploy.latency_report import BenchmarkReport, BenchmarkRow
from tfcompress.deploy.timing import BLOCK_MS, TimedModel, measure, rows_of
from tfcompress.deploy.timing_worker import make_inputs
from tfcompress.errors import ConfigError, CorruptFileError, DeviceError
from tfcompress.runtime import adapter, gpu, proof
from tfcompress.runtime.instructions import int8_arithmetic, int8_notes
from tfcompress.runtime.model import TFLiteModel, input_infos, match_inputs, quantize

BACKENDS = (*adapter.BACKENDS, adapter.GPU)
QUIET_SHARE = 0.9
_BUSY = (
    "The machine was busy with other work: absolute times are too high and spread widely. "
    "Trust the p10 figures, or measure again when it is quiet."
)
OPERATOR_NOTE = (
    "Times of operators are differences between prefixes of the graph, which take turns; the first "
    "one holds the cost of the call."
)


def benchmark(
    paths: Any,
    *,
    backend: str | Sequence[str] = "xnnpack",
    threads: int | Sequence[int] = 1,
    runs: int = 50,
    warmup: int = 5,
    inputs: Any = None,
    runtime: str = "auto",
    fp16: bool | Sequence[bool] = False,
    weight_cache: bool | str | os.PathLike[str] = False,
    per_operator: bool = False,
    serial: str | None = None,
    binary: str | os.PathLike[str] = "tflite",
    affinity: str = "",
    gpu_backend: str = "",
    require_full_delegation: bool = False,
    gpu_precision: str = "fp16",
    delegate: str | os.PathLike[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> BenchmarkReport:
    """Measures the latency of models on this machine, or on an Android device.

    Args:
        paths: a path, a `TFLiteModel`, or a list of these; the first is what ratios refer to.
        backend: `"xnnpack"`, `"reference"` (the builtin kernels without XNNPACK), `"gpu"`
            (LiteRT's accelerator; a run ends when its outputs are in memory), or several; or
            `"android"`: on a device through adb, by the runtime's own benchmark program, in turn
            `"android-reference"`, `"android-xnnpack"` and `"android-gpu"`, which can be named too.
        threads: number of threads, or several to try each.
        runs: blocks timed for each model; a block is as many inferences as take 5 ms, at least
            one, and counts as one measurement.
        warmup: inferences before timing starts.
        inputs: what to feed: real values as for `TFLiteModel.predict`, of which the first batch
            is timed and all are compared with the CPU's numbers on a GPU; None for noise (zeros
            for integer inputs such as token ids).
        runtime: `"auto"`, `"ai-edge-litert"`, `"tflite-runtime"` or `"tensorflow"`.
        fp16: with XNNPACK, compute float32 operators in fp16; both values to compare them. Whether
            it is in force is found out by what the model computes; the row says whether the
            processor has fp16 instructions ("native") or not ("emulated": slower than float32).
        weight_cache: with XNNPACK, read packed weights from a file that a first run has made:
            True for a temporary one, or a folder where it stays. Rows in fp16 have none: with both
            LiteRT 2.3 aborts.
        per_operator: time each operator too, by prefixes of the graph that take turns: as many
            blocks as `runs` for each operator. On a device, by the program's profiler.
        serial: the Android device's; None for the only one.
        binary: the benchmark program for it: a path, `"tflite"` or `"litert"` to download the ready
            one of TensorFlow Lite or LiteRT 2 into the user's cache folder. LiteRT's has no switch
            for XNNPACK off, nor for its fp16.
        affinity: the device's processors to run on, as a mask in hexadecimal for `taskset`, such as
            `"f0"` for those from 4 to 7.
        gpu_backend: `"cl"` or `"gl"`; "" for the program's choice. On a GPU, `fp16` allows it to
            compute in fp16.
        require_full_delegation: on a device, fail where XNNPACK or the GPU leaves an operator.
        gpu_precision: `"fp16"`, as LiteRT has it, or `"fp32"`; in which the GPU computes.
        delegate: with `"gpu"`, path of a delegate's library, such as
            libtensorflowlite_gpu_delegate.so, to use in place of LiteRT's accelerator.
        progress: called with the share done, 0 to 1.

    Returns:
        The report; print it, or read `.rows`. Rows of XNNPACK tell which operators it took and
        which it left, read from the runtime.

    Raises:
        CorruptFileError: a file is not sound.
        DeviceError: no runtime is installed, it runs none of the models, or there is no GPU or
            usable device; the message says what was looked for.
        ConfigError: an argument out of its range.

    Example:
        >>> print(tfc.benchmark(["float.tflite", "int8.tflite"], threads=[1, 2]))
    """
    from tfcompress.deploy.android import run as android

    models = load_models(paths)
    backends = [backend] if isinstance(backend, str) else list(backend)
    counts, halves = check_counts(threads, runs, warmup), check_fp16_values(fp16)
    for name in backends or [""]:
        if name not in (*BACKENDS, *android.NAMES):
            raise ConfigError(
                f"`backend` must be one of {(*BACKENDS, *android.NAMES)}. Received: {name!r}"
            )
    device_backends = android.backends_of(backends)
    if device_backends is not None:
        if inputs is not None or weight_cache:
            raise ConfigError(
                "`inputs` and `weight_cache` are for this machine: a device's program makes its "
                f"own inputs. Received: backend={backends}"
            )
        asked = android.AndroidSettings(
            device_backends,
            tuple(counts),
            tuple(halves),
            runs,
            warmup,
            per_operator,
            serial,
            binary,
            affinity,
            gpu_backend,
            require_full_delegation,
        )
        return android.benchmark_android(models, asked, progress)
    if serial is not None or affinity or gpu_backend or require_full_delegation:
        raise ConfigError(
            "`serial`, `affinity`, `gpu_backend` and `require_full_delegation` are for "
            f"backend='android'. Received: backend={backends}"
        )
    on_gpu: dict[str, Any] = {"precision": gpu_precision, "delegate": None}
    if delegate is not None:
        on_gpu["delegate"] = os.fspath(delegate)
    gpu.check_setting(
        gpu_precision, runtime if adapter.GPU in backends else "auto", on_gpu["delegate"]
    )
    runtime = adapter.resolve_runtime(runtime)
    if "xnnpack" not in backends and (True in halves or weight_cache):
        raise ConfigError(
            f"`fp16` and `weight_cache` are options of XNNPACK. Received: backend={backends}"
        )
    if adapter.GPU in backends and delegate is None:
        gpu.accelerator()  # where there is none, it is said before anything is measured
    if weight_cache and False not in halves:
        raise ConfigError(
            "XNNPACK's weight cache does not work with fp16 arithmetic: LiteRT 2.3 aborts. "
            f"Received: fp16={fp16!r} and weight_cache={weight_cache!r}"
        )
    share_of_runs = 0.5 if per_operator else 1.0
    untimed: list[str] = []

    def told(share: float) -> None:
        if progress is not None:
            progress(share)

    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        workers: list[TimedModel] = []
        try:
            for number, model in enumerate(models):
                refused = {n: _refusal(model, runtime, n) for n in backends if n != adapter.GPU}
                data = os.path.join(folder, f"{number}.npz")
                if not all(refused.values()) or adapter.GPU in backends:
                    _write_inputs(model, inputs, data)
                file = os.path.join(folder, f"{number}.tflite")
                Path(file).write_bytes(model.content)
                for name in backends:
                    for count in counts[:1] if name == adapter.GPU else counts:
                        for half in halves if name == "xnnpack" else [False]:
                            worker = TimedModel(model.name, name, count)
                            workers.append(worker)
                            worker.model, worker.fp16 = model, half
                            worker.error = refused.get(name, "")
                            if name == "xnnpack" and not half:
                                worker.cache = _cache_file(weight_cache, folder, model)
                            if name == adapter.GPU:  # proves the file too, before it is loaded
                                worker.on_gpu = on_gpu
                                worker.compare(model, inputs, runtime if delegate else "auto")
                            if not worker.error:
                                worker.load(file, data, runtime)
            running = [w for w in workers if not w.error]
            measure(running, runs, warmup, functools.partial(_told, told, 0.0, share_of_runs))
            for worker in running:
                worker.describe()
            if per_operator:
                running = [w for w in running if not w.error and w.backend != adapter.GPU]
                for number, worker in enumerate(running):
                    start, size = 0.5 + 0.5 * number / len(running), 0.5 / len(running)
                    told_part = functools.partial(_told, told, start, size)
                    try:
                        worker.time_operators(folder, runs, told_part)
                    except (CorruptFileError, DeviceError) as error:  # the rest is measured
                        untimed.append(f"The operators of {worker.name!r} are not timed: {error}")
            if all(worker.error for worker in workers):
                raise DeviceError(f"No model could be measured: {workers[0].error}")
            rows = rows_of(workers)
            # One thread that computes has its processor to itself unless others want it too.
            alone = [w for w in workers if w.threads == 1 and w.backend != adapter.GPU]
            shares = [share for w in alone for share in w.on_cpu]
            busy = bool(shares) and float(np.mean(shares)) < QUIET_SHARE
        finally:
            for worker in workers:
                worker.close()
    return BenchmarkReport(
        rows,
        machine=describe_machine(runtime) | _describe_gpu(rows),
        settings={"runs": runs, "warmup": warmup, "block_ms": BLOCK_MS},
        notes=([_BUSY] if busy else [])
        + _gpu_notes(rows)
        + (int8_notes([m.parsed for m in models]) if "xnnpack" in backends else [])
        + ([OPERATOR_NOTE] if any(row.operators for row in rows) else [])
        + untimed,
    )


def _describe_gpu(rows: Sequence[BenchmarkRow]) -> dict[str, str]:
    names = [str(row.gpu.placement.adapter) for row in rows if row.gpu is not None]
    return {"gpu": names[0]} if names else {}


def _gpu_notes(rows: Sequence[BenchmarkRow]) -> list[str]:
    """What became of each model on the GPU."""
    return [f"{row.name}: {row.gpu}" for row in rows if row.gpu is not None]


def _told(progress: Callable[[float], None], start: float, size: float, share: float) -> None:
    progress(start + size * share)


def _cache_file(asked: Any, folder: str, model: TFLiteModel) -> str | None:
    """Where packed weights are kept."""
    if asked is False:
        return None
    place = Path(folder if asked is True else asked)
    if not place.is_dir():
        raise ConfigError(
            f"`weight_cache` must be True, False or a folder that exists. Received: {asked!r}"
        )
    digest = hashlib.sha256(model.content).hexdigest()[:16]
    return str(place / f"{digest}.xnnpack_cache")


def check_counts(threads: int | Sequence[int], runs: int, warmup: int) -> list[int]:
    """The thread counts as a list.

    Raises:
        ConfigError: no whole numbers, or too small ones.
    """
    counts = [threads] if isinstance(threads, int) else list(threads)
    for label, values, least in (
        ("threads", counts, 1),
        ("runs", [runs], 1),
        ("warmup", [warmup], 0),
    ):
        if not values or any(
            isinstance(v, bool) or not isinstance(v, int) or v < least for v in values
        ):
            raise ConfigError(f"`{label}` must be whole numbers >= {least}. Received: {values}")
    return counts


def check_fp16_values(fp16: bool | Sequence[bool]) -> list[bool]:
    """The values of `fp16` as a list.

    Raises:
        ConfigError: others than True and False.
    """
    halves = [fp16] if isinstance(fp16, bool) else list(fp16)
    if not halves or not all(isinstance(half, bool) for half in halves):
        raise ConfigError(f"`fp16` must be True, False or both. Received: {fp16!r}")
    return halves


def load_models(paths: Any) -> list[TFLiteModel]:
    """The models of a benchmark, each with a name of its own.

    Raises:
        ConfigError: there is none, or a path is wrong.
        CorruptFileError: a file is not sound.
    """
    items = list(paths) if isinstance(paths, (list, tuple)) else [paths]
    if not items:
        raise ConfigError("`paths` must name at least one .tflite file. Received: an empty list")
    models = [TFLiteModel(item) for item in items]
    names = [model.name for model in models]
    for number, (item, model) in enumerate(zip(items, models, strict=True)):
        if names.count(model.name) > 1:  # rows must be told apart
            is_path = isinstance(item, (str, os.PathLike))
            model.name = os.fspath(item) if is_path else f"{model.name} #{number + 1}"
    return models


def _refusal(model: TFLiteModel, runtime: str, backend: str) -> str:
    """Why a runtime cannot run a sound file; "" where it can.

    This is tried out in a child process of limited memory, before inputs of the declared sizes are
    made here.

    Raises:
        CorruptFileError: the file is not sound.
    """
    try:
        proof.prove(model.content, runtime=runtime, backend=backend)
    except DeviceError as error:
        return str(error)
    return ""


def _write_inputs(model: TFLiteModel, inputs: Any, path: str) -> None:
    infos = input_infos(model.parsed)
    if inputs is None:
        values = make_inputs(infos)
    else:
        arrays, count = match_inputs(infos, inputs, model.input_order)
        values = []
        for array, info in zip(arrays, infos, strict=True):
            rows = np.arange(info.shape[0] if info.shape else 1) % max(count, 1)
            values.append(quantize(array[rows], info).reshape(info.shape))
    np.savez(path, *values)


def describe_machine(runtime: str) -> dict[str, Any]:
    """Processor, cores, system, how it multiplies int8, and the runtime with its version."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        processor = names[0] if names else processor
    except OSError:
        pass
    int8 = int8_arithmetic()
    return {
        "processor": processor,
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        **({"int8": int8} if int8 else {}),
        "runtime": f"{runtime} {adapter.runtime_version(runtime)}",
    }
