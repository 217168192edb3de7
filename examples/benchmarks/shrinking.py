"""Channels taken out: multiply-adds, measured latency and accuracy, then int8 on top.

    TFCOMPRESS_DATA=... python examples/benchmarks/shrinking.py [--quick] [--resume DIR] \
        [--only NAME] [--plot FILE.png]

From a trained float network, `tfc.shrink` takes a share of the multiply-adds away, and the smaller
network trains on: half of its label is what the dense network says itself, the learning rate falls
as a cosine. The control is the dense network, trained on as long in the same way. Points are paired
with the control of the same seed. Then the smaller network is trained quantization-aware and
converted. Latency: XNNPACK, one thread, files of one network and seed taking turns; "faster" is
against the dense float file. With `--resume`, finished rows are kept in DIR.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import benchmark_parser, finish, markdown, selected, zipped
from quantization import Data, cifar10, fashion, fit, one_thread, trained_resnet8

import tfcompress as tfc

CONTROL = "dense, trained on"
TEMPERATURE = 4.0


def mobilenet_for_cifar() -> keras.Model:
    model = tfc.models.mobilenet((32, 32, 3), 10, alpha=0.5, dropout=0.0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
        if layer.name == "conv1":  # 32 pixels are too few to halve five times
            layer.strides = (1, 1)
    config = model.get_config()
    return keras.Model.from_config(config)


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        load: number of training images -> data.
        make: builds it, trained or not.
        training: (epochs, learning rate) from the start, in turns.
        after: epochs of training once it is smaller, and the learning rate they begin with.
        ratios: shares of the multiply-adds to take away.
    """

    load: Callable[[int], Data]
    make: Callable[[], keras.Model]
    training: tuple[tuple[int, float], ...]
    after: tuple[int, float]
    ratios: tuple[float, ...]


NETWORKS = {
    "CIFAR-10, ResNet-8": Network(cifar10, trained_resnet8, (), (12, 1e-3), (0.3, 0.5, 0.65, 0.8)),
    "CIFAR-10, MobileNet 0.5": Network(
        cifar10, mobilenet_for_cifar, ((12, 2e-3), (4, 3e-4)), (8, 1e-3), (0.5, 0.65)
    ),
    "Fashion-MNIST, depthwise-separable": Network(
        fashion,
        lambda: tfc.models.mobilenet_small((28, 28, 1), 10),
        ((4, 2e-3), (2, 3e-4)),
        (6, 2e-3),
        (0.4, 0.5, 0.65),
    ),
}


def softened(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What the dense model says, less sharply: the label of half of the loss."""
    probabilities = np.clip(model.predict(x, batch_size=500, verbose=0), 1e-7, 1.0)
    logits = np.log(probabilities) / TEMPERATURE
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def train(model: keras.Model, teacher: keras.Model, data: Data, epochs: int, rate: float,
          callbacks: Any = ()) -> None:  # fmt: skip
    """Trains on mirrored images, half of the label being the teacher's."""
    x, y, *_ = data
    if x.shape[-1] == 3:
        x = np.concatenate([x, x[:, :, ::-1]])
        y = np.concatenate([y, y])
    soft = softened(teacher, x)
    labels = 0.5 * np.eye(soft.shape[-1], dtype="float32")[y] + 0.5 * soft
    steps = epochs * math.ceil(len(x) / 128)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        "categorical_crossentropy",
    )
    model.fit(x, labels, batch_size=128, epochs=epochs, callbacks=list(callbacks), verbose=0)


def accuracy(tflite: tfc.TFLiteModel, data: Data) -> float:
    return float((np.asarray(tflite.predict(data[2])).argmax(-1) == data[3]).mean())


def dense(name: str, seed: int, quick: bool) -> tuple[keras.Model, Data]:
    network = NETWORKS[name]
    data = network.load(3_200 if quick else 60_000)
    keras.utils.set_random_seed(seed)
    model = network.make()
    for epochs, rate in network.training:
        fit(model, data, rate, 1 if quick else epochs)
    return model, data


def measure(name: str, seed: int, quick: bool, folder: str) -> list[dict[str, Any]]:
    """All rows of one network with one seed."""
    stem = "".join(c if c.isalnum() else "_" for c in f"{name} {seed}")
    done = Path(folder) / f"{stem}.json"
    if done.exists():
        return json.loads(done.read_text())
    network = NETWORKS[name]
    model, data = dense(name, seed, quick)
    epochs, rate = (1, network.after[1]) if quick else network.after
    samples = data[0][np.linspace(0, len(data[0]) - 1, 300).round().astype(int)]
    batch = (data[0][:2_000], data[1][:2_000])
    rows: list[dict[str, Any]] = []

    def add(kind: str, ratio: float, trained: keras.Model, tflite: tfc.TFLiteModel) -> None:
        path = tflite.save(Path(folder) / f"{stem}_{len(rows)}.tflite", overwrite=True)
        rows.append(
            {
                "network": name,
                "seed": seed,
                "kind": kind,
                "ratio": ratio,
                "multiply_adds": tfc.complexity(
                    model if ratio == 0 else sources[ratio]
                ).multiply_adds,
                "accuracy": accuracy(tflite, data),
                "bytes": len(tflite.content),
                "zip": zipped(tflite.content),
                "file": path.name,
            }
        )

    sources: dict[float, keras.Model] = {}
    add("dense", 0, model, tfc.convert(model))
    keras.utils.set_random_seed(seed)
    control = keras.models.clone_model(model)
    control.set_weights(model.get_weights())
    train(control, model, data, epochs, rate)
    add(CONTROL, 0, control, tfc.convert(control))
    for ratio in network.ratios[1:2] if quick else network.ratios:
        keras.utils.set_random_seed(seed)
        smaller = tfc.shrink(
            model, ratio, importance="taylor", data=batch, round_to=4,
            loss="sparse_categorical_crossentropy",
        )  # fmt: skip
        sources[ratio] = smaller
        train(smaller, model, data, epochs, rate)
        add("smaller", ratio, smaller, tfc.convert(smaller))
        qmodel = tfc.quantize_aware(smaller, calibration_data=samples)
        train(qmodel, model, data, 1 if quick else 2, 1e-4, [tfc.QuantizationCallback()])
        add("smaller, int8", ratio, qmodel, tfc.convert(qmodel, "int8"))
    partial = done.with_suffix(".part")
    partial.write_text(json.dumps(rows))
    os.replace(partial, done)
    return rows


