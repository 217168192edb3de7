"""A child process that keeps something loaded and answers questions about it, one at a time."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

from tfcompress.runtime.isolation import child_environment, python_command


class ProcessDied(Exception):
    """The child process has ended; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class Failed(Exception):
    """Answering raised an error: `kind` is the name of its class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class HelperProcess:
    """The asking side.

    Args:
        entry: `module:function` of what the child runs, which returns `answer_questions(...)`.
    """

    def __init__(self, entry: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            python_command(entry),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=child_environment(),
        )

    def ask(self, question: Any) -> Any:
        """The child's answer.

        Raises:
            ProcessDied: it ended without one.
            Failed: it met an error, and lives on.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump(question, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            failure, answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise ProcessDied(self._process.wait()) from None
        if failure is not None:
            raise Failed(*failure)
        return answer

    def close(self) -> None:
        """Ends the child."""
        with contextlib.suppress(OSError):  # a dead one's pipe is broken
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()


def answer_questions(answer: Callable[[Any], Any]) -> int:
    """The child's side: answers until the other side closes the pipe. Returns the exit code."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the asking process decides on Ctrl-C
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints must not mix with the answers
    questions = os.fdopen(os.dup(0), "rb")
    while True:
        try:
            question = pickle.load(questions)
        except EOFError:
            return 0
        message: tuple[tuple[str, str] | None, Any]
        try:
            message = None, answer(question)
        except Exception as error:
            message = (type(error).__name__, str(error)), None
        pickle.dump(message, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
