"""Accuracy after pruning on Fashion-MNIST, beside tensorflow-model-optimization in the same run.

    TFCOMPRESS_DATA=... python examples/benchmarks/pruning.py [--quick] [--resume DIR]

A depthwise-separable network of 39,914 parameters is trained for 6 epochs, then pruned for 3 more
from these weights, once for each row and seed; tfmot prunes a tf_keras copy of the same weights.
All 10,000 test images count, paired with the float model that pruning started from. The control
trains on for as long without pruning. With `--resume`, finished jobs are kept in DIR, and a run
that was stopped goes on from there.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tfmot_peer as tfmot
from common import benchmark_parser, fashion_mnist, finish, keep, markdown, zipped

import tfcompress as tfc

BATCH = 128
FLOAT_RATES = (2e-3, 3e-4)
# Our schedules, chosen on a validation split of the training images. A high learning rate that
# falls to 0 ("rewinding"), since what is left must move far; the cubic schedule ends early, so that
# most of the steps train the final masks.
RATE = 6e-3
END = 0.4
FREQUENCY = 20
SETTINGS = {"50 %": 0.5, "2:4": 0.5, "80 %": 0.8, "90 %": 0.9}
CONTROL = "float, trained on"


@dataclass(frozen=True)
class Plan:
    """How much is trained."""

    images: int
    float_epochs: tuple[int, int]
    epochs: int
    seeds: int
    settings: tuple[str, ...]
    guide_frequency: int  # of tfmot's guide, 100 by default; fewer where there are few steps

    @property
    def steps(self) -> int:
        """Optimizer updates while pruning."""
        return self.epochs * math.ceil(self.images / BATCH)

    @property
    def end(self) -> int:
        """The step at which our schedules have reached their target."""
        return int(END * self.steps)


FULL = Plan(60_000, (4, 2), 3, 3, tuple(SETTINGS), 100)
QUICK = Plan(12_800, (1, 1), 1, 1, ("2:4", "80 %"), 10)


@dataclass(frozen=True)
class Job:
    """One training: the float model of a seed (no setting), or pruning it in one way."""

    seed: int
    setting: str = ""
    method: str = ""

    @property
    def file(self) -> str:
        """Name of the file that holds its result."""
        text = f"{self.seed} {self.setting} {self.method}".strip()
        return "".join(c if c.isalnum() else "_" for c in text) + ".json"


def data(plan: Plan) -> tuple[np.ndarray, ...]:
    x, y, x_test, y_test = fashion_mnist()
    return x[: plan.images], y[: plan.images], x_test, y_test


def network() -> keras.Model:
    return tfc.models.mobilenet_small((28, 28, 1), 10)


def train_float(job: Job, plan: Plan, folder: Path) -> dict[str, Any]:
    x, y, x_test, y_test = data(plan)
    model = network()
    for epochs, rate in zip(plan.float_epochs, FLOAT_RATES, strict=True):
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    model.save(folder / f"float_{job.seed}.keras")
    return {"accuracy": accuracy(model, x_test, y_test)} | weigh(tfc.convert(model), plan)


def accuracy(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float((model.predict(x, batch_size=500, verbose=0).argmax(-1) == y).mean())


def weigh(tflite: tfc.TFLiteModel, plan: Plan) -> dict[str, Any]:
    """Bytes of a file, and its accuracy on the runtime."""
    _, _, x_test, y_test = data(plan)
    return {
        "tflite_accuracy": float((tflite.predict(x_test).argmax(-1) == y_test).mean()),
        "bytes": len(tflite.content),
        "zip": zipped(tflite.content),
    }


def soft_labels(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The labels, and what the dense model says itself, in equal parts."""
    return 0.5 * keras.utils.to_categorical(y, 10) + 0.5 * model.predict(x, 500, verbose=0)


def pruning_callback(job: Job, plan: Plan) -> tfc.PruningCallback:
    schedule = tfc.PolynomialDecay(0.0, SETTINGS[job.setting], 0, plan.end, frequency=FREQUENCY)
    if job.setting == "2:4":
        return tfc.PruningCallback(schedule, pattern="2:4")
    pooling = "layer" if "per layer" in job.method else "global"
    return tfc.PruningCallback(schedule, pooling=pooling)


