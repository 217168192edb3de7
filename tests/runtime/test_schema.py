"""The parser against the schema code that FlatBuffers' compiler generated, and hostile files."""

from __future__ import annotations

import random
import re
import struct
import time
import tracemalloc

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as oracle
from tflite_samples import (
    CONVERTERS,
    convolutional_weights,
    int4_weights,
    samples,
    sparse_weights,
)

from tfcompress.errors import CorruptFileError
from tfcompress.runtime import soundness
from tfcompress.runtime.schema import Model, parse, unpack
from tfcompress.runtime.schema_tables import (
    BUILTIN_OPTIONS,
    BUILTIN_OPTIONS_2,
    DTYPE_BITS,
    DTYPES,
    OPERATOR_NAMES,
)
from tfcompress.runtime.sparsity import Level, Sparsity, densify


def names_of(enumeration: type) -> list[str]:
    """The names of a generated enumeration, by code."""
    codes = {code: name for name, code in vars(enumeration).items() if not name.startswith("_")}
    assert sorted(codes) == list(range(len(codes)))
    return [codes[code] for code in range(len(codes))]


def camel(name: str) -> str:
    """The schema's name of an option as the generated object has it: stride_h -> strideH."""
    schema_name = {"fused_activation": "fused_activation_function"}.get(name, name)
    if re.fullmatch("dilation_[dhw]", name):
        schema_name += "_factor"
    head, *rest = schema_name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def as_list(values) -> list:
    return [] if values is None else [int(value) for value in values]


def text(value) -> str:
    return "" if value is None else value.decode()


def test_operator_and_type_names_are_the_schemas():
    assert list(OPERATOR_NAMES) == names_of(oracle.BuiltinOperator)
    assert [name.upper() for name in DTYPES] == names_of(oracle.TensorType)
    assert set(DTYPES) - set(DTYPE_BITS) == {"string", "resource", "variant"}


@pytest.mark.parametrize(
    ("tables", "union"),
    [(BUILTIN_OPTIONS, oracle.BuiltinOptions), (BUILTIN_OPTIONS_2, oracle.BuiltinOptions2)],
)
def test_option_tables_are_the_schemas(tables, union):
    """Names, order, defaults: each table is built empty, and full, by the generated code."""
    assert [table.name for _, table in sorted(tables.items())] == names_of(union)[1:]
    for table in tables.values():
        generated = getattr(oracle, table.name + "T")()
        fields = [field for field in table.fields if field.kind != "skip"]
        assert [camel(field.name) for field in fields] == list(vars(generated)), table.name
        for field in fields:
            default = getattr(generated, camel(field.name))
            assert (default or 0) == field.default, (table.name, field.name)


def with_options(name: str, options) -> bytes:
    """A model of one operator that has these options, and nothing else."""
    model = oracle.ModelT()
    model.version = 3
    model.operatorCodes = [oracle.OperatorCodeT()]
    operator = oracle.OperatorT()
    second = hasattr(oracle.BuiltinOptions2, name)
    union = oracle.BuiltinOptions2 if second else oracle.BuiltinOptions
    setattr(
        operator, "builtinOptions2Type" if second else "builtinOptionsType", getattr(union, name)
    )
    setattr(operator, "builtinOptions2" if second else "builtinOptions", options)
    graph = oracle.SubGraphT()
    graph.operators = [operator]
    model.subgraphs = [graph]
    return pack(model)


def pack(model) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def unpacked(content: bytes):
    return oracle.ModelT.InitFromPackedBuf(bytearray(content), 0)


VALUES = {
    "int": -5,
    "uint": 2**31 + 5,
    "long": -(2**40),
    "byte": 1,
    "float": 0.5,
    "subgraph": 7,
    "string": "name",
    "bytes": [1, 2, 255],
    "ints": [3, -4],
    "uints": [1, 2],
    "longs": [2**40, -1],
    "floats": [0.5, -1.5],
    "bools": [True, False],
    "subgraphs": [4, 2],
    "padding": 1,
    "activation": 3,
    "dtype": 9,
}
NAMES = {"padding": "VALID", "activation": "RELU6", "dtype": "int8"}


