"""What a processor's instructions do for XNNPACK's kernels in fp16 and int8."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from tfcompress.runtime.schema import Model

_FP16: Final = {"avx512_fp16", "asimdhp"}
_DOT_PRODUCTS: Final = {"avx512_vnni", "avx_vnni", "asimddp"}
_TILES: Final = {"amx_int8"}
_TOLD: Final = {"sse2", "asimd", "neon"}
"""One of these is among the features of every processor that tells its features in these words."""

_MULTIPLIES: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")

INT8_NOTES: Final = {
    "widened": (
        "This processor has no dot products of int8 (on x86 AVX-VNNI or AVX-512 VNNI, on ARM "
        "dotprod, which phones have since about 2018): XNNPACK widens the values first, so that "
        "int8 models gain less over float ones than there, or lose. Measure on the device that "
        "they are for."
    ),
    "tiles": (
        "XNNPACK multiplies int8 by this processor's AMX tiles and sets them up anew in every call "
        "of a kernel, so that small int8 models gain less over float ones than on processors that "
        "have dot products alone, or lose. Measure on the device that they are for."
    ),
}
"""Where int8 gains less than on most phones: how it is multiplied -> what to tell."""


def features() -> frozenset[str]:
    """The names of this processor's features, as Linux gives them; empty where nobody tells."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return frozenset({"asimd", "asimdhp", "asimddp"})  # Apple's all have them
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().lower().split())
    except OSError:
        return frozenset()


def fp16_arithmetic(found: frozenset[str] | None = None) -> str:
    """How a processor computes in fp16.

    Args:
        found: its features; None for this one's.

    Returns:
        `"native"` where it has instructions for it (ARMv8.2 and newer, AVX512-FP16), else
        `"emulated"`: values are kept in fp16 and multiplied in float32, which is no faster.
    """
    return "native" if _FP16 & (features() if found is None else found) else "emulated"


def int8_arithmetic(found: frozenset[str] | None = None) -> str:
    """How a processor multiplies int8.

    Args:
        found: its features; None for this one's.

    Returns:
        `"dot products"`, four at a time and summed in 32 bits, where it has instructions for it;
        `"tiles"` where XNNPACK takes AMX's for it; `"widened"` to 16 bits first where it has
        neither; "" where that is not known.

    Source: the choice of kernels in XNNPACK's src/configs/gemm-config.c.
    """
    found = features() if found is None else found
    if _TILES & found:
        return "tiles"
    if _DOT_PRODUCTS & found:
        return "dot products"
    return "widened" if _TOLD & found else ""


def multiplies_int8(model: Model) -> bool:
    """Whether a file has kernels of 8 or 4 bits that nothing turns into floats first."""
    return any(
        operator.name in _MULTIPLIES
        and len(operator.inputs) > 1
        and graph.tensors[operator.inputs[1]].dtype in ("int8", "int4", "int2", "uint8")
        for graph in model.subgraphs
        for operator in graph.operators
    )


def int8_notes(models: list[Model], found: frozenset[str] | None = None) -> list[str]:
    """The note on int8, if there are such models and the processor gains little by it."""
    note = INT8_NOTES.get(int8_arithmetic(found))
    return [note] if note and any(map(multiplies_int8, models)) else []