def add_latency(rows: list[dict[str, Any]], folder: str, runs: int) -> None:
    """Times all files of a network together, seed by seed, once nothing else runs."""
    files = [str(Path(folder) / row["file"]) for row in rows]
    for row, timed in zip(rows, tfc.benchmark(files, threads=[1], runs=runs).rows, strict=True):
        row["ms"] = timed.median_ms


def table(rows: list[dict[str, Any]]) -> str:
    heads = [
        *("network", "file", "seeds", "multiply-adds", "fewer", "accuracy"),
        *("points from the control", "ms", "faster", "bytes", "smaller", "zip", "smaller zipped"),
    ]
    cells = []
    keys = list(dict.fromkeys((r["network"], r["kind"], r["ratio"]) for r in rows))
    for key in keys:
        found = [r for r in rows if (r["network"], r["kind"], r["ratio"]) == key]
        of = {(r["seed"], r["kind"]): r for r in rows if r["network"] == key[0] and not r["ratio"]}
        points = [100 * (r["accuracy"] - of[r["seed"], CONTROL]["accuracy"]) for r in found]
        faster = [of[r["seed"], "dense"]["ms"] / r["ms"] for r in found]
        raw = np.mean([of[r["seed"], "dense"]["bytes"] / r["bytes"] for r in found])
        packed = np.mean([of[r["seed"], "dense"]["zip"] / r["zip"] for r in found])
        counts = np.mean([r["multiply_adds"] for r in found])
        fewer = np.mean(
            [of[r["seed"], "dense"]["multiply_adds"] / r["multiply_adds"] for r in found]
        )
        cells.append(
            [
                key[0], key[1], len(found), f"{counts / 1e6:.2f} M", f"{fewer:.2f}x",
                f"{np.mean([r['accuracy'] for r in found]):.2%}",
                f"{np.mean(points):+.2f} ({min(points):+.2f} to {max(points):+.2f})",
                f"{np.median([r['ms'] for r in found]):.3f}", f"{np.median(faster):.2f}x",
                f"{found[0]['bytes']:,}", f"{raw:.1f}x", f"{found[0]['zip']:,}", f"{packed:.1f}x",
            ]
        )  # fmt: skip
    return markdown(heads, cells)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Accuracy over latency: one panel for each network, one curve for float and for int8."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["network"] for row in rows))
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False)
    for name, panel in zip(names, axes[0], strict=True):
        for kind, mark in ((CONTROL, "s"), ("smaller", "o-"), ("smaller, int8", "^-")):
            found = [r for r in rows if (r["network"], r["kind"]) == (name, kind)]
            ratios = sorted({r["ratio"] for r in found})
            points = [
                (np.median([r["ms"] for r in found if r["ratio"] == ratio]),
                 100 * np.mean([r["accuracy"] for r in found if r["ratio"] == ratio]))
                for ratio in ratios
            ]  # fmt: skip
            panel.plot(*zip(*points, strict=True), mark, label=kind)
        panel.set(
            title=name, xlabel="ms on XNNPACK, one thread", ylabel="accuracy, %", xscale="log"
        )
        panel.grid(alpha=0.3)
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--resume", metavar="DIR", help="keep finished rows here, and go on")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="networks at a time")
    parser.add_argument("--only", default="", help="only networks whose name holds this")
    parser.add_argument("--plot", metavar="FILE", help="draw accuracy over latency")
    arguments = parser.parse_args()
    names = selected(NETWORKS, arguments.only)
    tasks = [(name, seed) for seed in range(1 if arguments.quick else 3) for name in names]
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.resume or temporary
        Path(folder).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(arguments.workers, context, initializer=one_thread) as pool:
            begun = time.monotonic()
            futures = [pool.submit(measure, *task, arguments.quick, folder) for task in tasks]
            for number, future in enumerate(as_completed(futures), 1):
                rows += future.result()
                spent = time.monotonic() - begun
                print(f"{number} of {len(futures)} done, {spent:.0f} s", flush=True)
        rows.sort(key=lambda r: (names.index(r["network"]), r["seed"]))
        for name, seed in tasks:
            own = [r for r in rows if (r["network"], r["seed"]) == (name, seed)]
            add_latency(own, folder, 10 if arguments.quick else 100)
    print(table(rows))
    if arguments.plot:
        plot(rows, arguments.plot)
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
