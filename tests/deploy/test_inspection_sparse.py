"""`tfc.inspect(target="xnnpack-sparse")`: right reasons, layers and remedies."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from sparse_networks import depthwise, excite, head, network, pointwise, prune, stem
from support import randomize

import tfcompress as tfc
from tfcompress import models
from tfcompress.cli.main import main
from tfcompress.errors import ConfigError
from tfcompress.runtime import schema
from tfcompress.runtime.sparse_rules import refusals, violations

TARGET = "xnnpack-sparse"


@pytest.fixture(scope="module")
def friendly():
    keras.utils.set_random_seed(0)
    model = models.mobilenet((32, 32, 3), 10, alpha=0.25, sparse_friendly=True)
    return prune(randomize(model), 0.8)


@pytest.fixture(scope="module")
def sparse_file(friendly, tmp_path_factory):
    path = tmp_path_factory.mktemp("sparse") / "sparse.tflite"
    tfc.convert(friendly, sparse=True, path=path)
    return path


@pytest.fixture(scope="module")
def applications_report():
    model = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=10)
    return tfc.inspect(tfc.convert(prune(model, 0.8)), target=TARGET)


def by_rule(report):
    return {violation.rule: violation for violation in report.violations}


def by_layer(report):
    return {operator.layer: operator for operator in report.operators}


def test_a_sparse_friendly_file_passes_without_a_violation(sparse_file):
    report = tfc.inspect(sparse_file, target=TARGET)
    assert report.violations == [] and report.left == [] and report.fully_placed
    (partition,) = report.partitions
    assert partition.operators == tuple(range(len(report.operators)))
    assert report.advice() == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_dense_file_that_would_qualify_is_told_to_be_stored_sparse(friendly, precision):
    report = tfc.inspect(tfc.convert(friendly, precision), target=TARGET)
    (violation,) = report.violations
    assert violation.rule == "storage" and "stored dense" in violation.reason
    assert "convert(model, sparse=True)" in violation.remedy
    assert violation.layers == tuple(f"conv_pw_{i}" for i in range(1, 14))
    assert {operator.layer for operator in report.left} == set(violation.layers)
    assert not report.fully_placed and report.partitions == []


def test_too_few_zeros_name_the_share_and_the_layers():
    model = prune(models.mobilenet((32, 32, 3), 10, alpha=0.25, sparse_friendly=True), 0.12)
    kernel = model.get_layer("conv_pw_3").kernel
    kernel.assign(np.where(np.arange(np.prod(kernel.shape)).reshape(kernel.shape) % 5, 0, kernel))
    (violation,) = tfc.inspect(tfc.convert(model, sparse=True), target=TARGET).violations
    assert violation.rule == "zeros"
    assert "more than 2/3" in violation.reason and "only 1" in violation.reason
    assert "conv_pw_3" not in violation.layers and len(violation.layers) == 12
    assert "xnnpack_sparse_layers" in violation.remedy and "'conv_pw_1'" in violation.remedy


def test_keras_applications_mobilenet_fails_for_the_right_reasons(applications_report):
    found = by_rule(applications_report)
    assert set(found) == {"first convolution", "padding", "head"}
    assert found["first convolution"].layers == ("conv1",)
    assert found["padding"].layers == ("conv_dw_2", "conv_dw_4", "conv_dw_6", "conv_dw_12")
    for rule in ("first convolution", "padding"):
        assert "zeros 0 before, 1 after" in found[rule].reason
    assert "does not load on ARM" in found["head"].reason
    assert not applications_report.fully_placed


def test_each_operator_has_the_reason_and_a_remedy_that_names_its_layer(applications_report):
    operators = by_layer(applications_report)
    strided = operators["conv_dw_4"]
    assert not strided.placed and "as many zeros on every side" in strided.reason
    assert strided.remedy == (
        "tfc.sparse_friendly(model) rewrites 'conv_dw_4' so that every output stays."
    )
    assert "ZeroPadding2D(1) in front of 'conv1'" in operators["conv1"].remedy
    fine = operators["conv_dw_3"]
    assert fine.placed and fine.reason == fine.remedy == ""


REMEDIES = {  # layers in the middle: the rule, words of the remedy
    "max pooling": (lambda x: layers.MaxPooling2D(name="odd")(x), "operator", "of stride 2 behind"),
    "3x3": (
        lambda x: layers.Conv2D(32, 3, padding="same", name="odd")(x),
        "convolution",
        "separable_block",
    ),
    "multiplier": (
        lambda x: depthwise(x, depth_multiplier=2, name="odd"),
        "depthwise convolution",
        "depth_multiplier=1",
    ),
    "dilation": (
        lambda x: depthwise(x, dilation_rate=2, name="odd"),
        "depthwise convolution",
        "dilation_rate=1",
    ),
    "valid": (lambda x: depthwise(x, padding="valid", name="odd"), "padding", "padding='same'"),
    "concat": (
        lambda x: layers.Concatenate(name="odd")([x, pointwise(x)]),
        "operator",
        "residual Add",
    ),
    "tanh": (lambda x: layers.Activation("tanh", name="odd")(x), "operator", "hard-swish"),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_remedies_are_concrete(name):
    middle, rule, words = REMEDIES[name]
    report = tfc.inspect(tfc.convert(network(middle)), target=TARGET)
    found = by_rule(report)[rule]
    assert found.layers == ("odd",)
    assert words in found.remedy and "'odd'" in found.remedy
    assert "{layer}" not in json.dumps(report.to_dict())


def test_an_operator_without_a_layer_in_the_file_is_named_by_its_place():
    """Keras compiles grouped convolutions by XLA, which leaves no scope."""
    report = tfc.inspect(
        tfc.convert(network(layers.Conv2D(32, 1, groups=4, name="odd"))), target=TARGET
    )
    found = by_rule(report)["convolution"]
    (name,) = found.layers
    assert name in ("CONV_2D #4", "odd") and "in 4 groups" in found.reason
    assert f"'{name}'" in found.remedy


def test_odd_sides_advise_another_size():
    model = network(lambda x: depthwise(x, 2, name="odd"), shape=(34, 30, 3))
    (found,) = tfc.inspect(tfc.convert(model), target=TARGET).violations
    assert found.rule == "padding" and "17x15" in found.reason
    assert "even side in front of 'odd'" in found.remedy


@pytest.mark.parametrize("precision", ["int8", "dynamic", "weight-int8", "int16x8"])
def test_other_precisions_fail_on_their_types(friendly, precision):
    data = np.random.default_rng(0).random((4, 32, 32, 3), "float32")
    tflite = tfc.convert(friendly, precision, representative_data=data)
    report = tfc.inspect(tflite, target=TARGET)
    found = by_rule(report)["float32"]
    assert "float32" in found.reason and "int" in found.reason
    assert "'fp32' or 'fp16'" in found.remedy
    assert not report.fully_placed


def test_several_inputs_and_loops():
    inputs = keras.Input((32, 32, 3)), keras.Input((4,))
    x = layers.GlobalAveragePooling2D()(pointwise(depthwise(stem(inputs[0])), 64))
    model = keras.Model(inputs, layers.Dense(5)(x * layers.Dense(64)(inputs[1])))
    assert "inputs" in by_rule(tfc.inspect(tfc.convert(prune(model)), target=TARGET))
    recurrent = keras.Sequential([keras.Input((5, 4)), layers.LSTM(3), layers.Dense(2)])
    report = tfc.inspect(tfc.convert(recurrent), target=TARGET)
    assert report.subgraphs > 1
    assert [violation.rule for violation in report.violations] == ["loops"]
    assert report.left == report.operators


def test_a_file_stored_sparse_outside_the_pattern_is_called_unsafe():
    """As TensorFlow's own converter writes it."""
    import tensorflow as tf

    model = network(layers.MaxPooling2D(name="odd"))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    report = tfc.inspect(converter.convert(), target=TARGET)
    unsafe = by_rule(report)["unsafe"]
    assert "wrong outputs" in unsafe.reason and "Do not ship" in unsafe.remedy
    assert {op.name for op in report.left} >= {"DENSIFY", "MAX_POOL_2D"}
    assert by_rule(report)["operator"].layers == ("odd",)


