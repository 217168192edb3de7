"""Clustering: accuracy and zipped size, alone and with pruning and quantization, beside tfmot.

    TFCOMPRESS_DATA=... python examples/benchmarks/clustering.py [--quick] [--resume DIR] \
        [--network NAME] [--only ROWS] [--seeds N]

Fashion-MNIST. A network (depthwise-separable with 40,000 parameters, or the convolutional one of
Keras's MNIST example with 1.2 million) is trained in float, then every row trains on from there, as
long in all: as it is (the control), clustered, or pruned, clustered and quantized one after the
other; "shrunk": `tfc.shrink` took half of the multiply-adds first. All rows have the same data,
optimizer (Adam), learning rates and batches. tfmot prunes and clusters the same layers as we (the
depthwise ones are not clustered, and by tfmot not pruned); "tfcompress" prunes by one threshold for
the whole network, has one codebook for a kernel or, "per channel", one for each output channel;
"distilled": half of the loss is that of `tfc.distill` from the float network. Every test image goes
through the file on XNNPACK. "Points" are paired with the float model; "values": the most that any
channel of a clustered kernel holds in the file; "zeros": of these kernels; "slim": after
`tfc.slim`, also for tfmot's; "packed": `tfc.pack` of the slim file; "smaller": than the float file
as it is. With `--resume DIR` every row is kept there as it is done, with its file, and the
same command goes on where it was. A row takes about five minutes of one core.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tfmot_peer as tfmot
from common import (
    benchmark_parser,
    fashion_mnist,
    finish,
    keep,
    keep_model,
    kept_at,
    markdown,
    selected,
    zipped,
)

import tfcompress as tfc

BATCH = 128
RATE = 6e-3  # of pruning, and of the control
FINE_RATE = 5e-4
FREQUENCY = 10
CLUSTERS = 16
CLUSTERED = ("Conv2D", "Dense")
FLOAT, CONTROL = "float", "float, trained on"


def example_network() -> keras.Model:
    """The convolutional network of Keras's example "Simple MNIST convnet" of 1.2 M parameters."""
    layers = keras.layers
    x = inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(layers.Conv2D(32, 3)(x))
    x = layers.ReLU()(layers.Conv2D(64, 3)(x))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.ReLU()(layers.Dense(128)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


@dataclass(frozen=True)
class Network:
    """A network and its training.

    Attributes:
        make: builds it.
        training: (epochs, learning rate) in float, in turns.
        pruned, clustered, quantized: epochs of the three stages.
        rate: the learning rate that pruning begins with.
        alone: whether there are rows for clustering alone, and for a codebook per channel.
        distilled: whether the float model teaches our rows.
        sparsities: the shares of zeros with which it is pruned.
        shrunk_sparsities: those behind `tfc.shrink`.
    """

    make: Callable[[], keras.Model]
    training: tuple[tuple[int, float], ...]
    pruned: int
    clustered: int
    quantized: int
    rate: float
    alone: bool
    distilled: bool
    sparsities: tuple[float, ...]
    shrunk_sparsities: tuple[float, ...]


NETWORKS = {
    "depthwise-separable, 40k": Network(
        lambda: tfc.models.mobilenet_small((28, 28, 1), 10), ((4, 2e-3), (2, 3e-4)), 6, 2, 2, 6e-3,
        True, False, (0.8, 0.9), (0.6, 0.75, 0.85),
    ),
    "Keras's example, 1.2M": Network(
        example_network, ((3, 1e-3),), 3, 1, 1, 1e-3, False, True, (0.9,), ()
    ),
}  # fmt: skip

# What makes a row: a run -> the model in Keras and its file.
Made = Callable[["Run"], tuple[Any, bytes]]


class Run:
    """One network with one seed: the data, and the float model that all rows begin from."""

    def __init__(self, name: str, seed: int, quick: bool, folder: Path) -> None:
        x, y, self.x_test, self.y_test = fashion_mnist()
        count = 6_400 if quick else 60_000
        self.x, self.y = x[:count], y[:count]
        self.samples = self.x[np.linspace(0, count - 1, 300).round().astype(int)]
        self.name, self.seed, self.folder = name, seed, folder
        own = NETWORKS[name]
        if quick:
            own = replace(own, training=((1, 2e-3),), pruned=2, clustered=1, quantized=1)
        self.network = own
        self.epochs = own.pruned + own.clustered + own.quantized
        kept = self.file("float", ".keras")
        if kept.exists():
            self.source = keras.models.load_model(kept, compile=False)
            return
        keras.utils.set_random_seed(seed)
        self.source = own.make()
        for epochs, rate in own.training:
            self._fit(self.source, rate, epochs)
        keep_model(self.source, kept)

    def file(self, kind: str, suffix: str) -> Path:
        """Where something of this network and seed is kept."""
        return kept_at(self.folder, f"{self.name} {self.seed} {kind}", suffix)

    def steps(self, epochs: int) -> int:
        """Of training."""
        return epochs * math.ceil(len(self.x) / BATCH)

    def pruned_at(self, epochs: int) -> int:
        """The step at which all zeros are there: half of the way."""
        # tfmot prunes at whole multiples of its frequency only.
        return self.steps(epochs) // 2 // FREQUENCY * FREQUENCY

    def copy(self) -> keras.Model:
        """The float model anew."""
        keras.utils.set_random_seed(self.seed)
        return tfc.strip(self.source)

    def peer(self) -> Any:
        """It in tf_keras."""
        keras.utils.set_random_seed(self.seed)
        return tfmot.twin(self.source, self.x_test[:100])

    def said(self) -> tfc.CachedTeacher:
        """What the float model says of the training images."""
        path = self.file("said", ".npy")
        if not path.exists():
            tfc.cache_teacher(self.source, self.x, path)
        return tfc.CachedTeacher(path)

    def fit(self, model: Any, epochs: int, rate: float, callbacks: Any = ()) -> Any:
        """Trains a stage, whose learning rate falls to 0."""
        if isinstance(model, keras.Model):
            schedule = keras.optimizers.schedules.CosineDecay(rate, self.steps(epochs))
            self._fit(model, schedule, epochs, callbacks)
        else:
            tfmot.compile_adam(model, tfmot.cosine(rate, self.steps(epochs)))
            model.fit(self.x, self.y, BATCH, epochs, verbose=0, callbacks=list(callbacks))
        return model

    def _fit(self, model: Any, rate: Any, epochs: int, callbacks: Any = ()) -> None:
        # Without XLA: on these processors it takes twice the time.
        model.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", jit_compile=False
        )
        model.fit(self.x, self.y, BATCH, epochs, verbose=0, callbacks=list(callbacks))

    def row(self, method: str, by: str, make: Made) -> dict[str, Any]:
        """What came of it; made only where it is not kept from before."""
        kept = self.file(f"{method} {by}", ".json")
        if kept.exists():
            return json.loads(kept.read_text())
        begun = time.process_time()
        model, content = make(self)
        row = self._row(method, by, model, content)
        row["cpu_s"] = time.process_time() - begun
        kept.with_suffix(".tflite").write_bytes(content)
        keep(kept, row)
        return row

    def _row(self, method: str, by: str, model: Any, content: bytes) -> dict[str, Any]:
        tflite = tfc.TFLiteModel(content)
        answers = np.asarray(model.predict(self.x_test, batch_size=250, verbose=0)).argmax(-1)
        in_file = tflite.predict(self.x_test).argmax(-1)
        slim = tfc.slim(content).content
        return {
            "network": self.name,
            "method": method,
            "by": by,
            "seed": self.seed,
            "accuracy": float((answers == self.y_test).mean()),
            "file_accuracy": float((in_file == self.y_test).mean()),
            "same": float((answers == in_file).mean()),
            "bytes": len(content),
            "zip": zipped(content),
            "slim_zip": zipped(slim),
            "packed": len(tfc.pack(slim)),
            **kernels(tflite),
        }


