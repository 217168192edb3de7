"""Post-training conversion: accuracy and size against TensorFlow's own converter, same run.

    TFCOMPRESS_DATA=... python examples/benchmarks/post_training.py [--quick]

1. Fashion-MNIST, a depthwise-separable network of 39,914 parameters, trained here: accuracy and
   agreement on all test images, bytes, zipped bytes; beside it `tf.lite.TFLiteConverter` on the
   same trained model with the same calibration images.
2. Bytes of a MobileNet 224 with 1,000 classes in fp32, fp16 and int8.
3. int8 of networks with random weights and BatchNorm statistics that are not trivial, on real
   images: float tensors left, and signal to quantization noise at the output.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from common import (
    data_file,
    fashion_mnist,
    finish,
    markdown,
    options,
    signal_to_noise,
    zipped,
)
from networks import images_for, logits_of, randomize

import tfcompress as tfc


def train(epochs: tuple[int, int], seed: int) -> tuple[keras.Model, tuple]:
    keras.utils.set_random_seed(seed)
    x, y, x_test, y_test = fashion_mnist()
    model = tfc.models.mobilenet_small((28, 28, 1), 10)
    for count, rate in zip(epochs, (2e-3, 3e-4), strict=True):
        model.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        model.fit(x, y, batch_size=128, epochs=count, verbose=2)
    return model, (x, x_test, y_test)


def stock_converter(model: keras.Model, precision: str, samples: np.ndarray) -> bytes:
    """TensorFlow's converter as its guide uses it."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if precision != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: ([s[None]] for s in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def part_one(quick: bool) -> tuple[list[dict], keras.Model]:
    model, (x, x_test, y_test) = train((1, 1) if quick else (4, 2), seed=0)
    expected = model.predict(x_test, verbose=0)
    keras_answers = expected.argmax(-1)
    rows = []
    samples = x[np.linspace(0, len(x) - 1, 300).round().astype(int)]
    for precision in ("fp32", "fp16", "dynamic", "int8"):
        ours = tfc.convert(model, precision, representative_data=samples)
        makers = {"tfcompress": ours, "tf.lite": None}
        if precision != "dynamic":
            makers["tf.lite"] = tfc.TFLiteModel(stock_converter(model, precision, samples))
        for maker, tflite in makers.items():
            if tflite is None:
                continue
            outputs = tflite.predict(x_test)
            rows.append(
                {
                    "file": precision,
                    "converter": maker,
                    "keras_accuracy": float((keras_answers == y_test).mean()),
                    "accuracy": float((outputs.argmax(-1) == y_test).mean()),
                    "agreement": float((outputs.argmax(-1) == keras_answers).mean()),
                    "bytes": len(tflite.content),
                    "zip": zipped(tflite.content),
                }
            )
    return rows, model


def part_two() -> list[dict]:
    keras.utils.set_random_seed(0)
    model = tfc.models.mobilenet((224, 224, 3), 1000)
    samples = np.random.default_rng(0).random((2, 224, 224, 3), "float32")
    sizes = {
        precision: len(tfc.convert(model, precision, representative_data=samples).content)
        for precision in ("fp32", "fp16", "int8")
    }
    return [{"file": k, "bytes": v, "of fp32": v / sizes["fp32"]} for k, v in sizes.items()]


def networks(quick: bool) -> dict:
    apps = keras.applications
    small = {"weights": None, "classes": 10, "classifier_activation": None}
    found = dict(tfc.models.PRESETS.items())
    if quick:
        found = dict(list(found.items())[:2])
    found["keras MobileNet 0.5, 96"] = lambda: apps.MobileNet((96, 96, 3), alpha=0.5, **small)
    found["keras MobileNetV2, 96"] = lambda: apps.MobileNetV2((96, 96, 3), **small)
    if not quick:
        found["keras ResNet50, 64"] = lambda: apps.ResNet50(input_shape=(64, 64, 3), **small)
        found["keras EfficientNetB0, 64"] = lambda: apps.EfficientNetB0(
            input_shape=(64, 64, 3), **small
        )
    return found