def test_inspection_and_conversion_are_of_one_mind(friendly):
    """What convert refuses for its structure, inspect reports with the same reasons."""
    for model in (friendly, network(layers.MaxPooling2D()), network(end=lambda x: x)):
        dense = tfc.convert(model)
        reasons = refusals(dense.parsed, "fp32")
        found = [v for v in tfc.inspect(dense, target=TARGET).violations if v.rule != "storage"]
        assert [str(violation) for violation in found] == reasons
        assert tfc.convert(model, sparse=True).report.settings["sparse"] is (not reasons)


def test_structural_judgement_does_not_ask_for_zeros_or_storage():
    assert violations(tfc.convert(network(excite, sparsity=0)).parsed, structural_only=True) == []


def test_layers_of_nested_models_are_named_by_their_path():
    wide = layers.Conv2D(8, 3, name="wide")
    body = keras.Sequential([keras.Input((16, 16, 8)), wide], name="body")
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, head(body(stem(inputs))))
    found = by_rule(tfc.inspect(tfc.convert(model), target=TARGET))
    assert found["convolution"].layers == ("body/wide",)


def test_names_of_other_converters_are_kept(friendly):
    """Where scopes are not numbered by tracing, no number is taken off."""
    parsed = tfc.convert(friendly).parsed
    graph = parsed.subgraphs[0]
    tensors = tuple(
        dataclasses.replace(t, name=t.name.replace("conv_pw_2_1/", "conv_pw_2_x/"))
        for t in graph.tensors
    )
    renamed = dataclasses.replace(parsed, subgraphs=(dataclasses.replace(graph, tensors=tensors),))
    assert isinstance(renamed, schema.Model)
    (violation,) = violations(renamed)
    assert violation.layers[:2] == ("conv_pw_1_1", "conv_pw_2_x")


