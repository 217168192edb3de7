"""`tfcompress demo`: the main job from end to end, on real images."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from tfcompress.cli.console import Console, Progress, kilobytes, milliseconds
from tfcompress.errors import ConfigError
from tfcompress.files import write_json
from tfcompress.quiet import import_tensorflow

HELP = "train, prune, convert and measure a small network on real images"
DESCRIPTION = (
    "Trains a small MobileNet-style network on real images, prunes it with a callback while it "
    "trains, converts it to fp32, fp16 and int8 .tflite, and measures each file's accuracy, size "
    "and latency through the runtime."
)
_BATCH = 64
_STEPS = 500  # fits in three minutes on two cores at 32x32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--data",
        help=".npz with x_train, y_train, x_test, y_test, or a folder of images; "
        "default: scikit-learn's handwritten digits",
    )
    parser.add_argument("--out", default="tfcompress-demo", help="folder for files and report.json")
    parser.add_argument("--sparsity", type=float, default=0.8, help="share of zeros to prune to")
    parser.add_argument(
        "--epochs", type=int, help=f"passes over the data; default: as many as make {_STEPS} steps"
    )
    parser.add_argument("--image-size", type=int, default=96, help="for a folder of images")
    parser.add_argument("--seed", type=int, default=0, help="makes the run repeatable")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    if options.epochs is not None and options.epochs < 2:
        raise ConfigError(f"--epochs must be at least 2. Received: {options.epochs}")
    from tfcompress.schedules import ConstantSparsity

    ConstantSparsity(options.sparsity, 0)  # says at once if the sparsity is none
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Cannot write to {options.out!r}: {error.strerror}") from error

    if any(out.iterdir()) and not (out / "report.json").is_file():
        raise ConfigError(
            f"--out must be an empty folder, or one that an earlier demo wrote. Received: {out}"
        )

    from tfcompress.datasets import load_images

    started = time.perf_counter()
    data = load_images(options.data, image_size=options.image_size, seed=options.seed)
    console.say(
        f"{data.name}: {len(data.x_train):,} training and {len(data.x_test):,} test images of "
        f"{'x'.join(map(str, data.x_train.shape[1:]))}, {data.classes} classes"
    )
    with console.progress() as progress:
        report = _work(options, data, out, progress)
    report["seconds"] = round(time.perf_counter() - started, 1)
    write_json(out / "report.json", report)
    _print(report, console, out)
    return 0


def _work(options: argparse.Namespace, data: Any, out: Path, progress: Progress) -> dict[str, Any]:
    progress.start("loading TensorFlow")
    import_tensorflow()
    import keras

    import tfcompress as tfc

    keras.utils.set_random_seed(options.seed)
    model = tfc.models.mobilenet_small(data.x_train.shape[1:], data.classes)
    per_epoch = math.ceil(len(data.x_train) / _BATCH)
    epochs = options.epochs or max(2, round(_STEPS / per_epoch))
    dense = max(1, epochs * 3 // 5)
    total, begin = epochs * per_epoch, dense * per_epoch
    rate = keras.optimizers.schedules.CosineDecay(3e-3, total, alpha=0.02)
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )

    bar = _Bar(progress, total)
    common: dict[str, Any] = {"batch_size": _BATCH, "verbose": 0}
    progress.start("training")
    model.fit(data.x_train, data.y_train, epochs=dense, callbacks=[bar], **common)
    artefacts = {"float32, not pruned": tfc.convert(model, "fp32")}

    end = begin + (total - begin) * 2 // 3
    pruning = tfc.PruningCallback(
        tfc.PolynomialDecay(0.3, options.sparsity, begin, end, frequency=10), pooling="global"
    )
    progress.start(f"training and pruning to {options.sparsity:.0%}")
    model.fit(
        data.x_train,
        data.y_train,
        initial_epoch=dense,
        epochs=epochs,
        callbacks=[pruning, bar],
        **common,
    )
    model.save(out / "model.keras")
    for number, (name, precision) in enumerate(
        (("float32, pruned", "fp32"), ("float16, pruned", "fp16"), ("int8, pruned", "int8"))
    ):
        progress.start(f"converting to {precision}")
        artefacts[name] = tfc.convert(
            model, precision, representative_data=data.x_train if precision == "int8" else None
        )
        progress.update((number + 1) / 3)

    rows = []
    for name, tflite in artefacts.items():
        progress.start(f"testing {name}")
        file = name.replace(", ", "_").replace(" ", "_") + ".tflite"
        path = tflite.save(out / file, overwrite=True)
        answers = tflite.predict(data.x_test).argmax(-1)
        sizes = tflite.sizes
        rows.append(
            {
                "name": name,
                "file": path.name,
                "accuracy": float((answers == data.y_test).mean()),
                "bytes": sizes.raw,
                "zipped_bytes": sizes.gzip,
                "conversion": tflite.report.to_dict(),
            }
        )
    progress.start("measuring latency")
    timing = tfc.benchmark(
        [out / row["file"] for row in rows],
        backend=["xnnpack", "reference"],
        runs=40,
        inputs=data.x_test[:1],
        progress=progress.update,
    )
    for number, row in enumerate(rows):
        for timed in timing.rows[2 * number : 2 * number + 2]:
            row[f"{timed.backend}_ms"] = timed.median_ms
    keras_accuracy = float((model.predict(data.x_test, verbose=0).argmax(-1) == data.y_test).mean())
    return {
        "data": data.name,
        "train_images": len(data.x_train),
        "test_images": len(data.x_test),
        "parameters": model.count_params(),
        "epochs": epochs,
        "steps": total,
        "seed": options.seed,
        "keras_accuracy": keras_accuracy,
        "files": rows,
        "pruning": pruning.report.to_dict() if pruning.report else {},
        "benchmark": timing.to_dict(),
    }


def _Bar(progress: Progress, total: int) -> Any:
    """A callback that moves the bar; built here because Keras is imported late."""
    import keras

    class Bar(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            progress.update(int(self.model.optimizer.iterations) / total)

    return Bar()


def _print(report: dict[str, Any], console: Console, out: Path) -> None:
    first = report["files"][0]
    rows = [
        [
            row["name"],
            f"{row['accuracy']:.2%}",
            kilobytes(row["bytes"]),
            kilobytes(row["zipped_bytes"]),
            f"{first['zipped_bytes'] / row['zipped_bytes']:.1f}x",
            milliseconds(row["xnnpack_ms"]),
            milliseconds(row["reference_ms"]),
        ]
        for row in report["files"]
    ]
    heads = ["file", "accuracy", "size", "zipped", "smaller", "ms, XNNPACK", "ms, without"]
    console.table(heads, rows)
    console.say(
        f"{report['parameters']:,} parameters, {report['pruning']['settings']['sparsity']:.1%} of "
        f"the pruned kernels zero, {report['steps']} steps; 'smaller' compares zipped files; "
        f"latency on one thread, {report['benchmark']['machine']['processor']}; "
        f"{report['seconds']:.0f} s in all"
    )
    for note in report["benchmark"]["notes"]:
        console.say(f"{note} (They are in report.json.)")
    console.say(f"files and report.json are in {out}")
    console.result(report)