def kernels(tflite: tfc.TFLiteModel) -> dict[str, Any]:
    """Values in a channel and zeros of the kernels that are clustered, as the file stores them."""
    most = zeros = size = 0
    graph = tflite.parsed.subgraphs[0]
    for operator in graph.operators:
        if operator.name not in ("CONV_2D", "FULLY_CONNECTED"):
            continue
        values = tflite.parsed.data(graph.tensors[operator.inputs[1]])
        rows = values.reshape(len(values), -1)
        most = max(most, *(len(np.unique(row)) for row in rows))
        zeros, size = zeros + int((rows == 0).sum()), size + rows.size
    return {"values": most, "zeros": zeros / size}


def float_file(model: Any) -> bytes:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def methods(network: Network, quick: bool) -> dict[tuple[str, str], Made]:
    """All rows of a network, or few: what is done, and by whom."""
    rows: dict[tuple[str, str], Made] = {
        (FLOAT, ""): lambda run: converted(run.source),
        (CONTROL, ""): lambda run: converted(run.fit(run.copy(), run.epochs, run.network.rate)),
    }
    if network.alone:
        method = f"{CLUSTERS} clusters"
        rows[method, "tfcompress"] = clustered(False)
        rows[method, "tfcompress, per channel"] = clustered(True)
        rows[method, "tfmot"] = clustered_tfmot
    ours = "tfcompress, distilled" if network.distilled else "tfcompress"
    for sparsity in network.sparsities[: 1 if quick else None]:
        method = f"pruned {sparsity:.0%}, {CLUSTERS} clusters, int8"
        rows[method, ours] = all_three(sparsity, distilled=network.distilled)
        if network.alone:
            rows[method, "tfcompress, per channel"] = all_three(sparsity, per_channel=True)
        rows[method, "tfmot"] = all_three_tfmot(sparsity)
    for sparsity in network.shrunk_sparsities[: 1 if quick else None]:
        method = f"shrunk, pruned {sparsity:.0%}, {CLUSTERS} clusters, int8"
        rows[method, ours] = all_three(sparsity, shrunk=0.5, distilled=network.distilled)
    return rows


