"""tfc.pack beside zip, zstandard, xz and brotli, on shipped files and on networks trained here.

    TFCOMPRESS_DATA=... python examples/benchmarks/packing.py [--quick]

Files: the models of MLPerf Tiny as shipped; a depthwise-separable network trained on Fashion-MNIST,
dense, pruned to 80 % zeros while it trains, and then with 16 values for each layer's other weights
(k-means, not trained on); and a convolutional network of 1.1 million parameters, not trained: its
initial weights, the 90 % smallest zero, 16 values for the rest. brotli is left out where it is not
installed.
"""

from __future__ import annotations

import importlib
import lzma
import time
import zlib
from typing import Any

import keras
import numpy as np
import zstandard
from common import data_file, fashion_mnist, finish, markdown, options
from scipy.cluster.vq import kmeans2

import tfcompress as tfc

SHIPPED = ("vww_96_float", "vww_96_int8", "resnet8_cifar10_int8")


def trained(quick: bool) -> dict[str, bytes]:
    """Files of the small network."""
    x, y, _, _ = fashion_mnist()
    count, epochs = (5000, 1) if quick else (60000, 3)
    files: dict[str, bytes] = {}
    keras.utils.set_random_seed(0)
    model = tfc.models.mobilenet_small((28, 28, 1), classes=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:count], y[:count], batch_size=64, epochs=epochs, verbose=0)
    add(files, "40k", model, x)
    steps = -(-count // 64) * epochs
    pruning = tfc.PruningCallback(tfc.PolynomialDecay(0.3, 0.8, 0, steps * 2 // 3, frequency=20))
    model.fit(x[:count], y[:count], batch_size=64, epochs=epochs, callbacks=[pruning], verbose=0)
    add(files, "40k pruned", model, x)
    cluster(model)
    add(files, "40k pruned, clustered", model, x)
    return files


def add(files: dict[str, bytes], name: str, model: Any, x: np.ndarray) -> None:
    files[f"{name}, float"] = tfc.convert(model, "fp32").content
    files[f"{name}, int8"] = tfc.convert(model, "int8", representative_data=x[:200]).content


def cluster(model: Any, values: int = 16, sparsity: float = 0.0) -> None:
    """Gives each layer's weights, the zeros excepted, few values."""
    for layer in model.layers:
        if getattr(layer, "kernel", None) is None:
            continue
        kernel = layer.kernel.numpy()
        if sparsity:
            kernel[abs(kernel) < np.quantile(abs(kernel), sparsity)] = 0
        kept = kernel[kernel != 0].astype("float64")
        start = np.quantile(kept, (np.arange(values) + 0.5) / values)
        centres, labels = kmeans2(kept, start, minit="matrix")
        kernel[kernel != 0] = centres[labels]
        layer.kernel.assign(kernel)


def untrained() -> dict[str, bytes]:
    """Files of the large network."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    for filters, stride in ((32, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 1)):
        x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    files = {"1.1M, float": tfc.convert(model, "fp32").content}
    cluster(model, 16, 0.9)
    data = np.random.default_rng(0).random((30, 32, 32, 3), "float32")
    int8 = tfc.convert(model, "int8", representative_data=data).content
    files["1.1M pruned, clustered, int8"] = int8
    return files


def measure(name: str, content: bytes) -> dict[str, Any]:
    start = time.perf_counter()
    container = tfc.pack(content)
    middle = time.perf_counter()
    assert tfc.unpack(container) == content
    end = time.perf_counter()
    row: dict[str, Any] = {
        "file": name,
        "raw": len(content),
        "zip -9": len(zlib.compress(content, 9)),
        "zstd -19": len(zstandard.ZstdCompressor(level=19).compress(content)),
        "xz -9": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
    }
    try:
        row["brotli"] = len(importlib.import_module("brotli").compress(content, quality=11))
    except ImportError:
        row["brotli"] = None
    row["tfc.pack"] = len(container)
    row["slim and packed"] = len(tfc.pack(tfc.slim(content).content))
    return row | {"pack s": middle - start, "unpack s": end - middle}


def main() -> None:
    arguments = options(__doc__.splitlines()[0])
    files = {name: data_file(f"mlperf_tiny/{name}.tflite").read_bytes() for name in SHIPPED}
    files |= trained(arguments.quick)
    if not arguments.quick:
        files |= untrained()
    rows = [measure(name, content) for name, content in files.items()]
    heads = [head for head in rows[0] if rows[0][head] is not None]
    heads.insert(heads.index("tfc.pack") + 1, "to zip")
    for row in rows:
        row["to zip"] = f"{row['tfc.pack'] / row['zip -9'] - 1:+.1%}"

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.1f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    print(markdown(heads, [[cell(row[head]) for head in heads] for row in rows]))
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