def test_report_as_text_and_json(applications_report, tmp_path):
    text = str(applications_report)
    count, left = len(applications_report.operators), len(applications_report.left)
    assert f"xnnpack-sparse: {count - left} of {count} operators placed, in 0 partitions" in text
    assert "conv_dw_2: padding" in text
    assert text.count("as many zeros on every side") == 1  # in full once, below the table
    value = json.loads(applications_report.save(tmp_path / "report.json").read_text())
    assert value["fully_placed"] is False
    assert [v["rule"] for v in value["violations"]] == ["first convolution", "padding", "head"]
    assert all(v["remedy"] and v["layers"] and v["operators"] for v in value["violations"])


def test_command_line(sparse_file, friendly, tmp_path, capsys):
    dense = tmp_path / "dense.tflite"
    tfc.convert(friendly, path=dense)
    arguments = ["--target", TARGET, "--require-fully-placed"]
    assert main(["inspect", str(sparse_file), *arguments]) == 0
    assert main(["inspect", str(dense), "--target", TARGET]) == 0
    assert main(["inspect", str(dense), *arguments]) == 1
    out = capsys.readouterr().out
    assert "storage:" in out and "sparse=True" in out


def test_other_targets_have_no_violations(sparse_file):
    assert tfc.inspect(sparse_file).violations == []
    with pytest.raises(ConfigError, match=r"'xnnpack-sparse'.*'sparse'"):
        tfc.inspect(sparse_file, target="sparse")


def test_no_tensorflow_is_loaded(sparse_file):
    code = (
        "import sys, tfcompress as tfc\n"
        f"print(tfc.inspect({str(sparse_file)!r}, target={TARGET!r}).fully_placed)\n"
        "print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "set()"], done.stderr
