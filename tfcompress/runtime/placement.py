"""Which operators XNNPACK has taken, read from the runtime itself.

What `capabilities` predicts, this measures. The runtime keeps the operators that a delegate has
swallowed in its list and appends one DELEGATE node for each partition, which names only the
tensors that enter and leave it. What lies between is found by walking back from the ones that
leave to the ones that enter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tfcompress.errors import DeviceError
from tfcompress.runtime import adapter, proof
from tfcompress.runtime.schema import SubGraph

DELEGATE: Final = "DELEGATE"
"""The name under which the runtime lists a partition."""


def actual_placement(content: bytes, *, runtime: str = "auto") -> list[bool]:
    """Loads a file and says which operators of its main graph run in XNNPACK.

    The file is proven in a child process first, then loaded in this one.

    Args:
        content: bytes of a `.tflite` file.
        runtime: as for `adapter.Session`; the answer is that runtime's own.

    Returns:
        One value for each operator of the main graph, in the file's order: True where XNNPACK
        has taken it. Operators of other subgraphs cannot be read through Python.

    Raises:
        CorruptFileError: the file is damaged, or the runtime does not survive it.
        DeviceError: the runtime is missing, refuses the file, or does not list its operators.

    Example:
        >>> actual_placement(tflite.content)  # doctest: +SKIP
        [True, True, False]
    """
    graph = proof.prove(content, runtime=runtime).subgraphs[0]
    session = adapter.Session(content, runtime=runtime)
    taken: set[int] = set()
    for node in delegate_nodes(session):
        inside = _between(graph, node["inputs"], node["outputs"])
        taken |= inside | _sinks(graph, node["inputs"], inside)
    taken |= _dead_ends(graph, session)
    return [operator.index in taken for operator in graph.operators]


def delegate_nodes(session: adapter.Session) -> list[dict[str, Any]]:
    """The partitions of a loaded model's main graph.

    Returns:
        One dict for each, with the tensor indices of its `"inputs"` (constants too) and
        `"outputs"`.

    Raises:
        DeviceError: this runtime does not list its operators.
    """
    try:
        nodes = session.interpreter._get_ops_details()
    except AttributeError:
        raise DeviceError(
            f"{session.runtime} does not list its operators, so placement cannot be read from "
            "it. Use ai-edge-litert, or tfc.inspect, which predicts it."
        ) from None
    return [node for node in nodes if node["op_name"] == DELEGATE]


def _between(graph: SubGraph, inputs: Sequence[int], outputs: Sequence[int]) -> set[int]:
    """Indices of the operators that lie between the tensors of a partition's boundary."""
    producers = {tensor: op for op in graph.operators for tensor in op.outputs}
    entering = {int(tensor) for tensor in inputs}
    found: set[int] = set()
    waiting = [int(tensor) for tensor in outputs]
    while waiting:
        tensor = waiting.pop()
        operator = producers.get(tensor)
        if tensor in entering or operator is None or operator.index in found:
            continue
        found.add(operator.index)
        waiting += operator.inputs
    return found


def _sinks(graph: SubGraph, inputs: Sequence[int], inside: set[int]) -> set[int]:
    """Indices of swallowed operators without outputs, which is ASSIGN_VARIABLE.

    All that such an operator reads is at hand in the partition that has taken it.
    """
    at_hand = {int(tensor) for tensor in inputs}
    at_hand.update(*(graph.operators[index].outputs for index in inside))
    return {
        operator.index
        for operator in graph.operators
        if not operator.outputs and at_hand.issuperset(operator.inputs)
    }


def _dead_ends(graph: SubGraph, session: adapter.Session) -> set[int]:
    """Indices of swallowed operators whose results nobody reads: no boundary leads to them.

    Inside a partition no memory is planned for a tensor, so it cannot be fetched.
    """
    read = {*graph.outputs}.union(*(operator.inputs for operator in graph.operators))
    found = set()
    for operator in graph.operators:
        if operator.outputs and read.isdisjoint(operator.outputs):
            try:
                session.interpreter.get_tensor(operator.outputs[0])
            except ValueError:
                found.add(operator.index)
    return found
