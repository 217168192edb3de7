"""What each `precision` of `tfc.convert` asks of the converter, as data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tfcompress.errors import ConfigError


@dataclass(frozen=True)
class Precision:
    """One way of storing and computing.

    Attributes:
        name: the string that `tfc.convert` takes.
        calibrated: needs representative data.
        ops: names in `tf.lite.OpsSet` that the converter may use; () for its default.
        fallback_ops: what to allow where it fails with those alone (the rest stays float).
        optimize: sets `Optimize.DEFAULT`.
        float16: stores weights as float16.
        io: types that inputs and outputs may be stored in.
        quantizer: recipe of ai-edge-quantizer applied to the float file, if any.
        block: of such a recipe, how many weights of a Dense layer share a scale; 0 for a channel's.
        all_integer: a float tensor in the result is worth a report.
        scheme: that of `tfc.quantize_aware` by which the model is calibrated, and then converted as
            a quantize-aware one is; "" for the converter's own calibration.
        stored_bits: for quantize-aware models, the smallest width that weights are stored in.
        activation_bits: for quantize-aware models, the width that they are trained for.
    """

    name: str
    calibrated: bool = False
    ops: tuple[str, ...] = ()
    fallback_ops: tuple[str, ...] = ()
    optimize: bool = False
    float16: bool = False
    io: tuple[str, ...] = ("float32",)
    quantizer: str = ""
    block: int = 0
    all_integer: bool = False
    scheme: str = ""
    stored_bits: int = 0
    activation_bits: int = 8

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """The model is traced inside it."""
        if not self.stored_bits:
            yield
            return
        from tfcompress.quantization import modes

        with modes.exporting(self.stored_bits):
            yield


_INT16_OPS = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"

PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32"),
        Precision("fp16", optimize=True, float16=True),
        Precision("dynamic", optimize=True),
        Precision(
            "int8",
            calibrated=True,
            optimize=True,
            ops=("TFLITE_BUILTINS_INT8",),
            fallback_ops=("TFLITE_BUILTINS_INT8", "TFLITE_BUILTINS"),
            io=("float32", "int8", "uint8"),
            all_integer=True,
        ),
        Precision(
            "int16x8",
            calibrated=True,
            optimize=True,
            ops=(_INT16_OPS,),
            fallback_ops=(_INT16_OPS, "TFLITE_BUILTINS"),
            io=("float32", "int16"),
            all_integer=True,
        ),
        Precision("weight-int8", quantizer="weight_only_wi8_afp32"),
        Precision("weight-int4", quantizer="weight_only_wi4_afp32"),
        Precision("dynamic-int4", quantizer="dynamic_wi4c_afp32"),
        Precision("dynamic-int4-blocks", quantizer="dynamic_wi4c_afp32", block=32),
        Precision("int8-matmul", calibrated=True, scheme="int8-matmul"),
    )
}


# For quantize-aware models, whose ranges are in the graph.
TRAINED = {
    precision.name: precision
    for precision in (
        Precision(
            name,
            optimize=True,
            io=io,
            all_integer=len(io) > 1,
            stored_bits=bits,
            activation_bits=16 if wide else 8,
        )
        for name, bits, wide, io in (
            ("int8", 8, False, ("float32", "int8", "uint8")),
            ("int8-w4", 8, False, ("float32", "int8", "uint8")),
            ("int4", 4, False, ("float32", "int8", "uint8")),
            ("int8-matmul", 8, False, ("float32",)),
            ("int16x8", 8, True, ("float32", "int16")),
        )
    )
}


def get_precision(name: str, io: str, *, trained: bool = False) -> Precision:
    """The row of that name, with `io` checked against it; `trained` for quantize-aware models.

    Raises:
        ConfigError: unknown precision, or an io type that it does not offer.
    """
    rows = TRAINED if trained else PRECISIONS
    if not isinstance(name, str) or name not in rows:
        raise ConfigError(f"`precision` must be one of {list(rows)}. Received: {name!r}")
    precision = rows[name]
    if io not in precision.io:
        raise ConfigError(
            f"`io` must be one of {list(precision.io)} with precision {name!r}. Received: {io!r}"
        )
    return precision