@pytest.mark.parametrize(
    "table", [*BUILTIN_OPTIONS.values(), *BUILTIN_OPTIONS_2.values()], ids=lambda table: table.name
)
def test_options_read_as_written(table):
    """Every field of every table with a value that is not its default."""
    options = getattr(oracle, table.name + "T")()
    expected, subgraphs = {}, []
    for field in table.fields:
        if field.kind == "skip":
            continue
        value = not field.default if field.kind == "bool" else VALUES[field.kind]
        if table.name == "CallOptions":
            value = 7
        setattr(options, camel(field.name), value)
        value = NAMES.get(field.kind, value)
        expected[field.name] = tuple(value) if isinstance(value, list) else value
        if field.kind.startswith("subgraph"):
            subgraphs += value if isinstance(value, list) else [value]
    operator = parse(with_options(table.name, options)).subgraphs[0].operators[0]
    received = {
        name: tuple(value) if isinstance(value, memoryview) else value
        for name, value in operator.options.items()
    }
    assert received == expected
    assert operator.options_name == table.name
    assert operator.subgraphs == tuple(subgraphs)


def test_options_that_are_left_out_read_as_their_defaults():
    content = with_options("Conv2DOptions", oracle.Conv2DOptionsT())
    assert parse(content).subgraphs[0].operators[0].options == {
        "padding": "SAME",
        "stride_w": 0,
        "stride_h": 0,
        "fused_activation": "NONE",
        "dilation_w": 1,
        "dilation_h": 1,
        "quantized_bias_type": "float32",
    }
    operator = parse(with_options("Conv2DOptions", None)).subgraphs[0].operators[0]
    assert operator.options == {}
    assert operator.options_name is None


def test_an_option_table_of_a_newer_schema_is_let_pass():
    model = unpacked(with_options("AddOptions", oracle.AddOptionsT()))
    model.subgraphs[0].operators[0].builtinOptionsType = 250
    operator = parse(pack(model)).subgraphs[0].operators[0]
    assert (operator.options_name, operator.options) == ("UNKNOWN_250", {})


# --- every field of real files -----------------------------------------------------------------


def check_against_oracle(model: Model, content: bytes) -> None:
    expected = unpacked(content)
    assert model.version == expected.version == 3
    assert model.description == text(expected.description)
    codes = expected.operatorCodes
    assert len(model.operator_codes) == len(codes)
    for code, other in zip(model.operator_codes, codes, strict=True):
        assert code.code == max(other.builtinCode, other.deprecatedBuiltinCode)
        assert code.version == other.version
        assert code.name == (text(other.customCode) or names_of(oracle.BuiltinOperator)[code.code])
        assert code.is_custom == (other.customCode is not None)
    assert len(model.buffers) == len(expected.buffers)
    for buffer, other in zip(model.buffers, expected.buffers, strict=True):
        if other.offset > 1:
            assert buffer == content[other.offset : other.offset + other.size]
        else:
            assert buffer == (None if other.data is None else bytes(bytearray(other.data)))
    assert dict(model.metadata) == {
        text(entry.name): bytes(bytearray(expected.buffers[entry.buffer].data))
        for entry in expected.metadata or ()
    }
    for signature, other in zip(model.signatures, expected.signatureDefs or (), strict=True):
        assert signature.key == text(other.signatureKey)
        assert signature.subgraph == other.subgraphIndex
        for received, entries in (
            (signature.inputs, other.inputs),
            (signature.outputs, other.outputs),
        ):
            assert received == {text(entry.name): entry.tensorIndex for entry in entries}
    assert len(model.subgraphs) == len(expected.subgraphs)
    for graph, other in zip(model.subgraphs, expected.subgraphs, strict=True):
        assert graph.name == text(other.name)
        assert list(graph.inputs) == as_list(other.inputs)
        assert list(graph.outputs) == as_list(other.outputs)
        assert len(graph.tensors) == len(other.tensors)
        assert len(graph.operators) == len(other.operators)
        for index, (tensor, its) in enumerate(zip(graph.tensors, other.tensors, strict=True)):
            check_tensor(tensor, its, index)
        for index, (operator, its) in enumerate(zip(graph.operators, other.operators, strict=True)):
            check_operator(operator, its, index, model)


