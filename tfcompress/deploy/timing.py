"""Models in processes of their own, timed in turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.deploy.gpu_numbers import GpuFigures, compare
from tfcompress.deploy.latency_report import BenchmarkRow
from tfcompress.deploy.operator_times import OperatorTime, operator_times
from tfcompress.errors import CorruptFileError, DeviceError
from tfcompress.runtime import adapter, gpu
from tfcompress.runtime.helper_process import Failed, HelperProcess, ProcessDied
from tfcompress.runtime.instructions import fp16_arithmetic
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.model import TFLiteModel
from tfcompress.runtime.surroundings import Surroundings

BLOCK_MS = 5.0


class TimedModel:
    """One model in one setting, in a process of its own."""

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
        self._helper = HelperProcess("tfcompress.deploy.timing_worker:serve")

    def ask(self, **request: Any) -> dict[str, Any]:
        """The process's answer; what its runtime says it cannot do is under `"error"`.

        Raises:
            CorruptFileError: the process died, or met an error of another kind.
            DeviceError: it died on a GPU.
        """
        try:
            answer: dict[str, Any] = self._helper.ask(request)
        except ProcessDied as died:
            if self.backend == adapter.GPU:
                raise gpu.device_error(f"exit code {died.code}", died=True) from None
            raise CorruptFileError(
                f"The runtime died on {self.name!r} (exit code {died.code}): the file is damaged, "
                "or the machine ran out of memory."
            ) from None
        except Failed as failed:
            if failed.kind != "DeviceError":
                raise CorruptFileError(f"{self.name!r} cannot be run: {failed}") from None
            return {"error": str(failed)}
        return answer

    def compare(self, model: TFLiteModel, inputs: Any, runtime: str) -> None:
        """What becomes of the model on the GPU, and how its numbers differ from the CPU's."""
        try:
            self.gpu = compare(model, inputs, threads=self.threads, runtime=runtime, **self.on_gpu)
            self.placed = self.gpu.placement.placed / max(self.gpu.placement.operators, 1)
        except DeviceError as error:  # of this model only: that there is a GPU is known
            self.error = str(error)

    def load(self, file: str, data: str, runtime: str) -> None:
        """Loads the model, and runs it once."""
        self.file, self.data, self.runtime = file, data, runtime
        if self.cache and not os.path.exists(self.cache):
            filling = TimedModel(self.name, self.backend, self.threads)
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
        """Ends the process."""
        self._helper.close()


def measure(
    workers: Sequence[TimedModel], runs: int, warmup: int, progress: Callable[[float], None] | None
) -> None:
    """Times the models in turns, block by block."""
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


def rows_of(workers: Sequence[TimedModel]) -> list[BenchmarkRow]:
    """What was measured; ratios refer to the first that ran."""
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
