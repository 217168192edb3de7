"""Clustering: accuracy and zipped size, alone and with pruning and quantization, beside tfmot.

    TFCOMPRESS_DATA=... python examples/benchmarks/clustering.py --quick --seeds 1 --resume DIR

Fashion-MNIST, a depthwise-separable network. It is trained in float, then every row trains on from
there: as it is (the control), clustered, or pruned by half, clustered and quantized one after the
other, each stage for as long. All steps have the same data, optimizer (Adam), learning rates and
batches; tfmot clusters the same layers (all but the depthwise ones). Every test image goes through
the file on XNNPACK. "Points" are paired with the float model; "values": the most that any channel
of a clustered kernel holds in the file; "zeros": of these kernels; "packed": `tfc.pack` of the file
slimmed by `tfc.slim`. With `--resume DIR` every row is kept there as it is done, with its file, and
the same command goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tfmot_peer as tfmot
from common import benchmark_parser, fashion_mnist, finish, keep, kept_at, markdown, zipped

import tfcompress as tfc

BATCH = 128
RATE = 1e-3
FINE_RATE = 3e-4
SPARSITIES = (0.5, 0.8, 0.9)
FREQUENCY = 10
CLUSTERS = (16, 32)
CLUSTERED = ("Conv2D", "Dense")
FLOAT, CONTROL = "float", "float, trained on"

# What makes a row: a run -> the model in Keras and its file.
Made = Callable[["Run"], tuple[Any, bytes]]


class Run:
    """One seed: the data, and the float model that all begin from."""

    def __init__(self, seed: int, quick: bool, folder: Path) -> None:
        x, y, self.x_test, self.y_test = fashion_mnist()
        count = 6_400 if quick else 60_000
        self.x, self.y = x[:count], y[:count]
        self.samples = self.x[np.linspace(0, count - 1, 300).round().astype(int)]
        self.seed, self.epochs = seed, 1 if quick else 2
        self.steps = self.epochs * math.ceil(count / BATCH)
        # tfmot prunes at whole multiples of its frequency only: the last one is the end.
        self.pruned_at = self.steps // 2 // FREQUENCY * FREQUENCY
        self.folder = folder
        kept = folder / f"seed{seed}.keras"
        if kept.exists():
            self.source = keras.models.load_model(kept, compile=False)
            return
        keras.utils.set_random_seed(seed)
        self.source = tfc.models.mobilenet_small((28, 28, 1), 10)
        for rate, epochs in ((2e-3, 1),) if quick else ((2e-3, 4), (3e-4, 2)):
            self._fit(self.source, rate, epochs)
        self.source.save(kept.with_suffix(".part.keras"))
        os.replace(kept.with_suffix(".part.keras"), kept)

    def copy(self) -> keras.Model:
        """The float model anew."""
        keras.utils.set_random_seed(self.seed)
        return tfc.strip(self.source)

    def peer(self) -> Any:
        """It in tf_keras."""
        keras.utils.set_random_seed(self.seed)
        return tfmot.twin(self.source, self.x_test[:100])

    def fit(self, model: Any, rate: float = RATE, callbacks: Any = ()) -> Any:
        """Trains a stage, whose learning rate falls to 0."""
        if isinstance(model, keras.Model):
            schedule = keras.optimizers.schedules.CosineDecay(rate, self.steps)
            self._fit(model, schedule, self.epochs, callbacks)
        else:
            tfmot.compile_adam(model, tfmot.cosine(rate, self.steps))
            model.fit(self.x, self.y, BATCH, self.epochs, verbose=0, callbacks=list(callbacks))
        return model

    def _fit(self, model: Any, rate: Any, epochs: int, callbacks: Any = ()) -> None:
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        model.fit(self.x, self.y, BATCH, epochs, verbose=0, callbacks=list(callbacks))

    def row(self, method: str, by: str, make: Made) -> dict[str, Any]:
        """What came of it; made only where it is not kept from before."""
        kept = kept_at(self.folder, f"{self.seed} {method} {by}", ".json")
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
        return {
            "method": method,
            "by": by,
            "seed": self.seed,
            "accuracy": float((answers == self.y_test).mean()),
            "file_accuracy": float((in_file == self.y_test).mean()),
            "same": float((answers == in_file).mean()),
            "bytes": len(content),
            "zip": zipped(content),
            "packed": len(tfc.pack(tfc.slim(content).content)),
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


def methods() -> dict[tuple[str, str], Made]:
    """All rows: what is done, and by whom."""
    rows: dict[tuple[str, str], Made] = {
        (FLOAT, ""): lambda run: converted(run.source),
        (CONTROL, ""): lambda run: converted(run.fit(run.copy())),
    }
    for count in CLUSTERS:
        method = f"{count} clusters"
        rows[method, "tfcompress"] = clustered(count, False)
        rows[method, "tfcompress, per channel"] = clustered(count, True)
        rows[method, "tfmot"] = clustered_tfmot(count)
    for sparsity in SPARSITIES:
        method = f"pruned {sparsity:.0%}, {CLUSTERS[0]} clusters, int8"
        rows[method, "tfcompress"] = all_three(sparsity)
        rows[method, "tfcompress, per channel"] = all_three(sparsity, per_channel=True)
        rows[method, "tfcompress, distilled"] = all_three(sparsity, distilled=True)
        rows[method, "tfmot"] = all_three_tfmot(sparsity)
    return rows


def converted(model: keras.Model, precision: str = "fp32") -> tuple[Any, bytes]:
    return model, tfc.convert(model, precision).content


def with_file(make: Callable[[Run], Any], file_of: Callable[[Any], bytes]) -> Made:
    def made(run: Run) -> tuple[Any, bytes]:
        model = make(run)
        return model, file_of(model)

    return made


def clustered(count: int, per_channel: bool) -> Made:
    return lambda run: converted(
        tfc.strip(run.fit(tfc.cluster(run.copy(), count, per_channel=per_channel)))
    )


def clustered_tfmot(count: int) -> Made:
    return with_file(
        lambda run: tfmot.strip_clustering(run.fit(tfmot.cluster(run.peer(), count, CLUSTERED))),
        float_file,
    )


def all_three(sparsity: float, *, per_channel: bool = False, distilled: bool = False) -> Made:
    """Pruned, clustered, quantized; `distilled`: by what the float model says, in each stage."""

    def fit(run: Run, model: keras.Model, rate: float, callbacks: Any = ()) -> keras.Model:
        run.fit(tfc.distill(model, run.source) if distilled else model, rate, callbacks)
        return model

    def made(run: Run) -> tuple[Any, bytes]:
        schedule = tfc.PolynomialDecay(0.0, sparsity, 0, run.pruned_at, frequency=FREQUENCY)
        model = fit(run, run.copy(), RATE, [tfc.PruningCallback(schedule)])
        model = tfc.cluster(model, CLUSTERS[0], per_channel=per_channel)
        qmodel = tfc.quantize_aware(
            fit(run, model, FINE_RATE),
            calibration_data=run.samples,
            preserve=("sparsity", "clusters"),
        )
        return converted(fit(run, qmodel, FINE_RATE, [tfc.QuantizationCallback()]), "int8")

    return made


def all_three_tfmot(sparsity: float) -> Made:
    def made(run: Run) -> Any:
        schedule = tfmot.polynomial(0.0, sparsity, run.pruned_at, FREQUENCY)
        pruned = tfmot.wrap_layers(run.peer(), schedule, CLUSTERED)
        model = tfmot.strip(run.fit(pruned, RATE, [tfmot.callback()]))
        model = run.fit(tfmot.cluster(model, CLUSTERS[0], CLUSTERED, zeros=True), FINE_RATE)
        return run.fit(tfmot.preserve_quantize_aware(tfmot.strip_clustering(model)), FINE_RATE)

    return with_file(made, tfmot.int8_file)


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["model", "by", "accuracy in Keras", "of its file", "points from float", "same answer",
             "values", "zeros", "bytes", "zip", "packed", "smaller zipped",
             "smaller packed"]  # fmt: skip
    start = {row["seed"]: row["accuracy"] for row in rows if row["method"] == FLOAT}
    whole = next(row["bytes"] for row in rows if row["method"] == FLOAT)
    cells = []
    for method, by in dict.fromkeys((row["method"], row["by"]) for row in rows):
        found = [row for row in rows if (row["method"], row["by"]) == (method, by)]
        points = [100 * (row["file_accuracy"] - start[row["seed"]]) for row in found]
        cells.append(
            [
                method,
                by,
                f"{np.mean([row['accuracy'] for row in found]):.2%}",
                f"{np.mean([row['file_accuracy'] for row in found]):.2%}",
                f"{np.mean(points):+.2f} ({min(points):+.2f} to {max(points):+.2f})",
                f"{np.mean([row['same'] for row in found]):.2%}",
                max(row["values"] for row in found),
                f"{np.mean([row['zeros'] for row in found]):.1%}",
                f"{found[0]['bytes']:,}",
                f"{found[0]['zip']:,}",
                f"{found[0]['packed']:,}",
                f"{whole / found[0]['zip']:.1f}x",
                f"{whole / found[0]['packed']:.1f}x",
            ]
        )
    return markdown(heads, cells)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, help="how many (3; quick: 1)")
    parser.add_argument("--resume", metavar="DIR", help="keep finished rows here, and go on")
    parser.add_argument("--only", default="", help="the float model, and rows that hold this")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.resume or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(arguments.seeds or (1 if arguments.quick else 3)):
            run = Run(seed, arguments.quick, folder)
            for (method, by), make in methods().items():
                if method != FLOAT and arguments.only not in f"{method}, {by}":
                    continue
                rows.append(run.row(method, by, make))
                print(json.dumps(rows[-1]), flush=True)
            print(table(rows), flush=True)
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
