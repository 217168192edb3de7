"""Quantization-aware training: what is trained and what ships, beside tfmot in the same run.

    TFCOMPRESS_DATA=... python examples/benchmarks/quantization.py [--quick] [--resume DIR]

Each network is trained in float (the ResNet-8 of MLPerf Tiny comes trained), then quantized and
trained on for as long by each method; every test image goes through the model in Keras and through
its file on XNNPACK. "Points" are paired with the float model that the training began from; the
float network trained on as long as the others is the control. "Identical": the share of output
values that are the same in steps of the file's output; "largest": the largest difference of one.
With `--resume`, finished networks are kept in DIR.
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
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tfmot_peer as tfmot
from common import (
    benchmark_parser,
    data_file,
    fashion_mnist,
    finish,
    keep,
    markdown,
    selected,
    zipped,
)

import tfcompress as tfc

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
W4_EPOCHS = 3
FLOAT, CONTROL, PTQ = "float", "float, trained on", "int8, post-training"
OURS, OURS_W4, TFMOT = "int8, tfcompress", "int8-w4, tfcompress", "int8, tfmot"


# -- the networks: data, float training, a tf_keras twin


def fashion(images: int) -> Data:
    x, y, x_test, y_test = fashion_mnist()
    return x[:images], y[:images], x_test, y_test


def cifar10(images: int) -> Data:
    with np.load(data_file("cifar10_20k.npz")) as data:
        x, y = data["x_train"].astype("float32"), data["y_train"].reshape(-1)
        return x[:images], y[:images], data["x_test"].astype("float32"), data["y_test"].reshape(-1)


def spoken_digits(images: int) -> Data:
    with np.load(data_file("spoken_digits_logmel.npz")) as data:
        x, y, test = data["x"].astype("float32") / 10, data["y"], data["is_test"].astype(bool)
    return x[~test][:images], y[~test][:images], x[test], y[test]


def ag_news(images: int) -> Data:
    import pruning_text

    x, y, x_test, y_test = pruning_text.load()[1]
    return x[:images], y[:images], x_test, y_test


def residual_net() -> keras.Model:
    """Inverted residual blocks as in MobileNetV2, for 28x28 images."""
    layers = keras.layers
    inputs = keras.Input((28, 28, 1))

    def conv(x: Any, filters: int, size: int, stride: int = 1, relu: bool = True) -> Any:
        x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        return layers.ReLU(6.0)(x) if relu else x

    x = conv(inputs, 16, 3, 2)
    for filters, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1)):
        y = conv(x, 4 * x.shape[-1], 1)
        y = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(y)
        y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(y))
        y = conv(y, filters, 1, relu=False)
        x = layers.Add()([x, y]) if y.shape == x.shape else y
    x = layers.GlobalAveragePooling2D()(conv(x, 128, 1))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def speech_net() -> keras.Model:
    model = tfc.models.ds_cnn((61, 40, 1), 10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # 0.99 would take longer than this training to forget its start
    return model


def text_net() -> keras.Model:
    import pruning_text

    return pruning_text.network(keras, 4)


def trained_resnet8() -> keras.Model:
    return keras.models.load_model(data_file("mlperf_tiny/resnet8_cifar10.h5"), compile=False)


# name -> data, network, float epochs and learning rates, epochs that follow and their learning
# rate, which falls to 0 as a cosine; it is doubled for weights of 4 bits
NETWORKS: dict[str, tuple[Callable[[int], Data], Callable[[], keras.Model], Any, int, float]] = {
    "Fashion-MNIST, depthwise-separable": (
        fashion,
        lambda: tfc.models.mobilenet_small((28, 28, 1), 10),
        ((4, 2e-3), (2, 3e-4)),
        1,
        1e-3,
    ),
    "CIFAR-10, ResNet-8": (cifar10, trained_resnet8, (), 1, 1e-4),
    "Fashion-MNIST, MobileNetV2-style": (fashion, residual_net, ((4, 2e-3), (2, 3e-4)), 1, 1e-3),
    "Spoken digits, DS-CNN": (spoken_digits, speech_net, ((12, 2e-3), (4, 3e-4)), 4, 3e-4),
    "AG News, Transformer": (ag_news, text_net, ((2, 1e-3),), 1, 5e-4),
}
SEEDS = {"Fashion-MNIST, depthwise-separable": 3, "CIFAR-10, ResNet-8": 3}
# Its log-mel features leave channels of a variance near 0: with frozen statistics not even the
# float network learns on at Adam's usual rates.
LIVE = {"Spoken digits, DS-CNN"}


def fit(model: Any, data: Data, rate: Any, epochs: int, callbacks: Any = ()) -> None:
    x, y, *_ = data
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=128, epochs=epochs, callbacks=list(callbacks), verbose=0)


def cosine(data: Data, rate: float, epochs: int) -> Any:
    steps = epochs * math.ceil(len(data[0]) / 128)
    return keras.optimizers.schedules.CosineDecay(rate, steps)


def answers(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(x, batch_size=250, verbose=0))


def figures(model: Any, tflite: tfc.TFLiteModel, data: Data) -> dict[str, Any]:
    _, _, x, y = data
    ours, file = answers(model, x), tflite.predict(x)
    quantization = output_scale(tflite)
    off = np.rint(np.abs(ours - file) / quantization)
    return {
        "accuracy": float((ours.argmax(-1) == y).mean()),
        "file_accuracy": float((file.argmax(-1) == y).mean()),
        "same": float((ours.argmax(-1) == file.argmax(-1)).mean()),
        "identical": float((off == 0).mean()),
        "largest": int(off.max()),
        "bytes": len(tflite.content),
        "zip": zipped(tflite.content),
        "float_tensors": len(tflite.float_tensors),
    }


def output_scale(tflite: tfc.TFLiteModel) -> float:
    """One step of the file's output, looking through the DEQUANTIZE at its end; else 1/256."""
    graph = tflite.parsed.subgraphs[0]
    writer = next(op for op in graph.operators if graph.outputs[0] in op.outputs)
    tensor = graph.tensors[writer.inputs[0] if writer.name == "DEQUANTIZE" else graph.outputs[0]]
    scales = tensor.quantization.scales if tensor.quantization else ()
    return float(scales[0]) if len(scales) == 1 else 1 / 256


