"""Which models may be stored with sparse weights, and which XNNPACK's sparse kernels then compute.

In a sparse file weights are stored without their zeros, and DENSIFY expands them. It makes XNNPACK
look for a part of the graph to compute with its sparse kernels, channels first, on the processors
that have them (ARM above all). That search trusts the model to be of the kind that the kernels were
made for: of other models it computes wrong outputs without a word, or refuses the file, on a phone
and never on the machine that converted it. So there is a list of what is proven
(`tfcompress.runtime.sparse_pattern`); all else is refused. `tfc.convert(sparse=True)` asks here
what it may write, `tfc.inspect(target="xnnpack-sparse")` what to say of a file, and
`tfc.xnnpack_sparse_layers` which layers gain.

Source: Elsen et al. 2020, "Fast Sparse ConvNets", https://arxiv.org/abs/1911.09723; src/subgraph.c
of google/XNNPACK (`xnn_subgraph_rewrite_for_nchw`), and dense_to_sparse_pass.cc of
tensorflow/tensorflow for what the converter stores sparse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tfcompress.runtime.schema import Model, Operator
from tfcompress.runtime.sparse_pattern import Walk, Wrong

_REFUSED_PRECISIONS: Final = {
    "dynamic": "a sparse file of precision 'dynamic' does not load anywhere",
    "int8": "int8 weights stored sparse are expanded when the file is loaded, which brings no "
    "speed, and a Dense layer of that kind makes the interpreter fail",
    "int16x8": "XNNPACK has no sparse kernels for int16 activations",
    "weight-int8": "XNNPACK has no sparse kernels for int8 weights",
}
_ACCEPTED_PRECISIONS: Final = ("fp32", "fp16")

_ENCODED_FROM: Final = 0.3
"""The share of zeros from which the converter stores a weight sparse."""

_BLOCK: Final = 4
_BLOCK_RATIO: Final = 0.9
"""The converter stores a Dense kernel in blocks of 1x4 where they hold this share of its zeros."""

_BYTES_PER_WEIGHT: Final = 700
"""The most that a sparse tensor and its DENSIFY add to a file, besides values and indices."""

_SHOWN: Final = 3  # of the layers that one reason concerns

Place = tuple[int, int]
"""A subgraph and the index of an operator in it."""


@dataclass(frozen=True)
class Violation:
    """A rule of XNNPACK's sparse kernels that a file breaks.

    Attributes:
        rule: the rule's name, such as `"padding"`, `"zeros"` or `"storage"`.
        reason: what the rule asks for and what is there.
        change: the change that satisfies it; "'{layer}'" stands for the layer's name.
        layers: the layers concerned, as far as the file tells their names.
        operators: (subgraph, index) of the operators concerned.
    """

    rule: str
    reason: str
    change: str
    layers: tuple[str, ...]
    operators: tuple[Place, ...]

    @property
    def remedy(self) -> str:
        """The change that satisfies the rule, naming the layers."""
        return self.remedy_for(*self.layers)

    def remedy_for(self, *layers: str) -> str:
        """The change that satisfies the rule in some of the layers."""
        return self.change.replace("'{layer}'", listed(layers))

    def __str__(self) -> str:
        return f"{listed(self.layers)}: {self.reason}" if self.layers else self.reason


@dataclass(frozen=True)
class Pointwise:
    """A 1x1 convolution of a file: what sparse kernels are for.

    Attributes:
        layer: the Keras layer, as far as the file tells its name, with what holds it.
        kernel: its weights, (filters, channels).
    """

    layer: str
    kernel: np.ndarray


def violations(model: Model, *, structural_only: bool = False) -> list[Violation]:
    """Says which rules of XNNPACK's sparse kernels a file breaks, dense or sparse.

    Args:
        model: the parsed file.
        structural_only: judge what the model computes, as if its 1x1 convolutions were pruned and
            stored sparse.

    Returns:
        The violations, each with the operators that it concerns. Empty where the file is right on
        every processor, and computed by sparse kernels where a processor has them.

    Example:
        >>> [v.rule for v in violations(schema.parse(content))]  # doctest: +SKIP
        ['first convolution', 'padding', 'head', 'zeros']
    """
    if len(model.subgraphs) != 1:
        places = [(g.index, operator.index) for g in model.subgraphs for operator in g.operators]
        return [
            Violation(
                "loops",
                "the model has loops or branches, and XNNPACK's sparse kernels take none",
                "Unroll recurrent layers (unroll=True), or keep the file dense.",
                (),
                tuple(places),
            )
        ]
    walk = Walk(model)
    found = _grouped(walk, walk.broken())
    if structural_only:
        return found
    sparse = [operator for operator in walk.graph.operators if operator.name == "DENSIFY"]
    if sparse and found:
        found.append(_unsafe(walk, sparse))
    found += _too_few_zeros(walk)
    found += _encoded_wrongly(walk, stored=bool(sparse))
    if not sparse and not found:
        found += _dense_storage(walk)
    return found


def refusals(model: Model, precision: str) -> list[str]:
    """Says why a model's weights must be stored dense.

    Args:
        model: the converted file with dense weights.
        precision: how it was converted, as `tfc.convert` names it.

    Returns:
        One reason each; empty where the sparse encoding is right on every processor, smaller, and
        computed by sparse kernels where a processor has them.

    Example:
        >>> refusals(schema.parse(content), "int8")  # doctest: +SKIP
        ["int8 weights stored sparse are expanded when the file is loaded, ..."]
    """
    if precision not in _ACCEPTED_PRECISIONS:
        refused = _REFUSED_PRECISIONS.get(precision, f"precision {precision!r} is not proven")
        return [f"{refused}; sparse weights need precision 'fp32' or 'fp16'"]
    found = [violation for violation in violations(model) if violation.rule != "storage"]
    reasons = [str(violation) for violation in found]
    if not any(violation.rule in ("loops", "zeros") for violation in found):
        reasons += _growth(Walk(model))
    return reasons


def pointwise(model: Model) -> list[Pointwise]:
    """The 1x1 convolutions of a file: what would be stored and run sparse."""
    if len(model.subgraphs) != 1:
        return []
    walk = Walk(model)
    # Layers with equal kernels read one tensor of the file: go by what reads it.
    kernels = {operator.inputs[1]: values for operator, values in walk.pointwise()}
    return [
        Pointwise(walk.names.of(operator), values.reshape(len(values), -1))
        for operator in walk.graph.operators
        if operator.name == "CONV_2D" and (values := kernels.get(operator.inputs[1])) is not None
    ]


def listed(names: Sequence[str]) -> str:
    """A few of the names in quotes, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _grouped(walk: Walk, broken: Iterable[tuple[Operator, Wrong]]) -> list[Violation]:
    """One violation for all operators that break a rule in the same way."""
    groups: dict[Wrong, list[Operator]] = {}
    for operator, wrong in broken:
        groups.setdefault(wrong, []).append(operator)
    return [_violation(walk, wrong, operators) for wrong, operators in groups.items()]


