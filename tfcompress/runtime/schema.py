"""The contents of a .tflite file as plain dataclasses, read without TensorFlow.

`parse` reads schema version 3, the one that every runtime since 2017 reads. What it returns refers
into the file: weights and quantization scales are views, nothing large is copied. It believes no
offset of the file (see `flatbuffer`), but it does not ask whether what it read makes sense as a
model: that is `soundness.check`.

Source: schema.fbs of tensorflow/tensorflow and google-ai-edge/LiteRT.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tfcompress.runtime.flatbuffer import Reader, Table, corrupt
from tfcompress.runtime.schema_tables import (
    ACTIVATIONS,
    BUILTIN_OPTIONS,
    BUILTIN_OPTIONS_2,
    CUSTOM,
    DTYPE_BITS,
    DTYPES,
    OPERATOR_NAMES,
    PADDINGS,
    OptionTable,
)
from tfcompress.runtime.sparsity import Level, Sparsity, densify

SCHEMA_VERSION: Final = 3
IDENTIFIER: Final = b"TFL3"

MAX_RANK: Final = 32
"""The most dimensions that a constant may have: NumPy 1 knows no more, and runtimes stop at 8."""

_NO_FLOATS = np.zeros(0, "<f4")
_NO_INTEGERS = np.zeros(0, "<i8")
_NUMPY_TYPES: Final[dict[str, str]] = {
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "int8": "|i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "complex64": "<c8",
    "complex128": "<c16",
    "bool": "|u1",
    "bfloat16": "<u2",
    "float8_e4m3fn": "|u1",
    "float8_e5m2": "|u1",
}
_INDEX_TYPES: Final = {1: "<i4", 2: "<u2", 3: "|u1"}  # the SparseIndexVector union


@dataclass(frozen=True, slots=True)
class BlockQuantization:
    """Quantization whose scales lie in another tensor (block-wise, or along several axes).

    Attributes:
        kind: "blockwise" or "multi_axis".
        scales: index of the tensor with the scales.
        zero_points: index of the tensor with the zero points, -1 where they are all 0.
        block_size: weights that share a scale; 0 for none (per channel).
        axes: the quantized dimensions.
    """

    kind: str
    scales: int
    zero_points: int
    block_size: int
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Quantization:
    """real value = scale * (stored value - zero point).

    Attributes:
        scales: float32, shape (count,): one, or one for each index along `axis`.
        zero_points: int64, shape (count,).
        axis: the dimension that `scales` runs along.
        mins: smallest real values seen, float32, mostly empty.
        maxs: largest real values seen, float32, mostly empty.
        blocks: set where the scales lie in another tensor instead.
        custom: whether the parameters are of a kind that only a custom runtime knows.
    """

    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    mins: np.ndarray
    maxs: np.ndarray
    blocks: BlockQuantization | None = None
    custom: bool = False


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        index: its place in the subgraph.
        name: as the converter named it; need not be unique.
        shape: with 1 (in old files: 0) where a dimension is open.
        shape_signature: the shape with -1 where a dimension is open, None where all are known.
        dtype: NumPy's name, or "int2", "int4", "uint4", "bfloat16", "float8_e4m3fn",
            "float8_e5m2", "string", "resource", "variant".
        buffer: index of its constant data; 0 for none.
        quantization: None for a tensor that is not quantized.
        sparsity: None for a tensor stored dense.
        is_variable: whether it keeps its value from one run to the next.
        has_rank: false in files that do not say, and for tensors of unknown rank.
        external_buffer: identifier of data outside the file, 0 for none.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...] | None
    dtype: str
    buffer: int
    quantization: Quantization | None
    sparsity: Sparsity | None
    is_variable: bool
    has_rank: bool
    external_buffer: int = 0

    @property
    def elements(self) -> int:
        """Number of elements that `shape` has room for."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the dense tensor; None for types without a fixed size, such as "string"."""
        bits = DTYPE_BITS.get(self.dtype)
        return None if bits is None else (self.elements * bits + 7) // 8


