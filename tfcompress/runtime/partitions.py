"""How a runtime groups the operators that a delegate takes: each group becomes one partition.

Every partition is handed over to the delegate as a whole. Between partitions data is copied and
threads are joined, so few large ones are fast, many small ones slow.

Source: PartitionGraphIntoIndependentNodeSubsets in tflite/graph_info.cc of google-ai-edge/LiteRT,
as the interpreter calls it; the tests compare with the partitions of the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tfcompress.runtime.schema import Operator, SubGraph

_CONTROL: Final = ("IF", "WHILE", "CALL_ONCE")


def partitions(graph: SubGraph, placed: Sequence[bool]) -> list[tuple[int, ...]]:
    """Groups the placed operators of a subgraph as the runtime does.

    An operator joins the group that is being filled as soon as all its inputs are there, even
    past operators of the other kind that come first in the file. So parallel branches end up in
    one partition, where runs of neighbours would be counted apart.

    Args:
        graph: the subgraph.
        placed: for each of its operators whether the delegate takes it.

    Returns:
        For each partition the indices of its operators, ascending.

    Example:
        >>> partitions(graph, [True, False, True])  # doctest: +SKIP
        [(0,), (2,)]
    """
    missing = {tensor for operator in graph.operators for tensor in operator.outputs}
    waiting = list(graph.operators)
    effects = [operator.index for operator in graph.operators if _has_effects(graph, operator)]
    groups: list[tuple[int, ...]] = []
    while waiting:
        kind: bool | None = None
        group: list[int] = []
        progress = True
        while progress:
            progress = False
            left = []
            for operator in waiting:
                ready = missing.isdisjoint(operator.inputs) and (
                    operator.index not in effects or operator.index == effects[0]
                )
                if ready and kind in (None, placed[operator.index]):
                    kind = placed[operator.index]
                    group.append(operator.index)
                    missing.difference_update(operator.outputs)
                    if operator.index in effects:
                        effects.pop(0)  # what has side effects runs in the file's order
                    progress = True
                else:
                    left.append(operator)
            waiting = left
        if not group:  # a cycle: no runtime loads it
            break
        if kind:
            groups.append(tuple(sorted(group)))
    return groups


def largest(groups: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The group of the most operators, the first of equals; empty where there is none."""
    return max(groups, key=len, default=())


def _has_effects(graph: SubGraph, operator: Operator) -> bool:
    tensors = (*operator.inputs, *operator.outputs)
    return operator.name in _CONTROL or any(
        graph.tensors[tensor].dtype == "resource" for tensor in tensors if tensor >= 0
    )