def _violation(walk: Walk, wrong: Wrong, operators: Sequence[Operator]) -> Violation:
    layers = tuple(dict.fromkeys(walk.names.of(operator) for operator in operators))
    places = tuple((walk.graph.index, operator.index) for operator in operators)
    return Violation(wrong.rule, wrong.reason, wrong.remedy, layers, places)


# -- the weights --------------------------------------------------------------------------------


def _unsafe(walk: Walk, sparse: list[Operator]) -> Violation:
    wrong = Wrong(
        "unsafe",
        "weights are stored sparse in a model outside the proven pattern: on ARM such a file can "
        "give wrong outputs without a word, or fail to load",
        "Do not ship this file: convert the model again with tfc.convert(sparse=True), which "
        "stores it dense where sparse is not safe.",
    )
    return _violation(walk, wrong, sparse)


def _too_few_zeros(walk: Walk) -> list[Violation]:
    """The sparse kernels start where the 1x1 convolutions together are sparse enough."""
    kernels = walk.pointwise()
    count = sum(values.size for _, values in kernels)
    zeros = sum(_zeros(values) for _, values in kernels)
    if count and 3 * zeros > 2 * count:
        return []
    share = f"only {zeros / count:.0%} of their weights are" if count else "there are none"
    wrong = Wrong(
        "zeros",
        "XNNPACK's sparse kernels start where more than 2/3 of the weights of the 1x1 convolutions "
        f"are zero; {share}: prune them to a sparsity of 0.7 or more",
        "Prune '{layer}' to a sparsity of 0.7 or more: tfc.PruningCallback(schedule, "
        "include=tfc.xnnpack_sparse_layers(model))."
        if count
        else "Keep the file dense, or build the model of depthwise and 1x1 convolutions.",
    )
    below = [operator for operator, values in kernels if 3 * _zeros(values) <= 2 * values.size]
    ends = [walk.surroundings.producers.get(index) for index in walk.graph.outputs]
    concerned = below or [operator for operator in ends if operator is not None]
    return [_violation(walk, wrong, concerned)]


