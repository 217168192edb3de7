"""Every exception that tfcompress raises on purpose, as one small tree.

A message states the rule that was broken, what was received, and what to do.
"""

from __future__ import annotations

import re


class CompressError(Exception):
    """Base of all tfcompress errors: catch this to catch them all."""


class ConfigError(CompressError, ValueError):
    """An argument has a value that no run could use."""


class ScopeError(ConfigError):
    """A layer pattern in `include` or `exclude` matches no layer."""


class ModelTypeError(CompressError, TypeError):
    """The model is of a kind that the verb cannot take (Keras 2, not built, no model at all)."""


class DataError(CompressError, ValueError):
    """Data has the wrong shape, dtype, name or length, or holds NaN or infinity."""


class ConversionError(CompressError):
    """The TFLite converter failed, or what it wrote does not run.

    Attributes:
        log: everything that the converter printed, as text.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class TrainingError(CompressError):
    """A training has diverged: its loss is NaN or infinite."""


class VerificationError(CompressError):
    """An artefact does not compute what its model computes."""


class CorruptFileError(CompressError):
    """A file is not what its name says: truncated, empty, random, or of another version."""


class DeviceError(CompressError):
    """A runtime, accelerator or device is missing, or refuses the model."""


def in_brief(error: Exception, length: int = 300) -> str:
    """What an exception says, in one line: no trace, as TensorFlow puts before it, no colours."""
    parts = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("\n\n")
    traces = ("Graph execution error", "Detected at node")
    said = [part for part in parts if not part.strip().startswith(traces)] or parts
    return " ".join(" ".join(said).split())[:length]
