"""`tfc.remove_dead`: channels that make no difference taken out, exactly."""

from __future__ import annotations

import os
from typing import Any

from tfcompress.report import CompressionReport
from tfcompress.runtime.model import TFLiteModel


def remove_dead(model: Any) -> Any:
    """A model, or `.tflite` file, without the channels that make no difference.

    Two kinds of channels go: those that have the same value everywhere, whatever the input, as
    behind kernels or BatchNormalization scales of 0, or behind a ReLU of what is negative; and
    those that only weights of 0 read. What a constant channel adds to the next layer goes into
    its bias. Channels that hang together go only if all of them are dead; one is left where all
    are. A constant other than 0 that meets the zeros of padding stays, and the report says so.

    The outputs are the same to float rounding; those of an int8 file to the bit, and the smaller
    file is run beside the old one before it is given out.

    Args:
        model: a Functional or built Sequential model, nested ones included; or a `.tflite` as a
            path, bytes or TFLiteModel, whoever made it. It does not change.

    Returns:
        A new plain Keras model, not compiled; its `compression_report` gives channels before and
        after of each layer. Of a file a new `TFLiteModel`, and the same in its `report`. In files,
        channels go through convolutions, depthwise ones, dense layers, functions of one value,
        pools, means, padding, resizing, reshaping and sums or products; other operators keep them.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.
        CorruptFileError: no sound `.tflite`.
        VerificationError: the smaller file does not compute what the file does.
        DeviceError: no package that can write a `.tflite` is installed.

    Example:
        >>> smaller = tfc.remove_dead(model)
        >>> print(smaller.compression_report)
        >>> tfc.remove_dead("model_int8.tflite").save("smaller.tflite")

    Source: what training with group sparsity leaves behind, Wen et al. 2016 (arXiv:1608.03665).
    """
    if isinstance(model, (TFLiteModel, str, os.PathLike, bytes)):
        from tfcompress.surgery.dead_file import remove_dead_of_file

        return remove_dead_of_file(TFLiteModel(model))
    from tfcompress.surgery.channels.analysis import Analysis
    from tfcompress.surgery.channels.dead_units import DeadUnits
    from tfcompress.surgery.rewriting import check_graph

    check_graph(model)
    first: Any = None
    copied: list[str] = []
    while True:
        # What only fed what is gone is dead in the next turn.
        found = Analysis(model)
        first = found if first is None else first
        dead = DeadUnits(found)
        report = CompressionReport("remove_dead", notes=list(dead.notes))
        model = dead.without(model, report, first)
        copied += report.notes[len(dead.notes) :]
        if not dead.gone.any():
            # The last turn tells of every layer; what copying had to say may be of an earlier one.
            report.notes[len(dead.notes) :] = dict.fromkeys(copied)
            return model