def _stem(name: str, seed: int) -> str:
    return "".join(c if c.isalnum() else "_" for c in f"{name} {seed}")


def file_of(name: str, seed: int, method: str) -> str:
    """What the file of a network and method is called."""
    return f"{_stem(name, seed)}_{len(method)}_{method.split()[-1]}.tflite"


def measure(name: str, seed: int, quick: bool, folder: str) -> list[dict[str, Any]]:
    """All methods on one network with one seed."""
    path = Path(folder) / f"{_stem(name, seed)}.json"
    if path.exists():
        return json.loads(path.read_text())
    load, make, training, epochs, rate = NETWORKS[name]
    data = load(6_400 if quick else 60_000)
    samples = data[0][np.linspace(0, len(data[0]) - 1, 300).round().astype(int)]
    keras.utils.set_random_seed(seed)
    source = make()
    for count, float_rate in training:
        fit(source, data, float_rate, 1 if quick else count)
    rows = [{"method": FLOAT, **figures(source, tfc.convert(source), data)}]
    saved = Path(folder) / f"{path.stem}.keras"
    source.save(saved)

    keras.utils.set_random_seed(seed)
    control = keras.models.load_model(saved, compile=False)
    fit(control, data, cosine(data, rate, epochs), epochs)
    rows.append({"method": CONTROL, **figures(control, tfc.convert(control), data)})
    ptq = tfc.convert(source, "int8", representative_data=samples)
    rows.append({"method": PTQ, **figures(source, ptq, data)})
    files = {FLOAT: tfc.convert(source), PTQ: ptq}

    for method, scheme, start, own in (
        (OURS, "int8", rate, epochs),
        (OURS_W4, "int8-w4", 2 * rate, 1 if quick else max(W4_EPOCHS, epochs)),
    ):
        keras.utils.set_random_seed(seed)
        chosen = tfc.QuantizationScheme(
            weight_bits=4 if scheme == "int8-w4" else 8,
            batchnorm="live" if name in LIVE else "frozen",
        )
        model = tfc.quantize_aware(source, chosen, calibration_data=samples)
        fit(model, data, cosine(data, start, own), own, [tfc.QuantizationCallback()])
        files[method] = tfc.convert(model, "int8")
        rows.append({"method": method, **figures(model, files[method], data)})

    peer = twin(name, source, data)
    if peer is not None:
        keras.utils.set_random_seed(seed)
        model = tfmot.quantize_aware(peer)
        tfmot.compile_adam(model, tfmot.cosine(rate, epochs * math.ceil(len(data[0]) / 128)))
        model.fit(data[0], data[1], batch_size=128, epochs=epochs, verbose=0)
        files[TFMOT] = tfc.TFLiteModel(tfmot.int8_file(model))
        rows.append({"method": TFMOT, **figures(model, files[TFMOT], data)})
    for row in rows:
        row |= {"network": name, "seed": seed}
    if seed == 0:
        for method, tflite in files.items():
            tflite.save(Path(folder) / file_of(name, seed, method), overwrite=True)
    keep(path, rows)
    return rows


