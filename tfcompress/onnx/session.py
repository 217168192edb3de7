"""Sessions of ONNX Runtime, tried out in a child process first."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from tfcompress.errors import DeviceError
from tfcompress.runtime.isolation import JobError, run_isolated

_TRIAL_SECONDS = 300.0


def open_session(content: bytes) -> Any:
    """A session on one CPU thread.

    ONNX Runtime can abort the process over a graph that is valid (its optimizers hold assertions),
    so a child opens it first.

    Args:
        content: bytes of an ONNX model.

    Raises:
        DeviceError: ONNX Runtime is missing, or refuses the model, or dies of it.
    """
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        path = os.path.join(folder, "model.onnx")
        with open(path, "wb") as file:
            file.write(content)
        try:
            precise, _ = run_isolated(
                "tfcompress.onnx.session:try_out",
                {"path": path},
                preload=("onnxruntime",),
                seconds=_TRIAL_SECONDS,
            )
        except JobError as error:
            raise DeviceError(_reason(error)) from error
        return _session(path, precise)


def try_out(path: str) -> bool:
    """Whether a model can be opened with exact products; runs in the child.

    Without VNNI instructions, pairs of int8 products saturate in 16 bits unless this is asked
    for. ONNX Runtime (1.32) cannot do it where two operators share a kernel, and refuses the model.
    """
    try:
        _session(path, True)
    except Exception:  # its exceptions have no common base
        _session(path, False)
        return False
    return True


def _session(path: str, precise: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # What fails is raised too.
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", str(int(precise)))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _reason(error: JobError) -> str:
    if error.kind in ("ImportError", "ModuleNotFoundError") or "No module" in f"{error}{error.log}":
        return (
            "ONNX models run in ONNX Runtime, which is not installed: pip install "
            "'tfcompress[onnx]'"
        )
    if error.reason == "exception":
        return f"ONNX Runtime refuses the model: {error}"
    return f"ONNX Runtime does not survive the model ({error.reason}): {error}"
