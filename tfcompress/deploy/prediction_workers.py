"""Predictions made by several processes that each hold the model, handed back in order."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from tfcompress import errors
from tfcompress.errors import DeviceError
from tfcompress.runtime.isolation import child_environment, python_command
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
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            python_command(f"{__name__}:serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=child_environment(),
        )

    def ask(self, content: bytes, inputs: Arrays, settings: dict[str, Any]) -> Arrays:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            message = (None if self.loaded else content, inputs, settings)
            pickle.dump(message, self.process.stdin, pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            code = self.process.wait()
            raise DeviceError(
                f"A worker process died (exit code {code}): the machine may have run out of "
                "memory. Use fewer workers; with `resume` what was done is kept."
            ) from None
        self.loaded = True
        if isinstance(answer, tuple):
            kind, text = answer
            raise getattr(errors, kind, DeviceError)(text)
        found: Arrays = answer
        return found

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


def serve() -> int:
    """The worker's side: answers until its input ends."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the asking process decides on Ctrl-C
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints must not mix with the answers
    questions = os.fdopen(os.dup(0), "rb")
    model: TFLiteModel | None = None
    while True:
        try:
            content, inputs, settings = pickle.load(questions)
        except EOFError:
            return 0
        answer: Any
        try:
            if content is not None:
                model = TFLiteModel(content)
            assert model is not None
            answer = run(model, inputs, settings)
        except Exception as error:
            answer = (type(error).__name__, str(error))
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
