"""What pruning and quantization add to a training step: CPU time against plain `fit`, and tfmot's.

    TFCOMPRESS_DATA=... python examples/benchmarks/training_cost.py [--part pruning] [--quick]

Fashion-MNIST, a depthwise-separable network of 39,914 parameters, batches of 128, Adam. All
variants train side by side in one process and take turns every 10 steps, in an order that reverses
each time, so that what else the machine does hits all of them. Ten turns make a block of 100
steps; with `--part pruning` masks are updated exactly once in each. CPU time is that of all
threads of the process. tfmot works on a tf_keras copy and is compared with plain tf_keras `fit`,
as the two Keras versions differ in cost themselves.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tfmot_peer as tfmot
from common import benchmark_parser, fashion_mnist, finish, markdown

import tfcompress as tfc

BATCH = 128
FREQUENCY = 100
SLICE = 10  # steps until the next variant's turn
WARM_UP = 20
SAMPLES = 10_000  # of the bootstrap

# What it is compared with, by part and variant
COMPARED = {
    "pruning": {
        "tfcompress, per layer": "Keras 3",
        "tfcompress, global": "Keras 3",
        "tfmot": "tf_keras",
    },
    "quantization": {
        "tfcompress, quantize_aware": "Keras 3",
        "tfcompress, learned step size": "Keras 3",
        "tfcompress, live BatchNorm": "Keras 3",
        "tfmot, quantize_model": "tf_keras",
    },
}


Times = dict[str, list[tuple[float, ...]]]


class Turn:
    """Lets a `fit` run a slice of steps at a time, and times each slice.

    Its `begin` belongs first into the callbacks, so that it follows all that the batch before has
    cost. Every variant is in a `fit` of its own all the time, in a thread that waits for its turn:
    so turns can be short without anything being traced anew.
    """

    def __init__(self) -> None:
        self.go, self.gone = threading.Semaphore(0), threading.Semaphore(0)
        self.taken = np.zeros(2)  # CPU and wall seconds of the last slice
        self._batch = 0
        self._start = np.zeros(2)

    def begin(self, batch: int, logs: Any = None) -> None:
        """What to call when a batch begins."""
        self._batch += 1
        if self._batch > WARM_UP and (self._batch - WARM_UP) % SLICE == 1:
            self.taken = _clocks() - self._start
            self.hand_over()
            self._start = _clocks()

    def hand_over(self) -> None:
        """Ends this turn and waits for the next."""
        self.gone.release()
        self.go.acquire()


def _clocks() -> np.ndarray:
    return np.array([time.process_time(), time.perf_counter()])


class Variant:
    """A compiled model of a Keras version in a `fit` with its callbacks."""

    def __init__(self, module: Any, model: Any, callbacks: list[Any]) -> None:
        self.module, self.model, self.callbacks = module, model, callbacks
        self.error: BaseException | None = None

    def start(self, x: np.ndarray, y: np.ndarray) -> None:
        """Begins the `fit` and waits until it is warm."""
        self.turn = Turn()
        self.thread = threading.Thread(target=self._fit, args=(x, y), daemon=True)
        self.thread.start()
        self._wait()

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        first = self.module.callbacks.LambdaCallback(on_train_batch_begin=self.turn.begin)
        try:
            self.model.fit(
                x,
                y,
                batch_size=BATCH,
                epochs=1_000_000,
                verbose=0,
                callbacks=[first, *self.callbacks],
            )
        except BaseException as e:  # told in the main thread
            self.error = e
        self.turn.gone.release()

    def _wait(self) -> None:
        self.turn.gone.acquire()
        if self.error is not None:
            raise self.error

    def slice(self) -> np.ndarray:
        """CPU and wall seconds of the next slice."""
        self.turn.go.release()
        self._wait()
        return self.turn.taken


def variants(part: str, x: np.ndarray, total_steps: int) -> dict[str, Variant]:
    """Every variant from the same weights; schedules rise for as long as it is measured."""
    import tf_keras

    keras.utils.set_random_seed(0)
    source = tfc.models.mobilenet_small((28, 28, 1), 10)

    def ours(model: keras.Model, callbacks: Sequence[Any] = ()) -> Variant:
        model.compile(
            keras.optimizers.Adam(), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        return Variant(keras, model, list(callbacks))

    def plain() -> keras.Model:
        model = keras.models.clone_model(source)
        model.set_weights(source.get_weights())
        return model

    def pruned(pooling: str) -> Variant:
        schedule = tfc.PolynomialDecay(0.0, 0.8, 0, total_steps, frequency=FREQUENCY)
        return ours(plain(), [tfc.PruningCallback(schedule, pooling=pooling)])

    def quantized(**scheme: str) -> Variant:
        chosen = tfc.QuantizationScheme(**scheme)
        model = tfc.quantize_aware(source, chosen, calibration_data=x[:100])
        return ours(model, [tfc.QuantizationCallback(None, None)])

    def theirs(model: Any, callbacks: Sequence[Any] = ()) -> Variant:
        tfmot.compile_adam(model, 1e-3, ["accuracy"])
        return Variant(tf_keras, model, list(callbacks))

    twin = tfmot.twin(source, x[:8])
    found = {"Keras 3": ours(plain())}
    if part == "pruning":
        rising = tfmot.polynomial(0.0, 0.8, total_steps, FREQUENCY)
        found["tfcompress, per layer"] = pruned("layer")
        found["tfcompress, global"] = pruned("global")
        found["tf_keras"] = theirs(twin)
        wrapped = tfmot.wrap(tfmot.twin(source, x[:8]), rising)
        found["tfmot"] = theirs(wrapped, [tfmot.callback()])
    else:
        found["tfcompress, quantize_aware"] = quantized()
        found["tfcompress, learned step size"] = quantized(range_method="lsq")
        found["tfcompress, live BatchNorm"] = quantized(batchnorm="live")
        found["tf_keras"] = theirs(twin)
        found["tfmot, quantize_model"] = theirs(tfmot.quantize_aware(tfmot.twin(source, x[:8])))
    return found


def ratio_with_bound(changed: list[float], plain: list[float]) -> tuple[float, float]:
    """Ratio of the medians, and its upper bound (one-sided, 95 %) by a bootstrap over blocks."""
    a, b = np.array(changed), np.array(plain)
    picks = np.random.default_rng(0).integers(0, len(a), (SAMPLES, len(a)))
    ratios = np.median(a[picks], axis=1) / np.median(b[picks], axis=1)
    return float(np.median(a) / np.median(b)), float(np.quantile(ratios, 0.95))


def measure(part: str, blocks: int, note: Callable[[str], None]) -> Times:
    """CPU and wall milliseconds per step, of each variant in each block."""
    x, y, _, _ = fashion_mnist()
    whole = len(x) // BATCH * BATCH  # a smaller last batch would be traced on its own
    order = variants(part, x, WARM_UP + (blocks + 1) * FREQUENCY)
    for variant in order.values():
        variant.start(x[:whole], y[:whole])
    found: Times = {name: [] for name in order}
    names = list(order)
    for number in range(blocks):
        sums = {name: np.zeros(2) for name in names}
        for _ in range(FREQUENCY // SLICE):
            for name in names:
                sums[name] += order[name].slice()
            names.reverse()
        for name, seconds in sums.items():
            found[name].append(tuple(1e3 * seconds / FREQUENCY))
        times = ", ".join(f"{name} {found[name][-1][0]:.1f}" for name in order)
        note(f"block {number + 1} of {blocks}, CPU ms per step: {times}")
    return found


def table(part: str, found: Times) -> tuple[str, list[dict[str, Any]]]:
    rows, result = [], []
    for name, times in found.items():
        cpu, wall = ([float(t[i]) for t in times] for i in (0, 1))
        row: dict[str, Any] = {"variant": name, "cpu_ms": cpu, "wall_ms": wall}
        cells = [name, f"{np.median(cpu):.2f}", f"{np.median(wall):.2f}"]
        if name in COMPARED[part]:
            plain = [float(t[0]) for t in found[COMPARED[part][name]]]
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
    parser.add_argument("--part", choices=list(COMPARED), default="quantization")
    parser.add_argument("--blocks", type=int, help="alternated blocks of each variant")
    arguments = parser.parse_args()
    import tensorflow as tf

    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    blocks = arguments.blocks or (4 if arguments.quick else 24)
    load = [os.getloadavg()[0]]
    found = measure(arguments.part, blocks, lambda line: print(line, flush=True))
    load.append(os.getloadavg()[0])
    text, rows = table(arguments.part, found)
    print(f"\n{text}\n\n{blocks} alternated blocks of {FREQUENCY} steps each, batch {BATCH}")
    print(f"{os.cpu_count()} processors, load {load[0]:.1f} before, {load[1]:.1f} at the end")
    finish(
        {
            "part": arguments.part,
            "blocks": blocks,
            "steps": FREQUENCY,
            "load": load,
            "variants": rows,
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
