"""Run a function in a child process that may crash, hang or eat memory without harming this one.

Native code (the TFLite converter, a runtime given an unknown file) can abort the whole process,
never return, or leak. `run_isolated` runs it in a child with a time and a memory limit, and turns
every way of dying into one exception. On Linux the children are forked from a small server
process that has imported what they need, so a run costs milliseconds and not an import of
TensorFlow; elsewhere, where forking after such imports is unsafe, each run is a fresh process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from typing import IO, Any

FORKS = sys.platform.startswith("linux")
IDLE_SECONDS = 120.0
_MAX_LOG = 1 << 20


class JobError(Exception):
    """A job did not return.

    Attributes:
        reason: `"exception"`, `"died"` (a signal, an abort), `"timeout"` or `"memory"`.
        kind: the exception's class name where the reason is `"exception"`, else "".
        log: what the job printed, Python's and native code's output alike.
    """

    def __init__(self, message: str, reason: str, kind: str = "", log: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.kind = kind
        self.log = log


def run_isolated(
    function: str,
    arguments: dict[str, Any],
    *,
    preload: Sequence[str] = (),
    seconds: float = 3600.0,
    memory: int | None = None,
) -> tuple[Any, str]:
    """Calls `function` in a child process and returns its value and what it printed.

    Args:
        function: `"package.module:name"`.
        arguments: keyword arguments; they and the value must be JSON (large data goes by file).
        preload: modules imported once, before forking; one server is kept for each such set.
        seconds: wall-clock limit.
        memory: bytes of address space that the job may take beyond what its process starts
            with; None for no limit.

    Raises:
        JobError: the function raised, the child died, or a limit was passed.
    """
    request = {
        "function": function,
        "arguments": arguments,
        "seconds": seconds,
        "memory": memory,
        "preload": list(preload),
    }
    answer = _ask_server(request) if FORKS else _run_once(request)
    log = answer.get("log", "")
    if answer["status"] == "ok":
        return answer["value"], log
    raise JobError(answer["message"], answer["status"], answer.get("kind", ""), log)


def start(preload: Sequence[str]) -> None:
    """Lets the server of these modules import them while the caller does something else."""
    if FORKS:
        _server(tuple(preload))


def python_command(entry: str) -> list[str]:
    """The command that calls `module:function` in a fresh Python with this one's import path."""
    module, name = entry.split(":")
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from {module} import {name}; sys.exit({name}())"
    )
    return [sys.executable, "-c", code]


