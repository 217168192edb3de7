"""What sparse storage does to a file's size, as `tfc.convert(sparse=True)` reports it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from tfcompress.report import CompressionReport, Entry
from tfcompress.runtime.model import TFLiteModel

_QUICK_TO_PACK: Final = 64_000_000  # bytes; above, zstd -19 would take longer than the conversion


def report_sizes(tflite: TFLiteModel, dense: bytes) -> None:
    """Reports the sizes of a file stored sparse and dense, and when to ship which.

    Args:
        tflite: the file that is handed over; its report gets an entry for each form of storage,
            with raw, gzip and zstd bytes in its details, and a sentence.
        dense: the same file with its weights stored dense; the same bytes where it is dense itself.
    """
    report: CompressionReport = tflite.report
    files = {"stored dense": tflite}
    if tflite.content != dense:
        files = {"stored dense": TFLiteModel(dense), "stored sparse": tflite}
    sizes = {name: _sizes(file) for name, file in files.items()}
    for name, size in sizes.items():
        report.entries.append(Entry(name, "file", "weighed", details=dict(size)))
    report.notes.append(_advice(**{name.split()[1]: size for name, size in sizes.items()}))


def _sizes(file: TFLiteModel) -> dict[str, int]:
    """Bytes by form; of a large file the raw ones only."""
    if len(file.content) > _QUICK_TO_PACK:
        return {"raw": len(file.content)}
    return {form: size for form, size in asdict(file.sizes).items() if size is not None}


def _advice(dense: dict[str, int], sparse: dict[str, int] | None = None) -> str:
    if sparse is None:
        return "An archive or an app package takes what zeros there are out of the dense file too."
    share = {form: sparse[form] / dense[form] for form in sparse}
    packed = f" and {share['gzip']:.2f} of its zipped ones" if "gzip" in share else ""
    weight = f"{share['raw']:.2f} of the dense file's bytes{packed}"
    if share["raw"] >= 1:
        return (
            f"Stored sparse the file is not smaller: it has {weight}. Ship it only where ARM's "
            "sparse kernels run it, and else the dense one (sparse=False)."
        )
    return (
        f"Stored sparse the file has {weight}. Ship it to CPUs of phones and boards (ARM), where "
        "sparse kernels run it; ship the dense one (sparse=False) to GPUs and to runtimes older "
        "than 2.2, which do not take sparse weights. On x86 both run alike."
    )
