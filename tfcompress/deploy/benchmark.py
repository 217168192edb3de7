"""`tfc.benchmark`: latency of `.tflite` files on this machine, measured so that it can be trusted.

Every model runs in a process of its own, which gives its initialisation time and peak memory and
keeps a bad file from harming this process. The models take turns in blocks of at least 5 ms:
noise of the machine hits all alike, and each runs on warm caches.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
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
from tfcompress.deploy.operator_times import OperatorTime, operator_times
from tfcompress.deploy.timing_worker import make_inputs
from tfcompress.errors import ConfigError, CorruptFileError, DeviceError
from tfcompress.files import write_json
from tfcompress.runtime import adapter, gpu, proof
from tfcompress.runtime.conditions import Surroundings
from tfcompress.runtime.isolation import child_environment, python_command
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.model import TFLiteModel, input_infos, match_inputs, quantize
from tfcompress.runtime.xnnpack import fp16_arithmetic
from tfcompress.tables import aligned

BACKENDS = (*adapter.BACKENDS, adapter.GPU)
BLOCK_MS = 5.0
QUIET_SHARE = 0.9
_BUSY = (
    "The machine was busy with other work: absolute times are too high and spread widely. "
    "Trust the p10 figures, or measure again when it is quiet."
)
OPERATOR_NOTE = (
    "Times of operators are differences between prefixes of the graph, which take turns; the first "
    "one holds the cost of the call."
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
        fp16: `"native"` or `"emulated"` where float operators computed in fp16, else "".
        weight_cache: whether packed weights were read from a cache; `init_ms` is with it filled.
        placed: share of the operators that XNNPACK or the GPU took, 0 to 1, read from
            the runtime; NaN where neither was asked for or the runtime does not tell.
        left: the operators that it left, such as `"SOFTMAX #16 (scores)"`.
        operators: time of each operator, with `per_operator=True`.
        p5_ms: fifth percentile, of tools that give no tenth (Android).
        p95_ms: likewise.
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
    fp16: str = ""
    weight_cache: bool = False
    placed: float = float("nan")
    left: tuple[str, ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    p5_ms: float = float("nan")
    p95_ms: float = float("nan")

    @property
    def setting(self) -> str:
        """The backend with its options, such as `"xnnpack, fp16 emulated"`."""
        return (
            self.backend
            + (f", fp16 {self.fp16}" if self.fp16 else "")
            + (", weight cache" if self.weight_cache else "")
        )

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
            _plain(asdict(row)) | {"gpu": row.gpu.to_dict() if row.gpu else None}
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
        placed = any(r.placed == r.placed for r in self.rows)
        cells = [
            [r.name, r.setting, str(r.threads)]
            + (
                [r.error, "", "", "", "", ""]
                if r.error
                else [
                    _figures(r.median_ms),
                    _figures(r.p10_ms) if r.p10_ms == r.p10_ms else f"{_figures(r.p5_ms)} (p5)",
                    _figures(r.p90_ms) if r.p90_ms == r.p90_ms else f"{_figures(r.p95_ms)} (p95)",
                    f"{r.init_ms:.1f}",
                    f"{r.peak_mb:.1f}",
                    f"x{r.ratio:.2f}",
                ]
            )
            + (([f"{r.placed:.0%}" if r.placed == r.placed else "-"]) if placed else [])
            for r in self.rows
        ]
        return [*heads, "ratio", *(["placed"] if placed else [])], cells

    def operator_tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, headings and cells of each row's operator times, for printing."""
        heads = ["operator", "layer", "ms", "+-", "share"]
        return [
            (
                f"{r.name}, {r.setting}, {r.threads} thread{'s' if r.threads > 1 else ''}",
                heads,
                [
                    [
                        f"{o.name} #{o.index}" if o.index >= 0 else o.name,
                        o.layer,
                        f"{o.ms:.4f}",
                        f"{o.error_ms:.4f}" if o.error_ms == o.error_ms else "-",
                        f"{o.share:.1%}",
                    ]
                    for o in r.operators
                ],
            )
            for r in self.rows
            if r.operators
        ]

    def remarks(self) -> list[str]:
        """What the table has no room for: the operators that were left, and the notes."""
        lines: dict[str, None] = {}  # each once, in order
        for row in self.rows:
            if row.left:
                few = ", ".join(row.left[:5])
                more = f" and {len(row.left) - 5} more" if len(row.left) > 5 else ""
                by = "the GPU" if row.backend.endswith("gpu") else "XNNPACK"
                lines[f"{row.name}: left by {by}: {few}{more}"] = None
        return [*lines, *self.notes]

    def __str__(self) -> str:
        heads, cells = self.table()
        about = ", ".join(f"{key}: {value}" for key, value in self.machine.items())
        lines = [*aligned([heads, *cells]), about, *self.remarks()]
        for title, heads, cells in self.operator_tables():
            lines += ["", title, *aligned([heads, *cells])]
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """A value as JSON has it: no NaN, no tuples."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if value != value else value


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
        workers: list[_Worker] = []
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
                            worker = _Worker(model.name, name, count)
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
            _measure(running, runs, warmup, functools.partial(_told, told, 0.0, share_of_runs))
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
        notes=([_BUSY] if busy else [])
        + _gpu_notes(rows)
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


class _Worker:
    """A process that holds one model in one setting."""

    def __init__(self, name: str, backend: str, threads: int) -> None:
        self.name, self.backend, self.threads = name, backend, threads
        self.model: TFLiteModel | None = None
        self.fp16 = False
        self.on_gpu: dict[str, Any] = {}
        self.gpu: GpuFigures | None = None
        self.cache: str | None = None
        self.file = self.data = self.runtime = self.error = ""
        self.placed = float("nan")
        self.left: tuple[str, ...] = ()
        self.operators: tuple[OperatorTime, ...] = ()
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

    def compare(self, model: TFLiteModel, inputs: Any, runtime: str) -> None:
        """What becomes of the model on the GPU, and how its numbers differ from the CPU's."""
        try:
            self.gpu = compare(model, inputs, threads=self.threads, runtime=runtime, **self.on_gpu)
            self.placed = self.gpu.placement.placed / max(self.gpu.placement.operators, 1)
        except DeviceError as error:  # of this model only: that there is a GPU is known
            self.error = str(error)

    def load(self, file: str, data: str, runtime: str) -> None:
        self.file, self.data, self.runtime = file, data, runtime
        if self.cache and not os.path.exists(self.cache):
            filling = _Worker(self.name, self.backend, self.threads)
            filling.fp16, filling.cache = self.fp16, self.cache
            try:
                self.error = filling.ask(**filling._request(file, data, runtime)).get("error", "")
            finally:
                filling.close()
        if not self.error:
            try:
                answer = self.ask(**self._request(file, data, runtime))
            except DeviceError as error:  # a GPU's driver died of it
                answer = {"error": str(error)}
            self.error = answer.get("error", "")
            self.init_ms = answer.get("init_ms", float("nan"))

    def _request(self, file: str, data: str, runtime: str, number: int = 0) -> dict[str, Any]:
        return {
            "load": file,
            "inputs": data,
            "runtime": runtime,
            "backend": self.backend,
            "threads": self.threads,
            "fp16_arithmetic": self.fp16,
            **self.on_gpu,
            "cache": self.cache,
            "number": number,
        }

    def describe(self) -> None:
        """Asks whether fp16 is in force, and which operators XNNPACK has taken."""
        if self.backend != "xnnpack" or self.model is None:
            return
        if self.fp16:
            self.error = self.ask(fp16=self.file, inputs=self.data).get("error", "")
        taken = self.ask(placement=self.file, runtime=self.runtime).get("placed")
        if not self.error and taken:
            graph = self.model.parsed.subgraphs[0]
            layers = LayerNames(self.model.parsed, graph, Surroundings(self.model.parsed, graph))
            self.placed = sum(taken) / len(taken)
            self.left = tuple(
                f"{operator.name} #{operator.index} ({layers.of(operator)})"
                for operator, is_taken in zip(graph.operators, taken, strict=True)
                if not is_taken
            )

    def time_operators(self, folder: str, runs: int, progress: Callable[[float], None]) -> None:
        """Times each operator in this process."""
        assert self.model is not None

        def load(content: bytes, number: int) -> None:
            file = Path(folder) / f"prefix-{number}.tflite"
            file.write_bytes(content)
            request = self._request(str(file), self.data, self.runtime, number)
            answer = self.ask(**{**request, "cache": None})  # it is the whole model's
            file.unlink()
            if "error" in answer:
                raise DeviceError(answer["error"])

        self.ask(forget=True)
        self.operators = operator_times(
            self.model, self.ask, load, self.threads, runs, BLOCK_MS, progress
        )

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
    first = next(float(np.median(w.samples)) for w in workers if w.samples and not w.error)
    rows = []
    for worker in workers:
        nan = float("nan")
        low, median, high = nan, nan, nan
        if worker.samples and not worker.error:
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
                fp16_arithmetic() if worker.fp16 and not worker.error else "",
                worker.cache is not None,
                worker.placed,
                worker.left,
                worker.operators,
                gpu=worker.gpu,
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
