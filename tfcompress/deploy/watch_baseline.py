"""`tfc.watch_baseline`: a file that knows how often its calibration data hits its ranges' ends."""

from __future__ import annotations

import os
import sys
from typing import Any

from tfcompress.conversion.calibration import gather
from tfcompress.deploy.evaluate import input_specs
from tfcompress.errors import ConfigError, DataError
from tfcompress.runtime.model import TFLiteModel
from tfcompress.runtime.packing import add_metadata
from tfcompress.runtime.watch import METADATA

LEAST = 100  # with fewer, false alarms are more than stated where hits are rare


def watch_baseline(
    tflite: TFLiteModel | str | os.PathLike[str] | bytes,
    data: Any,
    *,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> TFLiteModel:
    """Runs a quantized file on its calibration data, and writes into it what was seen.

    The new file computes the same. Where it runs, `predict(..., watch=True)` counts, and
    `.watched` compares with these counts.

    Args:
        tflite: the file, its bytes or a TFLiteModel; int8 or int16x8, inputs and outputs of any
            type.
        data: the calibration data or other typical data, in the forms that `tfc.convert` takes: 100
            examples at least. Data that the ranges were not made from says more.
        path: where to write the file as well.
        overwrite: allow `path` to exist.

    Returns:
        The file with some hundred bytes of metadata named `"tfcompress_watch"`.

    Raises:
        ConfigError: no input or output is quantized.
        DataError: data that does not fit, or too little.
        DeviceError: no package that can write the format is installed.

    Example:
        >>> int8 = tfc.watch_baseline(tfc.convert(model, "int8", representative_data=x), x)
        >>> int8.save("model.tflite")
    """
    source = TFLiteModel(tflite)
    if len(source.parsed.signatures) > 1:
        raise ConfigError("A file with several signatures cannot be watched.")
    examples = gather(data, input_specs(source), sys.maxsize)
    count = len(next(iter(examples.values())))
    if count < LEAST:
        raise DataError(f"At least {LEAST} examples are needed to compare with. Received: {count}")
    source.predict(examples, watch=True)
    content = add_metadata(source.content, METADATA, source.watched.baseline())
    found = TFLiteModel(content, report=source.report)
    found.name, found.input_order = source.name, source.input_order
    if path is not None:
        found.save(path, overwrite=overwrite)
    return found