def converted(model: keras.Model, precision: str = "fp32") -> tuple[Any, bytes]:
    return model, tfc.convert(model, precision).content


def clustered(per_channel: bool) -> Made:
    def made(run: Run) -> tuple[Any, bytes]:
        model = tfc.cluster(run.copy(), CLUSTERS, per_channel=per_channel)
        return converted(tfc.strip(run.fit(model, run.epochs, FINE_RATE)))

    return made


def clustered_tfmot(run: Run) -> tuple[Any, bytes]:
    model = tfmot.cluster(run.peer(), CLUSTERS, CLUSTERED)
    model = tfmot.strip_clustering(run.fit(model, run.epochs, FINE_RATE))
    return model, float_file(model)


def all_three(
    sparsity: float, *, per_channel: bool = False, distilled: bool = False, shrunk: float = 0.0
) -> Made:
    """Pruned, clustered, quantized; the float model may teach each stage.

    Where a share of the multiply-adds is taken away first, it has half of pruning's epochs.
    """

    def made(run: Run) -> tuple[Any, bytes]:
        network, model = run.network, run.copy()

        def fit(model: Any, epochs: int, rate: float, callbacks: Any = ()) -> keras.Model:
            learner = tfc.distill(model, run.said()) if distilled else model
            run.fit(learner, epochs, rate, callbacks)
            return model

        pruned = network.pruned
        if shrunk:
            model = tfc.shrink(
                model, shrunk, importance="taylor", data=(run.x[:2_000], run.y[:2_000]),
                round_to=4, loss="sparse_categorical_crossentropy",
            )  # fmt: skip
            pruned = pruned // 2
            model = fit(model, network.pruned - pruned, network.rate)
        schedule = tfc.PolynomialDecay(0.0, sparsity, 0, run.pruned_at(pruned), frequency=FREQUENCY)
        pruning = tfc.PruningCallback(schedule, pooling="global")
        model = fit(model, pruned, network.rate, [pruning])
        model = tfc.cluster(model, CLUSTERS, per_channel=per_channel)
        qmodel = tfc.quantize_aware(
            fit(model, network.clustered, FINE_RATE),
            calibration_data=run.samples,
            preserve=("sparsity", "clusters"),
        )
        fit(qmodel, network.quantized, FINE_RATE, [tfc.QuantizationCallback()])
        return converted(qmodel, "int8")

    return made


