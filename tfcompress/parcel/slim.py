"""`tfc.slim`: a `.tflite` without what no runtime reads, and with equal parts stored once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from tfcompress.errors import CompressError, ConfigError
from tfcompress.report import CompressionReport
from tfcompress.runtime import schema
from tfcompress.runtime.model import TFLiteModel
from tfcompress.runtime.packing import opened, packed

_LARGEST: Final = (1 << 31) - (1 << 25)  # bytes of buffers, with room for the rest
NEEDLESS: Final = ("min_runtime_version", "CONVERSION_METADATA")
"""Metadata that converters write for people and tools; runtimes never read it."""


def slim(
    source: str | os.PathLike[str] | bytes | TFLiteModel,
    *,
    keep_names: bool = False,
    drop_metadata: Iterable[str] | None = NEEDLESS,
) -> TFLiteModel:
    """Takes out of a `.tflite` what no runtime reads; weights and arithmetic stay as they are.

    What goes: names of tensors other than inputs and outputs, the converter's description and
    metadata, the ranges that old converters stored beside each scale. Equal buffers, scales, zero
    points, shapes and names are stored once, as the format allows. The names of signatures, of
    inputs and of outputs stay, and so does metadata that an application may read (labels, the
    counts of `tfc.watch_baseline`).

    Args:
        source: path, bytes or a `TFLiteModel`.
        keep_names: keep the names of all tensors: for `tfc.verify` and reports, which find layers
            by them.
        drop_metadata: names of metadata to take out; None for none.

    Returns:
        A new model; `.report` says what went, in bytes.

    Raises:
        CorruptFileError: it is no sound TFLite file.
        ConfigError: the file cannot be read, or `drop_metadata` holds no names.
        DeviceError: no package that can write the format is installed.

    Example:
        >>> smaller = tfc.slim("model.tflite")
        >>> print(smaller.report)
    """
    tflite = TFLiteModel(source)
    given = [] if drop_metadata is None else drop_metadata
    names = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"`drop_metadata` must be names. Received: {drop_metadata!r:.80}")
    report = CompressionReport("slim")
    content = _tried(tflite, keep_names, names, report)
    if len(content) >= len(tflite.content):
        notes = report.notes or ["Nothing to take out: left as it is."]
        report = CompressionReport("slim", notes=notes)
        content = tflite.content
    result = TFLiteModel(content, report=report)
    result.name, result.input_order = tflite.name, tflite.input_order
    return result


def _tried(
    tflite: TFLiteModel, keep_names: bool, drop: list[str], report: CompressionReport
) -> bytes:
    """As `_slimmed`; the file as it is, told, where it cannot be written anew."""
    size = sum(len(data) for data in tflite.parsed.buffers if data is not None)
    if size > _LARGEST:
        why = f"its buffers have {size:,} bytes, and a file of one piece has less than 2 GiB"
    else:
        try:
            return _slimmed(tflite, keep_names, drop, report)
        except CompressError:
            raise
        # The schema's own code believes what the file says: of a damaged part anything comes.
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
    report.entries.clear()
    report.notes.append(f"It cannot be written anew ({why}): left as it is.")
    return tflite.content


def _slimmed(
    tflite: TFLiteModel, keep_names: bool, drop: list[str], report: CompressionReport
) -> bytes:
    model = opened(tflite.content)
    size = len(packed(model))
    if not _same(tflite.parsed, schema.parse(packed(model))):
        report.notes.append("It holds parts that are newer than the writer here: left as it is.")
        return tflite.content

    def gone(name: str, kind: str, share: bool = False, **details: Any) -> None:
        nonlocal size
        now = len(packed(model, share=share))
        if now < size:
            action = "stored once" if share else "taken out"
            report.add(name, kind, action, bytes=size - now, **details)
        size = min(size, now)  # (what is left may lie in more words, for alignment)

    dropped = [entry for entry in model.metadata or [] if _text(entry.name) in drop]
    model.metadata = [entry for entry in model.metadata or [] if entry not in dropped] or None
    model.description = None
    model.metadataBuffer = None
    _renumber(model, share=False)
    gone("description, metadata", "text", dropped=[_text(entry.name) for entry in dropped])
    if not keep_names:
        for graph in model.subgraphs:
            kept = {*map(int, graph.inputs), *map(int, graph.outputs)}
            for index, tensor in enumerate(graph.tensors):
                if index not in kept:
                    tensor.name = None
        gone("names of inner tensors", "text")
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            _lean(tensor)
    gone("ranges, empty quantization", "numbers")
    _renumber(model, share=True)
    gone("equal lists, texts and buffers", "all", share=True)
    content = packed(model, share=True)
    if not _same(tflite.parsed, schema.parse(content), lean=True):
        report.entries.clear()
        report.notes.append("It would not read the same: left as it is.")
        return tflite.content
    return content


def _text(name: Any) -> str:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def _lean(tensor: Any) -> None:
    """Without the ranges beside scales, and without a quantization that says nothing."""
    found = tensor.quantization
    if found is None:
        return
    if found.scale is not None and len(found.scale):
        found.min = found.max = None
        return
    # (the ranges of a float tensor, of fake quantization, stay)
    lists = (found.zeroPoint, found.min, found.max)
    if found.details is None and all(a is None or not len(a) for a in lists):
        tensor.quantization = None


def _renumber(model: Any, share: bool) -> None:
    """Buffers that something uses, those with equal constants once."""
    users = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    users += list(model.metadata or [])
    buffers, numbers = [model.buffers[0]], {0: 0}
    contents: dict[bytes, int] = {}
    for user in users:
        old = int(user.buffer)
        if old in numbers:
            user.buffer = numbers[old]
            continue
        data = model.buffers[old].data
        key = None if data is None or not len(data) else np.asarray(data).tobytes()
        if share and key is not None and key in contents:
            numbers[old] = contents[key]
        else:
            numbers[old] = len(buffers)
            buffers.append(model.buffers[old])
            if key is not None:
                contents[key] = numbers[old]
        user.buffer = numbers[old]
    model.buffers = buffers


def _same(one: schema.Model, other: schema.Model, lean: bool = False) -> bool:
    """Whether both compute the same: graphs, constants and quantization, but for names."""
    if one.signatures != other.signatures or len(one.subgraphs) != len(other.subgraphs):
        return False
    for a, b in zip(one.subgraphs, other.subgraphs, strict=True):
        if (a.inputs, a.outputs, len(a.tensors)) != (b.inputs, b.outputs, len(b.tensors)):
            return False
        if a.operators != b.operators:
            return False
        for s, t in zip(a.tensors, b.tensors, strict=True):
            if _values(one, s, lean) != _values(other, t, lean):
                return False
    return True


def _values(model: schema.Model, tensor: schema.Tensor, lean: bool) -> tuple[Any, ...]:
    data = model.constant(tensor)
    found = tensor.quantization
    numbers: tuple[Any, ...] | None = None
    if found is not None:
        lists = [found.scales, found.zero_points]
        lists += [] if lean and len(found.scales) else [found.mins, found.maxs]
        numbers = (*(a.tobytes() for a in lists), found.axis, found.blocks, found.custom)
        if lean and not any(numbers):
            numbers = None
    return (
        tensor.shape,
        tensor.shape_signature,
        tensor.dtype,
        tensor.is_variable,
        tensor.has_rank,
        tensor.external_buffer,
        None if data is None else bytes(data),
        numbers,
        repr(tensor.sparsity),
    )
