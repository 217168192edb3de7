"""What the ready recipes make of a network trained on Fashion-MNIST.

Each of `small`, `fast` and `balanced` begins with the same float weights; all test images go
through the files. Latency is measured in turns on one thread.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import keras
from common import benchmark_parser, fashion_mnist, finish, markdown

import tfcompress as tfc


def trained(x: Any, y: Any, epochs: int) -> Any:
    keras.utils.set_random_seed(0)
    model = tfc.models.mobilenet_small((28, 28, 1), classes=10)
    rate = keras.optimizers.schedules.CosineDecay(6e-3, epochs * math.ceil(len(x) / 128))
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return model


def main() -> None:
    parser = benchmark_parser(__doc__ or "")
    parser.add_argument("--images", type=int, help="to train on; 60,000, or 4,000 with --quick")
    parser.add_argument("--epochs", type=float, default=1.0, help="times the recipes' epochs")
    options = parser.parse_args()
    x, y, x_test, y_test = fashion_mnist()
    count = options.images or (4_000 if options.quick else len(x))
    x, y = x[:count], y[:count]
    model = trained(x, y, 2 if options.quick else 6)
    scale = 0.2 if options.quick else options.epochs
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float.tflite"
        tfc.convert(model, "fp32", path=plain)
        files = {"float": plain}
        for name in ("small", "fast", "balanced"):
            pipeline = tfc.Pipeline.load(name).scaled(scale)
            done = pipeline.run(
                model, (x, y), Path(folder) / name, validation_data=(x_test, y_test)
            )
            files[name] = next(path for path in done.files if path.suffix == ".tflite")
            found[name] = done.report.to_dict()
        timed = tfc.benchmark(list(files.values()), threads=[1], runs=40)
        scores = {n: tfc.evaluate(f, (x_test, y_test))["accuracy"] for n, f in files.items()}
        for (name, path), row in zip(files.items(), timed.rows, strict=True):
            sizes = tfc.TFLiteModel(path).sizes
            packed = len(tfc.pack(tfc.slim(path).content))
            points = 100 * (scores[name] - scores["float"])
            rows.append(
                [
                    name, f"{scores[name]:.2%}", f"{points:+.2f}", f"{sizes.raw:,}",
                    f"{sizes.gzip:,}", f"{packed:,}", f"{row.median_ms:.3f}",
                ]
            )  # fmt: skip
    heads = ["recipe", "accuracy", "points from float", "bytes", "zip", "slim and packed", "ms"]
    print(markdown(heads, rows))
    finish({"images": count, "rows": rows, "reports": found}, options.out)


if __name__ == "__main__":
    main()
