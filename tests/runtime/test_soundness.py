"""Sound files pass; each kind of damage that native code would trust is refused, and why."""

from __future__ import annotations

import itertools
import time

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as oracle
from tflite_samples import CONVERTERS, samples

from tfcompress.errors import CorruptFileError
from tfcompress.runtime.schema import parse
from tfcompress.runtime.schema_tables import DTYPES, OPERATOR_NAMES
from tfcompress.runtime.shapes import runtime_shapes
from tfcompress.runtime.soundness import MAX_CALL_DEPTH, check


def check_bytes(content: bytes) -> None:
    check(parse(content))


def edited(name: str, change) -> bytes:
    """A converted file after `change(model)`, model being the generated schema's object."""
    model = oracle.ModelT.InitFromPackedBuf(bytearray(CONVERTERS[name]()), 0)
    change(model)
    return pack(model)


def pack(model) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operator(model, name: str, graph: int = 0):
    """The first operator of that name."""
    code = OPERATOR_NAMES.index(name)
    for found in model.subgraphs[graph].operators:
        codes = model.operatorCodes[found.opcodeIndex]
        if max(codes.builtinCode, codes.deprecatedBuiltinCode) == code:
            return found
    raise AssertionError(f"no {name}")


def tensor(model, name: str, place: int = 0):
    """Input `place` of the first operator of that name; -1 for its output."""
    found = operator(model, name)
    index = found.outputs[0] if place == -1 else found.inputs[place]
    return model.subgraphs[0].tensors[index]


def test_real_files_are_sound():
    for name, content in samples().items():
        try:
            check_bytes(content)
        except CorruptFileError as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize("name", sorted(CONVERTERS))
def test_files_written_by_the_generated_code_are_sound(name):
    """Guards the tests below: it is the change that makes a file unsound, not the rewriting."""
    if name != "outside_buffers":  # the object form loses data behind the FlatBuffer
        check_bytes(edited(name, lambda model: None))


def test_the_shapes_that_a_runtime_computes_are_those_that_the_converter_wrote():
    for name, content in samples().items():
        model = parse(content)
        for graph in model.subgraphs:
            written = [entry.shape for entry in graph.tensors]
            assert runtime_shapes(model, graph) == written, name


def enlarge(model) -> None:
    """Three images at once, each of another size."""
    shape = input_tensor(model).shape
    input_tensor(model).shape = [3 * shape[0], 2 * shape[1], *shape[2:]]


