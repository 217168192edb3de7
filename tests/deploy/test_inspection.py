import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from runtime import tflite_samples

import tfcompress as tfc
from tfcompress.errors import ConfigError, CorruptFileError
from tfcompress.runtime import adapter


@pytest.fixture(scope="module")
def float_report(float_file):
    return tfc.inspect(float_file)


@pytest.fixture(scope="module")
def int8_report(int8_file):
    return tfc.inspect(int8_file)


def runtime_tensors(report):
    """Tensor details of the runtime's builtin kernels, by index."""
    session = adapter.Session(report.model.content, backend="reference")
    return {detail["index"]: detail for detail in session.interpreter.get_tensor_details()}


@pytest.mark.parametrize("kind", ["float_report", "int8_report"])
def test_tensors_are_those_of_the_runtime(kind, request):
    report = request.getfixturevalue(kind)
    details = runtime_tensors(report)
    assert len(report.tensors) == len(report.model.parsed.subgraphs[0].tensors)
    for tensor in report.tensors:
        detail = details[tensor.index]
        assert (tensor.name, tensor.shape) == (detail["name"], tuple(detail["shape"]))
        assert tensor.dtype == np.dtype(detail["dtype"]).name
        parameters = detail["quantization_parameters"]
        if tensor.quantization is None:
            assert not len(parameters["scales"])
            continue
        assert list(tensor.quantization.scales) == parameters["scales"].tolist()
        assert list(tensor.quantization.zero_points) == parameters["zero_points"].tolist()
        if len(parameters["scales"]) > 1:
            assert tensor.quantization.axis == parameters["quantized_dimension"]


def test_quantization_is_told_apart(int8_report, float_report):
    kernels = [tensor for tensor in int8_report.tensors if tensor.sparsity is not None]
    found = {(len(t.quantization.scales), t.quantization.axis, t.shape) for t in kernels}
    # The channels of a depthwise kernel are its last axis, those of all others the first.
    assert found == {
        (8, 0, (8, 3, 3, 1)),
        (8, 3, (1, 3, 3, 8)),
        (16, 0, (16, 1, 1, 8)),
        (10, 0, (10, 16)),
    }
    first = next(tensor for tensor in kernels if tensor.shape == (8, 3, 3, 1))
    assert "8 x " in str(first.quantization) and "axis 0" in str(first.quantization)
    output = next(t for t in int8_report.tensors if t.dtype == "int8" and not t.constant)
    assert output.quantization.axis is None and "zero" in str(output.quantization)
    assert all(tensor.quantization is None for tensor in float_report.tensors)


def test_operators(float_report, int8_report):
    names = ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "MEAN", "FULLY_CONNECTED"]
    assert [operator.name for operator in float_report.operators] == names
    assert [op.name for op in int8_report.operators] == ["QUANTIZE", *names, "DEQUANTIZE"]
    first = float_report.operators[0]
    assert (first.subgraph, first.index, first.version) == (0, 0, 1)
    assert first.input_shapes == ((1, 28, 28, 1), (8, 3, 3, 1), (8,))
    assert first.output_shapes == ((1, 14, 14, 8),)
    assert first.input_dtypes == ("float32",) * 3 and first.output_dtypes == ("float32",)
    assert first.options["stride_h"] == 2 and first.options["fused_activation"] == "RELU6"
    assert first.weight_bytes == 4 * (8 * 9 + 8)
    assert int8_report.operators[1].weight_bytes == 8 * 9 + 4 * 8
    assert int8_report.operators[1].input_dtypes == ("int8", "int8", "int32")
    assert first.placed and first.reason == first.remedy == ""


