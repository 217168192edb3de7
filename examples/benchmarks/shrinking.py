"""Smaller networks by channels and blocks taken out or convolutions separated, then int8 on top.

    TFCOMPRESS_DATA=... python examples/benchmarks/shrinking.py [--quick] [--resume DIR] \
        [--only NETWORK] [--variants NAME] [--seeds N] [--workers N] [--plot FILE.png]

From a trained float network, tfcompress takes a share of the multiply-adds away (`tfc.shrink` by
Taylor importance, after `tfc.drop_layers` where the variant says so, `tfc.separate` or
`tfc.factorize`; all fitted on 2,000 training examples), and the smaller network trains on: half of
its label is what the dense network says, the learning rate falls as a cosine. The control is the
dense network, trained on as long in the same way. Points are paired with the control of the same
seed; "before" is the accuracy before training on. Then the smaller network is trained
quantization-aware for two more epochs and converted, its file freed by `tfc.slim` of what no
runtime reads. Latency: XNNPACK, one thread, files of one network and seed taking turns; "faster" is
against the dense float file. With `--resume`, finished rows are kept in DIR. A network takes up to
an hour of one core for each seed.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from augmenting import augmented
from batches import train
from common import benchmark_parser, finish, keep, kept_at, markdown, selected, zipped
from quantization import (
    Data,
    ag_news,
    cifar10,
    fashion,
    one_thread,
    text_net,
    trained_resnet8,
)

import tfcompress as tfc

Pool = tuple[np.ndarray, np.ndarray]
DENSE, CONTROL, INT8 = "dense", "dense, trained on", ", int8"
QUANTIZED_EPOCHS, QUANTIZED_RATE = 2, 1e-4
COPIES = 8  # augmented images of each


# -- the networks, and what is taken out of them


def shrunk(
    ratio: float, round_to: int = 4, *, first: bool = True
) -> Callable[[keras.Model, Any], keras.Model]:
    """Channels out; `first`: of the first convolution too, whose few all others depend on."""

    def make(model: keras.Model, batch: Any) -> keras.Model:
        kernels = [layer.name for layer in model.layers if hasattr(layer, "kernel")]
        return tfc.shrink(
            model, ratio, importance="taylor", data=batch, round_to=round_to,
            exclude=None if first else kernels[0], loss="sparse_categorical_crossentropy",
        )  # fmt: skip

    return make


def without_first_block(ratio: float) -> Callable[[keras.Model, Any], keras.Model]:
    """The first residual block dropped, which has most of the pixels and fewest weights."""

    def make(model: keras.Model, batch: Any) -> keras.Model:
        add = next(layer.name for layer in model.layers if isinstance(layer, keras.layers.Add))
        first = [layer.name for layer in model.layers if hasattr(layer, "kernel")][1]
        dropped = tfc.drop_layers(model, (first, add), data=batch)
        whole, now = (tfc.complexity(m).multiply_adds for m in (model, dropped))
        return shrunk(1 - (1 - ratio) * whole / now)(dropped, batch)

    return make


def vgg() -> keras.Model:
    """Plain 3x3 convolutions and max-pools, as in VGG, for 28x28 images."""
    layers = keras.layers
    x = inputs = keras.Input((28, 28, 1))
    for filters in (16, 0, 32, 64, 0, 64, 128):
        if not filters:
            x = layers.MaxPooling2D()(x)
            continue
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def mobilenet_style(filters: Sequence[int] = (64, 192, 192, 192, 384, 384)) -> keras.Model:
    """Depthwise-separable blocks for 32x32 images, most channels where images are small."""
    x = inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization(momentum=0.9)(x))
    for count, stride in zip(filters, (2, 2, 1, 1, 2, 1), strict=True):
        x = tfc.models.separable_block(x, count, stride=stride)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def separated(share: float | None = None) -> Callable[[keras.Model, Any], keras.Model]:
    """One term everywhere, or as many as that share of the multiply-adds to take away leaves."""

    def make(model: keras.Model, batch: Any) -> keras.Model:
        return tfc.separate(model, multiply_adds=share, data=batch)

    return make


def factorized(share: float, exclude: Any = None) -> Callable[[keras.Model, Any], keras.Model]:
    """Layers of a lower rank, as low as that share of the multiply-adds to take away asks for."""

    def make(model: keras.Model, batch: Any) -> keras.Model:
        return tfc.factorize(model, multiply_adds=share, data=batch, exclude=exclude)

    return make


def half_of_heads_and_neurons(model: keras.Model, batch: Any) -> keras.Model:
    """Half of each attention's heads and of each feed-forward part's neurons."""
    for layer in list(model.layers):
        attention = isinstance(layer, keras.layers.MultiHeadAttention)
        if not attention and not layer.name.startswith("hidden_"):
            continue
        size = "num_heads" if attention else "units"
        before, low, high = model, 0.0, 1.0
        while True:
            middle = (low + high) / 2
            try:
                model = tfc.shrink(
                    before, middle, importance="taylor", data=batch, include=layer.name,
                    round_to=layer.key_dim if attention else 8,
                    loss="sparse_categorical_crossentropy",
                )  # fmt: skip
                left = getattr(model.get_layer(layer.name), size)
            except tfc.ConfigError:  # more than the layer has
                left = 0
            if left == getattr(layer, size) // 2:
                break
            elif left > getattr(layer, size) // 2:
                low = middle
            else:
                high = middle
    return model


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        load: number of training images -> data.
        make: builds it, trained or not.
        training: (epochs, learning rate) from the start, in turns.
        epochs: of training once it is smaller.
        rate: the learning rate that these begin with.
        variants: name -> what makes the smaller network.
        copies: mirrored and shifted copies of the images, of which each epoch sees one; 0: as
            they are.
        teaching: share of the labels that the dense network gives, and its temperature.
        batch_size: examples in a step.
    """

    load: Callable[[int], Data]
    make: Callable[[], keras.Model]
    training: tuple[tuple[int, float], ...]
    epochs: int
    rate: float
    variants: dict[str, Callable[[keras.Model, Any], keras.Model]]
    copies: int = 0
    teaching: tuple[float, float] = (0.5, 1.0)
    batch_size: int = 128