@pytest.mark.parametrize("name", ["floating", "int8", "int16x8", "half", "shapes", "embedding"])
def test_the_shapes_that_a_runtime_computes_are_its_own(name):
    """Against the real runtime, where it is given another input than the file was made for."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    content = edited(name, enlarge if name in ("floating", "int8", "half") else lambda m: None)
    interpreter = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    model = parse(content)
    computed = runtime_shapes(model, model.subgraphs[0])
    rows = interpreter.get_tensor_details()
    # The interpreter adds scratch tensors of its own behind the file's.
    received = {row["index"]: tuple(row["shape"].tolist()) for row in rows if row["name"]}
    for index, shape in received.items():
        if index < len(computed):
            assert computed[index] == shape


def set_attribute(find, name: str, value):
    def change(model) -> None:
        setattr(find(model), name, value)

    return change


def graph0(model):
    return model.subgraphs[0]


def quantization(place: int, operator_name: str = "CONV_2D"):
    return lambda model: tensor(model, operator_name, place).quantization


def options(name: str):
    return lambda model: operator(model, name).builtinOptions


def input_tensor(model):
    return graph0(model).tensors[graph0(model).inputs[0]]


def swap_operators(model) -> None:
    operators = graph0(model).operators
    operators[0], operators[1] = operators[1], operators[0]


def shorten_weights(model) -> None:
    index = tensor(model, "CONV_2D", 1).buffer
    model.buffers[index].data = model.buffers[index].data[:-4]


def lengthen_weights(model) -> None:
    index = tensor(model, "CONV_2D", 1).buffer
    model.buffers[index].data = np.append(model.buffers[index].data, np.zeros(4, np.uint8))


def write_a_constant(model) -> None:
    operator(model, "CONV_2D").outputs = [operator(model, "CONV_2D").inputs[1]]


def write_twice(model) -> None:
    operator(model, "DEPTHWISE_CONV_2D").outputs = operator(model, "CONV_2D").outputs


def write_the_input(model) -> None:
    graph0(model).operators[-1].outputs = graph0(model).inputs


def constant_input(model) -> None:
    graph0(model).inputs = [operator(model, "CONV_2D").inputs[1]]


def drop_input(place: int, name: str = "CONV_2D"):
    def change(model) -> None:
        inputs = list(operator(model, name).inputs)
        inputs[place] = -1
        operator(model, name).inputs = inputs

    return change


def huge_tile(model) -> None:
    index = tensor(model, "TILE", 1).buffer
    model.buffers[index].data = np.array([1, 2, 2**30], "<i4").view(np.uint8)


def two_variables_in_one(model) -> None:
    index = operator(model, "READ_VARIABLE").outputs[0]
    graph0(model).tensors[index].shape = [5000, 3]


def first_level(model):
    sparse = [entry for entry in graph0(model).tensors if entry.sparsity is not None]
    return sparse[0].sparsity


def sparse_read_as_dense(model) -> None:
    sparse = operator(model, "DENSIFY").inputs[0]
    conv = graph0(model).operators[-1]
    assert sparse not in conv.inputs
    operator(model, "CONV_2D").inputs = [operator(model, "CONV_2D").inputs[0], sparse, -1]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        # The graph.
        ("floating", set_attribute(lambda m: m, "subgraphs", []), "at least one subgraph"),
        ("floating", set_attribute(graph0, "inputs", [99]), "99 for an input of subgraph 0"),
        ("floating", set_attribute(graph0, "inputs", [-1]), "-1 for an input of subgraph 0"),
        ("floating", set_attribute(graph0, "outputs", [99]), "99 for an output of subgraph 0"),
        ("floating", set_attribute(graph0, "operators", []), "An output has a value"),
        ("floating", constant_input, "An input is not a constant"),
        ("floating", swap_operators, "output of an earlier operator"),
        ("floating", write_a_constant, "nothing else writes"),
        ("floating", write_twice, "nothing else writes"),
        ("floating", write_the_input, "nothing else writes"),
        ("floating", drop_input(0), "-1 for input 0"),
        ("floating", drop_input(1), "-1 for input 1"),
        ("shapes", drop_input(3, "STRIDED_SLICE"), "-1 for input 3"),
        (
            "floating",
            set_attribute(lambda m: operator(m, "CONV_2D"), "inputs", [0, 2**31 - 1, 1]),
            "2147483647 for input 1",
        ),
        (
            "floating",
            set_attribute(lambda m: operator(m, "CONV_2D"), "intermediates", [77]),
            "77 for an intermediate",
        ),
        (
            "floating",
            set_attribute(lambda m: operator(m, "CONV_2D"), "opcodeIndex", 77),
            "code index is below",
        ),
        (
            "floating",
            set_attribute(lambda m: operator(m, "DEPTHWISE_CONV_2D"), "inputs", [9, 4]),
            "at least 3 inputs",
        ),
        (
            "signatures",
            set_attribute(lambda m: m.signatureDefs[0], "subgraphIndex", 9),
            "signature 'decode', subgraph",
        ),
        (
            "signatures",
            set_attribute(lambda m: m.signatureDefs[0].inputs[0], "tensorIndex", 9),
            "signature 'decode', tensor 'code'",
        ),
        # Tensors and their data.
        ("floating", set_attribute(input_tensor, "shape", [1, -8, 8, 3]), "all from 0 on"),
        ("floating", set_attribute(input_tensor, "shape", [1] * 40), "at most 32 dimensions"),
        ("floating", set_attribute(input_tensor, "shape", [2**20] * 4), "at most 2147483648 bytes"),
        ("floating", set_attribute(input_tensor, "shape", [0] + [2**20] * 3), "at most 2147483648"),
        ("floating", set_attribute(input_tensor, "shape", [1, 8, 2**22, 3]), "computes"),
        ("floating", set_attribute(input_tensor, "buffer", 999), "the buffer of tensor"),
        ("floating", set_attribute(input_tensor, "shapeSignature", [-2, 8, 8, 3]), "signature"),
        ("floating", shorten_weights, "has 1728 bytes. Received: 1724"),
        ("floating", lengthen_weights, "has 1728 bytes. Received: 1732"),
        ("int4", shorten_weights, "has 38 bytes. Received: 34"),
        (
            "floating",
            set_attribute(lambda m: tensor(m, "CONV_2D", 1), "isVariable", True),
            "variable has no constant",
        ),
        ("shapes", huge_tile, "at most 2147483648 bytes"),
        (
            "half",
            set_attribute(lambda m: tensor(m, "DEQUANTIZE", -1), "shape", [1, 1]),
            "DEQUANTIZE of a constant keeps its shape",
        ),
        (
            "sparse",
            set_attribute(lambda m: tensor(m, "DENSIFY", -1), "shape", [72, 1, 1, 2]),
            "DENSIFY of a constant keeps its shape",
        ),
        # Sparsity.
        ("sparse", set_attribute(first_level, "traversalOrder", [0, 1, 2, 2]), "traversal order"),
        ("sparse", set_attribute(first_level, "traversalOrder", []), "one level for each"),
        (
            "sparse",
            set_attribute(lambda m: first_level(m).dimMetadata[0], "denseSize", 71),
            "dense level has its dimension's size",
        ),
        (
            "sparse",
            set_attribute(lambda m: first_level(m).dimMetadata[3].arraySegments, "values", [0]),
            "segments here",
        ),
        (
            "sparse",
            set_attribute(
                lambda m: first_level(m).dimMetadata[3].arraySegments, "values", [0] * 72 + [255]
            ),
            "segments end at",
        ),
        ("sparse", sparse_read_as_dense, "sparse constant is read by"),
        # Quantization.
        ("int8", set_attribute(quantization(0), "scale", [0.0]), "Scales are finite"),
        ("int8", set_attribute(quantization(0), "scale", [float("nan")]), "Scales are finite"),
        ("int8", set_attribute(quantization(0), "scale", [float("inf")]), "Scales are finite"),
        ("int8", set_attribute(quantization(0), "scale", [-1.0]), "Scales are finite"),
        ("int8", set_attribute(quantization(0), "scale", [1e-40]), "Scales are finite"),
        ("int8", set_attribute(quantization(1), "scale", [1.0] * 15), "as many zero points"),
        ("int8", set_attribute(quantization(1), "quantizedDimension", 1), "one scale, or one for"),
        ("int8", set_attribute(quantization(1), "quantizedDimension", 4), "is a dimension"),
        ("int8", set_attribute(quantization(1), "quantizedDimension", -1), "is a dimension"),
        ("int8", set_attribute(quantization(0), "zeroPoint", [300]), "lie from -128 to 127"),
        ("int8", set_attribute(quantization(0), "zeroPoint", []), "as many zero points"),
        # Options.
        ("floating", set_attribute(options("CONV_2D"), "strideH", 0), "stride_h lies from 1"),
        ("floating", set_attribute(options("CONV_2D"), "dilationWFactor", -1), "dilation_w lies"),
        ("floating", set_attribute(options("MAX_POOL_2D"), "filterWidth", 2**30), "filter_width"),
        (
            "floating",
            set_attribute(lambda m: operator(m, "CONV_2D"), "builtinOptions", None),
            "CONV_2D has Conv2DOptions",
        ),
        (
            "floating",
            set_attribute(lambda m: operator(m, "CONV_2D"), "builtinOptionsType", 5),
            "CONV_2D has Conv2DOptions",
        ),
        ("shapes", set_attribute(options("PACK"), "valuesCount", 3), "number of tensors, 2"),
        ("shapes", set_attribute(options("SPLIT"), "numSplits", 1), "number of tensors, 2"),
        # What operators call.
        ("recurrent", set_attribute(options("WHILE"), "bodySubgraphIndex", 3), "3 for a subgraph"),
        ("recurrent", set_attribute(options("WHILE"), "bodySubgraphIndex", -1), "-1 for a subg"),
        ("recurrent", set_attribute(options("WHILE"), "bodySubgraphIndex", 1), "6 inputs and 6"),
        ("variables", set_attribute(options("IF"), "thenSubgraphIndex", 0), "subgraph calls itsel"),
        ("variables", set_attribute(options("CALL_ONCE"), "initSubgraphIndex", 2), "0 inputs"),
        ("variables", two_variables_in_one, "have the same type and shape"),
    ],
)
def test_damage_that_native_code_would_trust_is_refused(name, change, message):
    with pytest.raises(CorruptFileError, match=message) as caught:
        check_bytes(edited(name, change))
    assert "Received: " in str(caught.value)


def test_a_channel_of_zeros_may_have_a_scale_of_zero():
    def change(model) -> None:
        weights = tensor(model, "CONV_2D", 1).quantization
        weights.scale = [0.0, *weights.scale[1:]]

    check_bytes(edited("int8", change))


def test_an_optional_bias_may_be_left_out():
    check_bytes(edited("floating", drop_input(2)))


def test_a_small_shape_that_its_operator_would_not_compute_is_let_pass():
    """Files whose input size was edited by hand: runtimes work out the rest by themselves."""
    check_bytes(edited("floating", set_attribute(input_tensor, "shape", [1, 16, 16, 3])))


def test_the_scales_of_a_sum_that_make_the_kernel_abort_are_refused():
    model = oracle.ModelT()
    model.version = 3
    model.buffers = [oracle.BufferT()]
    code = oracle.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = OPERATOR_NAMES.index("ADD")
    model.operatorCodes = [code]
    graph = oracle.SubGraphT()
    graph.tensors = []
    for _ in range(3):
        entry = oracle.TensorT()
        entry.shape, entry.type = [4], DTYPES.index("int8")
        entry.quantization = oracle.QuantizationParametersT()
        entry.quantization.scale, entry.quantization.zeroPoint = [0.5], [0]
        graph.tensors.append(entry)
    add = oracle.OperatorT()
    add.inputs, add.outputs = [0, 1], [2]
    graph.inputs, graph.outputs, graph.operators = [0, 1], [2], [add]
    model.subgraphs = [graph]
    check_bytes(pack(model))
    graph.tensors[1].quantization.scale = [2.0**19 * 0.5]
    with pytest.raises(CorruptFileError, match="scales of a sum's inputs"):
        check_bytes(pack(model))


def chain(calls: dict[int, list[int]], count: int) -> bytes:
    """Subgraphs without tensors that call each other by CALL_ONCE."""
    model = oracle.ModelT()
    model.version = 3
    code = oracle.OperatorCodeT()
    code.builtinCode = OPERATOR_NAMES.index("CALL_ONCE")
    model.operatorCodes = [code]
    model.subgraphs = []
    for index in range(count):
        graph = oracle.SubGraphT()
        graph.operators = []
        for called in calls.get(index, []):
            entry = oracle.OperatorT()
            entry.builtinOptionsType = oracle.BuiltinOptions.CallOnceOptions
            entry.builtinOptions = oracle.CallOnceOptionsT()
            entry.builtinOptions.initSubgraphIndex = called
            graph.operators.append(entry)
        model.subgraphs.append(graph)
    return pack(model)


@pytest.mark.parametrize(
    "calls", [{0: [0]}, {0: [1], 1: [2], 2: [0]}, {1: [2], 2: [1]}, {0: [1, 2], 2: [1], 1: [2]}]
)
def test_subgraphs_that_call_each_other_in_circles_are_refused(calls):
    with pytest.raises(CorruptFileError, match="calls itself"):
        check_bytes(chain(calls, 3))


def test_subgraphs_may_share_what_they_call():
    check_bytes(chain({0: [1, 2, 1], 1: [3], 2: [3]}, 4))


@pytest.mark.parametrize("order", [1, -1])
def test_the_depth_of_calls_is_bounded(order):
    """Whichever end of the chain comes first."""

    def line(length: int) -> bytes:
        places = list(range(length))[::order]
        return chain({a: [b] for a, b in itertools.pairwise(places)}, length)

    check_bytes(line(MAX_CALL_DEPTH))
    for length in (MAX_CALL_DEPTH + 1, 3000):
        with pytest.raises(CorruptFileError, match="at most 32 deep"):
            check_bytes(line(length))


def test_a_ladder_of_calls_costs_no_exponential_time():
    """Each calls the next one twice: 2**31 ways from top to bottom."""
    started = time.process_time()
    check_bytes(chain({index: [index + 1] * 2 for index in range(31)}, 32))
    assert time.process_time() - started < 1.0