def test_totals(float_report, int8_report):
    assert float_report.fully_placed and int8_report.fully_placed
    assert [part.operators for part in int8_report.partitions] == [tuple(range(7))]
    # BatchNorm is folded into kernels and biases; the last bias is all zeros and left out.
    folded = 8 * 9 + 8 + 8 * 9 + 8 + 8 * 16 + 16 + 16 * 10
    assert float_report.total_parameters == int8_report.total_parameters == folded
    assert float_report.sizes.raw == len(float_report.model.content)
    assert 0 < float_report.sizes.gzip < float_report.sizes.raw
    assert float_report.subgraphs == 1
    assert float_report.minimum_runtime == "1.6.0"  # MEAN
    assert int8_report.minimum_runtime == "1.14.0"
    assert not int8_report.float_tensors and len(float_report.float_tensors) >= 8
    (signature,) = float_report.signatures
    assert signature.key == "serving_default" and list(signature.inputs) == ["image"]
    assert signature.inputs["image"] == float_report.operators[0].inputs[0]


def test_sparsity_is_that_of_the_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3)(x)
    model = keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))
    generator = np.random.default_rng(0)
    zeros, total = 0, 0
    for layer in model.layers:
        for weight in layer.weights[:1]:
            mask = generator.random(weight.shape) > 0.6
            weight.assign(weight.numpy() * mask)
            zeros, total = zeros + int((~mask).sum()), total + mask.size
    for precision in ("fp32", "fp16"):
        report = tfc.inspect(tfc.convert(model, precision))
        assert report.sparsity == zeros / total
    kernels = [tensor.sparsity for tensor in report.tensors if tensor.sparsity is not None]
    expected = [
        float((layer.weights[0].numpy() == 0).mean()) for layer in model.layers[1:] if layer.weights
    ]
    assert sorted(kernels) == sorted(expected)
    assert not any(tensor.sparse_encoded for tensor in report.tensors)


def test_zeros_are_zero_points():
    report = tfc.inspect(tflite_samples.CONVERTERS["int8_of_zeros"]())
    details = runtime_tensors(report)
    session = adapter.Session(report.model.content, backend="reference")
    for tensor in report.tensors:
        if tensor.sparsity is not None:
            values = session.interpreter.get_tensor(tensor.index)
            (zero,) = set(details[tensor.index]["quantization_parameters"]["zero_points"].tolist())
            assert tensor.sparsity == (values == zero).mean()


def test_sparse_encoding():
    content = tflite_samples.CONVERTERS["sparse"]()
    report = tfc.inspect(content)
    encoded = [tensor for tensor in report.tensors if tensor.sparse_encoded]
    assert encoded
    for tensor in encoded:
        assert tensor.sparsity > 0.6
        assert 0 < tensor.nbytes < 4 * math.prod(tensor.shape)
    weights = tflite_samples.sparse_weights()
    kernels = [weights[name] for name in ("conv", "depthwise", "pointwise", "dense")]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert report.sparsity == zeros / sum(kernel.size for kernel in kernels)


def test_subgraphs_and_shared_weights():
    report = tfc.inspect(tflite_samples.CONVERTERS["recurrent"]())
    assert report.subgraphs == 3 and not report.fully_placed
    assert {operator.subgraph for operator in report.operators} == {0, 1, 2}
    assert {partition.subgraph for partition in report.partitions} == {0, 2}
    assert "WHILE" in {operator.name for operator in report.left}
    assert report.total_parameters == 4 * 5 * (4 + 5 + 1) + 5  # and the initial state
    assert any("unroll=True" in line for line in report.advice())
    both = tfc.inspect(tflite_samples.CONVERTERS["signatures"]())
    assert [signature.key for signature in both.signatures] == ["decode", "encode"]
    assert both.total_parameters == 16  # one matrix, read by two entry points


def test_reasons_and_partitions():
    report = tfc.inspect(tflite_samples.CONVERTERS["int8"]())
    (left,) = report.left
    assert left.name == "SOFTMAX" and "here it is int8" in left.reason and left.remedy
    assert len(report.partitions) == 2
    placed = [index for partition in report.partitions for index in partition.operators]
    assert sorted([*placed, left.index]) == list(range(len(report.operators)))
    assert report.advice() == [f"SOFTMAX (#{left.index}): {left.remedy}"]


