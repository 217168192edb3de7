"""The GPU's rows of the capability table against LiteRT's accelerator, on the software driver."""

import os
from pathlib import Path

import numpy as np
import pytest
from gpu_batch import run_all, together
from gpu_cases import TYPES, hazards, optional, shaped, typed
from one_operator import Graph, Op, T
from operator_cases import cases

from tfcompress.errors import DeviceError
from tfcompress.runtime import adapter, capabilities, gpu, schema
from tfcompress.runtime.capabilities import decide_all
from tfcompress.runtime.gpu_capabilities import GPU_CAPABILITIES
from tfcompress.runtime.surroundings import Case, Surroundings

AT_ONCE = 24

GRAPHS = {case.name: case.graph for case in cases()}
GRAPHS |= {f"{name} {form}": graph for form in TYPES for name, graph in typed(form)}
GRAPHS |= dict(shaped()) | dict(optional())
GRAPHS |= {
    f"{rule} {i} {side}": graph
    for i, (rule, *both) in enumerate(hazards())
    for side, graph in zip(("wrong", "right"), both, strict=True)
}


def decisions(content):
    model = schema.parse(content)
    return decide_all(model, model.subgraphs[0], "gpu")


def ends_the_process(content):
    return any("ends the process" in decision.reason for decision in decisions(content))


def loads(content):
    """Whether the runtime's own kernels take the file: the accelerator is asked after them."""
    try:
        adapter.Session(content, backend="reference")
    except DeviceError:
        return False
    return True


def sort_out():
    """Graphs that load together, and those that load alone or not at all."""
    side_by_side, alone = [], []
    for name, graph in GRAPHS.items():
        content = graph.build()
        if ends_the_process(content) or not loads(content):
            continue
        computed = any("is computed" in d.reason for d in decisions(content))
        # Beside float16 weights the accelerator refuses other operators that expand constants.
        expanded = any(op.name == "DEQUANTIZE" for op in graph.operators[:-1])
        (alone if computed or expanded else side_by_side).append(name)
    return side_by_side, alone


@pytest.fixture(scope="module")
def sorted_out():
    return sort_out()


def test_every_case_is_placed_as_predicted(gpu_adapter, sorted_out):
    side_by_side, alone = sorted_out
    chunks = [side_by_side[i : i + AT_ONCE] for i in range(0, len(side_by_side), AT_ONCE)]
    files = [together([GRAPHS[name] for name in chunk]).build() for chunk in chunks]
    files += [GRAPHS[name].build() for name in alone]
    found = run_all(files, [[] for _ in files])
    for names, content, result in zip([*chunks, *([n] for n in alone)], files, found, strict=True):
        wanted = decisions(content)
        placed = sum(decision.placed for decision in wanted)
        if isinstance(result, str):  # the runtime does not load it at all
            assert placed < len(wanted), (names, result)
            continue
        model = schema.parse(content)
        refused = {
            operator.name
            for operator, decision in zip(model.subgraphs[0].operators, wanted, strict=True)
            if not decision.placed and decision.rule != "partition"
        }
        assert (placed, refused) == (result[0], {line.split(":")[0] for line in result[1]}), names


@pytest.mark.parametrize("name", ["dense computed bias", "TANH of nothing", "split into 1"])
def test_what_ends_the_process_is_foreseen(gpu_adapter, name):
    content = GRAPHS[name].build()
    assert ends_the_process(content)
    with pytest.raises(DeviceError, match="does not survive"):
        gpu.run(content)


def values_for(content):
    """Noise, whole numbers below 3 for indices; and what the reference kernels make of it."""
    session = adapter.Session(content, backend="reference")
    generator = np.random.default_rng(1)
    inputs = []
    for info in session.inputs:
        if info.dtype.kind == "f":
            inputs.append(generator.standard_normal(info.shape).astype(info.dtype))
        else:
            inputs.append(generator.integers(1, 3, info.shape).astype(info.dtype))
        if info.scale:
            inputs[-1] = generator.integers(-128, 127, info.shape).astype(info.dtype)
    chunk = {info.index: value for info, value in zip(session.inputs, inputs, strict=True)}
    return inputs, session.run(chunk), session.outputs