def check_tensor(tensor, other, index: int) -> None:
    assert tensor.index == index
    assert tensor.name == text(other.name)
    assert list(tensor.shape) == as_list(other.shape)
    if other.shapeSignature is None:
        assert tensor.shape_signature is None
    else:
        assert list(tensor.shape_signature) == as_list(other.shapeSignature)
    assert tensor.dtype.upper() == names_of(oracle.TensorType)[other.type]
    assert tensor.buffer == other.buffer
    assert tensor.is_variable == other.isVariable
    assert tensor.has_rank == other.hasRank
    assert tensor.external_buffer == other.externalBuffer
    its = other.quantization
    vectors = [] if its is None else [its.scale, its.zeroPoint, its.min, its.max]
    if all(vector is None or not len(vector) for vector in vectors):
        assert tensor.quantization is None
    else:
        quantization = tensor.quantization
        received = (
            quantization.scales,
            quantization.zero_points,
            quantization.mins,
            quantization.maxs,
        )
        for array, vector in zip(received, vectors, strict=True):
            assert array.tolist() == ([] if vector is None else list(vector))
        assert quantization.axis == its.quantizedDimension
    if other.sparsity is None:
        assert tensor.sparsity is None
        return
    assert list(tensor.sparsity.traversal_order) == as_list(other.sparsity.traversalOrder)
    assert list(tensor.sparsity.block_map) == as_list(other.sparsity.blockMap)
    for level, its in zip(tensor.sparsity.dim_metadata, other.sparsity.dimMetadata, strict=True):
        assert level.dense == (its.format == 0)
        assert level.size == its.denseSize
        for array, vector in (
            (level.segments, its.arraySegments),
            (level.indices, its.arrayIndices),
        ):
            assert array.tolist() == ([] if vector is None else as_list(vector.values))


def check_operator(operator, other, index: int, model: Model) -> None:
    code = model.operator_codes[other.opcodeIndex]
    assert operator.index == index
    assert (operator.name, operator.version, operator.is_custom) == (
        code.name,
        code.version,
        code.is_custom,
    )
    assert list(operator.inputs) == as_list(other.inputs)
    assert list(operator.outputs) == as_list(other.outputs)
    assert list(operator.intermediates) == as_list(other.intermediates)
    if other.customOptions is None:
        assert operator.custom_options is None
    else:
        assert list(operator.custom_options) == list(other.customOptions)
    options = other.builtinOptions or other.builtinOptions2
    assert operator.options_name == (None if options is None else type(options).__name__[:-1])
    for name, value in operator.options.items():
        expected = getattr(options, camel(name))
        if name == "padding":
            expected = ["SAME", "VALID"][expected]
        elif name == "fused_activation":
            expected = names_of(oracle.ActivationFunctionType)[expected]
        elif isinstance(value, str):
            if isinstance(expected, int):
                expected = names_of(oracle.TensorType)[expected].lower()
            else:
                expected = text(expected)
        elif isinstance(value, (tuple, memoryview)):
            value, expected = list(value), as_list(expected)
        assert value == expected, name


def test_every_field_of_real_files_is_read_as_the_generated_code_reads_it():
    for content in samples().values():
        check_against_oracle(parse(content), content)


def test_samples_cover_what_the_parser_knows():
    """Guards the test above: the converter may one day write these files otherwise."""
    models = {name: parse(make()) for name, make in CONVERTERS.items()}
    tensors = [
        tensor for model in models.values() for graph in model.subgraphs for tensor in graph.tensors
    ]
    kinds = {tensor.dtype for tensor in tensors}
    assert kinds >= {
        "float32", "float16", "int4", "int8", "int16", "int32", "int64", "bool", "string",
        "resource",
    }  # fmt: skip
    assert any(tensor.sparsity and tensor.sparsity.block_map for tensor in tensors)
    assert any(tensor.quantization and len(tensor.quantization.scales) > 1 for tensor in tensors)
    assert any(-1 in (tensor.shape_signature or ()) for tensor in tensors)
    operators = {
        operator.name: operator
        for model in models.values()
        for graph in model.subgraphs
        for operator in graph.operators
    }
    assert {"WHILE", "IF", "CALL_ONCE", "VAR_HANDLE", "DENSIFY", "Erfinv"} <= set(operators)
    assert operators["WHILE"].subgraphs == (1, 2)
    assert len(models["signatures"].signatures) == 2
    outside = unpacked(CONVERTERS["outside_buffers"]())
    assert any(buffer.offset > 1 for buffer in outside.buffers)


