"""`tfc.benchmark`: latency of `.tflite` files on this machine, measured so that it can be trusted.

Every model runs in a process of its own, which gives its initialisation time and peak memory and
keeps a bad file from harming this process. The models take turns in blocks of at least 5 ms:
noise of the machine hits all alike, and each runs on warm caches.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.deploy.gpu_numbers import GpuFigures, compare
from tfcompress.deploy.timing_worker import make_inputs
from tfcompress.errors import ConfigError, CorruptFileError, DeviceError
from tfcompress.files import write_json
from tfcompress.runtime import adapter, gpu
from tfcompress.runtime.isolation import child_environment, python_command
from tfcompress.runtime.model import TFLiteModel, input_infos, match_inputs, quantize
from tfcompress.tables import aligned

BACKENDS = (*adapter.BACKENDS, adapter.GPU)
BLOCK_MS = 5.0
QUIET_SHARE = 0.9
_BUSY = (
    "The machine was busy with other work: absolute times are too high and spread widely. "
    "Trust the p10 figures, or measure again when it is quiet."
)


@dataclass(frozen=True)
class BenchmarkRow:
    """One model in one setting.

    Attributes:
        name: the file's name.
        backend: `"xnnpack"`, `"reference"` (the runtime's builtin kernels alone) or `"gpu"`.
        threads: threads of the runtime.
        median_ms: median over the blocks of the time of one inference, in milliseconds.
        p10_ms: tenth percentile.
        p90_ms: ninetieth percentile.
        init_ms: loading, planning of memory and packing of weights, in milliseconds.
        peak_mb: memory that the model added to its process at most, in MiB.
        ratio: median over the first row's median: below 1 is faster.
        error: why it did not run, else "".
        gpu: with backend `"gpu"`, the GPU's name, what it has taken, and how its numbers differ
            from the CPU's; else None.
    """

    name: str
    backend: str
    threads: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    init_ms: float
    peak_mb: float
    ratio: float
    error: str = ""
    gpu: GpuFigures | None = None


@dataclass
class BenchmarkReport:
    """What `tfc.benchmark` has measured.

    Attributes:
        rows: one for each model, backend and thread count.
        machine: processor, cores, system, runtime and its version, the GPU where one was used.
        settings: runs, warm-up runs, block length.
        notes: what to know when reading the figures, such as that the machine was busy.
    """

    rows: list[BenchmarkRow]
    machine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [
            {k: None if v != v else v for k, v in asdict(row).items()}  # NaN is no JSON
            | {"gpu": row.gpu.to_dict() if row.gpu else None}
            for row in self.rows
        ]
        return {
            "rows": rows,
            "machine": self.machine,
            "settings": self.settings,
            "notes": self.notes,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report as JSON."""
        return write_json(path, self.to_dict())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells, for printing."""
        heads = ["model", "backend", "threads", "median ms", "p10", "p90", "init ms", "peak MB"]
        cells = [
            [r.name, r.backend, str(r.threads)]
            + (
                [r.error, "", "", "", "", ""]
                if r.error
                else [
                    _figures(r.median_ms),
                    _figures(r.p10_ms),
                    _figures(r.p90_ms),
                    f"{r.init_ms:.1f}",
                    f"{r.peak_mb:.1f}",
                    f"x{r.ratio:.2f}",
                ]
            )
            for r in self.rows
        ]
        return [*heads, "ratio"], cells

    def __str__(self) -> str:
        heads, cells = self.table()
        about = ", ".join(f"{key}: {value}" for key, value in self.machine.items())
        return "\n".join([*aligned([heads, *cells]), about, *self.notes])


def _figures(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def benchmark(
    paths: Any,
    *,
    backend: str | Sequence[str] = "xnnpack",
    threads: int | Sequence[int] = 1,
    runs: int = 50,
    warmup: int = 5,
    inputs: Any = None,
    runtime: str = "auto",
    gpu_precision: str = "fp16",
    delegate: str | os.PathLike[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> BenchmarkReport:
    """Measures the latency of models on this machine.

    Args:
        paths: a path, a `TFLiteModel`, or a list of these; the first is what ratios refer to.
        backend: `"xnnpack"`, `"reference"` (the builtin kernels without XNNPACK), `"gpu"`
            (LiteRT's accelerator; a run ends when its outputs are in memory), or several.
        threads: number of threads, or several to try each.
        runs: blocks timed for each model; a block is as many inferences as take 5 ms, at least
            one, and counts as one measurement.
        warmup: inferences before timing starts.
        inputs: what to feed: real values as for `TFLiteModel.predict`, of which the first batch
            is taken; None for noise (zeros for integer inputs such as token ids).
        runtime: `"auto"`, `"ai-edge-litert"`, `"tflite-runtime"` or `"tensorflow"`.
        gpu_precision: `"fp16"`, as LiteRT has it, or `"fp32"`; in which the GPU computes.
        delegate: with `"gpu"`, path of a delegate's library, such as
            libtensorflowlite_gpu_delegate.so, to use in place of LiteRT's accelerator.
        progress: called with the share done, 0 to 1.

    Returns:
        The report; print it, or read `.rows`.

    Raises:
        CorruptFileError: a file is not sound.
        DeviceError: no runtime is installed, it runs none of the models, or there is no GPU; the
            message says what was looked for.
        ConfigError: an argument out of its range.

    Example:
        >>> print(tfc.benchmark(["float.tflite", "int8.tflite"], threads=[1, 2]))
    """
    models = _models(paths)
    backends = [backend] if isinstance(backend, str) else list(backend)
    for name in backends or [""]:
        if name not in BACKENDS:
            raise ConfigError(f"`backend` must be one of {BACKENDS}. Received: {name!r}")
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
    on_gpu: dict[str, Any] = {"precision": gpu_precision, "delegate": None}
    if delegate is not None:
        on_gpu["delegate"] = os.fspath(delegate)
    gpu.check_setting(
        gpu_precision, runtime if adapter.GPU in backends else "auto", on_gpu["delegate"]
    )
    runtime = adapter.resolve_runtime(runtime)
    if adapter.GPU in backends and delegate is None:
        gpu.accelerator()  # where there is none, it is said before anything is measured

    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        workers: list[_Worker] = []
        try:
            for number, model in enumerate(models):
                data = _write_inputs(model, inputs, os.path.join(folder, f"{number}.npz"))
                file = os.path.join(folder, f"{number}.tflite")
                Path(file).write_bytes(model.content)
                for name in backends:
                    for count in counts[:1] if name == adapter.GPU else counts:
                        worker = _Worker(model.name, name, count)
                        workers.append(worker)
                        if name == adapter.GPU:  # proves the file too, before it is loaded
                            worker.compare(model, inputs, runtime if delegate else "auto", on_gpu)
                        if not worker.error:
                            worker.load(file, data, runtime, on_gpu)
            _measure([w for w in workers if not w.error], runs, warmup, progress)
            if all(worker.error for worker in workers):
                raise DeviceError(f"No model could be measured: {workers[0].error}")
            rows = _rows(workers)
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
        notes=([_BUSY] if busy else []) + _gpu_notes(rows),
    )


def _describe_gpu(rows: Sequence[BenchmarkRow]) -> dict[str, str]:
    names = [str(row.gpu.placement.adapter) for row in rows if row.gpu is not None]
    return {"gpu": names[0]} if names else {}


def _gpu_notes(rows: Sequence[BenchmarkRow]) -> list[str]:
    """What became of each model on the GPU."""
    return [f"{row.name}: {row.gpu}" for row in rows if row.gpu is not None]


def _models(paths: Any) -> list[TFLiteModel]:
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


def _write_inputs(model: TFLiteModel, inputs: Any, path: str) -> str:
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
    return path


class _Worker:
    """A process that holds one model in one setting."""

    def __init__(self, name: str, backend: str, threads: int) -> None:
        self.name, self.backend, self.threads = name, backend, threads
        self.error = ""
        self.gpu: GpuFigures | None = None
        self.init_ms = self.peak_mb = float("nan")
        self.samples: list[float] = []
        self.on_cpu: list[float] = []
        self.block = 1
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            python_command("tfcompress.deploy.timing_worker:serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=child_environment(),
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            code = self.process.wait()
            if self.backend == adapter.GPU:
                raise gpu.device_error(f"exit code {code}", died=True)
            raise CorruptFileError(
                f"The runtime died on {self.name!r} (exit code {code}): the file is damaged, or "
                "the machine ran out of memory."
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer and answer["kind"] != "DeviceError":
            raise CorruptFileError(f"{self.name!r} cannot be run: {answer['error']}")
        return answer

    def compare(
        self, model: TFLiteModel, inputs: Any, runtime: str, on_gpu: dict[str, Any]
    ) -> None:
        """What becomes of the model on the GPU, and how its numbers differ from the CPU's."""
        try:
            self.gpu = compare(model, inputs, threads=self.threads, runtime=runtime, **on_gpu)
        except DeviceError as error:  # of this model only: that there is a GPU is known
            self.error = str(error)

    def load(self, file: str, data: str, runtime: str, on_gpu: dict[str, Any]) -> None:
        try:
            answer = self.ask(
                load=file,
                inputs=data,
                runtime=runtime,
                backend=self.backend,
                threads=self.threads,
                **on_gpu,
            )
        except DeviceError as error:  # the driver died of it
            answer = {"error": str(error)}
        self.error = answer.get("error", "")
        self.init_ms = answer.get("init_ms", float("nan"))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a dead worker's pipe is broken
            if self.process.stdin:
                self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.log.close()


def _measure(
    workers: Sequence[_Worker], runs: int, warmup: int, progress: Callable[[float], None] | None
) -> None:
    for worker in workers:
        if warmup:
            worker.ask(run=warmup)
        # The shortest of a few: a neighbour that interrupts one must not shorten the blocks.
        once = min(worker.ask(run=3)["ms"] for _ in range(5))
        worker.block = max(1, int(np.ceil(BLOCK_MS / max(once, 1e-4))))
    order = np.random.default_rng(0)
    for done in range(runs):
        # A new order in each round: nobody always runs behind the same neighbour.
        for number in order.permutation(len(workers)):
            worker = workers[number]
            answer = worker.ask(run=worker.block)
            worker.samples.append(answer["ms"])
            worker.on_cpu.append(answer["on_cpu"])
        if progress is not None:
            progress((done + 1) / runs)
    for worker in workers:
        worker.peak_mb = worker.ask(memory=True)["peak_mb"]


def _rows(workers: Sequence[_Worker]) -> list[BenchmarkRow]:
    first = next(float(np.median(w.samples)) for w in workers if w.samples)
    rows = []
    for worker in workers:
        nan = float("nan")
        low, median, high = nan, nan, nan
        if worker.samples:
            low, median, high = map(float, np.percentile(worker.samples, [10, 50, 90]))
        rows.append(
            BenchmarkRow(
                worker.name,
                worker.backend,
                worker.threads,
                median,
                low,
                high,
                worker.init_ms,
                worker.peak_mb,
                median / first,
                worker.error,
                worker.gpu,
            )
        )
    return rows


def describe_machine(runtime: str) -> dict[str, Any]:
    """Processor, cores, system, and the runtime with its version."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        processor = names[0] if names else processor
    except OSError:
        pass
    return {
        "processor": processor,
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "runtime": f"{runtime} {adapter.runtime_version(runtime)}",
    }
