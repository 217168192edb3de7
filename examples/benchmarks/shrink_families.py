"""tfc.shrink(model, 0.5) for every family of keras.applications.

    TFCOMPRESS_DATA=... python examples/benchmarks/shrink_families.py [--quick] [--only NAME]

Random weights, and BatchNorm statistics that are not trivial, at a small input size. The smaller
network runs, is saved, loaded and converted; its multiply-adds are those of `tfc.complexity`, and
the latency is that of both float files on XNNPACK, one thread, taking turns.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import markdown
from quantize_families import build, run

import tfcompress as tfc

RATIO = 0.5


def measure(name: str, quick: bool) -> dict[str, Any]:
    start = time.monotonic()
    row: dict[str, Any] = {"network": name, "reason": ""}
    model, x = build(name)
    before = tfc.complexity(model)
    row |= {"multiply_adds": before.multiply_adds, "parameters": before.parameters}
    try:
        smaller = tfc.shrink(model, RATIO)
        after = tfc.complexity(smaller)
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{kind}.tflite" for kind in ("dense", "smaller")]
            smaller.save(f"{folder}/m.keras")
            loaded = keras.models.load_model(f"{folder}/m.keras")
            for path, part in zip(files, (model, loaded), strict=True):
                tfc.convert(part, path=path)
            ran = tfc.TFLiteModel(files[1]).predict(x[:2])
            close = np.abs(ran - smaller.predict(x[:2], verbose=0)).max() < 1e-3 * np.ptp(ran)
            timed = tfc.benchmark(
                [str(path) for path in files], threads=[1], runs=10 if quick else 50
            ).rows
        row |= {
            "saved": 1 - after.multiply_adds / before.multiply_adds,
            "saved_parameters": 1 - after.parameters / before.parameters,
            "same_in_file": bool(close),
            "faster": timed[0].median_ms / timed[1].median_ms,
        }
    except tfc.CompressError as error:
        row["reason"] = f"{type(error).__name__}: {error}"[:300]
    row["seconds"] = time.monotonic() - start
    return row


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["network", "multiply-adds", "fewer", "parameters", "fewer", "faster", "or reason"]
    cells = []
    for row in rows:
        start = [row["network"], f"{row['multiply_adds'] / 1e6:,.1f} M"]
        if row["reason"]:
            cells.append([*start, "-", f"{row['parameters']:,}", "-", "-", row["reason"]])
            continue
        cells.append(
            [
                *start,
                f"{row['saved']:.1%}",
                f"{row['parameters']:,}",
                f"{row['saved_parameters']:.1%}",
                f"x{row['faster']:.2f}",
                "-" if row["same_in_file"] else "the file's outputs are not the model's",
            ]
        )
    return markdown(heads, cells)


if __name__ == "__main__":
    run(__doc__.splitlines()[0], measure, table)