NETWORKS = {
    "CIFAR-10, ResNet-8": Network(
        cifar10, trained_resnet8, (), 12, 2e-3,
        {
            "shrink 0.3": shrunk(0.3),
            "shrink 0.5": shrunk(0.5),
            "first block out, shrink to 0.5": without_first_block(0.5),
            "separate 0.55": separated(0.55),
            "separate 0.65": separated(0.65),
        },
    ),
    "CIFAR-10, MobileNet-style": Network(
        cifar10, mobilenet_style, ((20, 3e-3),), 20, 3e-3,
        {"shrink 0.5": shrunk(0.5, 8, first=False), "shrink 0.6": shrunk(0.6, 8, first=False)},
        COPIES, batch_size=64,
    ),
    "CIFAR-10, wide MobileNet-style": Network(
        cifar10, lambda: mobilenet_style((64, 256, 256, 256, 512, 512)), ((20, 3e-3),), 20, 3e-3,
        {"shrink 0.55": shrunk(0.55, 8, first=False), "shrink 0.65": shrunk(0.65, 8, first=False)},
        COPIES, batch_size=64,
    ),
    "Fashion-MNIST, depthwise-separable": Network(
        fashion, lambda: tfc.models.mobilenet_small((28, 28, 1), 10), ((4, 2e-3), (2, 3e-4)), 12,
        2e-3, {f"shrink {share}": shrunk(share) for share in (0.3, 0.4, 0.5, 0.65, 0.8)},
    ),
    "Fashion-MNIST, VGG-style": Network(
        fashion, vgg, ((12, 2e-3),), 16, 2e-3, {"separate 0.86": separated(0.86)}
    ),
    "AG News, Transformer": Network(
        ag_news, text_net, ((3, 1e-3),), 3, 5e-4,
        {
            "half of heads and neurons": half_of_heads_and_neurons,
            "factorize 0.5": factorized(0.5),
            "factorize 0.5, attention whole": factorized(0.5, keras.layers.MultiHeadAttention),
        },
    ),
}  # fmt: skip


# -- training


def pool_of(network: Network, x: np.ndarray, y: np.ndarray, seed: int) -> Pool:
    """What a network trains on: (copies, n, ...) examples and (copies, n, classes) labels."""
    if network.copies:
        return augmented(x, y, seed, network.copies, mixed=0.0)
    return x[None], np.eye(int(y.max()) + 1, dtype="float32")[y][None]


def taught(network: Network, pool: Pool, teacher: keras.Model) -> Pool:
    """The labels mixed with what the teacher says of the very same examples."""
    share, temperature = network.teaching
    examples, labels = pool
    labels = labels.copy()
    for some, wanted in zip(examples, labels, strict=True):
        for at in range(0, len(some), 500):
            batch = some[at : at + 500]
            batch = batch.astype("float32") if batch.dtype == np.uint8 else batch
            said = teacher.predict_on_batch(batch) ** (1 / temperature)
            said /= said.sum(-1, keepdims=True)
            wanted[at : at + 500] = (1 - share) * wanted[at : at + 500] + share * said
    return examples, labels