def trained() -> dict:
    """Networks with trained weights, and test images for them."""
    with np.load(data_file("cifar10_20k.npz")) as data:
        pixels = data["x_test"][:160].astype("float32")  # it was trained on raw pixels
    path = data_file("mlperf_tiny/resnet8_cifar10.h5")
    return {"MLPerf Tiny resnet8, trained": (keras.models.load_model(path, compile=False), pixels)}


def part_three(quick: bool, fashion_model: keras.Model) -> list[dict]:
    models = {
        "mobilenet_small_28, trained": (fashion_model, fashion_mnist()[2][:160]),
        **trained(),
    }
    rows = [measure(name, logits_of(model), x) for name, (model, x) in models.items()]
    for name, make in networks(quick).items():
        keras.utils.set_random_seed(0)
        model = logits_of(make())
        scale = 255.0 if "EfficientNet" in name else 1.0  # it brings its own Rescaling
        x = images_for(model, 160) * scale
        randomize(model, x[:64])
        rows.append(measure(name, model, x))
    return rows


def measure(name: str, model: keras.Model, x: np.ndarray) -> dict:
    """int8 calibrated on 100 images, its noise on 60 others."""
    tflite = tfc.convert(model, "int8", representative_data=x[:100])
    expected = model.predict(x[100:], verbose=0)
    # How much the float network itself makes of a noise of 40 dB on its input: one with random
    # weights may amplify any error from layer to layer, quantization's too.
    level = 0.01 * np.sqrt(np.square(x[100:]).mean())
    noise = np.random.default_rng(0).normal(0, level, x[100:].shape)
    noisy_x = (x[100:] + noise).astype("float32")
    noisy = [entry.name for entry in tflite.report.entries if entry.action == "noisy"]
    row = {
        "network": name,
        "parameters": model.count_params(),
        "operators": len(tflite.operators),
        "float_tensors": len(tflite.float_tensors),
        "snr_db": signal_to_noise(tflite.predict(x[100:]), expected),
        "float_snr_db": signal_to_noise(model.predict(noisy_x, verbose=0), expected),
        "costly": noisy,
    }
    print(row, flush=True)
    return row


def main() -> None:
    arguments = options(__doc__.splitlines()[0])
    rows, model = part_one(arguments.quick)
    result = {"fashion_mnist": rows}
    print(
        "\n"
        + markdown(
            ["file", "converter", "Keras accuracy", "accuracy", "same answer", "bytes", "zip"],
            [
                [
                    row["file"],
                    row["converter"],
                    f"{row['keras_accuracy']:.2%}",
                    f"{row['accuracy']:.2%}",
                    f"{row['agreement']:.2%}",
                    f"{row['bytes']:,}",
                    f"{row['zip']:,}",
                ]
                for row in result["fashion_mnist"]
            ],
        )
        + "\n",
        flush=True,
    )
    result["mobilenet_224"] = part_two()
    print(
        markdown(
            ["MobileNet 224", "bytes", "of fp32"],
            [
                [r["file"], f"{r['bytes']:,}", f"{r['of fp32']:.3f}"]
                for r in result["mobilenet_224"]
            ],
        )
        + "\n",
        flush=True,
    )
    result["networks"] = part_three(arguments.quick, model)
    print(
        "\n"
        + markdown(
            [
                "network, int8",
                "parameters",
                "operators",
                "float tensors",
                "SNR",
                "float SNR, input at 40 dB",
                "costliest layers",
            ],
            [
                [
                    row["network"],
                    f"{row['parameters']:,}",
                    row["operators"],
                    row["float_tensors"],
                    f"{row['snr_db']:.1f} dB",
                    f"{row['float_snr_db']:.1f} dB",
                    ", ".join(row["costly"]) or "-",
                ]
                for row in result["networks"]
            ],
        )
    )
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
