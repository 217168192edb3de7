"""quantize_aware, convert and run for every family of keras.applications.

    TFCOMPRESS_DATA=... python examples/benchmarks/quantize_families.py [--quick] [--only NAME]

Random weights, and BatchNorm statistics that are not trivial, at a small input size; ranges from
64 real images; then 32 other images through the quantize-aware model in Keras and through its
int8 file on XNNPACK. "Identical": the share of outputs that are the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from common import benchmark_parser, finish, markdown, selected, signal_to_noise
from networks import images_for, logits_of, randomize

import tfcompress as tfc

apps = keras.applications
# name -> builder, side of the smallest image that makes sense, whether it takes pixels of 0..255
FAMILIES: dict[str, tuple[Callable[..., keras.Model], int, bool]] = {
    "MobileNet": (apps.MobileNet, 64, False),
    "MobileNetV2": (apps.MobileNetV2, 64, False),
    "MobileNetV3Small": (apps.MobileNetV3Small, 64, True),
    "MobileNetV3Large": (apps.MobileNetV3Large, 64, True),
    "ResNet50": (apps.ResNet50, 64, False),
    "ResNet50V2": (apps.ResNet50V2, 64, False),
    "DenseNet121": (apps.DenseNet121, 64, False),
    "EfficientNetB0": (apps.EfficientNetB0, 64, True),
    "EfficientNetV2B0": (apps.EfficientNetV2B0, 64, True),
    "NASNetMobile": (apps.NASNetMobile, 64, False),
    "Xception": (apps.Xception, 80, False),
    "InceptionV3": (apps.InceptionV3, 80, False),
    "InceptionResNetV2": (apps.InceptionResNetV2, 80, False),
    "VGG16": (apps.VGG16, 32, False),
    "ConvNeXtTiny": (apps.ConvNeXtTiny, 64, True),
}
QUICK = ("MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50V2")


def build(name: str) -> tuple[keras.Model, np.ndarray]:
    """A network that looks trained, and images for it."""
    make, side, pixels = FAMILIES[name]
    keras.utils.set_random_seed(0)
    options: dict[str, Any] = {"weights": None, "classes": 10, "classifier_activation": None}
    if name in ("NASNetMobile",):
        options.pop("classifier_activation")
    model = logits_of(make(input_shape=(side, side, 3), **options))
    x = images_for(model, 96) * (255.0 if pixels else 1.0)
    randomize(model, x[:64])
    return model, x


def measure(name: str, quick: bool) -> dict[str, Any]:
    start = time.monotonic()
    row: dict[str, Any] = {"network": name, "parameters": "", "reason": ""}
    try:
        model, x = build(name)
        row["parameters"] = model.count_params()
        qmodel = tfc.quantize_aware(model, calibration_data=x[:64])
        tflite = tfc.convert(qmodel, "int8")
        ours, file = qmodel.predict(x[64:], verbose=0), tflite.predict(x[64:])
        row |= {
            "operators": len(tflite.operators),
            "float": len(tflite.float_tensors),
            "left": sorted({f"{e.kind}: {e.reason}" for e in qmodel.compression_report.left}),
            "identical": float((ours == file).mean()),
            "largest": float(np.abs(ours - file).max() / np.ptp(ours)),
            "same_answer": float((ours.argmax(-1) == file.argmax(-1)).mean()),
            "snr": signal_to_noise(ours, model.predict(x[64:], verbose=0)),
        }
    except tfc.CompressError as error:
        row["reason"] = f"{type(error).__name__}: {error}"[:300]
    row["seconds"] = time.monotonic() - start
    return row


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["network", "parameters", "operators", "float tensors", "identical", "same answer",
             "SNR to float", "left float, or reason"]  # fmt: skip
    cells = []
    for row in rows:
        if row["reason"]:
            cells.append([row["network"], row["parameters"], *["-"] * 5, row["reason"]])
            continue
        cells.append(
            [
                row["network"],
                f"{row['parameters']:,}",
                row["operators"],
                row["float"],
                f"{row['identical']:.2%}",
                f"{row['same_answer']:.2%}",
                f"{row['snr']:.1f} dB",
                "; ".join(row["left"]) or "-",
            ]
        )
    return markdown(heads, cells)


def run(
    description: str, measure: Callable[[str, bool], dict[str, Any]], table: Callable[..., str]
) -> None:
    """Measures family after family (name, quick), and prints the table."""
    parser = benchmark_parser(description)
    parser.add_argument("--only", default="", help="only families whose name holds this")
    arguments = parser.parse_args()
    names = selected(QUICK if arguments.quick else FAMILIES, arguments.only)
    rows = []
    for name in names:
        rows.append(measure(name, arguments.quick))
        print(f"{name}: {rows[-1]['seconds']:.0f} s", rows[-1], flush=True)
        keras.backend.clear_session()
    print(table(rows))
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    run(__doc__.splitlines()[0], measure, table)
