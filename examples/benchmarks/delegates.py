"""Which operators XNNPACK and the GPU take of each network, predicted and as the runtime has it.

    python examples/benchmarks/delegates.py [--quick] [--only NAME] [--out FILE]

Ready-made networks and those of keras.applications at 96 pixels and less, with random weights, in
fp32, fp16 and int8. "Predicted" is what tfc.inspect says from the file alone; "actual" is read from
the runtime: XNNPACK's partitions, and what LiteRT's GPU accelerator says that it takes. Numbers are
the GPU's, computed in fp32, beside XNNPACK's, on one input, relative to the largest output. In
the table stands what the runtime took, with the prediction behind it in brackets where that was
another. A software driver will do (VK_DRIVER_FILES): it takes the same operators. With --out,
finished rows are not run again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from common import benchmark_parser, finish, markdown, selected  # sets TensorFlow's log level first
from networks import logits_of, randomize

import tfcompress as tfc
from tfcompress.deploy.gpu_numbers import compare
from tfcompress.runtime.gpu import accelerator
from tfcompress.runtime.placement import actual_placement

PRECISIONS = ("fp32", "fp16", "int8")
QUICK = ("mobilenet_small_28", "mobilenet_96_025", "MobileNetV3Small")
FAMILIES = {
    "MobileNet": (96, {"alpha": 0.25}),
    "MobileNetV2": (96, {"alpha": 0.35}),
    "MobileNetV3Small": (96, {"minimalistic": False}),
    "MobileNetV3Large": (96, {}),
    "EfficientNetB0": (64, {}),
    "EfficientNetV2B0": (64, {}),
    "NASNetMobile": (96, {}),
    "DenseNet121": (64, {}),
    "ResNet50": (64, {}),
    "ResNet50V2": (64, {}),
    "VGG16": (64, {"classes": 10}),
    "InceptionV3": (96, {}),
    "Xception": (96, {}),
    "ConvNeXtTiny": (64, {}),
}


def networks() -> dict[str, Callable[[], keras.Model]]:
    found = dict(tfc.models.PRESETS)
    for name, (side, settings) in FAMILIES.items():

        def build(name: str = name, side: int = side, settings: dict = settings) -> keras.Model:
            family = getattr(keras.applications, name)
            return family(input_shape=(side, side, 3), weights=None, **settings)

        found[name] = build
    return found


def measure(model: keras.Model, precision: str, x: np.ndarray) -> dict:
    """One row: what each target takes, predicted and actual, and how the numbers agree."""
    tflite = tfc.convert(model, precision, representative_data=x)
    predicted = [operator.placed for operator in tfc.inspect(tflite).operators]
    actual = actual_placement(tflite.content)
    row: dict = {
        "operators": len(actual),
        "xnnpack_predicted": sum(predicted),
        "xnnpack_actual": sum(actual),
        "xnnpack_same": sum(a == b for a, b in zip(predicted, actual, strict=True)),
    }
    report = tfc.inspect(tflite, target="gpu")
    figures = compare(tflite, x[:1], precision="fp32")
    placed = sum(operator.placed for operator in report.operators)
    # LiteRT says how many operators it has given to the GPU, and which kinds it refuses.
    row |= {
        "gpu_predicted": placed,
        "gpu_actual": figures.placement.placed,
        "gpu_same": len(actual) - abs(placed - figures.placement.placed),
        "gpu_refused": list(figures.placement.refused),
        "warnings": sorted({operator.warning for operator in report.warnings}),
        "largest": figures.largest,
        "reach": figures.reach,
        "steps": figures.steps,
        "not_finite": figures.not_finite,
    }
    return row


def cells(name: str, row: dict) -> list[str]:
    if "error" in row:
        return [name, row["error"][:60], *[""] * 7]
    return [
        name,
        str(row["operators"]),
        f"{row['xnnpack_predicted']} / {row['xnnpack_actual']}",
        f"{row['gpu_predicted']} / {row['gpu_actual']}",
        "yes" if row["gpu_predicted"] == row["operators"] else "no",
        "yes" if row["gpu_actual"] == row["operators"] else "no",
        f"{row['largest'] / max(row['reach'], 1e-30):.1e}",
        str(len(row["warnings"])),
    ]


def table(rows: dict[str, dict], names: list[str]) -> str:
    """A line for each network, with its files in each cell."""
    lines = []
    for name in names:
        own = [rows[f"{name} {precision}"] for precision in PRECISIONS]

        def each(value: Callable[[dict], str], own: list[dict] = own) -> str:
            return " / ".join("-" if "error" in row else value(row) for row in own)

        def taken(target: str, each: Callable[..., str] = each) -> str:
            return each(
                lambda row: f"{row[f'{target}_actual']}"
                + ("" if row[f"{target}_same"] == row["operators"] else
                   f" ({row[f'{target}_predicted']})")
            )  # fmt: skip

        lines.append(
            [
                name,
                each(lambda row: str(row["operators"])),
                taken("xnnpack"),
                taken("gpu"),
                each(lambda row: f"{row['largest'] / max(row['reach'], 1e-30):.0e}"),
                each(lambda row: str(len(row["warnings"]))),
            ]
        )
    heads = ["network", "operators", "on XNNPACK", "on the GPU", "largest difference", "warnings"]
    return markdown(heads, lines)


def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="networks whose name holds this")
    arguments = parser.parse_args()
    names = selected(networks(), arguments.only)
    if arguments.quick and not arguments.only:
        names = [name for name in names if name in QUICK]
    done: dict[str, dict] = {}
    if arguments.out and Path(arguments.out).is_file():
        done = json.loads(Path(arguments.out).read_text())["rows"]
    adapter = str(accelerator())
    rows: dict[str, dict] = {}
    for name in names:
        wanted = [f"{name} {precision}" for precision in PRECISIONS]
        if not all(key in done for key in wanted):
            keras.utils.set_random_seed(0)
            model = logits_of(networks()[name]())
            generator = np.random.default_rng(0)
            x = generator.random((8, *model.input_shape[1:]), "float32")
            randomize(model, x)  # BatchNorm statistics as training would leave them
        for key, precision in zip(wanted, PRECISIONS, strict=True):
            if key not in done:
                try:
                    done[key] = measure(model, precision, x)
                except tfc.CompressError as error:
                    done[key] = {"error": f"{type(error).__name__}: {error}"}
                finish({"adapter": adapter, "rows": done}, arguments.out)
            rows[key] = done[key]
            print(*cells(key, rows[key]), sep="  ", flush=True)
        keras.backend.clear_session()
    print("\n" + table(rows, names))
    print(f"\n{' / '.join(PRECISIONS)} in each cell; GPU: {adapter}")
    good = [row for row in rows.values() if "error" not in row]
    total = sum(row["operators"] for row in good)
    for target in ("xnnpack", "gpu"):
        same = sum(row[f"{target}_same"] for row in good)
        print(f"{target}: {same} of {total} operators as predicted ({same / max(total, 1):.2%})")
    wrong = [
        key
        for key, row in rows.items()
        if "error" not in row and row["gpu_predicted"] == row["operators"] != row["gpu_actual"]
    ]
    print(f"called fully accelerated and not so: {wrong or 'none'}")
    if wrong or len(good) < len(rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
