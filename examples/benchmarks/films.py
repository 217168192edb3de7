"""Networks of images in TimeDistributed: one batch for all frames, beside a copy for each.

    python examples/benchmarks/films.py [--quick] [--json FILE]

A MobileNet looks at each frame, an LSTM at what it gave. Four files of each network: TensorFlow's
converter on Keras's own SavedModel, which has the operators once for each frame; `tfc.convert`;
half of the multiply-adds gone (`tfc.shrink`); and int8 (`tfc.quantize_aware`, not trained). Random
weights: what is measured is operators, bytes, memory and milliseconds, XNNPACK on one thread,
files of one network taking turns.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import finish, markdown, options

import tfcompress as tfc

# frames, pixels of a side, width of the MobileNet
NETWORKS = ((8, 96, 0.25), (16, 128, 0.5), (8, 224, 1.0))


def film(frames: int, size: int, width: float) -> keras.Model:
    """A MobileNet for each frame, and an LSTM over the frames."""
    image = keras.applications.MobileNet(
        (size, size, 3), alpha=width, include_top=False, pooling="avg", weights=None
    )
    inputs = keras.Input((frames, size, size, 3))
    x = keras.layers.TimeDistributed(image, name="frames")(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.LSTM(32)(x)))


def by_tensorflow(model: keras.Model) -> bytes:
    """Keras's own SavedModel through TensorFlow's converter."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        spec = keras.InputSpec(shape=(1, *model.input_shape[1:]), dtype="float32")
        archive.add_endpoint("serve", model.call, input_signature=[spec])
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        return bytes(converter.convert())


def measured(frames: int, size: int, width: float, runs: int, folder: str) -> list[dict[str, Any]]:
    """A row for each file of a network."""
    keras.utils.set_random_seed(0)
    model = film(frames, size, width)
    x = np.random.default_rng(0).uniform(size=(4, *model.input_shape[1:])).astype("float32")
    smaller = tfc.shrink(model, 0.5)
    contents = {
        "TensorFlow's converter": by_tensorflow(model),
        "tfc.convert": tfc.convert(model).content,
        "shrink 0.5": tfc.convert(smaller).content,
        "shrink 0.5, int8": tfc.convert(
            tfc.quantize_aware(smaller, calibration_data=x), "int8"
        ).content,
    }
    files = {}
    for name, content in contents.items():
        files[name] = Path(folder) / f"{len(files)}_{frames}_{size}.tflite"
        files[name].write_bytes(content)
    expected, got = (tfc.TFLiteModel(path).predict(x) for path in list(files.values())[:2])
    off = float(np.abs(got - expected).max() / np.abs(expected).max())
    timed = tfc.benchmark([str(path) for path in files.values()], threads=[1], runs=runs).rows
    rows = []
    for (name, path), one in zip(files.items(), timed, strict=True):
        inspected = tfc.inspect(path)
        rows.append({
            "network": f"{frames} x {size} x {size}, width {width}", "file": name,
            "operators": len(inspected.operators), "placed": one.placed,
            "bytes": os.path.getsize(path), "peak_mb": one.peak_mb, "ms": one.median_ms,
            "faster": timed[0].median_ms / one.median_ms, "off": off,
        })  # fmt: skip
    return rows


def main() -> None:
    arguments = options(__doc__.splitlines()[0])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for network in NETWORKS[:1] if arguments.quick else NETWORKS:
            rows += measured(*network, 10 if arguments.quick else 50, folder)
            print(rows[-1]["network"], f"largest difference {rows[-1]['off']:.0e}", flush=True)
    heads = ["network", "file", "operators", "on XNNPACK", "bytes", "peak MB", "ms", "faster"]
    cells = [
        [r["network"], r["file"], r["operators"], f"{r['placed']:.0%}", f"{r['bytes']:,}",
         f"{r['peak_mb']:.1f}", f"{r['ms']:.2f}", f"{r['faster']:.2f}x"]
        for r in rows
    ]  # fmt: skip
    print(markdown(heads, cells))
    finish({"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
