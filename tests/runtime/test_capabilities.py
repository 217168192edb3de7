"""The capability table against the runtime: what it predicts is what the runtime does."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers
from one_operator import Graph, Op, T
from operator_cases import cases
from tflite_samples import CONVERTERS

import tfcompress as tfc
from tfcompress.errors import ConfigError, DeviceError
from tfcompress.runtime import adapter, capabilities, proof, schema
from tfcompress.runtime.capabilities import (
    CAPABILITIES,
    XNNPACK_CAPABILITIES,
    decide,
    decide_all,
)
from tfcompress.runtime.partitions import partitions
from tfcompress.runtime.placement import actual_placement, between, delegate_nodes
from tfcompress.runtime.surroundings import Case, Surroundings

CASES = cases()


def assert_predicted(content):
    """Every operator of the main graph, and its grouping, as the runtime has them."""
    model = schema.parse(content)
    graph = model.subgraphs[0]
    decisions = decide_all(model, graph)
    placed = [decision.placed for decision in decisions]
    named = [f"{op.index} {op.name}" for op in graph.operators]
    actual = actual_placement(content)
    assert dict(zip(named, placed, strict=True)) == dict(zip(named, actual, strict=True))
    for decision in decisions:
        assert decision.placed == (not decision.reason) == (not decision.remedy)
    session = adapter.Session(content)
    nodes = [between(graph, node["inputs"], node["outputs"]) for node in delegate_nodes(session)]
    groups = [set(group) for group in partitions(graph, placed)]
    assert len(groups) == len(nodes)
    # What leads to no output is in a group but on no boundary.
    assert all(node <= group for node, group in zip(nodes, groups, strict=True))
    return decisions


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_operator(case):
    content = case.graph.build()
    if case.loads:
        assert assert_predicted(content)[-1].rule == case.rule
        return
    model = proof.read_sound(content)
    decision = decide_all(model, model.subgraphs[0])[-1]
    assert (decision.placed, decision.rule) == (False, case.rule)
    with pytest.raises(DeviceError, match=r"failed to (delegate|prepare)"):
        actual_placement(content)


def test_every_row_form_and_condition_is_measured():
    taken, refused = set(), {("WHILE", "operator")}  # WHILE: in the sample `recurrent`
    rows = {row.operator: row for row in XNNPACK_CAPABILITIES}
    for case in CASES:
        model = schema.parse(case.graph.build())
        graph = model.subgraphs[0]
        surroundings = Surroundings(model, graph)
        for operator, decision in zip(graph.operators, decide_all(model, graph), strict=True):
            row = rows.get(operator.name)
            if row is not None and decision.placed:
                taken.add((row.operator, capabilities.form_of(row, Case(operator, surroundings))))
            refused.add((operator.name, decision.rule))
    rows = XNNPACK_CAPABILITIES
    assert {(row.operator, form) for row in rows for form in row.forms} <= taken
    conditions = {(row.operator, rule.name) for row in rows for rule in row.conditions}
    assert conditions <= refused
    assert {(row.operator, "operator") for row in rows if not row.forms} <= refused


def test_table_is_well_formed():
    keys = [(row.operator, row.target) for row in CAPABILITIES]
    assert len(keys) == len(set(keys))
    for row in CAPABILITIES:
        assert row.target in capabilities.TARGETS
        assert row.source.startswith("measured on ") and row.source.endswith("LiteRT 2.3.0")
        names = [condition.name for condition in (*row.conditions, *row.hazards)]
        assert len(names) == len(set(names)), row.operator
        assert all(condition.remedy for condition in (*row.conditions, *row.hazards))


def test_decide_is_decide_all_and_knows_its_targets(int8_file):
    model = schema.parse(int8_file.read_bytes())
    graph = model.subgraphs[0]
    single = [decide(model, graph, operator) for operator in graph.operators]
    assert single == decide_all(model, graph, "xnnpack")
    with pytest.raises(ConfigError, match=r"one of \('xnnpack', 'gpu'\)\. Received: 'npu'"):
        decide(model, graph, graph.operators[0], "npu")


def test_reason_and_remedy_name_what_is_wrong():
    by_name = {case.name: case for case in CASES}

    def of(name):
        model = schema.parse(by_name[name].graph.build())
        return decide_all(model, model.subgraphs[0])[-1]

    softmax = of("SOFTMAX int8")
    assert softmax.reason == "XNNPACK runs SOFTMAX in float32 or float16; here it is int8."
    assert "logits" in softmax.remedy
    assert "6 inputs" in of("concat of 6").reason
    assert "zero point of its second operand is 5" in of("matmul int8 skewed right").reason
    assert "shrink_axis_mask" in of("strided slice shrink").reason
    assert "x[:, 0:1]" in of("strided slice shrink").remedy
    assert "no kernel for the operator GATHER" in of("GATHER").reason
    assert "refuses the file" in of("SUM of 7 dimensions").reason
    assert "indices" in of("ADD int32").remedy


def test_custom_operator_has_no_kernel(float_file):
    model = schema.parse(float_file.read_bytes())
    graph = model.subgraphs[0]
    custom = dataclasses.replace(graph.operators[0], name="CONV_2D", is_custom=True)
    decision = decide(model, graph, custom)
    assert not decision.placed
    assert decision.reason == "XNNPACK has no kernel for the custom operator CONV_2D."


# -- whole files


@pytest.mark.parametrize("name", [name for name in CONVERTERS if name != "custom"])
def test_converted_sample(name):
    assert_predicted(CONVERTERS[name]())


def test_convolutional_files(float_file, int8_file):
    assert all(decision.placed for decision in assert_predicted(float_file.read_bytes()))
    assert all(decision.placed for decision in assert_predicted(int8_file.read_bytes()))


def residual():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = layers.ReLU()(layers.Add()([x, layers.Conv2D(8, 3, padding="same")(x)]))
    x = layers.Concatenate()([layers.AveragePooling2D(2)(x), layers.MaxPooling2D(2)(x)])
    x = layers.SeparableConv2D(8, 3, padding="same", activation="swish")(x)
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = layers.LeakyReLU(0.1)(layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x))
    x = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


def embedding_classifier():
    inputs = keras.Input((12,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(50, 8)(inputs))
    x = layers.Dense(3, activation="softmax")(layers.Dense(8, activation="gelu")(x))
    return keras.Model(inputs, x)


def transformer():
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    y = layers.Dense(16)(layers.Dense(32, activation="gelu")(x))
    x = layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(3)(x[:, 0]))


@pytest.mark.parametrize(
    ("build", "precision", "left"),
    [
        (residual, "fp16", set()),
        (residual, "int8", {"AVERAGE_POOL_2D", "SOFTMAX"}),
        (embedding_classifier, "dynamic", {"ADD", "GATHER", "LESS", "SELECT"}),
        (
            transformer,
            "int8",
            {"ADD", "GATHER", "LESS", "SELECT", "STRIDED_SLICE", "BATCH_MATMUL", "GELU", "RSQRT"}
            | {"SOFTMAX", "SQUARED_DIFFERENCE"},
        ),
    ],
)
def test_converted_model(build, precision, left):
    keras.utils.set_random_seed(0)
    model = build()
    generator = np.random.default_rng(0)
    data = generator.normal(size=(8, 16, 16, 3)).astype("float32")
    if build is not residual:
        data = generator.integers(0, 50, (8, 12)).astype("int32")
    tflite = tfc.convert(
        model, precision, representative_data=data if precision == "int8" else None
    )
    decisions = assert_predicted(tflite.content)
    found = {
        operator.name
        for operator, decision in zip(tflite.operators, decisions, strict=True)
        if not decision.placed
    }
    assert found == left


# -- partitions and reading them


@pytest.mark.parametrize("seed", range(8))
def test_partitions_of_random_graphs(seed):
    generator = np.random.default_rng(seed)
    tensors, operators = {"x0": T([1, 4]), "x1": T([1, 4])}, []
    axis = T([], "int32", 1)
    for number in range(2, 16):
        kind = generator.choice(["ADD", "TANH", "CUMSUM"])
        first, second = generator.choice(list(tensors), 2)
        inputs = {"ADD": [first, second], "TANH": [first], "CUMSUM": [first, "axis"]}[kind]
        options = {"ADD": ("AddOptions", {}), "CUMSUM": ("CumsumOptions", {})}.get(kind)
        tensors[f"x{number}"] = T([1, 4])
        operators.append(Op(str(kind), [str(name) for name in inputs], [f"x{number}"], options))
    read = {name for operator in operators for name in operator.inputs}
    last = [name for name in tensors if name not in read and name not in ("x0", "x1")]
    assert_predicted(Graph(tensors | {"axis": axis}, operators, last).build())


def test_results_that_nobody_reads():
    tensors = {"x": T([1, 4]), "axis": T([], "int32", 1)}
    tensors |= {name: T([1, 4]) for name in ("a", "b", "y")}
    dead = [
        Op("TANH", ["x"], ["a"]),
        Op("CUMSUM", ["x", "axis"], ["b"], ("CumsumOptions", {})),
        Op("ABS", ["x"], ["y"]),
    ]
    assert actual_placement(Graph(tensors, dead, ["y"]).build()) == [True, False, True]


def test_runtime_that_does_not_list_its_operators(float_file):
    class Silent:
        runtime, interpreter = "tflite-runtime", object()

    with pytest.raises(DeviceError, match="does not list its operators"):
        delegate_nodes(Silent())