@pytest.mark.parametrize("name", [*tflite_samples.CONVERTERS])
def test_every_sample_is_json_and_text(name):
    report = tfc.inspect(tflite_samples.CONVERTERS[name]())
    value = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert len(value["operators"]) == len(report.operators)
    assert value["tensors"][0]["shape"] == list(report.tensors[0].shape)
    assert value["fully_placed"] == report.fully_placed
    heads, rows = report.table()
    assert len(rows) == len(report.operators) and all(len(row) == len(heads) for row in rows)
    heads, rows = report.tensor_table()
    assert len(rows) == len(report.tensors) and all(len(row) == len(heads) for row in rows)
    text = str(report)
    assert all(operator.name in text and operator.reason in text for operator in report.operators)


def test_bytes_paths_and_models_are_the_same(float_file, tmp_path):
    reports = [
        tfc.inspect(float_file),
        tfc.inspect(str(float_file)),
        tfc.inspect(float_file.read_bytes()),
        tfc.inspect(tfc.TFLiteModel(float_file), target="xnnpack"),
    ]
    values = [report.to_dict() for report in reports]
    assert [value.pop("name") for value in values] == ["float", "float", "model", "float"]
    assert all(value == values[0] for value in values)
    saved = reports[0].save(tmp_path / "report.json")
    assert json.loads(saved.read_text()) == reports[0].to_dict()


def test_errors(float_file, tmp_path):
    known = r"one of \('xnnpack', 'gpu', 'xnnpack-sparse'\)\. Received: 'npu'"
    with pytest.raises(ConfigError, match=known):
        tfc.inspect(float_file, target="npu")
    with pytest.raises(ConfigError, match="No such file"):
        tfc.inspect(tmp_path / "missing.tflite")
    for content in (b"", b"TFL3", float_file.read_bytes()[:-500]):
        with pytest.raises(CorruptFileError):
            tfc.inspect(content)


def test_needs_no_runtime(int8_file):
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'ai_edge_litert', 'tflite_runtime', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "import tfcompress as tfc\n"
        f"print(tfc.inspect({str(int8_file)!r}).fully_placed)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_gpu_copies_and_warnings():
    from one_operator import Graph, Op, T

    tensors = {name: T([1, 8]) for name in ("x", "a", "b", "c", "y")} | {"k": T([1, 8], data=2.0)}
    operators = [
        Op("TANH", ["x"], ["a"]),
        Op("MUL", ["a", "k"], ["b"], ("MulOptions", {})),
        Op("ZEROS_LIKE", ["b"], ["c"]),
        Op("ADD", ["c", "a"], ["y"], ("AddOptions", {})),
    ]
    report = tfc.inspect(Graph(tensors, operators).build(), target="gpu")
    assert [operator.placed for operator in report.operators] == [True, True, False, False]
    assert [part.operators for part in report.partitions] == [(0, 1)]
    # The input goes in; what the two that are left read comes out.
    assert [(c.tensor, c.nbytes, c.to_target) for c in report.copies] == [
        ("x", 32, True),
        ("a", 32, False),
        ("b", 32, False),
    ]
    assert "largest" in report.operators[3].reason and "ZEROS_LIKE" in report.operators[3].remedy
    assert "3 tensors of 96 bytes are copied" in str(report)
    pads = {"p": T([4, 2], "int32", [[0, 0], [1, 1], [1, 1], [0, 0]])}
    tensors = {"x": T([1, 4, 4, 1]), "m": T([1, 6, 6, 1]), "y": T([1, 3, 3, 1])} | pads
    options = {"strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    pool = Op("MAX_POOL_2D", ["m"], ["y"], ("Pool2DOptions", options))
    report = tfc.inspect(Graph(tensors, [Op("PAD", ["x", "p"], ["m"]), pool]).build(), target="gpu")
    assert report.fully_placed
    (wrong,) = report.warnings
    assert wrong.name == "MAX_POOL_2D" and "padding" in wrong.warning
    assert any("computed wrongly" in line for line in report.advice())
