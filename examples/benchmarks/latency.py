"""Latency of the ready-made networks in fp32, fp16 and int8, with and without XNNPACK.

    python examples/benchmarks/latency.py [--quick]

All files of one network are measured in one run, taking turns. Beside them, as the peer, the loop
that most people write: `tf.lite.Interpreter` with its defaults, on the fp32 file, in turns with
ours. Random weights: they change no operator's time.
"""

from __future__ import annotations

import time

import keras
import numpy as np
from common import finish, markdown, options  # sets TensorFlow's log level first

import tfcompress as tfc


def networks(quick: bool) -> dict:
    presets = {name: tfc.models.PRESETS[name] for name in ("mobilenet_small_28", "resnet8")}
    if not quick:
        presets |= {
            name: tfc.models.PRESETS[name]
            for name in ("mobilenet_96_025", "mobilenet_v2_96_035", "ds_cnn")
        }
        presets["mobilenet 224"] = lambda: tfc.models.mobilenet((224, 224, 3), 1000)
    return presets


def plain_loop(content: bytes, runs: int) -> float:
    """Median milliseconds of `runs` single inferences, as the guides do it."""
    import warnings

    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        interpreter.invoke()
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def main() -> None:
    arguments = options(__doc__.splitlines()[0])
    runs = 20 if arguments.quick else 50
    table, result = [], {}
    for name, make in networks(arguments.quick).items():
        keras.utils.set_random_seed(0)
        model = make()
        x = np.random.default_rng(0).random((16, *model.input_shape[1:]), "float32")
        files = {p: tfc.convert(model, p, representative_data=x) for p in ("fp32", "fp16", "int8")}
        for precision, tflite in files.items():
            tflite.name = precision
        report = tfc.benchmark(list(files.values()), backend=["xnnpack", "reference"], runs=runs)
        result[name] = report.to_dict()
        result[name]["plain_loop_ms"] = plain_loop(files["fp32"].content, 20 * runs)
        row = [name]
        for precision in files:
            for backend in ("xnnpack", "reference"):
                (found,) = [r for r in report.rows if (r.name, r.backend) == (precision, backend)]
                row.append(f"{found.median_ms:.3f}")
        row += [f"x{float(row[5]) / float(row[1]):.2f}", f"{result[name]['plain_loop_ms']:.3f}"]
        table.append(row)
        print(name, "; ".join(report.notes) or "measured", flush=True)
    heads = ["network, ms", "fp32", "without XNNPACK", "fp16", "without", "int8", "without"]
    print("\n" + markdown([*heads, "int8 of fp32", "plain loop, fp32"], table))
    print(f"\none thread, {report.machine['processor']}, {report.machine['runtime']}")
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
