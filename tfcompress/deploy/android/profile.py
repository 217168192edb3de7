"""Operators' times from the profile that the benchmark program prints.

Both generations print tables of TensorFlow's StatsCalculator; the first, "Run Order", of the
timed runs is read. What a delegate runs has names of its own ("Convolution (NHWC, F32) GEMM") and
no place in the file; what the runtime's own kernels run has its operator's index.
"""

from __future__ import annotations

import re
from typing import Final

from tfcompress.deploy.operator_times import OperatorTime
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.model import TFLiteModel
from tfcompress.runtime.surroundings import Surroundings

_START: Final = "Run Order"
_TIMED: Final = "Operator-wise Profiling Info"
_HEADING: Final = re.compile(r"\[([^\]]+)\]")
_NODE: Final = re.compile(r"^\[.*\]:(\d+)$")
_INNER: Final = re.compile(r"^\[?Delegate/(.*?)\]?(:\d+)?$")
_DELEGATES: Final = re.compile(r"Delegate(/|$)|^DELEGATE")


def parse_profile(text: str, tflite: TFLiteModel) -> tuple[OperatorTime, ...]:
    """Reads the tables of the timed runs.

    Args:
        text: what the program has printed.
        tflite: the model.

    Returns:
        One entry for each operator or kernel, in the order of execution; `index` is -1 where a
        delegate does not tell the operator. () where there is no table.
    """
    timed = text.partition(_TIMED)[2] or text
    tables = [_rows(part) for part in timed.split(_START)[1:]]
    if not tables:
        return ()
    # A second table holds what is inside the delegates' nodes of the first.
    inner = [row for table in tables[1:] for row in table]
    rows = [row for row in tables[0] if not (inner and _DELEGATES.search(row[0]))] + inner
    graph = tflite.parsed.subgraphs[0]
    layers = LayerNames(tflite.parsed, graph, Surroundings(tflite.parsed, graph))
    total = sum(ms for _, ms, _ in rows) or 1.0
    found = []
    for kind, ms, name in rows:
        node = _NODE.match(name)
        index = int(node[1]) if node else -1
        known = 0 <= index < len(graph.operators) and graph.operators[index].name in kind
        found.append(
            OperatorTime(
                index if known else -1,
                inside[1] if (inside := _INNER.match(name)) else kind,
                layers.of(graph.operators[index]) if known else "",
                ms,
                ms / total,
            )
        )
    return tuple(found)


def _rows(table: str) -> list[tuple[str, float, str]]:
    """Kind, milliseconds and name of each line, up to the table's end."""
    columns: list[str] = []
    rows = []
    for line in table.splitlines()[1:]:
        if not columns:
            columns = _HEADING.findall(line)
            if "avg ms" not in columns:
                columns = []
            continue
        parts = re.match(
            r"\s*(.+?)\s+" + r"(-?[\d.]+(?:e[+-]?\d+)?)%?\s+" * (len(columns) - 2) + r"(\S.*)$",
            line,
        )
        if parts is None:
            break
        rows.append((parts[1], float(parts[columns.index("avg ms") + 1]), parts[len(columns)]))
    return rows
