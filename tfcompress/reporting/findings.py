"""What a report says, as plain data: no measuring, no HTML."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Histogram:
    """Distribution of a layer's weights, zeros left out.

    Attributes:
        low: lower edge of the first bin, in the weights' real unit.
        high: upper edge of the last bin.
        counts: weights in each of the equally wide bins.
        zeros: weights that are 0.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    zeros: int


@dataclass(frozen=True)
class Layer:
    """One operator of a model's main graph, and the layer that it comes from.

    Attributes:
        index: place in the order of execution.
        layer: the Keras layer, as far as the file tells.
        operator: the format's name, such as `"CONV_2D"`.
        output: shape of its output.
        dtype: type of its output.
        parameters: trained values that it reads.
        nbytes: bytes of them in the file.
        weight_low: smallest weight, real; None without weights.
        weight_high: largest weight.
        output_low: smallest value that its output can hold; None where that is not quantized.
        output_high: largest one.
        sparsity: share of weights that are 0; None without weights.
        sqnr_db: signal to quantization noise at its output, dB; None where it is not known, inf
            where there is no noise.
        time_ms: milliseconds of one inference; None where it was not measured.
        time_error_ms: standard error of it.
        placed: whether XNNPACK runs it.
        histogram: of its weights; None without weights.
    """

    index: int
    layer: str
    operator: str
    output: tuple[int, ...]
    dtype: str
    parameters: int
    nbytes: int
    weight_low: float | None
    weight_high: float | None
    output_low: float | None
    output_high: float | None
    sparsity: float | None
    sqnr_db: float | None
    time_ms: float | None
    time_error_ms: float | None
    placed: bool
    histogram: Histogram | None


@dataclass(frozen=True)
class Skipped:
    """What was left out, of a model or by its runtime.

    Attributes:
        what: the layer, operator or measurement.
        why: the reason.
        remedy: what would help; "" where nothing is known.
        asked: whether it was asked for: a model of the list, or its accuracy or latency.
    """

    what: str
    why: str
    remedy: str = ""
    asked: bool = False


@dataclass
class Model:
    """One model.

    Attributes:
        name: its name, no two alike.
        source: the file it was read from or made of; "" for a model in memory.
        nbytes: bytes of the file; `gzip` after gzip -9.
        gzip: bytes after gzip -9.
        sha256: digest of the file.
        parameters: trained values.
        sparsity: share of zeros in the kernels.
        minimum_runtime: oldest TensorFlow Lite that knows all operators.
        figures: metric to value.
        median_ms: latency of one inference, milliseconds; None where it was not measured.
        p10_ms: tenth percentile.
        p90_ms: ninetieth percentile.
        init_ms: loading and preparing.
        peak_mb: memory added, MiB.
        layers: operators in order.
        skipped: what was left out, and why.
        notes: sentences on the whole.
    """

    name: str
    source: str
    nbytes: int
    gzip: int
    sha256: str
    parameters: int
    sparsity: float
    minimum_runtime: str
    figures: dict[str, float] = field(default_factory=dict)
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    init_ms: float | None = None
    peak_mb: float | None = None
    layers: list[Layer] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """All that a page shows.

    Attributes:
        title: the page's.
        models: in the order given.
        examples: how many examples the figures are of; 0 without labelled data.
        skipped: models that could not be read at all.
        settings: name to value of what shaped the measurements.
        versions: package or machine property to value.
        commands: what to run for the same report.
        notes: what to know when reading.
    """

    title: str
    models: list[Model] = field(default_factory=list)
    examples: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def all_skipped(self) -> list[tuple[str, Skipped]]:
        """What was left out, beside the model's name; "" for models that could not be read."""
        rows = [("", entry) for entry in self.skipped]
        return rows + [(model.name, entry) for model in self.models for entry in model.skipped]

    @property
    def metrics(self) -> list[str]:
        """Names of the figures, in order, over all models."""
        return list(dict.fromkeys(name for model in self.models for name in model.figures))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what is infinite or no number is None."""
        found: dict[str, Any] = _finite(asdict(self))
        return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