def train_ours(job: Job, plan: Plan, folder: Path) -> dict[str, Any]:
    x, y, x_test, y_test = data(plan)
    model = keras.models.load_model(folder / f"float_{job.seed}.keras", compile=False)
    callbacks, labels, loss = [], y, "sparse_categorical_crossentropy"
    if job.method != CONTROL:
        callbacks = [pruning_callback(job, plan)]
        if "distilled" in job.method:
            labels, loss = soft_labels(model, x, y), "categorical_crossentropy"
    rate = keras.optimizers.schedules.CosineDecay(RATE, plan.steps)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, labels, batch_size=BATCH, epochs=plan.epochs, callbacks=callbacks, verbose=0)
    result = {"accuracy": accuracy(model, x_test, y_test), **zeros(model)}
    if job.seed == 0 and callbacks:
        result |= weigh(tfc.convert(model), plan)
    return result


def train_tfmot(job: Job, plan: Plan, folder: Path) -> dict[str, Any]:
    x, y, x_test, y_test = data(plan)
    source = keras.models.load_model(folder / f"float_{job.seed}.keras", compile=False)
    guide = "guide" in job.method
    target = SETTINGS[job.setting]
    if guide:
        initial = 0.5 if target > 0.5 else 0.0
        schedule = tfmot.polynomial(initial, target, plan.steps, plan.guide_frequency)
    else:
        schedule = tfmot.polynomial(0.0, target, plan.end, FREQUENCY)
    pattern = (2, 4) if job.setting == "2:4" else None
    if pattern:
        schedule = tfmot.constant(target)  # it computes these masks once, whatever is asked
    model = tfmot.wrap(tfmot.twin(source, x_test[:100]), schedule, pattern)
    tfmot.compile_adam(model, 1e-3 if guide else tfmot.cosine(RATE, plan.steps))
    model.fit(x, y, batch_size=BATCH, epochs=plan.epochs, callbacks=[tfmot.callback()], verbose=0)
    model = tfmot.strip(model)
    result = {"accuracy": accuracy(model, x_test, y_test), **zeros(model)}
    if job.seed == 0:
        import tensorflow as tf

        content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        result |= weigh(tfc.TFLiteModel(content), plan)
    return result


def zeros(model: Any) -> dict[str, Any]:
    """Share of zeros in all kernels but the depthwise ones, which neither package prunes."""
    found = {"kernels": [0, 0], "depthwise": [0, 0]}
    for layer in model.layers:
        name = type(layer).__name__
        if name not in ("Conv2D", "Dense", "DepthwiseConv2D"):
            continue
        kernel = layer.get_weights()[0]
        counts = found["depthwise" if name == "DepthwiseConv2D" else "kernels"]
        counts[0] += int((kernel == 0).sum())
        counts[1] += kernel.size
    return {
        "sparsity": found["kernels"][0] / found["kernels"][1],
        "pruned_weights": found["kernels"][1],
        "depthwise_sparsity": found["depthwise"][0] / found["depthwise"][1],
    }


def methods(setting: str) -> list[str]:
    own = ["per layer", "per layer, distilled"]  # a pattern makes every layer equally sparse
    if setting != "2:4":
        own = ["per layer", "global", "global, distilled"]
    return ["tfmot, as its guide", "tfmot, our schedules", *(f"tfcompress, {o}" for o in own)]


def jobs_after(seed: int, plan: Plan) -> Iterator[Job]:
    """What starts from the float model of a seed."""
    yield Job(seed, "", CONTROL)
    for setting in plan.settings:
        for method in methods(setting):
            yield Job(seed, setting, method)


