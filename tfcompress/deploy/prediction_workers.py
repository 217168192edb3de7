"""Predictions made by several processes that each hold the model, handed back in order."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from tfcompress import errors
from tfcompress.errors import DeviceError
from tfcompress.runtime.helper_process import (
    Failed,
    HelperProcess,
    ProcessDied,
    answer_questions,
)
from tfcompress.runtime.model import TFLiteModel

Arrays = dict[str, np.ndarray]
T = TypeVar("T")


def in_order(
    items: Iterable[T], work: Callable[[T], Arrays], workers: int
) -> Iterator[tuple[T, Arrays]]:
    """Each item with its result, in the order of the items; at most 2 x workers are under way."""
    if workers == 1:
        for item in items:
            yield item, work(item)
        return
    under_way: deque[tuple[T, Future[Arrays]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                under_way.append((item, pool.submit(work, item)))
                if len(under_way) >= 2 * workers:
                    first, future = under_way.popleft()
                    yield first, future.result()
            while under_way:
                first, future = under_way.popleft()
                yield first, future.result()
        finally:
            for _, future in under_way:
                future.cancel()


class Predictors:
    """Runs a model here (`workers=1`) or in as many processes.

    Args:
        model: the model.
        workers: how many processes; with 1 the model runs in this one.
        settings: keyword arguments of `TFLiteModel.predict`.
    """

    def __init__(self, model: TFLiteModel, workers: int, settings: dict[str, Any]) -> None:
        self._model, self._settings = model, settings
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all: list[_Process] = []
        if workers == 1:
            return
        for _ in range(workers):
            process = _Process()
            self._all.append(process)
            self._idle.put(process)

    def predict(self, inputs: Arrays) -> Arrays:
        """The outputs by name; `""` is the name of an only one."""
        if not self._all:
            return run(self._model, inputs, self._settings)
        process = self._idle.get()
        try:
            return process.ask(self._model.content, inputs, self._settings)
        finally:
            self._idle.put(process)

    def __enter__(self) -> Predictors:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.close()


def run(model: TFLiteModel, inputs: Arrays, settings: dict[str, Any]) -> Arrays:
    """`TFLiteModel.predict` with inputs and outputs by name."""
    found = model.predict(inputs, **settings)
    return found if isinstance(found, dict) else {"": found}


class _Process:
    """A process that holds the model, sent with the first question."""

    def __init__(self) -> None:
        self.loaded = False
        self._helper = HelperProcess(f"{__name__}:serve")

    def ask(self, content: bytes, inputs: Arrays, settings: dict[str, Any]) -> Arrays:
        try:
            found: Arrays = self._helper.ask((None if self.loaded else content, inputs, settings))
        except ProcessDied as died:
            raise DeviceError(
                f"A worker process died (exit code {died.code}): the machine may have run out of "
                "memory. Use fewer workers; with `resume` what was done is kept."
            ) from None
        except Failed as failed:
            raise getattr(errors, failed.kind, DeviceError)(str(failed)) from None
        self.loaded = True
        return found

    def close(self) -> None:
        self._helper.close()


def serve() -> int:
    """The worker's side."""
    model: TFLiteModel | None = None

    def answer(question: tuple[bytes | None, Arrays, dict[str, Any]]) -> Arrays:
        nonlocal model
        content, inputs, settings = question
        if content is not None:
            model = TFLiteModel(content)
        assert model is not None
        return run(model, inputs, settings)

    return answer_questions(answer)
