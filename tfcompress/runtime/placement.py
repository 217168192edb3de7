"""Which operators XNNPACK has taken, read from the runtime itself.

What `capabilities` predicts, this measures. The runtime keeps the operators that a delegate has
swallowed in its list and appends one DELEGATE node for each partition, which names only the
tensors that enter and leave it. What lies between is found by walking back from the ones that
leave to the ones that enter; what leads nowhere, by asking whether memory is planned for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tfcompress.errors import DeviceError
from tfcompress.runtime import adapter, proof
from tfcompress.runtime.schema import SubGraph

DELEGATE: Final = "DELEGATE"
"""The name under which the runtime lists a partition."""

VAR_HANDLE: Final = "VAR_HANDLE"


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
    return taken_of(graph, adapter.Session(content, runtime=runtime))


def taken_of(graph: SubGraph, session: adapter.Session) -> list[bool]:
    """`actual_placement` of a loaded model: which operators of its main graph a delegate has."""
    nodes = delegate_nodes(session)
    taken: set[int] = set()
    for node in nodes:
        taken |= between(graph, node["inputs"], node["outputs"])
    taken |= _hidden(graph, session)
    taken |= _sinks(graph, session, [{int(tensor) for tensor in node["inputs"]} for node in nodes])
    taken |= _handles(graph, taken)
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


def between(graph: SubGraph, inputs: Sequence[int], outputs: Sequence[int]) -> set[int]:
    """Indices of the operators that lie between the tensors of a partition's boundary."""
    producers = {tensor: operator for operator in graph.operators for tensor in operator.outputs}
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


def _hidden(graph: SubGraph, session: adapter.Session) -> set[int]:
    """Swallowed operators that lead to no output of the graph, so that no boundary shows them."""
    seen = between(graph, (), graph.outputs)
    return {
        operator.index
        for operator in graph.operators
        if operator.index not in seen
        and operator.outputs
        and operator.name != VAR_HANDLE
        and not _is_readable(session, operator.outputs[0])
    }


def _sinks(graph: SubGraph, session: adapter.Session, entering: list[set[int]]) -> set[int]:
    """Swallowed operators without outputs, which is ASSIGN_VARIABLE.

    What such an operator reads lies inside a partition, or enters one.
    """
    found = set()
    for operator in graph.operators:
        values = [i for i in operator.inputs if graph.tensors[i].dtype != "resource"]
        if values and not operator.outputs:
            inside = not all(_is_readable(session, tensor) for tensor in values)
            if inside or any(tensors.issuperset(values) for tensors in entering):
                found.add(operator.index)
    return found


def _handles(graph: SubGraph, taken: set[int]) -> set[int]:
    """Variables whose handle only swallowed operators use."""
    used = {i for index in taken for i in graph.operators[index].inputs}
    return {
        operator.index
        for operator in graph.operators
        if operator.name == VAR_HANDLE and not used.isdisjoint(operator.outputs)
    }


def _is_readable(session: adapter.Session, tensor: int) -> bool:
    """Whether memory is planned for a tensor: inside a partition none is."""
    try:
        session.interpreter.get_tensor(tensor)
    except ValueError:
        return False
    return True