def one_thread() -> None:
    """Small convolutions gain little from a second thread: two processes do twice the work."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def work(job: Job, plan: Plan, folder: Path) -> dict[str, Any]:
    """Does a job, or reads its result if it was done before."""
    path = folder / job.file
    if path.exists():
        return json.loads(path.read_text())
    keras.utils.set_random_seed(job.seed)
    start = time.monotonic()
    do: Callable[[Job, Plan, Path], dict[str, Any]] = train_ours
    if not job.method:
        do = train_float
    elif job.method.startswith("tfmot"):
        do = train_tfmot
    result = {**asdict(job), **do(job, plan, folder), "seconds": time.monotonic() - start}
    keep(path, result)
    return result


def run(plan: Plan, folder: Path, workers: int, wanted: str) -> list[dict[str, Any]]:
    """Every job, each seed's as soon as its float model is there."""
    results: list[dict[str, Any]] = []
    pending: set[Future] = set()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=one_thread) as pool:

        def add(job: Job) -> None:
            pending.add(pool.submit(work, job, plan, folder))

        for seed in range(plan.seeds):
            add(Job(seed))
        while pending:
            done, rest = wait(pending, return_when=FIRST_COMPLETED)
            pending.clear()
            pending.update(rest)
            for result in (future.result() for future in done):
                results.append(result)
                print(
                    f"{len(results)} done, {len(pending)} begun or waiting: seed {result['seed']} "
                    f"{result['setting']} {result['method'] or 'float'}: "
                    f"{result['accuracy']:.2%} ({result['seconds']:.0f} s)",
                    flush=True,
                )
                if not result["method"]:
                    for job in jobs_after(result["seed"], plan):
                        if wanted in job.method or job.method == CONTROL:
                            add(job)
    return results


def check_folder(folder: Path, plan: Plan) -> None:
    """Refuses results of other settings: they would be mixed into the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**asdict(plan), "rate": RATE, "end": END, "frequency": FREQUENCY}
    stamp, text = folder / "settings.json", json.dumps(settings)
    if stamp.exists() and stamp.read_text() != text:
        sys.exit(f"{folder} holds results of other settings. Name another folder, or remove it.")
    stamp.write_text(text)


def tables(results: list[dict[str, Any]], plan: Plan) -> str:
    floats = {r["seed"]: r for r in results if not r["method"]}
    rows = []
    for setting, method in [("", CONTROL)] + [(s, m) for s in plan.settings for m in methods(s)]:
        found = [r for r in results if (r["setting"], r["method"]) == (setting, method)]
        if not found:
            continue
        drops = [100 * (r["accuracy"] - floats[r["seed"]]["accuracy"]) for r in found]
        rows.append(
            [
                setting or "none",
                method,
                f"{np.mean([r['accuracy'] for r in found]):.2%}",
                f"{np.mean(drops):+.2f}",
                f"{min(drops):+.2f} to {max(drops):+.2f}",
                len(found),
                f"{np.mean([r['sparsity'] for r in found]):.2%}",
            ]
        )
    heads = ["pruned", "by", "accuracy", "points from float", "over the seeds", "seeds", "zeros"]
    return markdown(heads, rows) + "\n\n" + file_table(results, floats)


def file_table(results: list[dict[str, Any]], floats: dict[int, dict[str, Any]]) -> str:
    rows = [
        [
            r["setting"] or "-",
            r["method"] or "float",
            f"{r['accuracy']:.2%}",
            f"{r['tflite_accuracy']:.2%}",
            f"{r['bytes']:,}",
            f"{r['zip']:,}",
            f"{floats[0]['zip'] / r['zip']:.1f}x",
        ]
        for r in sorted(results, key=lambda r: list(SETTINGS).index(r["setting"] or "50 %"))
        if r["seed"] == 0 and "bytes" in r
    ]
    heads = ["fp32 file", "by", "Keras accuracy", "file's accuracy", "bytes", "zip", "smaller"]
    return markdown(heads, rows)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--resume", metavar="DIR", help="keep finished jobs here, and go on")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="jobs at a time")
    parser.add_argument("--only", default="", help="only rows whose name holds this, as tfmot")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.resume or temporary)
        check_folder(folder, plan)
        results = run(plan, folder, arguments.workers, arguments.only)
    float_accuracy = [r["accuracy"] for r in results if not r["method"]]
    print(f"\nfloat: {', '.join(f'{a:.2%}' for a in float_accuracy)}\n")
    print(tables(results, plan))
    finish({"plan": asdict(plan), "results": results}, arguments.out)


if __name__ == "__main__":
    main()