def accuracy(tflite: tfc.TFLiteModel, data: Data) -> float:
    return float((np.asarray(tflite.predict(data[2])).argmax(-1) == data[3]).mean())


# -- rows


@dataclass(frozen=True)
class Job:
    """A network with one seed, and what is done to it."""

    network: str
    seed: int
    variant: str
    quick: bool
    folder: str

    def file(self, kind: str, suffix: str) -> Path:
        """Where something of that kind is kept."""
        return kept_at(self.folder, f"{self.network} {self.seed} {kind}", suffix)

    @property
    def data(self) -> Data:
        """Training and test set."""
        return NETWORKS[self.network].load(3_200 if self.quick else 60_000)

    def row(self, kind: str, model: keras.Model, counts: int, **more: Any) -> None:
        """Converts, measures accuracy, and keeps the row and the file."""
        tflite = tfc.convert(model, "int8" if kind.endswith(INT8) else "fp32")
        if kind.endswith(INT8):
            tflite = tfc.slim(tflite)
        tflite.save(self.file(kind, ".tflite"), overwrite=True)
        row = {
            "network": self.network, "seed": self.seed, "kind": kind, "multiply_adds": counts,
            "accuracy": accuracy(tflite, self.data), "bytes": len(tflite.content),
            "zip": zipped(tflite.content), **more,
        }  # fmt: skip
        keep(self.file(kind, ".json"), row)


def run(job: Job) -> None:
    network, kind = NETWORKS[job.network], job.variant
    size = network.batch_size
    last = kind if kind in (DENSE, CONTROL) else kind + INT8
    if job.file(last, ".json").exists():
        return
    x, y, *_ = job.data
    keras.utils.set_random_seed(job.seed)
    pool = pool_of(network, x, y, job.seed)
    if kind == DENSE:
        model = network.make()
        for epochs, rate in network.training:
            train(model, pool, 1 if job.quick else epochs, rate, job.seed, batch_size=size)
        model.save(job.file(DENSE, ".keras"))
        job.row(kind, model, tfc.complexity(model).multiply_adds)
        return
    model = keras.models.load_model(job.file(DENSE, ".keras"), compile=False)
    model.compile(jit_compile=False)
    pool = taught(network, pool, model)
    before, batch = math.nan, (x[:2_000], y[:2_000])
    if kind != CONTROL:
        model = network.variants[kind](model, batch)
        before = accuracy(tfc.convert(model), job.data)
    counts = tfc.complexity(model).multiply_adds
    epochs = 1 if job.quick else network.epochs
    train(model, pool, epochs, network.rate, job.seed, batch_size=size)
    job.row(kind, model, counts, before=before)
    if kind != CONTROL:
        samples = x[np.linspace(0, len(x) - 1, 300).round().astype(int)]
        qmodel = tfc.quantize_aware(model, calibration_data=samples)
        epochs = 1 if job.quick else QUANTIZED_EPOCHS
        callbacks = [tfc.QuantizationCallback()]
        train(qmodel, pool, epochs, QUANTIZED_RATE, job.seed, callbacks, size)
        job.row(kind + INT8, qmodel, counts)


