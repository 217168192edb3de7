"""The verbs that a recipe may name, as one table: arguments, what may follow what, what is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfcompress.clustering.kmeans import STARTS
from tfcompress.conversion.precisions import PRECISIONS, TRAINED
from tfcompress.pipeline import actions, values
from tfcompress.pipeline.training import METHODS
from tfcompress.pipeline.values import Kind
from tfcompress.pruning.patterns import as_pattern
from tfcompress.pruning.pooling import POOLINGS
from tfcompress.quantization.scheme import BATCHNORM, RANGE_METHODS, SCHEMES

CRITERIA = ("magnitude", "taylor", "snip", "movement")
IMPORTANCES = (
    "magnitude", "magnitude_l1", "bn_gamma", "taylor", "activation", "geometric_median", "random",
)  # fmt: skip
CALIBRATIONS = ("min_max", "moving_average", "percentile", "mse", "kl")
ALL_PRECISIONS = tuple(dict.fromkeys([*PRECISIONS, *TRAINED]))


@dataclass(frozen=True)
class Verb:
    """A verb of recipes.

    Attributes:
        act: `actions`' function for it.
        arguments: what may be said, by name.
        trains: `"no"`, `"may"` or `"must"`.
        not_after: verbs that may not come before it -> why.
        only_after: a verb that must come before it, and why; None where there is none.
        keeps: what later steps keep of it: `"sparsity"`, `"clusters"` or nothing.
        files: it makes files of the model, and leaves the model as it is.
    """

    act: Callable[..., Any]
    arguments: Mapping[str, Kind] = field(default_factory=dict)
    trains: str = "may"
    not_after: Mapping[str, str] = field(default_factory=dict)
    only_after: tuple[str, str] | None = None
    keeps: str = ""
    files: bool = False


_CONVERTED = {"convert": "what changes the model must come before it is converted to files"}
_GRID = {"quantize": "a quantize-aware model's structure and weights are settled"}
_SHARED = {"cluster": "the values that weights share would part again"}
_PLAIN = {**_CONVERTED, **_GRID, **_SHARED}
_SCOPES = {"include": values.scope(), "exclude": values.scope()}
_SAMPLES = {"samples": values.whole(1)}
_SHARE = values.number(0, 1)

VERBS: dict[str, Verb] = {
    "shrink": Verb(
        actions.shrink,
        {
            "ratio": values.number(0, 1, open_="low high", required=True),
            "target": values.choice(
                ("multiply_adds", "parameters"),
                " (latency is another in every measurement, so it could not be resumed)",
            ),
            "importance": values.choice(IMPORTANCES),
            "round_to": values.whole(1),
            "pooling": values.choice(("global", "layer")),
            "floor": values.number(0, 1, open_="high"),
            "restore": values.flag(),
            "whole_heads": values.flag(),
            **_SAMPLES,
            **_SCOPES,
        },
        not_after=_PLAIN,
    ),
    "separate": Verb(
        actions.separate,
        {
            "terms": values.whole(1),
            "multiply_adds": values.number(0, 1, open_="low high"),
            "restore": values.flag(),
            **_SAMPLES,
            **_SCOPES,
        },
        not_after=_PLAIN,
    ),
    "factorize": Verb(
        actions.factorize,
        {
            "energy": values.number(0, 1, open_="low"),
            "rank": values.whole(1),
            "multiply_adds": values.number(0, 1, open_="low high"),
            "restore": values.flag(),
            **_SAMPLES,
            **_SCOPES,
        },
        not_after=_PLAIN,
    ),
    "drop_layers": Verb(
        actions.drop_layers,
        {
            "layers": values.names("a layer's name, a glob, or a list of these"),
            "blocks": values.whole(1),
            "restore": values.flag(),
            **_SAMPLES,
        },
        not_after=_PLAIN,
    ),
    "remove_dead": Verb(actions.remove_dead, not_after=_PLAIN),
    "fold_batchnorm": Verb(actions.fold_batchnorm, not_after=_PLAIN),
    "sparse_friendly": Verb(actions.sparse_friendly, not_after=_PLAIN),
    "prune": Verb(
        actions.prune,
        {
            "sparsity": values.number(0, 1, open_="low high", required=True),
            "initial": values.number(0, 1, open_="high"),
            "begin": _SHARE,
            "end": _SHARE,
            "updates": values.whole(1),
            "pattern": values.text(
                "unstructured, block:RxC such as block:1x4, or N:M such as 2:4", as_pattern
            ),
            "criterion": values.choice(CRITERIA),
            "pooling": values.choice(tuple(POOLINGS)),
            "floor": _SHARE,
            "cap": _SHARE,
            **_SCOPES,
        },
        not_after=_PLAIN,
        keeps="sparsity",
    ),
    "cluster": Verb(
        actions.cluster,
        {
            "number_of_clusters": values.whole(1, required=True),
            "init": values.choice(tuple(STARTS)),
            "per_channel": values.flag(),
            **_SCOPES,
        },
        not_after={**_CONVERTED, **_GRID, "cluster": "its weights share values already"},
        keeps="clusters",
    ),
    "train": Verb(actions.train, trains="must", not_after=_CONVERTED),
    "distill": Verb(
        actions.train,
        {
            "teacher": values.text("original, or the path of a .keras file"),
            "temperature": values.number(0, open_="low"),
            "alpha": _SHARE,
            "method": values.choice(METHODS),
        },
        trains="must",
        not_after=_CONVERTED,
    ),
    "quantize": Verb(
        actions.quantize,
        {
            "scheme": values.choice(tuple(SCHEMES)),
            "weight_bits": values.whole(2, 8),
            "range_method": values.choice(RANGE_METHODS),
            "batchnorm": values.choice(BATCHNORM),
            "calibration_method": values.choice(CALIBRATIONS),
            "preserve": values.names(
                "a list of sparsity and clusters", ("sparsity", "clusters"), single=False
            ),
            "freeze_batchnorm": values.one_of(_SHARE, values.nothing()),
            "freeze_ranges": values.one_of(_SHARE, values.nothing()),
            **_SAMPLES,
            **_SCOPES,
        },
        not_after={**_CONVERTED, "quantize": "it is quantize-aware already"},
    ),
    "convert": Verb(
        actions.convert,
        {
            "precision": values.names(
                f"one or a list of {', '.join(ALL_PRECISIONS)}", ALL_PRECISIONS
            ),
            "io": values.choice(("float32", "int8", "uint8", "int16")),
            "batch_size": values.whole(1),
            "sparse": values.flag(),
            "verify": values.flag(),
            **_SAMPLES,
        },
        trains="no",
        files=True,
    ),
    "pack": Verb(
        actions.pack,
        {"slim": values.flag()},
        trains="no",
        not_after={"pack": "its files are packed already"},
        only_after=("convert", "it packs the files that convert writes"),
        files=True,
    ),
}