@dataclass(frozen=True, slots=True)
class OperatorCode:
    """One kind of operator that the model uses.

    Attributes:
        code: the builtin code.
        name: such as "CONV_2D"; for a custom operator its own name; "UNKNOWN_217" for a code that
            is newer than this list.
        version: the operator's version.
        is_custom: whether the runtime must be given the operator's code.
    """

    code: int
    name: str
    version: int
    is_custom: bool


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a subgraph.

    Attributes:
        index: its place in the order of execution.
        name: see `OperatorCode`.
        version: the operator's version.
        inputs: tensor indices; -1 for an optional input that is left out.
        outputs: tensor indices.
        options: the operator's settings by name, such as `stride_h`, `padding` ("SAME", "VALID")
            or `fused_activation` ("NONE", "RELU6", ...); empty where the file has none.
        options_name: name of the option table, such as "Conv2DOptions"; None where there is none.
        subgraphs: indices of the subgraphs that it runs.
        intermediates: indices of tensors that it keeps to itself (LSTM).
        is_custom: whether it is a custom operator.
        custom_options: a custom operator's settings, as it wrote them; a view of the file.
    """

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]
    options_name: str | None
    subgraphs: tuple[int, ...]
    intermediates: tuple[int, ...]
    is_custom: bool
    custom_options: memoryview | None


@dataclass(frozen=True, slots=True)
class SubGraph:
    """One graph: the model's own, or one that an operator such as WHILE runs.

    Attributes:
        index: its place in the model.
        name: often "main", or empty.
        tensors: all its tensors.
        inputs: tensor indices.
        outputs: tensor indices.
        operators: in the order of execution.
    """

    index: int
    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """A named entry point.

    Attributes:
        key: its name, mostly "serving_default".
        inputs: tensor index for each input name.
        outputs: tensor index for each output name.
        subgraph: index of the subgraph that it runs.
    """

    key: str
    inputs: dict[str, int]
    outputs: dict[str, int]
    subgraph: int


class Metadata(Mapping[str, bytes]):
    """What the file says about itself, by name; copied out of the file when asked for.

    Args:
        views: for each name the bytes in the file.
    """

    def __init__(self, views: dict[str, memoryview]) -> None:
        self._views = views

    def __getitem__(self, name: str) -> bytes:
        return bytes(self._views[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


@dataclass(frozen=True, eq=False, slots=True)
class Model:
    """A parsed .tflite file.

    Attributes:
        version: the schema's version, 3.
        description: free text, such as "MLIR Converted."
        operator_codes: the kinds of operators used.
        subgraphs: the first is the model's own.
        buffers: constant data as views of the file; None for an entry without data.
        metadata: bytes by name.
        signatures: the named entry points.
    """

    version: int
    description: str
    operator_codes: tuple[OperatorCode, ...]
    subgraphs: tuple[SubGraph, ...]
    buffers: tuple[memoryview | None, ...]
    metadata: Mapping[str, bytes] = field(repr=False)
    signatures: tuple[Signature, ...]

    def constant(self, tensor: Tensor) -> memoryview | None:
        """Returns the stored bytes of a constant tensor, None for any other.

        Raises:
            CorruptFileError: the tensor's buffer index is out of range.
        """
        if tensor.buffer == 0:  # by the format's convention: no data
            return None
        if tensor.buffer >= len(self.buffers):
            corrupt(
                f"A buffer index is below {len(self.buffers)}",
                f"{tensor.buffer} for tensor {tensor.index} ({tensor.name})",
            )
        content = self.buffers[tensor.buffer]
        # Old converters wrote empty data for tensors that are computed at run time.
        if content is None or (not len(content) and tensor.elements):
            return None
        return content

    def data(self, tensor: Tensor) -> np.ndarray | None:
        """Returns the values of a constant tensor, None for any other.

        Values are as stored, not multiplied by their scales. Four-bit and two-bit integers come
        one to an element (int8, uint8), bfloat16 as float32, float8 as its raw bytes (uint8),
        strings as `bytes` objects, sparse tensors expanded.

        Args:
            tensor: a tensor of this model.

        Returns:
            An array of the tensor's shape; a read-only view of the file where that is possible.

        Raises:
            CorruptFileError: the stored bytes do not fit shape and type.

        Example:
            >>> weights = model.data(model.subgraphs[0].tensors[1])  # doctest: +SKIP
        """
        content = self.constant(tensor)
        if content is None or tensor.dtype in ("resource", "variant"):
            return None
        _check_shape(tensor)
        if tensor.dtype == "string":
            return _strings(content, tensor)
        bits = DTYPE_BITS[tensor.dtype]
        if tensor.sparsity is not None and bits >= 8:
            if len(content) % (bits // 8):
                corrupt(
                    f"Stored values have {bits // 8} bytes each",
                    f"{len(content)} bytes for tensor {tensor.index} ({tensor.name})",
                )
            values = np.frombuffer(content, _NUMPY_TYPES[tensor.dtype])
            return _present(densify(values, tensor.sparsity, tensor.shape), tensor.dtype)
        if tensor.sparsity is not None or len(content) != tensor.nbytes:
            corrupt(
                f"A constant {tensor.dtype} of shape {tensor.shape} has {tensor.nbytes} bytes",
                f"{len(content)} bytes for tensor {tensor.index} ({tensor.name})",
            )
        if bits < 8:
            return unpack(content, tensor.dtype, tensor.elements).reshape(tensor.shape)
        values = np.frombuffer(content, _NUMPY_TYPES[tensor.dtype]).reshape(tensor.shape)
        return _present(values, tensor.dtype)


def _check_shape(tensor: Tensor) -> None:
    """Raises CorruptFileError for a shape that NumPy cannot make an array of."""
    shape = tensor.shape
    if (
        len(shape) > MAX_RANK
        or min(shape, default=0) < 0
        or math.prod(size or 1 for size in shape) >= 2**48
    ):
        corrupt(
            f"A constant has at most {MAX_RANK} dimensions and a size that fits in memory",
            f"shape {shape[:MAX_RANK]} for tensor {tensor.index} ({tensor.name})",
        )


def unpack(content: memoryview | bytes, dtype: str, elements: int) -> np.ndarray:
    """Returns integers of two or four bits, one to an element.

    Args:
        content: the packed bytes, the first element in the lowest bits.
        dtype: "int4", "uint4" or "int2".
        elements: how many to return; `content` must hold as many.

    Returns:
        int8 or uint8, shape (elements,).

    Example:
        >>> unpack(bytes([0xF1, 0x07]), "int4", 3)
        array([ 1, -1,  7], dtype=int8)
    """
    bits = DTYPE_BITS[dtype]
    packed = np.frombuffer(content, np.uint8)
    # Moved up to the top and back down again, as signed numbers: that carries the sign along.
    places = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    top = (packed[:, None] << places).ravel()[:elements]
    return top >> (8 - bits) if dtype.startswith("u") else top.view(np.int8) >> (8 - bits)


def _present(values: np.ndarray, dtype: str) -> np.ndarray:
    """Returns stored values as a type that NumPy can compute with."""
    if dtype == "bool":
        return values != 0
    if dtype == "bfloat16":  # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values


def _strings(content: memoryview, tensor: Tensor) -> np.ndarray:
    """Returns a string constant as an array of bytes objects."""
    offsets = string_offsets(content, tensor)
    values = np.empty(len(offsets) - 1, object)
    values[:] = [bytes(content[start:end]) for start, end in itertools.pairwise(offsets)]
    return values.reshape(tensor.shape)


def string_offsets(content: memoryview, tensor: Tensor) -> list[int]:
    """Returns where the strings of a string tensor start, and where the last one ends.

    The format: the number of strings, then the offsets, all int32, then the text.

    Raises:
        CorruptFileError: the offsets leave the buffer or go back, or the tensor's shape has room
            for another number of strings.
    """
    what = f"tensor {tensor.index} ({tensor.name})"
    count = int.from_bytes(content[:4], "little")
    header = 4 * (count + 2)
    if len(content) < 8 or header > len(content) or count != tensor.elements:
        corrupt(
            f"A string tensor of shape {tensor.shape} has {tensor.elements} strings and as many "
            "offsets",
            f"{count} strings in {len(content)} bytes for {what}",
        )
    offsets = np.frombuffer(content[4:header], "<i4").tolist()
    if offsets[0] != header or offsets[-1] != len(content) or offsets != sorted(offsets):
        corrupt(
            f"String offsets start at {header}, end at {len(content)} and do not go back",
            f"{offsets[:4]}... to {offsets[-1]} for {what}",
        )
    return offsets


def parse(content: bytes | bytearray | memoryview) -> Model:
    """Reads a .tflite file.

    Args:
        content: the whole file; any bytes-like object, so a memory map will do. It is kept alive
            by the model, which refers into it.

    Returns:
        The model, as the file has it. Call `soundness.check` before trusting it.

    Raises:
        CorruptFileError: this is no .tflite file, or it is damaged, or of another version.

    Example:
        >>> model = parse(pathlib.Path("model.tflite").read_bytes())  # doctest: +SKIP
        >>> [operator.name for operator in model.subgraphs[0].operators]  # doctest: +SKIP
        ['CONV_2D', 'MEAN', 'FULLY_CONNECTED', 'SOFTMAX']
    """
    reader = Reader(content)
    root = reader.root(IDENTIFIER)
    version = root.integer(0, "uint32")
    if version != SCHEMA_VERSION:
        corrupt(f"A .tflite file has schema version {SCHEMA_VERSION}", f"version {version}")
    codes = tuple(_operator_code(table) for table in root.tables(1))
    buffers = tuple(_buffer(table, reader) for table in root.tables(4))
    return Model(
        version=version,
        description=root.string(3) or "",
        operator_codes=codes,
        subgraphs=tuple(
            _subgraph(index, table, codes, reader) for index, table in enumerate(root.tables(2))
        ),
        buffers=buffers,
        metadata=Metadata(dict(_metadata(table, buffers) for table in root.tables(6))),
        signatures=tuple(_signature(table) for table in root.tables(7)),
    )


def _operator_code(table: Table) -> OperatorCode:
    # The old field has one byte; files for newer operators put 127 there and the code in field 3.
    code = max(table.integer(0, "int8"), table.integer(3, "int32"))
    version = table.integer(2, "int32", 1)
    if code < 0:
        corrupt("A builtin operator has a code from 0 on", f"code {code}")
    if code == CUSTOM:
        name = table.string(1)
        if not name:
            corrupt("A custom operator has a name", "none")
    else:
        name = OPERATOR_NAMES[code] if code < len(OPERATOR_NAMES) else f"UNKNOWN_{code}"
    return OperatorCode(code, name, version, code == CUSTOM)


def _outside(table: Table, slot: int, reader: Reader) -> memoryview | None:
    """Returns data of a file over 2 GB, which lies behind the FlatBuffer.

    Args:
        table: has offset and size in `slot` and the one after it.
        slot: see above.
        reader: the file.
    """
    offset = table.integer(slot, "uint64")
    if offset <= 1:  # 0 and 1 are placeholders that the converter writes
        return None
    size = table.integer(slot + 1, "uint64")
    if offset + size > reader.size:
        corrupt("A buffer lies inside the file", f"{size} bytes at byte {offset} of {reader.size}")
    return reader.content[offset : offset + size]


def _buffer(table: Table, reader: Reader) -> memoryview | None:
    content = table.data(0)
    return _outside(table, 1, reader) if content is None else content


def _metadata(table: Table, buffers: tuple[memoryview | None, ...]) -> tuple[str, memoryview]:
    name, index = table.string(0) or "", table.integer(1, "uint32")
    if index >= len(buffers):
        corrupt(f"A buffer index is below {len(buffers)}", f"{index} for metadata {name!r}")
    return name, buffers[index] or memoryview(b"")


def _signature(table: Table) -> Signature:
    key = table.string(2)
    if key is None:
        corrupt("A signature has a key", "none")
    maps = [
        {entry.string(0) or "": entry.integer(1, "uint32") for entry in table.tables(slot)}
        for slot in (0, 1)
    ]
    return Signature(key, maps[0], maps[1], table.integer(4, "uint32"))


def _subgraph(
    index: int, table: Table, codes: tuple[OperatorCode, ...], reader: Reader
) -> SubGraph:
    return SubGraph(
        index=index,
        name=table.string(4) or "",
        tensors=tuple(_tensor(place, entry) for place, entry in enumerate(table.tables(0))),
        inputs=table.integers(1) or (),
        outputs=table.integers(2) or (),
        operators=tuple(
            _operator(place, entry, codes, reader) for place, entry in enumerate(table.tables(3))
        ),
    )


def _dtype(code: int) -> str:
    if not 0 <= code < len(DTYPES):
        corrupt(f"An element type has a code from 0 to {len(DTYPES) - 1}", f"code {code}")
    return DTYPES[code]


def _tensor(index: int, table: Table) -> Tensor:
    quantization, sparsity = table.table(4), table.table(6)
    return Tensor(
        index=index,
        name=table.string(3) or "",
        shape=table.integers(0) or (),
        shape_signature=table.integers(7),
        dtype=_dtype(table.integer(1, "int8")),
        buffer=table.integer(2, "uint32"),
        quantization=None if quantization is None else _quantization(quantization),
        sparsity=None if sparsity is None else _sparsity(sparsity),
        is_variable=table.flag(5),
        has_rank=table.flag(8),
        external_buffer=table.integer(10, "uint32"),
    )


def _quantization(table: Table) -> Quantization | None:
    arrays = [table.array(0, "<f4"), table.array(1, "<f4"), table.array(2, "<f4")]
    mins, maxs, scales = (_NO_FLOATS if array is None else array for array in arrays)
    zero_points = table.array(3, "<i8")
    axis = table.integer(6, "int32")
    kind, details = table.union(4)
    blocks = None
    if kind in (2, 3) and details is not None:
        blocks = BlockQuantization(
            kind="blockwise" if kind == 2 else "multi_axis",
            scales=details.integer(0, "int32"),
            zero_points=details.integer(1, "int32"),
            block_size=details.integer(2, "int32"),
            axes=(axis,) if kind == 2 else details.integers(3) or (),
        )
    if not kind and zero_points is None and not (len(mins) or len(maxs) or len(scales)):
        return None  # the converter gives every float tensor an empty table
    return Quantization(
        scales=scales,
        zero_points=_NO_INTEGERS if zero_points is None else zero_points,
        axis=axis,
        mins=mins,
        maxs=maxs,
        blocks=blocks,
        custom=bool(kind) and blocks is None,
    )


def _sparsity(table: Table) -> Sparsity:
    return Sparsity(
        traversal_order=table.integers(0) or (),
        block_map=table.integers(1) or (),
        dim_metadata=tuple(_level(level) for level in table.tables(2)),
    )


def _level(table: Table) -> Level:
    kind = table.integer(0, "int8")
    if kind not in (0, 1):
        corrupt("A dimension is dense (0) or sparse (1)", f"code {kind}")
    return Level(
        dense=kind == 0,
        size=table.integer(1, "int32"),
        segments=_index_vector(table, 2),
        indices=_index_vector(table, 4),
    )


def _index_vector(table: Table, slot: int) -> np.ndarray:
    kind, vector = table.union(slot)
    if vector is None:
        return _NO_INTEGERS
    if kind not in _INDEX_TYPES:
        corrupt("Sparse indices have a width of 1, 2 or 4 bytes", f"kind {kind}")
    values = vector.array(0, _INDEX_TYPES[kind])
    return _NO_INTEGERS if values is None else values


def _operator(
    index: int, table: Table, codes: tuple[OperatorCode, ...], reader: Reader
) -> Operator:
    place = table.integer(0, "uint32")
    if place >= len(codes):
        corrupt(f"An operator's code index is below {len(codes)}", f"{place} for operator {index}")
    code = codes[place]
    options: dict[str, Any] = {}
    name: str | None = None
    subgraphs: tuple[int, ...] = ()
    for slot, known in ((3, BUILTIN_OPTIONS), (11, BUILTIN_OPTIONS_2)):
        kind, values = table.union(slot)
        if values is not None:
            # A table that is newer than this list keeps its number as its name.
            layout = known.get(kind, OptionTable(f"UNKNOWN_{kind}", ()))
            name = layout.name
            subgraphs = _options(layout, values, options)
    custom = table.data(5)
    return Operator(
        index=index,
        name=code.name,
        version=code.version,
        inputs=table.integers(1) or (),
        outputs=table.integers(2) or (),
        options=options,
        options_name=name,
        subgraphs=subgraphs,
        intermediates=table.integers(8) or (),
        is_custom=code.is_custom,
        custom_options=_outside(table, 9, reader) if custom is None else custom,
    )


_INTEGER_KINDS: Final = {
    "int": "int32",
    "uint": "uint32",
    "long": "int64",
    "byte": "int8",
    "subgraph": "int32",
    "padding": "int8",
    "activation": "int8",
    "dtype": "int8",
}
_ARRAY_KINDS: Final = {"longs": "<i8", "uints": "<u4", "floats": "<f4", "bools": "|b1"}


def _options(layout: OptionTable, table: Table, options: dict[str, Any]) -> tuple[int, ...]:
    """Fills `options` with the fields of one option table.

    Returns:
        The indices of the subgraphs that the operator runs.
    """
    subgraphs: list[int] = []
    for slot, (name, kind, default) in enumerate(layout.fields):
        value: Any
        if kind in _INTEGER_KINDS:
            value = table.integer(slot, _INTEGER_KINDS[kind], default)
            if kind == "subgraph":
                subgraphs.append(value)
            elif kind == "padding":
                value = _named(value, PADDINGS, "padding")
            elif kind == "activation":
                value = _named(value, ACTIVATIONS, "activation")
            elif kind == "dtype":
                value = _dtype(value)
        elif kind == "bool":
            value = table.flag(slot, bool(default))
        elif kind == "float":
            value = table.number(slot)
        elif kind in ("ints", "subgraphs"):
            value = table.integers(slot) or ()
            if kind == "subgraphs":
                subgraphs.extend(value)
        elif kind == "string":
            value = table.string(slot) or ""
        elif kind == "bytes":
            value = table.data(slot) or memoryview(b"")
        elif kind in _ARRAY_KINDS:
            array = table.array(slot, _ARRAY_KINDS[kind])
            value = () if array is None else tuple(array.tolist())
        else:
            continue
        options[name] = value
    return tuple(subgraphs)


def _named(code: int, names: tuple[str, ...], what: str) -> str:
    if not 0 <= code < len(names):
        corrupt(f"A code for {what} is one of 0 to {len(names) - 1}", f"code {code}")
    return names[code]