# --- constants ---------------------------------------------------------------------------------


def constants(model: Model, shape: tuple[int, ...]) -> list[np.ndarray]:
    found = [
        model.data(tensor)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.shape == shape and model.constant(tensor) is not None
    ]
    return [values for values in found if values is not None]


@pytest.mark.parametrize("name", ["floating", "outside_buffers", "dynamic_batch"])
def test_float_weights_are_the_networks_own(name):
    model, weights = parse(CONVERTERS[name]()), convolutional_weights()
    (conv,) = constants(model, (16, 3, 3, 3))
    assert np.array_equal(conv, weights["conv"].transpose(3, 0, 1, 2))
    (dense,) = constants(model, (64, 72))
    assert np.array_equal(dense, weights["dense"].T)
    assert not dense.flags.owndata  # a view of the file
    assert model.data(model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]) is None


def test_half_precision_weights():
    (conv,) = constants(parse(CONVERTERS["half"]()), (16, 3, 3, 3))
    assert conv.dtype == np.float16
    assert np.array_equal(conv, convolutional_weights()["conv"].transpose(3, 0, 1, 2).astype("f2"))


def test_sparse_weights_expand_to_the_networks_own():
    """One tensor sparse by element, one in blocks of 4."""
    model, weights = parse(CONVERTERS["sparse"]()), sparse_weights()
    (pointwise,) = constants(model, (72, 1, 1, 16))
    assert np.array_equal(pointwise, weights["pointwise"].transpose(3, 0, 1, 2))
    (dense,) = constants(model, (64, 72))
    assert np.array_equal(dense, weights["dense"].T)


def test_four_bit_weights_unpack_one_to_an_element():
    model = parse(CONVERTERS["int4"]())
    (weights,) = constants(model, (5, 1, 1, 15))  # 75: the last byte is half empty
    assert weights.dtype == np.int8
    assert np.array_equal(weights, int4_weights().transpose(3, 0, 1, 2))


