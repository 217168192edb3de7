"""`tfcompress convert`: a Keras model to one or several `.tflite` files, or to ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from tfcompress.cli.console import Console, kilobytes
from tfcompress.conversion.precisions import PRECISIONS
from tfcompress.errors import ConfigError
from tfcompress.files import check_writable
from tfcompress.quiet import import_tensorflow

HELP = "convert a Keras model to .tflite or .onnx"
DESCRIPTION = (
    "Converts a Keras model (.keras, .h5, or a SavedModel folder; those of Keras 2 are brought to "
    "Keras 3 first) to .tflite files, or to ONNX; "
    "each is run once before it is written."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", help=".keras or .h5 file, or SavedModel folder")
    parser.add_argument(
        "--to",
        choices=("tflite", "onnx"),
        default="tflite",
        help="onnx: a float model stays float, one of tfc.quantize_aware becomes a Q/DQ graph",
    )
    parser.add_argument(
        "--target",
        default="onnxruntime",
        help="with --to onnx: onnxruntime, or tensorrt, whose rules are checked (exit with 1 "
        "where one is broken)",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        help=f"one or several, separated by commas, of {', '.join(PRECISIONS)}",
    )
    parser.add_argument(
        "--data",
        help="representative inputs for int8 and int16x8: .npy, .npz (arrays named as the inputs, "
        "or x_train), or a folder of images",
    )
    parser.add_argument("--io", default="float32", help="float32, int8, uint8 or int16")
    parser.add_argument("--batch-size", type=int, default=1, help="the file's fixed batch size")
    parser.add_argument(
        "--sparse", action="store_true", help="sparse encoding of pruned weights, where it is safe"
    )
    parser.add_argument(
        "--out", help="file to write, or a folder for several precisions; default: beside the model"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    if options.to == "onnx":
        return _to_onnx(options, console)
    if options.target != "onnxruntime":
        raise ConfigError(
            "--target is for ONNX: give --to onnx too, or inspect the .tflite file for a target. "
            f"Received: {options.target!r}"
        )
    names = [name.strip() for name in options.precision.split(",") if name.strip()]
    unknown = [name for name in names if name not in PRECISIONS]
    if unknown or not names:
        raise ConfigError(
            f"--precision takes {', '.join(PRECISIONS)}. Received: {options.precision!r}"
        )
    if not any(options.io in PRECISIONS[name].io for name in names):
        raise ConfigError(
            f"--io {options.io} is not offered by precision {', '.join(names)}. "
            f"Received: {options.io!r}"
        )
    source = Path(options.model)
    targets = _targets(source, names, options.out)
    for target in targets:
        check_writable(target, overwrite=options.overwrite)

    import tfcompress as tfc
    from tfcompress.model_files import load_model, load_representative

    rows, results, made = [], [], []
    with console.progress() as progress:
        progress.start("loading")
        import_tensorflow()
        model = load_model(source)
        data = load_representative(options.data) if options.data else None
        for name, target in zip(names, targets, strict=True):
            progress.start(f"converting to {name}")
            calibrated = PRECISIONS[name].calibrated
            tflite = tfc.convert(
                model,
                name,
                representative_data=data if calibrated else None,
                io=options.io if options.io in PRECISIONS[name].io else "float32",
                batch_size=options.batch_size,
                sparse=options.sparse,
            )
            made.append((target, tflite))
            sizes = tflite.sizes
            rows.append([str(target), name, kilobytes(sizes.raw), kilobytes(sizes.gzip)])
            results.append({"path": str(target), **vars(sizes), "report": tflite.report.to_dict()})
    for target, tflite in made:  # all of them, or none
        tflite.save(target, overwrite=options.overwrite)
    console.table(["file", "precision", "size", "zipped"], rows)
    for result in results:
        for note in result["report"]["notes"]:
            console.say(f"{Path(result['path']).name}: {note}")
    console.result(results)
    return 0


def _targets(source: Path, names: list[str], out: str | None) -> list[Path]:
    stem = source.name if source.is_dir() else source.stem
    if out is not None and out.endswith(".tflite"):
        if len(names) > 1:
            raise ConfigError(f"--out must be a folder for several precisions. Received: {out!r}")
        return [Path(out)]
    folder = Path(out) if out is not None else source.parent
    folder.mkdir(parents=True, exist_ok=True)
    if len(names) == 1 and out is None:
        return [folder / f"{stem}.tflite"]
    return [folder / f"{stem}_{name}.tflite" for name in names]


def _to_onnx(options: argparse.Namespace, console: Console) -> int:
    given = {"--precision": (options.precision, "fp32"), "--io": (options.io, "float32")}
    for name, (value, only) in given.items():
        if value != only:
            raise ConfigError(
                f"{name} is for .tflite files: with --to onnx a model keeps the types that it was "
                f"trained with. Received: {value!r}"
            )
    if options.sparse:
        raise ConfigError("--sparse is for .tflite files: ONNX has no sparse kernels to gain by.")
    source = Path(options.model)
    target = _onnx_target(source, options.out)
    check_writable(target, overwrite=options.overwrite)

    import tfcompress as tfc
    from tfcompress.model_files import load_model, load_representative

    with console.progress() as progress:
        progress.start("loading")
        import_tensorflow()
        model = load_model(source)
        data = load_representative(options.data) if options.data else None
        progress.start("converting to ONNX")
        made = tfc.to_onnx(
            model,
            target,
            overwrite=options.overwrite,
            batch_size=options.batch_size,
            target=options.target,
            data=data,
        )
    console.table(["file", "size"], [[str(target), kilobytes(len(made.content))]])
    for note in made.report.notes:
        console.say(note)
    broken = made.violations if options.target == "tensorrt" else []
    for violation in broken:
        console.say(str(violation))
    result = {"path": str(target), "raw": len(made.content), "report": made.report.to_dict()}
    console.result([result])
    return 1 if any(violation.refused for violation in broken) else 0


def _onnx_target(source: Path, out: str | None) -> Path:
    stem = source.name if source.is_dir() else source.stem
    if out is not None and out.endswith(".onnx"):
        return Path(out)
    folder = Path(out) if out is not None else source.parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{stem}.onnx"
