"""tfc.remove_dead on files that others have made: the shipped int8 models of MLPerf Tiny.

    TFCOMPRESS_DATA=... python examples/benchmarks/dead_channels.py [--quick]

Outputs of both files on random images, value by value, with XNNPACK and without; latency with both
files taking turns, one thread.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import data_file, finish, markdown, options, zipped

import tfcompress as tfc

FILES = ("vww_96_int8.tflite", "resnet8_cifar10_int8.tflite")


def channels(report: Any) -> tuple[int, int]:
    """Over all layers whose channels went: before, after."""
    pairs = [entry.details["channels"].split(" -> ") for entry in report.changed]
    return sum(int(before) for before, _ in pairs), sum(int(after) for _, after in pairs)


def measure(name: str, quick: bool, folder: str) -> dict[str, Any]:
    tflite = tfc.TFLiteModel(data_file(f"mlperf_tiny/{name}"))
    smaller = tfc.remove_dead(tflite)
    (info,) = (tflite.parsed.subgraphs[0].tensors[i] for i in tflite.parsed.subgraphs[0].inputs)
    scale, zero = info.quantization.scales[0], info.quantization.zero_points[0]
    stored = np.random.default_rng(0).integers(-128, 128, (50 if quick else 1000, *info.shape[1:]))
    x = ((stored - zero) * scale).astype("float32")
    identical = [
        float(np.mean(np.asarray(tflite.predict(x, backend=backend)) ==
                      np.asarray(smaller.predict(x, backend=backend))))
        for backend in ("xnnpack", "reference")
    ]  # fmt: skip
    files = []
    for kind, one in (("before", tflite), ("after", smaller)):
        files.append(str(one.save(Path(folder) / f"{kind}_{name}")))
    timed = tfc.benchmark(files, threads=[1], runs=20 if quick else 200).rows
    before, after = channels(smaller.report)
    return {
        "file": name, "channels": [before, after], "images": len(x), "identical": min(identical),
        "bytes": [len(tflite.content), len(smaller.content)],
        "zip": [zipped(tflite.content), zipped(smaller.content)],
        "ms": [row.median_ms for row in timed],
    }  # fmt: skip


def main() -> None:
    arguments = options(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, arguments.quick, folder) for name in FILES]
    heads = ["file", "channels of changed layers", "bytes", "zip", "ms", "ratio", "same outputs"]
    print(
        markdown(
            heads,
            [
                [
                    row["file"],
                    "{} -> {}".format(*row["channels"]) if any(row["channels"]) else "none dead",
                    *("{:,} -> {:,}".format(*row[key]) for key in ("bytes", "zip")),
                    "{:.3f} -> {:.3f}".format(*row["ms"]),
                    f"x{row['ms'][1] / row['ms'][0]:.2f}",
                    f"{row['identical']:.2%} of {row['images']} images",
                ]
                for row in rows
            ],
        )
    )
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
