"""Files on a GPU, through LiteRT's accelerator: what it takes, its numbers, its time.

    python examples/benchmarks/gpu.py [--quick] [--make DIR | --files DIR] [--runs N] [--out FILE]

The ready-made networks and larger ones of 224 pixels, with random weights, in fp32 (and small ones
in int8, which the GPU computes in float), beside XNNPACK with one thread; the GPU computes in fp32
and in fp16. A run ends when its outputs are in the program's memory. Differences are those of
outputs on noise, relative to the largest. A machine with a GPU needs ai-edge-litert alone: `--make
DIR` writes the files where TensorFlow is, `--files DIR` measures those that are there. Kernels have
three values in each channel, so that files are small when zipped. On a software driver the times
say nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import benchmark_parser, finish, markdown  # sets TensorFlow's log level first

import tfcompress as tfc
from tfcompress.deploy.gpu_numbers import compare
from tfcompress.runtime.gpu import accelerator

PRECISIONS = ("fp32", "fp16")
SMALL = 3_000_000
"""Parameters up to which networks are made in int8 too."""


def networks(quick: bool) -> dict[str, Callable[[], Any]]:
    import keras

    presets = tfc.models.PRESETS
    if quick:
        return {name: presets[name] for name in ("mobilenet_small_28", "resnet8")}
    found: dict[str, Callable[[], Any]] = dict(presets)
    found["mobilenet 224"] = lambda: tfc.models.mobilenet((224, 224, 3), 1000)
    for name in ("MobileNetV2", "MobileNetV3Large", "EfficientNetB0", "ResNet50"):
        family = getattr(keras.applications, name)
        found[f"{name} 224"] = lambda family=family: family(weights=None, input_shape=(224, 224, 3))
    return found


def make(folder: Path, quick: bool) -> None:
    """Writes the files of all networks."""
    import keras
    from networks import logits_of, randomize

    for name, build in networks(quick).items():
        keras.utils.set_random_seed(0)
        model = logits_of(build())
        for layer in model._flatten_layers():
            for weight in layer.weights:
                if "kernel" in weight.name and len(weight.shape) > 1:
                    values = np.asarray(weight)
                    weight.assign(np.round(values / values.std() / 1.5).clip(-1, 1) * values.std())
        x = np.random.default_rng(0).random((8, *model.input_shape[1:]), "float32")
        randomize(model, x)
        tfc.convert(model).save(folder / f"{name} fp32.tflite", overwrite=True)
        if model.count_params() < SMALL:
            int8 = tfc.convert(model, "int8", representative_data=x)
            int8.save(folder / f"{name} int8.tflite", overwrite=True)
        keras.backend.clear_session()


def measure(path: Path, runs: int) -> dict[str, Any]:
    """One file on XNNPACK and on the GPU."""
    tflite = tfc.TFLiteModel(path)
    report = tfc.inspect(tflite, target="gpu")
    row: dict[str, Any] = {
        "file": path.stem,
        "operators": len(report.operators),
        "predicted": sum(operator.placed for operator in report.operators),
        "warnings": sorted({operator.warning for operator in report.warnings}),
    }
    for precision in PRECISIONS:
        figures = compare(tflite, precision=precision)
        row[precision] = figures.to_dict() | {"relative": figures.largest / (figures.reach or 1)}
    for precision in PRECISIONS:  # in turns with XNNPACK
        timed = tfc.benchmark(
            tflite, backend=["xnnpack", "gpu"], runs=runs, gpu_precision=precision
        )
        for found in timed.rows:
            kind = "xnnpack" if found.backend == "xnnpack" else f"gpu {precision}"
            row.setdefault(kind, []).append(found.median_ms)
    row["machine"] = timed.machine
    return row


def table(rows: list[dict[str, Any]]) -> str:
    kinds = ("xnnpack", "gpu fp32", "gpu fp16")
    lines = []
    for row in rows:
        ms = {kind: float(np.median(row[kind])) for kind in kinds}
        lines.append(
            [
                row["file"],
                f"{row['fp32']['placed']} of {row['operators']}"
                + ("" if row["fp32"]["placed"] == row["predicted"] else f" ({row['predicted']})"),
                *(f"{ms[kind]:.2f}" for kind in kinds),
                *(f"{row[precision]['relative']:.0e}" for precision in PRECISIONS),
            ]
        )
    heads = ["file", "operators on the GPU", "XNNPACK, ms", "GPU, fp32", "GPU, fp16"]
    heads += ["difference, fp32", "fp16"]
    return markdown(heads, lines)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--make", metavar="DIR", type=Path, help="only write the files there")
    places.add_argument("--files", metavar="DIR", type=Path, help="measure the files there")
    parser.add_argument("--runs", type=int, default=50, help="measurements of each (50)")
    arguments = parser.parse_args()
    if arguments.make:
        arguments.make.mkdir(parents=True, exist_ok=True)
        make(arguments.make, arguments.quick)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.files or Path(temporary)
        if not arguments.files:
            make(folder, arguments.quick)
        report(folder, arguments)


def report(folder: Path, arguments: argparse.Namespace) -> None:
    adapter = accelerator()
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.tflite"), key=lambda path: path.stat().st_size):
        rows.append(measure(path, 5 if arguments.quick else arguments.runs))
        print(path.stem, "measured", flush=True)
        finish({"adapter": str(adapter), "rows": rows}, arguments.out)
    if not rows:
        sys.exit(f"--files {folder} holds no .tflite files: make them with --make")
    print("\n" + table(rows))
    processor, runtime = (rows[0]["machine"][key] for key in ("processor", "runtime"))
    print(f"\n{adapter}; {processor}; {runtime}")


if __name__ == "__main__":
    main()