@pytest.mark.parametrize(
    ("dtype", "low", "bits"), [("int4", -8, 4), ("uint4", 0, 4), ("int2", -2, 2)]
)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 37])
def test_unpack_undoes_packing(dtype, low, bits, count):
    values = np.random.default_rng(count).integers(low, low + 2**bits, count)
    number = sum((int(value) % 2**bits) << (bits * place) for place, value in enumerate(values))
    packed = number.to_bytes((count * bits + 7) // 8, "little")
    assert unpack(packed, dtype, count).tolist() == values.tolist()


def one_constant(dtype: str, shape: tuple[int, ...], content: bytes) -> bytes:
    model = oracle.ModelT()
    model.version = 3
    model.buffers = [oracle.BufferT(), oracle.BufferT()]
    model.buffers[1].data = np.frombuffer(content, np.uint8)
    tensor = oracle.TensorT()
    tensor.shape, tensor.buffer = list(shape), 1
    tensor.type = DTYPES.index(dtype)
    graph = oracle.SubGraphT()
    graph.tensors = [tensor]
    model.subgraphs = [graph]
    return pack(model)


@pytest.mark.parametrize(
    ("dtype", "raw", "expected"),
    [
        ("bfloat16", struct.pack("<HH", 0x3F80, 0xC020), np.array([1.0, -2.5], np.float32)),
        ("bool", b"\x00\x01", np.array([False, True])),
        ("complex64", struct.pack("<4f", 1, 2, 3, 4), np.array([1 + 2j, 3 + 4j], np.complex64)),
        ("uint64", struct.pack("<QQ", 2**63, 1), np.array([2**63, 1], np.uint64)),
        ("float64", struct.pack("<dd", 0.1, -1), np.array([0.1, -1.0])),
        ("float8_e5m2", b"\x3c\x80", np.array([0x3C, 0x80], np.uint8)),
    ],
)
def test_constants_of_rare_types(dtype, raw, expected):
    model = parse(one_constant(dtype, (2,), raw))
    values = model.data(model.subgraphs[0].tensors[0])
    assert values is not None
    assert values.dtype == expected.dtype
    assert np.array_equal(values, expected)


def test_string_constants():
    model = parse(CONVERTERS["strings"]())
    (values,) = constants(model, (4,))
    assert values.tolist() == [b"dog", b"", b"tomcat", "größe".encode()]


@pytest.mark.parametrize(
    ("dtype", "shape", "content"),
    [
        ("float32", (2,), bytes(4)),
        ("float32", (2,), bytes(12)),
        ("int4", (3,), bytes(1)),
        ("float32", (2**30, 2**30), bytes(8)),
        ("float32", (2**31 - 1,) * 8 + (0,), bytes(0)),
        ("float32", (1,) * 60, bytes(4)),
        ("float32", (-1,), bytes(4)),
        ("string", (1,), bytes(4)),
        ("string", (1,), struct.pack("<iii", 1, 12, 13)),
        ("string", (2**31 - 1,), struct.pack("<Iii", 2**31 - 1, 12, 12)),
        ("string", (2,), struct.pack("<iiii4x", 2, 16, 21, 20)),
    ],
)
def test_a_constant_that_does_not_fit_its_shape_is_refused(dtype, shape, content):
    model = parse(one_constant(dtype, shape, content))
    with pytest.raises(CorruptFileError):
        model.data(model.subgraphs[0].tensors[0])


# --- sparsity ----------------------------------------------------------------------------------

NONE = np.zeros(0, np.int32)


def dense_level(size: int) -> Level:
    return Level(True, size, NONE, NONE)


def encode(
    matrix: np.ndarray, order: tuple[int, int], block: tuple[int, int] | None
) -> tuple[np.ndarray, Sparsity]:
    """Stores a matrix sparse, in the plainest way: outer level dense, inner one compressed."""
    rows, columns = block or (1, 1)
    tiles = matrix.reshape(matrix.shape[0] // rows, rows, matrix.shape[1] // columns, columns)
    tiles = tiles.transpose(0, 2, 1, 3)
    if order == (1, 0):
        tiles = tiles.transpose(1, 0, 2, 3)
    kept = [[place for place, tile in enumerate(line) if tile.any()] for line in tiles]
    segments = np.cumsum([0] + [len(places) for places in kept])
    indices = np.array([place for places in kept for place in places], np.uint16)
    values = np.array([line[place] for line, places in zip(tiles, kept, strict=True)
                       for place in places]).ravel()  # fmt: skip
    levels = [dense_level(tiles.shape[0]), Level(False, 0, segments, indices)]
    if block is None:
        return values, Sparsity(order, (), tuple(levels))
    return values, Sparsity(
        (*order, 2, 3), (0, 1), (*levels, dense_level(rows), dense_level(columns))
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("block", [None, (2, 2), (1, 4), (4, 1)])
def test_densify_undoes_sparse_storage(order, block):
    generator = np.random.default_rng(7)
    matrix = generator.normal(size=(8, 12)) * (generator.random((8, 12)) > 0.8)
    values, sparsity = encode(matrix, order, block)
    assert np.array_equal(densify(values, sparsity, matrix.shape), matrix)


def test_densify_of_nothing():
    empty = Sparsity((0, 1), (), (dense_level(3), Level(False, 0, np.zeros(4, np.uint8), NONE)))
    assert np.array_equal(densify(np.zeros(0), empty, (3, 5)), np.zeros((3, 5)))
    order = Sparsity((1, 0), (), (dense_level(2**31 - 1), dense_level(0)))
    assert densify(np.zeros(0), order, (0, 2**31 - 1)).shape == (0, 2**31 - 1)


@pytest.mark.parametrize(
    "change",
    [
        {"traversal_order": (0, 0)},
        {"traversal_order": (0,)},
        {"traversal_order": (0, 1, 2)},
        {"block_map": (0,)},
        {"dim_metadata": ()},
        {"dim_metadata": (dense_level(3), Level(False, 0, np.array([0, 1, 2]), np.array([0, 1])))},
        {"dim_metadata": (dense_level(2), Level(False, 0, np.array([0, 1]), np.array([0])))},
        {"dim_metadata": (dense_level(2), Level(False, 0, np.array([0, 2, 1]), np.array([0])))},
        {"dim_metadata": (dense_level(2), Level(False, 0, np.array([1, 1, 2]), np.array([0, 1])))},
        {"dim_metadata": (dense_level(2), Level(False, 0, np.array([0, 1, 2]), np.array([0, 5])))},
        {"dim_metadata": (dense_level(2), Level(False, 0, np.array([0, 1, 2]), np.array([0, -1])))},
        {"dim_metadata": (dense_level(2), Level(False, 0, np.array([0, 1, 3]), np.array([0, 1])))},
        {"dim_metadata": (dense_level(2), dense_level(5))},
        {"dim_metadata": (dense_level(-2), dense_level(-5))},
    ],
)
def test_a_sparse_description_that_contradicts_itself_is_refused(change):
    sound = {
        "traversal_order": (0, 1),
        "block_map": (),
        "dim_metadata": (dense_level(2), Level(False, 0, np.array([0, 1, 2]), np.array([0, 4]))),
    }
    values = np.array([1.0, 2.0])
    assert densify(values, Sparsity(**sound), (2, 5)).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 2]]
    with pytest.raises(CorruptFileError):
        densify(values, Sparsity(**(sound | change)), (2, 5))


def test_a_sparse_tensor_that_would_fill_the_memory_is_refused():
    level = Level(False, 0, np.array([0, 1]), np.array([2**30]))
    with pytest.raises(CorruptFileError, match="when expanded"):
        densify(np.ones(1), Sparsity((0,), (), (level,)), (2**31 - 1,))


# --- files that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\x1c\0\0\0TFL3", "offset to byte 28"),
        (b"Dear reader,\nthis is a text file.\n", "Bytes 4 to 7"),
        (b"PK\x03\x04" + bytes(100), "Bytes 4 to 7"),
        (bytes(4096), "Bytes 4 to 7"),
    ],
)
def test_what_is_no_model_is_refused(content, message):
    with pytest.raises(CorruptFileError, match=message):
        parse(content)