def test_hazards_are_wrong_and_their_neighbours_are_not(gpu_adapter):
    pairs = [(rule, graph.build(), i) for rule, *both in hazards() for i, graph in enumerate(both)]
    checked = [values_for(content) for _, content, _ in pairs]
    found = run_all([content for _, content, _ in pairs], [inputs for inputs, *_ in checked])
    for (rule, content, right), (_, wanted, infos), result in zip(
        pairs, checked, found, strict=True
    ):
        warnings = [decision.warning for decision in decisions(content) if decision.warning]
        step = 2 if infos[0].scale else 1e-4 * np.abs(wanted[0]).max()
        apart = np.abs(result[2][0].astype("float64") - wanted[0]).max()
        assert bool(warnings) == (not right), (rule, right, warnings)
        if right or gpu_adapter.software or rule not in ("batch-rows", "image-rows"):
            assert (apart > step) == (not right), (rule, right, apart)  # else the driver's limit


def test_every_row_form_condition_and_hazard_is_measured(sorted_out):
    taken, refused, warned = set(), {("WHILE", "operator"), ("DENSIFY", "operator")}, set()
    rows = {row.operator: row for row in GPU_CAPABILITIES}
    for graph in GRAPHS.values():
        model = schema.parse(graph.build())
        surroundings = Surroundings(model, model.subgraphs[0])
        found = decide_all(model, model.subgraphs[0], "gpu")
        for operator, decision in zip(model.subgraphs[0].operators, found, strict=True):
            row = rows.get(operator.name)
            if row is not None and decision.placed:
                form = capabilities.form_of(row, Case(operator, surroundings))
                taken.add((row.operator, form))
            refused.add((operator.name, decision.rule))
            refused.add(decision.rule)
    for rule, *_ in hazards():
        warned.add(rule)
    assert {(row.operator, form) for row in GPU_CAPABILITIES for form in row.forms} <= taken
    conditions = {rule.name for row in GPU_CAPABILITIES for rule in row.conditions}
    assert conditions - {"gpu-pack"} <= refused  # it does not load on its own
    assert {rule.name for row in GPU_CAPABILITIES for rule in row.hazards} <= warned
    assert {(row.operator, "operator") for row in GPU_CAPABILITIES if not row.forms} <= refused


def open_file(shape, operation):
    """A file as tf.lite makes it of a function of a tensor with open axes (None)."""
    import tensorflow as tf

    function = tf.function(operation, input_signature=[tf.TensorSpec(shape, tf.float32)])
    concrete = function.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], function).convert()


def kernel(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


OPEN = {  # the open axes; what the file computes; whether it loads
    "batch": ([None, 8, 8, 3], lambda tf, x: tf.nn.conv2d(x, kernel(3, 3, 3, 4), 1, "SAME"), True),
    "height": ([1, None, 8, 3], lambda tf, x: tf.nn.conv2d(x, kernel(3, 3, 3, 4), 1, "SAME"), True),
    "all": ([None, None, 4], lambda tf, x: tf.tanh(x) @ kernel(4, 4) + 1.0, True),
    "flattened": ([None, 2, 4], lambda tf, x: tf.reshape(x, [-1, 8]) @ kernel(8, 4), True),
    "measured": ([None, 8], lambda tf, x: tf.reshape(tf.tanh(x), [tf.shape(x)[0], 8]) * x, True),
    "sized": ([None, 8], lambda tf, x: tf.reshape(tf.tanh(x), [tf.shape(x)[0], 4, 2]), False),
    "made": ([None, 8], lambda tf, x: tf.tanh(x)[:, : tf.cast(x[0, 0], tf.int32)] * 2.0, False),
}


@pytest.mark.parametrize("name", OPEN)
def test_open_axes(gpu_adapter, name):
    """They have size 1 on the GPU; only sizes that are computed at run time are refused."""
    import tensorflow as tf

    shape, operation, loads_there = OPEN[name]
    content = open_file(shape, lambda x: operation(tf, x))
    model = schema.parse(content)
    assert -1 in model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape_signature
    found = decisions(content)
    (result,) = run_all([content], [[]])
    if loads_there:
        assert sum(decision.placed for decision in found) == result[0] > 0
        assert (result[0] == len(found)) == (name != "measured")
    else:
        assert isinstance(result, str) and "delegate" in result
        assert not any(decision.placed for decision in found)
        assert "static-shapes" in {decision.rule for decision in found}


def test_hazards_of_a_file_with_an_open_batch(gpu_adapter):
    """Quantized by TensorFlow, with a strided 1x1 convolution as in ResNet's shortcuts."""
    import keras
    import tensorflow as tf

    x = keras.Input((8, 8, 4))
    y = keras.layers.Conv2D(8, 1, strides=2, activation="relu")(keras.layers.Conv2D(4, 3)(x))
    data = np.random.default_rng(0).normal(size=(16, 1, 8, 8, 4)).astype("float32")
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(x, y))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([one] for one in data)
    content = converter.convert()
    found = decisions(content)
    (result,) = run_all([content], [[]])
    assert sum(decision.placed for decision in found) == result[0] == len(found)
    (warning,) = [decision.warning for decision in found if decision.warning]
    assert "a strided 1x1 convolution with integer weights" in warning


