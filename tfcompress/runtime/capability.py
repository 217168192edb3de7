"""What one row of the capability table says, and what is decided by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tfcompress.runtime.conditions import Condition

MEASURED: Final = "measured on LiteRT 2.3.0"

FLOAT: Final = "float32"
HALF: Final = "float16"
INT8: Final = "int8"
UINT8: Final = "uint8"
HALF_WEIGHTS: Final = "float32 with float16 weights"
"""Weights stored as float16, computed in float32."""
STORED_INT8: Final = "float32 with stored int8 weights"
"""Weights stored as int8, expanded to float32 when the model is loaded."""
DYNAMIC: Final = "float32 with int8 weights"
"""Dynamic range: activations are quantized on the fly, the product is computed in int8."""
DYNAMIC_INT4: Final = "float32 with int4 weights"
INT8_INT4: Final = "int8 with int4 weights"

FLOATS: Final = (FLOAT, HALF)
FLOATS_AND_8_BIT: Final = (FLOAT, HALF, INT8, UINT8)


@dataclass(frozen=True)
class Capability:
    """What a target does with one operator.

    Attributes:
        operator: the format's name, such as `"CONV_2D"`.
        forms: the forms it is taken in, as `form_of` names them; empty where there is no kernel.
        conditions: what must hold besides, in the order in which they are asked.
        remedy: what to do where it is not taken in its form.
        activations: places of the inputs that are computed at run time; None for all.
        weights: place of the input that holds weights; None where there is none.
        target: the target.
        source: where the row comes from.
        version: the newest version of the operator that is taken; None for all.
        hazards: conditions that are not asked for although they should be: where one does not
            hold, the operator is placed and computes something else than the CPU, silently.
    """

    operator: str
    forms: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    remedy: str = ""
    activations: tuple[int, ...] | None = (0,)
    weights: int | None = None
    target: str = "xnnpack"
    source: str = MEASURED
    version: int | None = None
    hazards: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What becomes of one operator.

    Attributes:
        placed: whether the target's kernels run it.
        reason: why not, as a sentence; "" where it is placed.
        remedy: what to do about it; "" where it is placed.
        rule: what decided: `"operator"` (no kernel), `"form"`, `"version"`, `"quantization"`,
            `"consumer"`, `"partition"`, or a condition's name; "" where it is placed.
        warning: what is known to come out wrong although it is placed, and what to do; else "".
    """

    placed: bool
    reason: str = ""
    remedy: str = ""
    rule: str = ""
    warning: str = ""


PLACED: Final = Decision(True)