def _dense_storage(walk: Walk) -> list[Violation]:
    wrong = Wrong(
        "storage",
        "the weights are stored dense, and sparse kernels start only for a file that stores them "
        "sparse; all else about the model qualifies",
        "Convert the model with tfc.convert(model, sparse=True).",
    )
    operators = [operator for operator, _ in walk.pointwise()]
    return [_violation(walk, wrong, operators)]


def _growth(walk: Walk) -> list[str]:
    """The reason that lies in the file's size: sparse storage that is no smaller."""
    change = sum(_change(values) for _, values in walk.weights())
    return [f"the file would grow by about {change:,} bytes"] if change >= 0 else []


def _change(weights: np.ndarray) -> int:
    """Bytes that the sparse encoding of one tensor adds; negative where it saves some."""
    kept = int(np.count_nonzero(weights))
    if kept > (1 - _ENCODED_FROM) * weights.size:
        return 0
    rows, columns = weights.size // weights.shape[-1], weights.shape[-1]
    index, segment = (next(n for n in (1, 2, 4) if top < 256**n) for top in (columns - 1, kept))
    stored = kept * (weights.itemsize + index) + (rows + 1) * segment
    return stored + _BYTES_PER_WEIGHT - weights.nbytes


def _encoded_wrongly(walk: Walk, *, stored: bool) -> list[Violation]:
    """Weights that the converter encodes wrongly, or in a file stored sparse, has so encoded."""
    empty, blocks = [], []
    for operator, values in walk.weights():
        dense_layer = operator.name == "FULLY_CONNECTED"
        sparsity = walk.packed(operator.inputs[1]).sparsity
        if not stored and not values.any():
            empty.append(operator)
        elif dense_layer and (
            sparsity is not None and len(sparsity.block_map) > 0 if stored else _in_blocks(values)
        ):
            blocks.append(operator)
    found = []
    if empty:
        wrong = Wrong(
            "empty",
            "all weights are zero, for which the converter writes a damaged file: prune this layer "
            "less, or remove it",
            "Prune '{layer}' less, or take it out of the model.",
        )
        found.append(_violation(walk, wrong, empty))
    if blocks:
        wrong = Wrong(
            "blocks",
            f"the zeros of this Dense layer lie in blocks of {_BLOCK}, and the file that the "
            "converter writes then is not right everywhere: prune it without a block pattern, or "
            "not at all",
            "Prune '{layer}' without a block pattern, or not at all: exclude it.",
        )
        found.append(_violation(walk, wrong, blocks))
    return found


def _zeros(values: np.ndarray) -> int:
    return values.size - int(np.count_nonzero(values))


def _in_blocks(weights: np.ndarray) -> bool:
    zeros = _zeros(weights)
    if zeros < _ENCODED_FROM * weights.size:
        return False
    whole = weights.shape[1] // _BLOCK * _BLOCK  # the converter overlooks the columns behind
    blocks = weights[:, :whole].reshape(len(weights), -1, _BLOCK)
    stored = _BLOCK * np.count_nonzero(blocks.any(axis=2))
    return bool(weights.size - stored > _BLOCK_RATIO * zeros)