def test_another_identifier_or_schema_version_is_refused():
    content = CONVERTERS["embedding"]()
    with pytest.raises(CorruptFileError, match="TFL2"):
        parse(content[:4] + b"TFL2" + content[8:])
    model = unpacked(content)
    model.version = 2
    with pytest.raises(CorruptFileError, match=r"schema version 3.*version 2"):
        parse(pack(model))


def test_random_bytes_are_refused():
    generator = random.Random(8)
    for size in (8, 64, 1000, 100_000):
        for _ in range(20):
            body = generator.randbytes(size)
            for content in (body, struct.pack("<I", generator.randrange(size)) + b"TFL3" + body):
                with pytest.raises(CorruptFileError):
                    parse(content)


def test_every_truncation_is_refused():
    content = CONVERTERS["embedding"]()
    for length in range(0, len(content), 7):
        with pytest.raises(CorruptFileError):
            read_all(content[:length])


def read_all(content: bytes) -> Model:
    """Everything that a caller may do with a file of unknown origin."""
    model = parse(content)
    soundness.check(model)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            model.data(tensor)
    for name in model.metadata:
        assert isinstance(model.metadata[name], bytes)
    return model


NUMBERS = (0, 1, -1, 2, 255, 65535, 2**20, 2**30, 2**31 - 1, -(2**31), 0x7F800000, 0x7FC00000)