def gather(jobs: Sequence[Job], runs: int) -> list[dict[str, Any]]:
    """The rows of all jobs, timed together, seed by seed, once nothing else runs."""
    rows: list[dict[str, Any]] = []
    groups = list(dict.fromkeys((job.network, job.seed) for job in jobs))
    for group in groups:
        own: list[dict[str, Any]] = []
        files: list[str] = []
        for job in (job for job in jobs if (job.network, job.seed) == group):
            for kind in (job.variant, job.variant + INT8):
                if job.file(kind, ".json").exists():
                    own.append(json.loads(job.file(kind, ".json").read_text()))
                    files.append(str(job.file(kind, ".tflite")))
        for row, timed in zip(own, tfc.benchmark(files, threads=[1], runs=runs).rows, strict=True):
            row["ms"] = timed.median_ms
        rows += own
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    heads = [
        *("network", "file", "seeds", "multiply-adds", "fewer", "before", "accuracy"),
        *("points from the control", "ms", "faster", "bytes", "smaller", "zip", "smaller zipped"),
    ]
    cells = []
    for network, kind in dict.fromkeys((r["network"], r["kind"]) for r in rows):
        found = [r for r in rows if (r["network"], r["kind"]) == (network, kind)]
        of = {(r["seed"], r["kind"]): r for r in rows if r["network"] == network}
        points = [100 * (r["accuracy"] - of[r["seed"], CONTROL]["accuracy"]) for r in found]
        before = np.mean([r.get("before", math.nan) for r in found])

        def times(key: str, found: Any = found, of: Any = of) -> float:
            return float(np.median([of[r["seed"], DENSE][key] / r[key] for r in found]))

        cells.append(
            [
                network, kind, len(found),
                f"{np.mean([r['multiply_adds'] for r in found]) / 1e6:.2f} M",
                f"{times('multiply_adds'):.2f}x", "-" if math.isnan(before) else f"{before:.1%}",
                f"{np.mean([r['accuracy'] for r in found]):.2%}",
                f"{np.mean(points):+.2f} ({min(points):+.2f} to {max(points):+.2f})",
                f"{np.median([r['ms'] for r in found]):.3f}", f"{times('ms'):.2f}x",
                f"{found[0]['bytes']:,}", f"{times('bytes'):.1f}x", f"{found[0]['zip']:,}",
                f"{times('zip'):.1f}x",
            ]
        )  # fmt: skip
    return markdown(heads, cells)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Points from the control over latency and over multiply-adds, two panels for each network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["network"] for row in rows))
    figure, axes = pyplot.subplots(len(names), 2, figsize=(11, 3.6 * len(names)), squeeze=False)
    for name, panels in zip(names, axes, strict=True):
        own = [row for row in rows if row["network"] == name]
        control = {row["seed"]: row["accuracy"] for row in own if row["kind"] == CONTROL}
        kinds = [k for k in dict.fromkeys(row["kind"] for row in own) if k not in (DENSE, CONTROL)]
        sizes = (("ms", 1, "ms on XNNPACK, one thread"), ("multiply_adds", 1e6, "M multiply-adds"))
        for panel, (key, unit, label) in zip(panels, sizes, strict=True):
            for title, chosen, mark in (
                (CONTROL, [CONTROL], "s"),
                ("smaller, float", [k for k in kinds if not k.endswith(INT8)], "o-"),
                ("smaller, int8", [k for k in kinds if k.endswith(INT8)], "^-"),
            ):
                points = []
                for kind in chosen:
                    found = [row for row in own if row["kind"] == kind]
                    off = [100 * (row["accuracy"] - control[row["seed"]]) for row in found]
                    middle = float(np.mean(off))
                    around = (middle - min(off), max(off) - middle)
                    points.append((np.median([r[key] for r in found]) / unit, middle, *around))
                x, y, *errors = zip(*sorted(points), strict=True) if points else ((), (), (), ())
                panel.errorbar(x, y, errors, fmt=mark, capsize=3, label=title)
            panel.set(title=name, xlabel=label, ylabel="points from the control")
            panel.set_xlim(left=0)
            panel.grid(alpha=0.3)
            panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--resume", metavar="DIR", help="keep finished rows here, and go on")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="jobs at a time")
    parser.add_argument("--seeds", type=int, default=1, help="how many (1)")
    parser.add_argument("--only", default="", help="only networks whose name holds this")
    parser.add_argument("--variants", default="", help="only variants whose name holds this")
    parser.add_argument("--plot", metavar="FILE", help="draw accuracy over latency")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.resume or temporary
        Path(folder).mkdir(parents=True, exist_ok=True)
        jobs = []
        for name in selected(NETWORKS, arguments.only):
            variants = selected(NETWORKS[name].variants, arguments.variants)
            for seed in range(1 if arguments.quick else arguments.seeds):
                for variant in (DENSE, CONTROL, *(variants[:1] if arguments.quick else variants)):
                    jobs.append(Job(name, seed, variant, arguments.quick, folder))
        context = multiprocessing.get_context("spawn")
        begun, done = time.monotonic(), 0
        for part in (
            [job for job in jobs if job.variant == DENSE],
            [job for job in jobs if job.variant != DENSE],
        ):
            # A process for each job, as each leaves memory behind.
            with context.Pool(arguments.workers, one_thread, maxtasksperchild=1) as pool:
                for _ in pool.imap_unordered(run, part):
                    done += 1
                    print(f"{done} of {len(jobs)}, {time.monotonic() - begun:.0f} s", flush=True)
        rows = gather(jobs, 10 if arguments.quick else 100)
    print(table(rows))
    if arguments.plot:
        plot(rows, arguments.plot)
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