@pytest.mark.skipif("TFCOMPRESS_DATA" not in os.environ, reason="TFCOMPRESS_DATA is not set")
@pytest.mark.parametrize(
    ("name", "count", "warned"),
    [("resnet8_cifar10_int8", 16, 2), ("vww_96_int8", 31, 0), ("vww_96_float", 31, 0)],
)
def test_files_of_mlperf_tiny(gpu_adapter, name, count, warned):
    """The reference networks as they are published, with an open batch."""
    path = Path(os.environ["TFCOMPRESS_DATA"]) / "mlperf_tiny" / f"{name}.tflite"
    found = decisions(path.read_bytes())
    (result,) = run_all([path.read_bytes()], [[]])
    assert sum(decision.placed for decision in found) == result[0] == count
    assert sum("strided 1x1" in decision.warning for decision in found) == warned


def groups(*sizes):
    """Groups of operators that the GPU takes, parted by operators that it does not."""
    tensors, operators, last = {"x": T([1, 4])}, [], "x"
    for number, size in enumerate(sizes):
        names = [*(["ZEROS_LIKE"] if number else []), *["ABS"] * size]
        for name in names:
            made = f"t{len(tensors)}"
            tensors[made] = T([1, 4])
            operators.append(Op(name, [last], [made]))
            last = made
    return Graph(tensors, operators)


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (1, 3, 2)])
def test_the_gpu_takes_one_group_the_largest(gpu_adapter, sizes):
    content = groups(*sizes).build()
    wanted = decisions(content)
    assert sum(decision.placed for decision in wanted) == max(sizes)
    (left,) = {d.rule for d in wanted if not d.placed} - {"operator"}
    assert left == "partition"
    assert gpu.run(content)[1].placed == max(sizes)


def converted():
    """Files of Keras models: convolutions with what is around them, token ids, a loop, sparse."""
    from test_capabilities import CONVERTERS, residual, transformer

    import tfcompress as tfc

    found = {name: CONVERTERS[name]() for name in ("recurrent", "sparse")}
    found["residual fp16"] = tfc.convert(residual(), "fp16").content
    found["transformer fp16"] = tfc.convert(transformer(), "fp16").content
    data = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype("float32")
    found["residual int8"] = tfc.convert(residual(), "int8", representative_data=data).content
    return found


def test_converted_models(gpu_adapter):
    files = converted()
    found = run_all(list(files.values()), [[] for _ in files])
    for (name, content), result in zip(files.items(), found, strict=True):
        model = schema.parse(content)
        wanted = [
            decision.placed
            for graph in model.subgraphs
            for decision in decide_all(model, graph, "gpu")
        ]
        assert not isinstance(result, str), (name, result)
        assert sum(wanted) == result[0], (name, result[1])