def all_three_tfmot(sparsity: float) -> Made:
    def made(run: Run) -> Any:
        network = run.network
        schedule = tfmot.polynomial(0.0, sparsity, run.pruned_at(network.pruned), FREQUENCY)
        model = tfmot.wrap_layers(run.peer(), schedule, CLUSTERED)
        model = tfmot.strip(run.fit(model, network.pruned, network.rate, [tfmot.callback()]))
        model = tfmot.cluster(model, CLUSTERS, CLUSTERED, zeros=True)
        model = tfmot.strip_clustering(run.fit(model, network.clustered, FINE_RATE))
        model = run.fit(tfmot.preserve_quantize_aware(model), network.quantized, FINE_RATE)
        return model, tfmot.int8_file(model)

    return made


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["network", "model", "by", "accuracy in Keras", "of its file", "points from float",
             "same answer", "values", "zeros", "bytes", "zip", "slim, zip", "packed",
             "smaller zipped", "smaller slim, zipped", "smaller packed"]  # fmt: skip
    cells = []
    for network, method, by in dict.fromkeys((r["network"], r["method"], r["by"]) for r in rows):
        own = [row for row in rows if row["network"] == network]
        start = {row["seed"]: row["accuracy"] for row in own if row["method"] == FLOAT}
        whole = next(row["bytes"] for row in own if row["method"] == FLOAT)
        found = [row for row in own if (row["method"], row["by"]) == (method, by)]
        points = [100 * (row["file_accuracy"] - start[row["seed"]]) for row in found]
        cells.append(
            [
                network, method, by,
                f"{np.mean([row['accuracy'] for row in found]):.2%}",
                f"{np.mean([row['file_accuracy'] for row in found]):.2%}",
                f"{np.mean(points):+.2f} ({min(points):+.2f} to {max(points):+.2f})",
                f"{np.mean([row['same'] for row in found]):.2%}",
                max(row["values"] for row in found),
                f"{np.mean([row['zeros'] for row in found]):.1%}",
                *(f"{found[0][key]:,}" for key in ("bytes", "zip", "slim_zip", "packed")),
                *(f"{whole / found[0][key]:.1f}x" for key in ("zip", "slim_zip", "packed")),
            ]
        )  # fmt: skip
    return markdown(heads, cells)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many (1)")
    parser.add_argument("--resume", metavar="DIR", help="keep finished rows here, and go on")
    parser.add_argument("--network", default="", help="only networks whose name holds this")
    parser.add_argument("--only", default="", help="the float model, and rows that hold this")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.resume or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names = selected(NETWORKS, arguments.network)
        for name in names[:1] if arguments.quick else names:
            for seed in range(arguments.seeds):
                run = Run(name, seed, arguments.quick, folder)
                for (method, by), make in methods(NETWORKS[name], arguments.quick).items():
                    if method != FLOAT and arguments.only not in f"{method}, {by}":
                        continue
                    rows.append(run.row(method, by, make))
                    print(json.dumps(rows[-1]), flush=True)
                print(table(rows), flush=True)
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
