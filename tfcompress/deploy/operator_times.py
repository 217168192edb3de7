"""The time of each operator on this machine, by timing prefixes of the graph.

The runtimes' Python interfaces give no profile. (LiteRT's C interface has one: in microseconds cut
off, without the operators' places in the file, and of another form in each version.) So the graph
is cut behind each operator, the prefixes take turns in blocks as models do in `tfc.benchmark`, and
an operator's time is what its prefix takes longer than the one before. What XNNPACK fuses with an
operator behind the cut counts in the prefix that first holds both. On one thread it is the
processor's time of that thread, which other work on the machine cannot stretch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tfcompress.runtime.exposure import cut
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.model import TFLiteModel
from tfcompress.runtime.surroundings import Surroundings

METHOD: Final = "prefixes of the graph"
CHUNK_BYTES: Final = 256 << 20
"""What the files of prefixes that are loaded at the same time may hold together."""


@dataclass(frozen=True)
class OperatorTime:
    """What one operator takes.

    Attributes:
        index: its place in the file's main graph.
        name: its name in the format, such as `"CONV_2D"`.
        layer: the Keras layer that it comes from, as far as the file tells.
        ms: milliseconds of one inference. A difference of two measurements, so it may be
            slightly below zero; that of the first operator holds the cost of the call.
        share: of the sum of all operators, 0 to 1.
        error_ms: standard error of `ms`, in milliseconds.
    """

    index: int
    name: str
    layer: str
    ms: float
    share: float
    error_ms: float = float("nan")


@dataclass(frozen=True)
class Prefix:
    """The graph up to and with one operator: its operators, and what leaves them."""

    operator: int
    operators: tuple[int, ...]
    outputs: tuple[int, ...]


def prefixes(tflite: TFLiteModel) -> list[Prefix]:
    """The graph cut behind each operator.

    Operators that unpack constants when the model is loaded have no time of their own, and are
    part of what reads them; so are those without an output that a graph can have.
    """
    graph = tflite.parsed.subgraphs[0]
    around = Surroundings(tflite.parsed, graph)
    timed = [op.index for op in graph.operators if not around.unpacks(op)]
    found: list[Prefix] = []
    for place, index in enumerate(timed):
        operators = set(timed[: place + 1])
        waiting = [tensor for i in operators for tensor in graph.operators[i].inputs]
        while waiting:
            tensor = waiting.pop()
            if tensor >= 0 and around.is_unpacked(tensor):
                unpacking = around.producers[tensor]
                operators.add(unpacking.index)
                waiting += unpacking.inputs
        outputs = tuple(
            tensor
            for i in timed[: place + 1]
            for tensor in graph.operators[i].outputs
            if graph.tensors[tensor].dtype not in ("resource", "variant")
            and (
                tensor in graph.outputs
                or any(reader.index not in operators for reader in around.consumers[tensor])
            )
        )
        if outputs:
            found.append(Prefix(index, tuple(sorted(operators)), outputs))
    return found


def operator_times(
    tflite: TFLiteModel,
    ask: Callable[..., dict[str, Any]],
    load: Callable[[bytes, int], None],
    threads: int,
    rounds: int,
    block_ms: float,
    progress: Callable[[float], None] | None = None,
) -> tuple[OperatorTime, ...]:
    """Times every operator of a file's main graph.

    Args:
        tflite: the file.
        ask: sends a request to the process that runs the prefixes (`timing_worker`).
        load: loads a file there, under a number.
        threads: threads of the runtime.
        rounds: blocks timed for each prefix.
        block_ms: least length of a block, in milliseconds.
        progress: called with the share done, 0 to 1.

    Returns:
        One entry for each operator, in the file's order, without those that only unpack constants.
    """
    graph = tflite.parsed.subgraphs[0]
    layers = LayerNames(tflite.parsed, graph, Surroundings(tflite.parsed, graph))
    parts = prefixes(tflite)
    found: list[tuple[float, float]] = []
    for chunk in _chunks(tflite, parts):
        files = cut(tflite, [(part.operators, part.outputs) for part in chunk])
        for number, content in enumerate(files):
            load(content, number)
        done = len(found)

        def told(share: float, start: int = done, size: int = len(chunk) - bool(done)) -> None:
            if progress is not None:
                progress((start + share * size) / len(parts))

        samples = _samples(len(chunk), ask, threads, rounds, block_ms, told)
        ask(forget=True)
        medians = np.median(samples, axis=1)
        low, high = np.percentile(samples, [25, 75], axis=1)
        # Of a median of normal samples, their spread read from the quartiles.
        errors = 1.2533 * (high - low) / 1.349 / np.sqrt(rounds)
        if found:  # the chunk begins with the last prefix of the one before
            steps = np.diff(medians), np.hypot(errors[1:], errors[:-1])
        else:
            steps = (
                np.diff(medians, prepend=0.0),
                np.hypot(errors, np.concatenate([[0.0], errors[:-1]])),
            )
        found += zip(map(float, steps[0]), map(float, steps[1]), strict=True)
    total = sum(ms for ms, _ in found)
    return tuple(
        OperatorTime(
            part.operator,
            graph.operators[part.operator].name,
            layers.of(graph.operators[part.operator]),
            ms,
            ms / total,
            error,
        )
        for part, (ms, error) in zip(parts, found, strict=True)
    )


def _chunks(tflite: TFLiteModel, parts: Sequence[Prefix]) -> Iterator[Sequence[Prefix]]:
    """Prefixes that fit in memory together; each chunk begins with the end of the one before."""
    # A prefix holds half of the file on average; packed, its weights are there once more.
    size = max(2, CHUNK_BYTES // max(1, len(tflite.content)))
    start = 0
    while True:
        yield parts[start : start + size]
        start += size - 1
        if start >= len(parts) - 1:
            return


def _samples(
    count: int,
    ask: Callable[..., dict[str, Any]],
    threads: int,
    rounds: int,
    block_ms: float,
    progress: Callable[[float], None],
) -> np.ndarray:
    """Milliseconds of one inference: (prefixes, rounds)."""
    blocks = []
    for number in range(count):
        once = min(ask(run=3, number=number)["ms"] for _ in range(5))
        blocks.append(max(1, int(np.ceil(block_ms / max(once, 1e-4)))))
    samples = np.empty((count, rounds))
    order = np.random.default_rng(0)
    for turn in range(rounds):
        for number in order.permutation(count):
            answer = ask(run=blocks[number], number=int(number))
            on_cpu = answer["on_cpu"] if threads == 1 else 1.0
            samples[number, turn] = answer["ms"] * on_cpu
        progress((turn + 1) / rounds)
    return samples
