"""The benchmark program: where it comes from, what it runs on, which flags it knows.

There are two of the same name. TensorFlow Lite's (tflite/tools/benchmark) and LiteRT 2's
(litert/tools/benchmark_litert_model.cc, google-ai-edge/LiteRT); they are told apart by their flags.
"""

from __future__ import annotations

import os
import re
import struct
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfcompress.errors import ConfigError, DeviceError
from tfcompress.files import read_bytes, write_bytes

TFLITE, LITERT = "tflite", "litert"
_NIGHTLY: Final = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/"
    "nightly/latest/"
)
DOWNLOADS: Final = {
    (TFLITE, "arm64-v8a"): _NIGHTLY + "android_aarch64_benchmark_model",
    (TFLITE, "armeabi-v7a"): _NIGHTLY + "android_arm_benchmark_model",
    (LITERT, "arm64-v8a"): (
        "https://storage.googleapis.com/litert/binaries/latest/android_arm64/benchmark_model"
    ),
}
"""Where Google's documentation has ready-made programs, by generation and the device's ABI."""

# ELF machine -> Android's name of its ABI.
_MACHINES: Final = {40: "armeabi-v7a", 183: "arm64-v8a", 3: "x86", 62: "x86_64", 243: "riscv64"}
_FLAG: Final = re.compile(r"--([\w-]+)=")

# What the newest of each generation knows, of what is used here; for plans without a device.
_FLAGS: Final = {
    TFLITE: "graph num_threads num_runs warmup_runs report_peak_memory_footprint result_file_path "
    "use_xnnpack xnnpack_force_fp16 use_gpu gpu_backend gpu_precision_loss_allowed "
    "require_full_delegation enable_op_profiling",
    LITERT: "graph num_threads num_runs warmup_runs report_peak_memory_footprint result_file_path "
    "use_cpu use_gpu use_npu gpu_backend gpu-precision require_full_delegation use_profiler",
}


@dataclass(frozen=True)
class Program:
    """A benchmark program as it runs on the device.

    Attributes:
        generation: `"tflite"` or `"litert"`.
        flags: names of the flags that it knows.
    """

    generation: str
    flags: frozenset[str]


def expected(generation: str) -> Program:
    """The newest program of a generation, without a device to ask."""
    return Program(generation, frozenset(_FLAGS[generation].split()))


def from_help(text: str) -> Program:
    """Reads what `--help` prints.

    Raises:
        DeviceError: it is no benchmark program.
    """
    flags = frozenset(_FLAG.findall(text))
    if "graph" not in flags:
        raise DeviceError(
            "The program does not print the flags of a benchmark_model. Received: "
            f"{text.strip()[-300:]!r}"
        )
    return Program(LITERT if "use_npu" in flags else TFLITE, flags)


def generation_of(binary: str | os.PathLike[str]) -> str:
    """The generation that a name or a file is of, without running it.

    Raises:
        ConfigError: no such file, or no program for Android.
    """
    if binary in (TFLITE, LITERT):
        return str(binary)
    content = read_bytes(binary)
    abi_of(content, binary)
    return LITERT if b"use_npu" in content else TFLITE


def abi_of(content: bytes, path: str | os.PathLike[str]) -> str:
    """Android's name of the ABI that a program is for.

    Raises:
        ConfigError: it is no program for Linux or Android.
    """
    if content[:4] != b"\x7fELF" or len(content) < 20:
        kind = " It is an app (.apk): take the program." if content[:2] == b"PK" else ""
        raise ConfigError(
            f"`binary` must be a benchmark_model for Android.{kind} Received: {os.fspath(path)!r}"
        )
    (machine,) = struct.unpack_from("<H", content, 18)
    return _MACHINES.get(machine, f"machine {machine}")


def fetch(binary: str | os.PathLike[str], abis: Sequence[str]) -> Path:
    """The program's file on this computer, for a device of these ABIs.

    Args:
        binary: a path; or `"tflite"` or `"litert"` for the documented download, which is kept in
            the user's cache folder.
        abis: what the device runs, best first.

    Raises:
        ConfigError: `binary` is no program for Android.
        DeviceError: it is for another processor, there is no download for this one, or it fails.
    """
    if binary not in (TFLITE, LITERT):
        path = Path(binary)
        abi = abi_of(read_bytes(path), path)
        if abi not in abis:
            raise DeviceError(
                f"{str(path)!r} is for {abi}, and the device runs {', '.join(abis)}. Take the "
                "program for one of these."
            )
        return path
    generation = str(binary)
    for abi in abis:
        if url := DOWNLOADS.get((generation, abi)):
            return _download(url, generation, abi)
    raise DeviceError(
        f"There is no ready-made {generation} program for {', '.join(abis)}. Build one, and name "
        "it with `binary` (--binary)."
    )


def _download(url: str, generation: str, abi: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(root) / "tfcompress" / f"benchmark_model-{generation}-{abi}"
    if path.exists():
        return path
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"The benchmark program cannot be downloaded from {url}: {error}. Download it "
            "elsewhere, and name the file with `binary` (--binary)."
        ) from None
    found = abi_of(content, url)
    if found != abi:
        raise DeviceError(f"{url} is for {found}, not for {abi}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, content)
