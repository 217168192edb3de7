"""The oldest TensorFlow Lite runtime that can run a model.

An operator's version grows whenever it learns something new: a type, an option. A runtime refuses a
file with a version it does not know, so the newest pair of operator and version decides.

Runtimes are numbered as TensorFlow is: tflite-runtime 2.14.0 comes from TensorFlow 2.14. The
numbers of ai-edge-litert are its own and cannot be compared with these.

Source: tflite/converter/tools/versioning/runtime_version.cc of google-ai-edge/LiteRT of August
2026 (in TensorFlow: tensorflow/lite/tools/versioning/runtime_version.cc); it lists the very
operators and versions that the runtime of that day registers (tflite/core/kernels/register.cc).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tfcompress.errors import ConfigError
from tfcompress.runtime.schema import Model

_TABLE: Final = """
ABS 1.13 2.4 2.5 2.6 2.12
ADD 1.5 1.14 2.4 2.6 2.13 2.23
ADD_N 1.14
ARG_MAX 1.9 1.14 2.9
ARG_MIN 1.9 1.14 2.9
ASSIGN_VARIABLE 2.6
ATAN2 2.10
AVERAGE_POOL_2D 1.5 1.14 2.3
BATCH_MATMUL 2.3 2.3 2.4 2.5
BATCH_TO_SPACE_ND 1.6 1.14 2.3 2.12
BIDIRECTIONAL_SEQUENCE_LSTM 1.14 1.14 1.14
BIDIRECTIONAL_SEQUENCE_RNN 1.14 1.14 2.3
BITCAST 2.13
BITWISE_XOR 2.13
BROADCAST_ARGS 2.6
BROADCAST_TO - 2.5 2.5 2.23
BUCKETIZE 2.8
CALL_ONCE 2.5
CAST 1.5 2.7 2.8 2.9 2.12 2.15 2.17 2.21 2.23
CEIL 1.14
COMPLEX_ABS 2.5
CONCATENATION 1.5 1.14 2.3 2.14 2.21 2.23 2.23
CONV_2D 1.5 1.14 1.14 2.3 2.4 2.9 2.11 2.15
CONV_3D 2.5
CONV_3D_TRANSPOSE 2.6
COS 1.14 2.23
CUMSUM 2.4
DENSIFY 2.2
DEPTHWISE_CONV_2D 1.5 1.12 1.14 2.2 2.3 2.3 2.11
DEPTH_TO_SPACE 2.1 2.5
DEQUANTIZE 1.13.1 1.14 1.15 2.2 2.7 2.18 2.21 2.22 2.23
DILATE 2.15
DIV 1.6 2.3
DYNAMIC_UPDATE_SLICE 2.9 2.17 2.19 2.20 2.21 2.22
ELU 1.14
EMBEDDING_LOOKUP 1.13 1.14 1.14 2.18 2.21
EMBEDDING_LOOKUP_SPARSE 1.5
EQUAL 1.14 1.14 2.3 2.13 2.21
EXP 1.7 2.12
EXPAND_DIMS 1.10
FAKE_QUANT 1.5 1.10
FILL 1.13 2.3 2.5 2.12 2.23
FLOOR 1.9
FLOOR_DIV 1.14 1.14 2.13
FLOOR_MOD 1.13 2.13
FULLY_CONNECTED 1.5 1.10 1.14 1.14 2.0 2.1 2.3 2.3 2.3 2.11 2.15 2.17 2.18 2.21
GATHER 1.6 1.14 1.15 2.4 2.5 2.13 2.15 2.23
GATHER_ND 1.14 2.3 2.5 2.13 2.16 2.23
GELU 2.9 2.9 2.23
GREATER 1.14 1.14
GREATER_EQUAL 1.14 1.14 2.13
HARD_SWISH 1.15
HASHTABLE 2.5
HASHTABLE_FIND 2.5
HASHTABLE_IMPORT 2.5
HASHTABLE_LOOKUP 1.5
HASHTABLE_SIZE 2.5
IF 1.15
IMAG 2.5
L2_NORMALIZATION 1.5 1.14
L2_POOL_2D 1.5
LEAKY_RELU 1.13.1 2.3
LESS 1.14 1.14 2.13
LESS_EQUAL 1.14 1.14
LOCAL_RESPONSE_NORMALIZATION 1.5
LOG 1.14 2.15
LOGICAL_AND 1.11
LOGICAL_NOT 1.11
LOGICAL_OR 1.11
LOGISTIC 1.14 1.14 2.3
LOG_SOFTMAX 1.14 1.14
LSH_PROJECTION 1.5
LSTM 1.7 1.10 1.14 2.3
MATRIX_DIAG 1.14
MATRIX_SET_DIAG 1.14
MAXIMUM 1.14 1.14 2.3 2.3
MAX_POOL_2D 1.5 1.14 2.3
MEAN 1.6 1.14 2.4
MINIMUM 1.14 1.14 2.3 2.3
MIRROR_PAD 1.13.1 2.3 2.12
MUL 1.5 1.14 1.15 2.3 2.6 2.11 2.13 2.23
MULTINOMIAL 2.8
NEG 1.9
NON_MAX_SUPPRESSION_V4 2.1
NON_MAX_SUPPRESSION_V5 2.1
NOT_EQUAL 1.14 1.14 2.3 2.21
ONE_HOT 1.11
PACK 1.11 1.14 2.3 2.13 2.23
PAD 1.5 1.14 2.4 2.6 2.20 2.23
PADV2 1.9 1.14 2.4 2.6 2.20 2.23
POW 1.10
PRELU 1.8
QUANTIZE 1.14 1.15 2.7 2.21 2.21 2.21
RANDOM_STANDARD_NORMAL 2.8
RANDOM_UNIFORM 2.8
RANGE 1.13 2.14
RANK 1.14
READ_VARIABLE 2.6
REAL 2.5
REDUCE_ALL 2.6
REDUCE_ANY 1.11
REDUCE_MAX 1.11 1.14 2.5
REDUCE_MIN 1.11 1.14 2.5
REDUCE_PROD 1.11 2.6
REDUCE_WINDOW 2.15
RELU 1.5 2.1 2.5
RELU6 1.5 1.14 2.5
RELU_0_TO_1 2.10
RELU_N1_TO_1 1.5
RESHAPE 1.5
RESIZE_BILINEAR 1.7 1.14 2.2 2.5
RESIZE_NEAREST_NEIGHBOR 1.13.1 1.14 2.3 2.4
REVERSE_SEQUENCE 1.14
REVERSE_V2 1.14 2.2 2.5 2.23
RFFT2D 2.5
RIGHT_SHIFT 2.13
RNN 1.5 1.14 2.3
ROUND 1.14
RSQRT 1.10 2.5 2.15
SCATTER_ND 2.1
SEGMENT_SUM 2.2
SELECT 1.14 1.14 2.12 2.12
SELECT_V2 2.2 2.12
SHAPE 1.10
SIGN 2.11 2.12
SIN 1.9 2.23
SKIP_GRAM 1.5
SLICE 1.14 1.14 1.14 2.4 2.5 2.14 2.21 2.23
SOFTMAX 1.5 1.14 2.3 2.23
SPACE_TO_BATCH_ND 1.6 1.14 2.3 2.12
SPACE_TO_DEPTH 1.5 1.14
SPARSE_TO_DENSE 1.9 1.14 1.15
SPLIT 1.5 1.14 1.14 2.3 2.23
SPLIT_V 1.13.1 2.3 2.23
SQRT 1.10 2.21
SQUARE 1.12
SQUARED_DIFFERENCE 1.13.1 2.5
SQUEEZE 1.6 2.5
STABLEHLO_ADD 2.16
STABLEHLO_AND 2.17
STABLEHLO_CASE 2.17
STABLEHLO_CBRT 2.17
STABLEHLO_COMPOSITE 2.17
STABLEHLO_GATHER 2.16
STABLEHLO_MAXIMUM 2.16
STABLEHLO_MINIMUM 2.16
STABLEHLO_MULTIPLY 2.16
STABLEHLO_PAD 2.16
STABLEHLO_REDUCE_WINDOW 2.16
STABLEHLO_RNG_BIT_GENERATOR 2.15
STABLEHLO_SCATTER 2.15
STABLEHLO_SHIFT_LEFT 2.17
STRIDED_SLICE 1.6 1.14 2.1 2.2 2.5 2.6 2.14 2.14
SUB 1.6 1.14 2.3 2.4 2.4
SUM 1.10 1.15
SVDF 1.5 1.14 2.2 2.3
TANH 1.14 1.14 2.3
TILE 1.10.1 2.2 2.8
TOPK_V2 1.7 1.14 2.13
TRANSPOSE 1.6 1.14 1.15 2.3 2.4 2.12 2.14.4 2.22 2.23
TRANSPOSE_CONV 1.9 2.2 2.3 2.13 2.15
UNIDIRECTIONAL_SEQUENCE_LSTM 1.13.1 1.14 2.3 2.12
UNIDIRECTIONAL_SEQUENCE_RNN 1.14 1.14 2.3
UNIQUE 1.14
UNPACK 1.11 1.14 2.2 2.3 2.22 2.23
UNSORTED_SEGMENT_MAX 2.10
UNSORTED_SEGMENT_MIN 2.11
UNSORTED_SEGMENT_PROD 2.10
UNSORTED_SEGMENT_SUM 2.10
VAR_HANDLE 2.6
WHERE 1.14 2.8
WHILE 1.15
ZEROS_LIKE 1.12
"""

FIRST_RUNTIME: Final = "1.5.0"
"""The first runtime that reads this format at all."""

MINIMUM_RUNTIMES: Final[dict[tuple[str, int], str]] = {
    (name, version): runtime if runtime.count(".") == 2 else f"{runtime}.0"
    for name, *runtimes in map(str.split, _TABLE.strip().splitlines())
    for version, runtime in enumerate(runtimes, start=1)
    if runtime != "-"  # withdrawn
}
"""Operator and version to the first runtime that knows it."""


def minimum_runtime(model: Model) -> str:
    """Returns the oldest runtime that knows every builtin operator of a model.

    Custom operators do not count: whoever runs the model must bring them along.

    Args:
        model: what `schema.parse` returned.

    Returns:
        A version such as "2.14.0". Where an operator is newer than the table, "unknown" with the
        operators in brackets, such as "unknown (CONV_2D version 99)".

    Example:
        >>> minimum_runtime(model)  # doctest: +SKIP
        '2.3.0'
    """
    unknown, newest = [], FIRST_RUNTIME
    for name, version in _used(model):
        runtime = MINIMUM_RUNTIMES.get((name, version))
        if runtime is None:
            unknown.append(f"{name} version {version}")
        else:
            newest = max(newest, runtime, key=_numbers)
    return f"unknown ({', '.join(unknown)})" if unknown else newest


def needing(model: Model, runtime_version: str) -> list[str]:
    """Returns the operators of a model that a runtime does not know.

    Args:
        model: what `schema.parse` returned.
        runtime_version: in TensorFlow's numbering, such as "2.14.0".

    Returns:
        One line for each operator and version, sorted; empty where the runtime knows them all.

    Raises:
        ConfigError: `runtime_version` is no version.

    Example:
        >>> needing(model, "2.14.0")  # doctest: +SKIP
        ['FULLY_CONNECTED version 12 needs 2.17.0']
    """
    given = _numbers(runtime_version)
    lines = []
    for name, version in _used(model):
        runtime = MINIMUM_RUNTIMES.get((name, version))
        if runtime is None:
            lines.append(f"{name} version {version} needs a runtime that is not known here")
        elif _numbers(runtime) > given:
            lines.append(f"{name} version {version} needs {runtime}")
    return lines


def _used(model: Model) -> Iterator[tuple[str, int]]:
    """Yields name and version of the builtin operators that the subgraphs use, sorted."""
    yield from sorted(
        {
            (operator.name, operator.version)
            for subgraph in model.subgraphs
            for operator in subgraph.operators
            if not operator.is_custom
        }
    )


def _numbers(version: str) -> tuple[int, int, int]:
    """Returns the three numbers of a version; what is left out is 0, a suffix does not count."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", version)
    if match is None:
        raise ConfigError(
            f"A runtime version has the form of 2.14.0. Received: {version!r}. "
            "Give the TensorFlow version that the runtime was built from."
        )
    major, minor, patch = match.groups(default="0")
    return int(major), int(minor), int(patch)
