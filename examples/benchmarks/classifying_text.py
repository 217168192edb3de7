"""A Transformer that classifies texts, in every precision and with half of its layers.

    TFCOMPRESS_DATA=... python examples/benchmarks/classifying_text.py [--quick] [--resume DIR]

AG News (10,001 texts of 64 words to train on, 7,600 to test on, 4 classes), a BERT-style encoder of
four layers of 128 channels. The float model is converted to each precision; it is trained on, for
the scheme "int8-matmul" and as the control; and every second layer is taken out by
`tfc.drop_layers` and what is left trained on, alone and by `tfc.distill` (logits and hidden states,
as in DistilBERT). All test texts go through every file on XNNPACK: "same" is the share whose class
is that of the Keras model that the file was made of; "points" are paired with the float model's
accuracy, of the same seed. Latency: one thread, batch 1, files of a seed taking turns; "faster" is
against the float file. With `--resume`, finished rows are kept in DIR. Without AG News,
scikit-learn's digits are read as texts of 64 grey values. A seed takes about half an hour of one
core.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import benchmark_parser, finish, keep, keep_model, kept_at, markdown, zipped
from pruning_text import LENGTH, Data, load
from quantization import one_thread

import tfcompress as tfc

VOCABULARY, WIDTH, HEADS, BLOCKS = 4_000, 128, 4, 4
EPOCHS, RATE, BATCH = 3, 7e-4, 64
MORE_EPOCHS, MORE_RATE = 2, 2e-4  # of what begins with the trained model
HALF_EPOCHS, HALF_RATE = 3, 5e-4
FLOAT = "float"
HINTED = {"logits": 1.0, "hints": 0.1}
Made = Callable[["Run"], tuple[keras.Model, tfc.TFLiteModel]]


class Run:
    """One seed: the data, and the float model that all begin from."""

    def __init__(self, seed: int, data: Data, quick: bool, folder: Path) -> None:
        # Words are numbered by how often they come; 1 is any rare one.
        self.x, self.x_test = (np.where(x < VOCABULARY, x, 1) for x in (data[0], data[2]))
        self.y, self.y_test = data[1], data[3]
        self.seed, self.quick, self.folder = seed, quick, folder
        self.samples = self.x[np.linspace(0, len(self.x) - 1, 300).round().astype(int)]
        self.source = self.model("trained", self._trained)

    def model(self, name: str, make: Callable[[], keras.Model]) -> keras.Model:
        """A trained model, made only where it is not kept from before."""
        kept = kept_at(self.folder, f"{self.seed} {name}", ".keras")
        if not kept.exists():
            keras.utils.set_random_seed(self.seed)
            keep_model(make(), kept)
        return keras.models.load_model(kept, compile=False)

    def fit(self, model: Any, epochs: int, rate: float, callbacks: Any = ()) -> Any:
        """Trains; the learning rate falls to 0."""
        epochs = 1 if self.quick else epochs
        steps = epochs * math.ceil(len(self.x) / BATCH)
        schedule = keras.optimizers.schedules.CosineDecay(
            rate / 20, steps, warmup_target=rate, warmup_steps=steps // 20
        )
        # XLA doubles the training time of such a model on a CPU.
        model.compile(
            keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", jit_compile=False
        )
        model.fit(self.x, self.y, BATCH, epochs, verbose=0, callbacks=list(callbacks))
        return model

    def _trained(self) -> keras.Model:
        model = tfc.models.bert_encoder(
            VOCABULARY, LENGTH, int(self.y.max()) + 1, width=WIDTH, heads=HEADS, blocks=BLOCKS,
            pooling="mean", dropout=0.2,
        )  # fmt: skip
        return self.fit(model, EPOCHS, RATE)

    def half(self, distilled: bool) -> keras.Model:
        """Every second layer taken out, the rest trained on."""

        def make() -> keras.Model:
            blocks = [f"block_{number}_*" for number in range(2, BLOCKS + 1, 2)]
            student = tfc.drop_layers(self.source, blocks, data=self.x[:1_000])
            model: Any = student
            if distilled:
                # What a layer that is left gives is what the one behind it gave.
                pairs = [(f"block_{n - 1}_ffn_norm", f"block_{n}_ffn_norm")
                         for n in range(2, BLOCKS + 1, 2)]  # fmt: skip
                model = tfc.distill(
                    student, self.source, method=HINTED, pairs={"hints": pairs}, alpha=0.5
                )
            self.fit(model, HALF_EPOCHS, HALF_RATE)
            return student

        return self.model(f"half {distilled}", make)

    def row(self, method: str, make: Made) -> dict[str, Any]:
        """What came of it; made only where it is not kept from before."""
        kept = kept_at(self.folder, f"{self.seed} {method}", ".json")
        if kept.exists():
            return json.loads(kept.read_text())
        model, tflite = make(self)
        tflite.save(self.file(method), overwrite=True)
        ours = np.asarray(model.predict(self.x_test, batch_size=100, verbose=0)).argmax(-1)
        in_file = np.asarray(tflite.predict(self.x_test)).argmax(-1)
        row = {
            "method": method, "seed": self.seed, "parameters": model.count_params(),
            "accuracy": float((in_file == self.y_test).mean()),
            "same": float((in_file == ours).mean()), "bytes": len(tflite.content),
            "zip": zipped(tflite.content),
        }  # fmt: skip
        keep(kept, row)
        return row

    def file(self, method: str) -> Path:
        """Where its file is kept."""
        return kept_at(self.folder, f"{self.seed} {method}", ".tflite")


def converted(precision: str, of: Callable[[Run], keras.Model] = lambda run: run.source) -> Made:
    def made(run: Run) -> tuple[keras.Model, tfc.TFLiteModel]:
        model = of(run)
        samples = run.samples if precision.startswith("int8") else None
        return model, tfc.convert(model, precision, representative_data=samples)

    return made


def trained_on(run: Run) -> tuple[keras.Model, tfc.TFLiteModel]:
    keras.utils.set_random_seed(run.seed)
    model = run.fit(tfc.strip(run.source), MORE_EPOCHS, MORE_RATE)
    return model, tfc.convert(model)


def quantized(of: Callable[[Run], keras.Model]) -> Made:
    def made(run: Run) -> tuple[keras.Model, tfc.TFLiteModel]:
        keras.utils.set_random_seed(run.seed)
        model = tfc.quantize_aware(of(run), "int8-matmul", calibration_data=run.samples)
        run.fit(model, MORE_EPOCHS, MORE_RATE, [tfc.QuantizationCallback()])
        return model, tfc.convert(model, "int8-matmul")

    return made


METHODS: dict[str, Made] = {
    FLOAT: converted("fp32"),
    "float, trained on": trained_on,
    "fp16": converted("fp16"),
    "dynamic": converted("dynamic"),
    "weight-int8": converted("weight-int8"),
    "int8, post-training": converted("int8"),
    "int8-matmul, post-training": converted("int8-matmul"),
    "int8-matmul, trained": quantized(lambda run: run.source),
    "half of the layers": converted("fp32", lambda run: run.half(False)),
    "half, distilled": converted("fp32", lambda run: run.half(True)),
    "half, distilled, dynamic": converted("dynamic", lambda run: run.half(True)),
    "half, distilled, int8-matmul": converted("int8-matmul", lambda run: run.half(True)),
}


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["file", "seeds", "parameters", "accuracy", "points from float", "same as Keras", "ms",
             "faster", "bytes", "smaller", "zip"]  # fmt: skip
    of = {(row["seed"], row["method"]): row for row in rows}
    cells = []
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [row for row in rows if row["method"] == method]
        base = [of[row["seed"], FLOAT] for row in found]
        points = [100 * (r["accuracy"] - b["accuracy"]) for r, b in zip(found, base, strict=True)]
        faster = np.median([b["ms"] / r["ms"] for r, b in zip(found, base, strict=True)])
        cells.append(
            [
                method, len(found), f"{found[0]['parameters']:,}",
                f"{np.mean([r['accuracy'] for r in found]):.2%}",
                f"{np.mean(points):+.2f} ({min(points):+.2f} to {max(points):+.2f})",
                f"{np.mean([r['same'] for r in found]):.2%}",
                f"{np.median([r['ms'] for r in found]):.3f}", f"{faster:.2f}x",
                f"{found[0]['bytes']:,}", f"{base[0]['bytes'] / found[0]['bytes']:.1f}x",
                f"{found[0]['zip']:,}",
            ]
        )  # fmt: skip
    return markdown(heads, cells)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--resume", metavar="DIR", help="keep finished rows here, and go on")
    arguments = parser.parse_args()
    one_thread()
    source, data = load()
    if arguments.quick:
        data = (data[0][:1_280], data[1][:1_280], data[2][:500], data[3][:500])
    rows: list[dict[str, Any]] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.resume or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(1 if arguments.quick else arguments.seeds):
            run = Run(seed, data, arguments.quick, folder)
            own = []
            for method, make in METHODS.items():
                own.append(run.row(method, make))
                spent = time.monotonic() - begun
                print(
                    f"seed {seed}: {method}: {own[-1]['accuracy']:.2%}, {spent:.0f} s", flush=True
                )
            files = [str(run.file(method)) for method in METHODS]
            times = tfc.benchmark(files, threads=[1], runs=20 if arguments.quick else 200).rows
            rows += [row | {"ms": t.median_ms} for row, t in zip(own, times, strict=True)]
    print(f"\n{source}: {len(data[0]):,} to train on, {len(data[2]):,} to test on\n")
    print(table(rows))
    finish({"data": source, "rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