def child_environment() -> dict[str, str]:
    """The environment of child processes: they never take a GPU that training may be using."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"}


# ------------------------------------------------------------------ the asking side


class _Server:
    def __init__(self, preload: tuple[str, ...]) -> None:
        self.lock = threading.Lock()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            python_command(f"{__name__}:serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=child_environment(),
            start_new_session=True,
        )
        self._send({"preload": list(preload)})

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdout is not None
        with self.lock:
            try:
                self._send(request)
                line = self.process.stdout.readline()
            except BaseException:
                # Interrupted while waiting (Ctrl-C): the answer still to come would be taken for
                # that of the next request. The server ends, and its job with it.
                self.close()
                raise
        if not line:
            self.log.seek(0)
            text = self.log.read().decode(errors="replace")[-4000:]
            raise JobError(
                "The helper process ended before it could start the job.", "died", "", text
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        with contextlib.suppress(Exception):
            self.process.wait(timeout=5)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.log.close()


def _ask_server(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return _server(tuple(request["preload"])).ask(request)
    except OSError:  # it ended, being idle, just before it was asked
        return _server(tuple(request["preload"])).ask(request)


_servers: dict[tuple[int, tuple[str, ...]], _Server] = {}
_servers_lock = threading.Lock()


def _server(preload: tuple[str, ...]) -> _Server:
    # The process id is part of the key: after a fork of the user's process, parent and child
    # must not talk through the same pipe.
    key = (os.getpid(), preload)
    with _servers_lock:
        server = _servers.get(key)
        if server is None or server.process.poll() is not None:
            if server is not None:
                server.close()
            server = _servers[key] = _Server(preload)
        return server


@atexit.register
def shut_down() -> None:
    """Ends the helper processes; they also end by themselves when idle or orphaned."""
    with _servers_lock:
        for (pid, _), server in list(_servers.items()):
            if pid == os.getpid():
                server.close()
        _servers.clear()


def _run_once(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as result:
        process = subprocess.Popen(
            python_command(f"{__name__}:run_single"),
            stdin=subprocess.PIPE,
            stdout=result,
            stderr=log,
            env=child_environment(),
        )
        try:
            process.communicate(json.dumps(request).encode(), timeout=request["seconds"])
            timed_out = False
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            timed_out = True
        return _verdict(result, log, process.returncode, timed_out, request["seconds"])


# ------------------------------------------------------------------ the server's side


def serve() -> int:
    """Main loop of the server process: one JSON request a line, one JSON answer a line."""
    _ignore_interrupts()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever an import prints must not mix with the answers
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    pending = b""
    while True:
        while b"\n" not in pending:
            if not select.select([requests], [], [], IDLE_SECONDS)[0]:
                return 0
            chunk = requests.read(1 << 16)
            if not chunk:
                return 0
            pending += chunk
        line, pending = pending.split(b"\n", 1)
        request = json.loads(line)
        for module in request["preload"]:
            importlib.import_module(module)
        # What was imported stays: collecting garbage in a child would walk over all of it, and so
        # copy every page of it (the converter collects once a run, 0.4 s with TensorFlow).
        gc.freeze()
        if "function" in request:
            answer = _fork_job(request, requests.fileno())
            if answer is None:
                return 0
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()


def run_single() -> int:
    """Runs the one request that standard input holds; for systems where forking is unsafe."""
    result = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    _run_job(request, result)
    return 0


def _fork_job(request: dict[str, Any], orphan_fd: int) -> dict[str, Any] | None:
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as result:
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                _limit_memory(request["memory"])
                _run_job(request, result)
            finally:
                os._exit(0)
        deadline = time.monotonic() + request["seconds"]
        status, timed_out, pause = 0, False, 0.0005
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            # Our own input becoming readable before we have answered means that the asking
            # process has gone: no second request can come.
            orphaned = bool(select.select([orphan_fd], [], [], pause)[0])
            pause = min(pause * 1.5, 0.02)
            timed_out = time.monotonic() > deadline
            if orphaned or timed_out:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                if orphaned:
                    return None
                break
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)  # whatever the job itself has started
        return _verdict(
            result, log, os.waitstatus_to_exitcode(status), timed_out, request["seconds"]
        )


def _run_job(request: dict[str, Any], result: IO[bytes]) -> None:
    answer: dict[str, Any]
    try:
        module, name = request["function"].split(":")
        function = getattr(importlib.import_module(module), name)
        answer = {"status": "ok", "value": function(**request["arguments"])}
    except MemoryError as error:
        answer = {"status": "memory", "message": _memory_message(request["memory"], error)}
    except BaseException as error:
        if "bad_alloc" in str(error):
            answer = {"status": "memory", "message": _memory_message(request["memory"], error)}
        else:
            traceback.print_exc()
            answer = {"status": "exception", "message": str(error), "kind": type(error).__name__}
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    result.write(json.dumps(answer).encode())
    result.flush()


def _memory_message(memory: int | None, error: BaseException) -> str:
    allowed = f" of {memory >> 20} MiB" if memory else ""
    return f"The job needed more memory than its limit{allowed} ({error or type(error).__name__})."


def _verdict(
    result: IO[bytes], log: IO[bytes], code: int, timed_out: bool, seconds: float
) -> dict[str, Any]:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _MAX_LOG))
    text = log.read().decode(errors="replace")
    result.seek(0)
    answer: dict[str, Any]
    if timed_out:
        message = f"The job did not end within {seconds:g} seconds."
        answer = {"status": "timeout", "message": message}
    else:
        try:
            answer = json.loads(result.read())
        except ValueError:
            how = f"exit code {code}"
            if code < 0:
                with contextlib.suppress(ValueError):
                    how = signal.Signals(-code).name
            answer = {"status": "died", "message": f"The process died ({how})."}
            if "bad_alloc" in text:
                answer["status"] = "memory"
    answer["log"] = text
    return answer


def _limit_memory(memory: int | None) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is None:
        return
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = now + memory if hard == resource.RLIM_INFINITY else min(now + memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _ignore_interrupts() -> None:
    # Ctrl-C goes to the whole terminal group; the asking process decides what it means.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
