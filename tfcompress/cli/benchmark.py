"""`tfcompress benchmark`: latency of `.tflite` files on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from tfcompress.cli.console import Console
from tfcompress.errors import ConfigError

HELP = "measure the latency of .tflite files here or on an Android device"
DESCRIPTION = (
    "Measures .tflite files on this machine. The models take turns in blocks of at least 5 ms, "
    "each in a process of its own; times are of one inference. With --android they run on a device "
    "through adb, by the runtime's own benchmark program."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("models", nargs="+", help=".tflite files; ratios refer to the first")
    parser.add_argument(
        "--backend",
        default="xnnpack",
        help="xnnpack, reference, gpu, or several with commas; or android, android-reference, "
        "android-xnnpack, android-gpu",
    )
    parser.add_argument(
        "--gpu-precision", default="fp16", help="in which a GPU computes: fp16 or fp32"
    )
    parser.add_argument(
        "--delegate", help="library of a delegate to use as the gpu in place of LiteRT's own"
    )
    parser.add_argument("--threads", default="1", help="thread counts, separated by commas")
    parser.add_argument("--runs", type=int, default=50, help="timed blocks for each model")
    parser.add_argument("--warmup", type=int, default=5, help="inferences before timing")
    parser.add_argument(
        "--runtime", default="auto", help="auto, ai-edge-litert, tflite-runtime or tensorflow"
    )
    parser.add_argument(
        "--fp16",
        default="off",
        choices=("off", "on", "both"),
        help="XNNPACK computes float operators in fp16",
    )
    parser.add_argument(
        "--weight-cache",
        nargs="?",
        const=True,
        default=False,
        metavar="FOLDER",
        help="XNNPACK reads packed weights from a cache, temporary or in this folder",
    )
    parser.add_argument("--per-operator", action="store_true", help="time each operator too")
    device = parser.add_argument_group("on an Android device")
    device.add_argument("--android", action="store_true", help="same as --backend android")
    device.add_argument("--serial", help="the device, where several are connected")
    device.add_argument(
        "--binary",
        default="tflite",
        help="the benchmark program: a path, or tflite or litert to download it",
    )
    device.add_argument(
        "--affinity", default="", metavar="MASK", help="processors for taskset, such as f0"
    )
    device.add_argument("--gpu-backend", default="", choices=("", "cl", "gl"))
    device.add_argument(
        "--require-full-delegation",
        action="store_true",
        help="fail where XNNPACK or the GPU leaves an operator",
    )
    device.add_argument(
        "--dry-run", action="store_true", help="print the commands; needs neither adb nor a device"
    )
    parser.add_argument(
        "--out", help="file for the report as JSON, or with --dry-run for the commands"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.deploy.android import run as android
    from tfcompress.deploy.benchmark import benchmark
    from tfcompress.files import check_writable, write_json

    try:
        threads = [int(count) for count in options.threads.split(",")]
    except ValueError:
        raise ConfigError(
            f"--threads takes whole numbers such as 1,2,4. Received: {options.threads!r}"
        ) from None
    if options.android:
        options.backend = "android"
    backends = options.backend.split(",")
    arguments: dict[str, Any] = {
        "threads": threads,
        "runs": options.runs,
        "warmup": options.warmup,
        "fp16": {"off": [False], "on": [True], "both": [False, True]}[options.fp16],
        "per_operator": options.per_operator,
        "serial": options.serial,
        "binary": options.binary,
        "affinity": options.affinity,
        "gpu_backend": options.gpu_backend,
        "require_full_delegation": options.require_full_delegation,
    }
    if options.out:
        check_writable(options.out, overwrite=options.overwrite)
    if options.dry_run:
        lines = android.commands_of(options.models, backends, **arguments)
        for line in lines:
            console.say(line)
        console.result({"commands": lines})
        if options.out:
            write_json(options.out, {"commands": lines})
        return 0
    with console.progress() as progress:
        progress.start("measuring")
        report = benchmark(
            options.models,
            backend=backends,
            runtime=options.runtime,
            weight_cache=options.weight_cache,
            gpu_precision=options.gpu_precision,
            delegate=options.delegate,
            **arguments,
            progress=progress.update,
        )
    console.table(*report.table())
    console.say(", ".join(f"{key}: {value}" for key, value in report.machine.items()))
    for remark in report.remarks():
        console.say(remark)
    for title, heads, cells in report.operator_tables():
        console.table(heads, cells, title)
    console.result(report.to_dict())
    if options.out:
        report.save(options.out)
    return 0
