"""What pruning adds to a training step: CPU time against plain `fit`, tfmot beside it.

    TFCOMPRESS_DATA=... python examples/benchmarks/pruning_cost.py [--quick] [--threads N]

Fashion-MNIST, a depthwise-separable network of 39,914 parameters, batches of 128, Adam, masks
updated every 100 steps. All variants take turns in one process, a block of steps at a time, in an
order that reverses from round to round. CPU time is that of all threads of the process. Each block
is a `fit` of its own, timed from a batch on by which everything is traced, and contains exactly
as many updates of the masks as its steps call for. tfmot prunes a tf_keras copy and is compared
with plain tf_keras `fit`, as the two Keras versions differ in cost themselves.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tfmot_peer as tfmot
from common import benchmark_parser, fashion_mnist, finish, markdown

import tfcompress as tfc

BATCH = 128
FREQUENCY = 100
WARM_UP = 20
SAMPLES = 10_000  # of the bootstrap

# Pruned variant -> (what it is compared with, label)
COMPARED = {
    "tfcompress, per layer": "Keras 3",
    "tfcompress, global": "Keras 3",
    "tfmot": "tf_keras",
}


class StepTimer:
    """CPU seconds from the begin of one batch to that of another, all callbacks included.

    It must come first in the list of callbacks: `begin` then follows everything that the batch
    before has cost.
    """

    def __init__(self, first: int, steps: int) -> None:
        self.first, self.steps = first, steps
        self.cpu = self.wall = 0.0

    def begin(self, batch: int, logs: Any = None) -> None:
        """What to call when a batch begins."""
        if batch == self.first:
            self.cpu, self.wall = -time.process_time(), -time.perf_counter()
        elif batch == self.first + self.steps:
            self.cpu += time.process_time()
            self.wall += time.perf_counter()


class Variant:
    """A compiled model of a Keras version with its callbacks; `block` trains it on, timed."""

    def __init__(self, module: Any, model: Any, callbacks: list[Any]) -> None:
        self.module, self.model, self.callbacks = module, model, callbacks

    def block(self, x: np.ndarray, y: np.ndarray, steps: int) -> tuple[float, float]:
        """CPU and wall milliseconds per step."""
        timer = StepTimer(WARM_UP, steps)
        first = self.module.callbacks.LambdaCallback(on_train_batch_begin=timer.begin)
        # One batch more, whose begin ends the timed part.
        count = (WARM_UP + steps + 1) * BATCH
        self.model.fit(
            x[:count], y[:count], batch_size=BATCH, verbose=0, callbacks=[first, *self.callbacks]
        )
        return 1e3 * timer.cpu / steps, 1e3 * timer.wall / steps


def variants(x: np.ndarray, total_steps: int) -> dict[str, Variant]:
    """Every variant from the same weights; the schedules rise for as long as it is measured."""
    import tf_keras

    keras.utils.set_random_seed(0)
    source = tfc.models.mobilenet_small((28, 28, 1), 10)

    def ours(**pruning: Any) -> Variant:
        model = keras.models.clone_model(source)
        model.set_weights(source.get_weights())
        model.compile(
            keras.optimizers.Adam(), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        schedule = tfc.PolynomialDecay(0.0, 0.8, 0, total_steps, frequency=FREQUENCY)
        callbacks = [tfc.PruningCallback(schedule, **pruning)] if pruning else []
        return Variant(keras, model, callbacks)

    def theirs(pruned: bool) -> Variant:
        model = tfmot.twin(source, x[:8])
        if pruned:
            model = tfmot.wrap(model, tfmot.polynomial(0.0, 0.8, total_steps, FREQUENCY))
        tfmot.compile_adam(model, 1e-3, ["accuracy"])
        callbacks = [tfmot.callback()] if pruned else []
        return Variant(tf_keras, model, callbacks)

    return {
        "Keras 3": ours(),
        "tfcompress, per layer": ours(pooling="layer"),
        "tfcompress, global": ours(pooling="global"),
        "tf_keras": theirs(pruned=False),
        "tfmot": theirs(pruned=True),
    }


def ratio_with_bound(pruned: list[float], plain: list[float]) -> tuple[float, float]:
    """Ratio of the medians, and its upper bound (one-sided, 95 %) by a bootstrap over rounds."""
    a, b = np.array(pruned), np.array(plain)
    picks = np.random.default_rng(0).integers(0, len(a), (SAMPLES, len(a)))
    ratios = np.median(a[picks], axis=1) / np.median(b[picks], axis=1)
    return float(np.median(a) / np.median(b)), float(np.quantile(ratios, 0.95))


def measure(
    blocks: int, steps: int, note: Callable[[str], None]
) -> dict[str, list[tuple[float, float]]]:
    x, y, _, _ = fashion_mnist()
    order = variants(x, (blocks + 1) * (WARM_UP + steps + 1))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in order}
    for round_ in range(blocks):
        names = list(order) if round_ % 2 == 0 else list(order)[::-1]
        for name in names:
            found[name].append(order[name].block(x, y, steps))
        times = ", ".join(f"{name} {found[name][-1][0]:.1f}" for name in order)
        note(f"round {round_ + 1} of {blocks}, CPU ms per step: {times}")
    return found


def table(found: dict[str, list[tuple[float, float]]]) -> tuple[str, list[dict[str, Any]]]:
    rows, result = [], []
    for name, times in found.items():
        cpu, wall = ([float(t[i]) for t in times] for i in (0, 1))
        row: dict[str, Any] = {"variant": name, "cpu_ms": cpu, "wall_ms": wall}
        cells = [name, f"{np.median(cpu):.2f}", f"{np.median(wall):.2f}"]
        if name in COMPARED:
            plain = [float(t[0]) for t in found[COMPARED[name]]]
            row["ratio"], row["upper_bound"] = ratio_with_bound(cpu, plain)
            cells += [f"x{row['ratio']:.3f}", f"x{row['upper_bound']:.3f}"]
        else:
            cells += ["-", "-"]
        rows.append(cells)
        result.append(row)
    heads = ["training step", "CPU ms", "wall ms", "CPU of plain fit", "upper bound, 95 %"]
    return markdown(heads, rows), result


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--threads", type=int, default=0, help="TensorFlow's threads; 0 leaves it the choice"
    )
    parser.add_argument("--blocks", type=int, help="alternated blocks of each variant")
    arguments = parser.parse_args()
    import tensorflow as tf

    # The schedule rises for as long as is measured, so every block but the last ends before it.
    warnings.filterwarnings("ignore", "Training ended at step")
    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    blocks = arguments.blocks or (3 if arguments.quick else 12)
    steps = 100 if arguments.quick else 200
    load = [os.getloadavg()[0]]
    found = measure(blocks, steps, lambda line: print(line, flush=True))
    load.append(os.getloadavg()[0])
    text, rows = table(found)
    print(f"\n{text}\n\n{blocks} alternated blocks of {steps} steps each, batch {BATCH}")
    print(f"{os.cpu_count()} processors, load {load[0]:.1f} before, {load[1]:.1f} at the end")
    finish({"blocks": blocks, "steps": steps, "load": load, "variants": rows}, arguments.out)


if __name__ == "__main__":
    main()
