"""The command lines of the benchmark program for each setting."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from tfcompress.deploy.android.program import LITERT, Program

BACKENDS: Final = ("reference", "xnnpack", "gpu")
PROGRAM: Final = "benchmark_model"


class Unsupported(Exception):
    """The program has no way to run in this setting; the message says why."""


@dataclass(frozen=True)
class Setting:
    """How a model is run on the device.

    Attributes:
        backend: `"reference"` (the runtime's own kernels), `"xnnpack"` or `"gpu"`.
        threads: threads of the processor.
        fp16: compute float operators in fp16; on a GPU, allow it to.
        affinity: mask of processors for `taskset`, in hexadecimal, or "".
        gpu_backend: `"cl"`, `"gl"`, or "" for the program's choice.
        whole: fail where the backend does not take the whole model.
    """

    backend: str
    threads: int
    fp16: bool = False
    affinity: str = ""
    gpu_backend: str = ""
    whole: bool = False


def run_command(
    program: Program,
    folder: str,
    model: str,
    result: str,
    setting: Setting,
    *,
    runs: int,
    warmup: int,
    profile: bool = False,
) -> str:
    """The command for the device's shell.

    Args:
        program: what the program knows.
        folder: where the program is, on the device.
        model: path of the model there.
        result: path of the file that it shall write its results to.
        setting: how to run.
        runs: least number of timed inferences (the program runs for at least a second).
        warmup: least number of inferences before.
        profile: print the time of each operator; slower.

    Raises:
        Unsupported: the program cannot run in this setting.
    """
    flags = {
        "graph": model,
        "num_threads": str(setting.threads),
        "num_runs": str(runs),
        "warmup_runs": str(max(1, warmup)),
        "report_peak_memory_footprint": "true",
        "result_file_path": result,
    }
    # Only what the program knows: of others, old programs fail and new ones warn.
    flags = {name: value for name, value in flags.items() if name in program.flags}
    backend_flags = _litert if program.generation == LITERT else _tflite
    flags |= backend_flags(program, setting, profile)
    words = [f"{folder}/{PROGRAM}"] + [f"--{name}={value}" for name, value in flags.items()]
    if setting.affinity:
        words = ["taskset", setting.affinity, *words]
    return shlex.join(words)


def _tflite(program: Program, setting: Setting, profile: bool) -> dict[str, str]:
    flags = {}
    if setting.backend == "reference":
        flags["use_xnnpack"] = "false"
    elif setting.backend == "xnnpack":
        flags["use_xnnpack"] = "true"
        if setting.fp16:
            flags["xnnpack_force_fp16"] = "true"
    else:
        flags["use_gpu"] = "true"
        flags["gpu_precision_loss_allowed"] = _boolean(setting.fp16)
        if setting.gpu_backend:
            flags["gpu_backend"] = setting.gpu_backend
    if setting.whole and setting.backend != "reference":
        flags["require_full_delegation"] = "true"
    if profile:
        flags["enable_op_profiling"] = "true"
    for name in flags:
        if name not in program.flags:
            raise Unsupported(f"This program of TensorFlow Lite does not know --{name}.")
    return flags


def _litert(program: Program, setting: Setting, profile: bool) -> dict[str, str]:
    if setting.backend == "reference":
        raise Unsupported("LiteRT's program has no switch for XNNPACK off; TensorFlow Lite's has.")
    flags = {}
    if setting.backend == "xnnpack":
        if setting.fp16:
            raise Unsupported("LiteRT's program has no fp16 on XNNPACK; TensorFlow Lite's has.")
        # Together with --use_cpu it aborts on --require_full_delegation.
        flags["use_cpu"] = "true"
    else:
        flags["use_gpu"] = "true"
        flags["use_cpu"] = _boolean(not setting.whole)
        if setting.whole:
            flags["require_full_delegation"] = "true"
        if "gpu-precision" in program.flags:
            flags["gpu-precision"] = "fp16" if setting.fp16 else "fp32"
        elif "allow_fp16" in program.flags:
            flags["allow_fp16"] = _boolean(setting.fp16)
        else:
            raise Unsupported("This program of LiteRT has no switch for the GPU's precision.")
        if setting.gpu_backend == "gl":  # OpenCL is the one it takes by itself
            flags["gpu_backend"] = "gl"
    if profile:
        flags["use_profiler"] = "true"
    return flags


def _boolean(value: bool) -> str:
    return "true" if value else "false"