def twin(name: str, source: keras.Model, data: Data) -> Any:
    """The same network and weights in tf_keras, where tfmot can quantize it."""
    if name == "CIFAR-10, ResNet-8":
        return tfmot.load(data_file("mlperf_tiny/resnet8_cifar10.h5"))
    if name == "Fashion-MNIST, depthwise-separable":
        return tfmot.twin(source, data[2][:100])
    return None


def one_thread() -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["network", "method", "seeds", "accuracy in Keras", "of its file", "points from float",
             "same answer", "identical", "largest", "bytes", "zip"]  # fmt: skip
    cells = []
    for name in NETWORKS:
        for method in (FLOAT, CONTROL, PTQ, TFMOT, OURS, OURS_W4):
            found = [r for r in rows if (r["network"], r["method"]) == (name, method)]
            if not found:
                continue
            start = {r["seed"]: r for r in rows if (r["network"], r["method"]) == (name, FLOAT)}
            points = [100 * (r["file_accuracy"] - start[r["seed"]]["accuracy"]) for r in found]
            exact = method in (TFMOT, OURS, OURS_W4)
            cells.append(
                [
                    name,
                    method,
                    len(found),
                    f"{np.mean([r['accuracy'] for r in found]):.2%}",
                    f"{np.mean([r['file_accuracy'] for r in found]):.2%}",
                    f"{np.mean(points):+.2f} ({min(points):+.2f} to {max(points):+.2f})",
                    f"{np.mean([r['same'] for r in found]):.3%}",
                    f"{np.mean([r['identical'] for r in found]):.3%}" if exact else "-",
                    max(r["largest"] for r in found) if exact else "-",
                    f"{found[0]['bytes']:,}",
                    f"{found[0]['zip']:,}",
                ]
            )
    return markdown(heads, cells)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--resume", metavar="DIR", help="keep finished networks here, and go on")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="networks at a time")
    parser.add_argument("--only", default="", help="only networks whose name holds this")
    arguments = parser.parse_args()
    names = selected(NETWORKS, arguments.only)
    tasks = [
        (name, seed)
        for seed in range(1 if arguments.quick else 3)
        for name in names
        if seed < SEEDS.get(name, 1)
    ]
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.resume or temporary
        Path(folder).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(arguments.workers, context, initializer=one_thread) as pool:
            begun = time.monotonic()
            futures = [pool.submit(measure, *task, arguments.quick, folder) for task in tasks]
            for number, future in enumerate(as_completed(futures), 1):
                fresh = future.result()
                rows += fresh
                spent = time.monotonic() - begun
                print(f"{number} of {len(futures)} done, {spent:.0f} s", flush=True)
                print(table(fresh), flush=True)
    print(table(rows))
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
