"""How much of a model a device's delegate took, read from what the runtime logs there.

On Android every runtime prints "Replacing N out of M node(s) with delegate (NAME) node"
(tflite/core/subgraph.cc), whichever program it is in; TensorFlow Lite's program adds lines of its
own, and its GPU delegate names what it does not take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_REPLACING: Final = re.compile(r"Replacing (\d+) (?:out of (\d+) )?node\(s\) with delegate \((\w+)")
_APPLIED: Final = re.compile(
    r"Explicitly applied (\w+) delegate, and the model graph will be (completely|partially)"
)
_NOT_APPLIED: Final = re.compile(r"Though (\w+) delegate is explicitly applied, the model graph")
_UNSUPPORTED: Final = re.compile(
    r"Following operations are not supported by GPU delegate:\n(.*?)\n\d+ operations will run",
    re.DOTALL,
)
# Parts of the delegates' names; LiteRT 2 has one for each of the GPU's interfaces.
_NAMES: Final = {"xnnpack": ("XNNPACK",), "gpu": ("GPU", "LITERT_")}


@dataclass(frozen=True)
class Placement:
    """What a delegate took.

    Attributes:
        share: of the main graph's operators, 0 to 1; NaN where the program does not tell.
        partly: whether it is known to have left some.
        left: what it left and why, as far as it tells.
    """

    share: float = float("nan")
    partly: bool = False
    left: tuple[str, ...] = ()


def parse_placement(text: str, backend: str) -> Placement:
    """Reads what the runtime has logged.

    Args:
        text: what the program has printed.
        backend: `"xnnpack"` or `"gpu"`.
    """

    def is_meant(name: str) -> bool:
        return any(part in name.upper() for part in _NAMES[backend])

    found = _UNSUPPORTED.search(text) if backend == "gpu" else None
    left = tuple(line.strip() for line in found[1].splitlines()) if found else ()
    logged = list(_REPLACING.finditer(text))
    # The first is of the main graph; XNNPACK may come behind the GPU for what that leaves.
    ours = next((match for match in logged if is_meant(match[3])), None)
    if ours is not None and ours[2]:
        share = int(ours[1]) / int(ours[2])
        return Placement(share, share < 1, left)
    applied = next((m for m in _APPLIED.finditer(text) if is_meant(m[1])), None)
    if applied is not None:
        whole = applied[2] == "completely"
        return Placement(1.0 if whole else float("nan"), not whole, left)
    refused = any(is_meant(match[1]) for match in _NOT_APPLIED.finditer(text))
    if refused or (logged and ours is None) or "GPU acceleration is unsupported" in text:
        return Placement(0.0, True, left)
    return Placement(left=left)