def mutate(content: bytes, generator: random.Random) -> bytes:
    """The file with one to three pieces of damage."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 3))):
        place = generator.randrange(len(changed) - 8)
        match generator.randrange(5):
            case 0:
                changed[place] ^= 1 << generator.randrange(8)
            case 1:
                changed[place] = generator.randrange(256)
            case 2:
                struct.pack_into("<i", changed, place & ~3, generator.choice(NUMBERS))
            case 3:
                offset = struct.unpack_from("<i", changed, place & ~3)[0]
                offset = max(
                    -(2**31), min(2**31 - 1, offset + generator.choice((-8, -4, -1, 1, 4)))
                )
                struct.pack_into("<i", changed, place & ~3, offset)
            case 4:
                other = generator.randrange(len(changed) - 8)
                changed[place : place + 8], changed[other : other + 8] = (
                    changed[other : other + 8],
                    changed[place : place + 8],
                )
    if generator.random() < 0.1:
        del changed[generator.randrange(8, len(changed)) :]
    return bytes(changed)


@pytest.mark.parametrize(
    "name",
    ["int8", "sparse", "recurrent", "variables", "signatures", "strings", "int4",
     "outside_buffers"],
)  # fmt: skip
def test_damage_ends_in_a_model_or_in_the_one_error(name):
    """Hundreds of damaged files each: no other exception, no waiting."""
    content, generator = CONVERTERS[name](), random.Random(name)
    refused, slowest = 0, 0.0
    for _ in range(700):
        damaged = mutate(content, generator)
        started = time.process_time()
        try:
            read_all(damaged)
        except CorruptFileError as error:
            refused += 1
            assert "Received: " in str(error)
            assert len(str(error)) < 2000
        slowest = max(slowest, time.process_time() - started)
    assert refused > 100  # damage within the weights is no damage to the format
    assert slowest < 1.0


def hostile(tensors: int, subgraphs: int, name: int = 1, shape: int = 1, scales: int = 1) -> bytes:
    """A small file in which long lists all lead to the same table."""
    builder = flatbuffers.Builder(1024)
    text_offset = builder.CreateString("n" * name)
    shape_offset = builder.CreateNumpyVector(np.ones(shape, np.int32))
    scale_offset = builder.CreateNumpyVector(np.ones(scales, np.float32))
    oracle.QuantizationParametersStart(builder)
    oracle.QuantizationParametersAddScale(builder, scale_offset)
    quantization = oracle.QuantizationParametersEnd(builder)
    oracle.TensorStart(builder)
    oracle.TensorAddName(builder, text_offset)
    oracle.TensorAddShape(builder, shape_offset)
    oracle.TensorAddQuantization(builder, quantization)
    tensor = oracle.TensorEnd(builder)

    def vector(count: int, target: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(target)
        return builder.EndVector()

    tensor_vector = vector(tensors, tensor)
    oracle.SubGraphStart(builder)
    oracle.SubGraphAddTensors(builder, tensor_vector)
    graph_vector = vector(subgraphs, oracle.SubGraphEnd(builder))
    oracle.ModelStart(builder)
    oracle.ModelAddVersion(builder, 3)
    oracle.ModelAddSubgraphs(builder, graph_vector)
    builder.Finish(oracle.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    "content",
    [
        hostile(30_000, 30_000),
        hostile(100_000, 1),
        hostile(10_000, 1, name=500_000),
        hostile(10_000, 1, shape=200_000),
        hostile(10_000, 1, scales=200_000),
    ],
    ids=["squared", "long", "names", "shapes", "scales"],
)
def test_lists_that_lead_to_the_same_table_cost_neither_time_nor_memory(content):
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(CorruptFileError, match="listed once each"):
            parse(content)
        elapsed, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert elapsed < 3.0  # under tracemalloc, which slows it down
    assert peak < 64 * 2**20


def test_a_large_model_is_read_fast():
    """17 MB of weights, and 300 operators: a tenth of a second at most."""
    model = unpacked(CONVERTERS["floating"]())
    model.buffers[1].data = np.zeros(17_000_000, np.uint8)
    graph = model.subgraphs[0]
    graph.operators = graph.operators * 50
    graph.tensors = graph.tensors * 50
    content = pack(model)
    assert len(graph.operators) >= 300
    times = []
    for _ in range(5):
        started = time.process_time()
        parse(content)
        times.append(time.process_time() - started)
    assert min(times) < 0.1
