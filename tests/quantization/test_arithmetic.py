"""Every operator against the runtime's own kernel: not one integer may differ."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from int8_examples import Example, examples
from one_operator import Graph, Op, T

import tfcompress as tfc
from tfcompress.quantization.arithmetic import elementwise, linear, reductions
from tfcompress.quantization.arithmetic.output import bounds
from tfcompress.quantization.grids import Grid

EXAMPLES = examples()
# One for each operator and each of its forms is enough to compile.
FORMS = list({(e.name.split()[0], e.placed): e for e in reversed(EXAMPLES)}.values())
FORMS += [e for e in EXAMPLES if "2^24" in e.name or "relu6" in e.name or "of ties" in e.name]


def run_file(example: Example) -> tuple[np.ndarray, bool]:
    """What the runtime computes, and whether XNNPACK had a part in it."""
    interpreter = Interpreter(model_content=example.graph.build(), num_threads=1)
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), example.inputs, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    placed = any(o["op_name"] == "DELEGATE" for o in interpreter._get_ops_details())
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), placed


def inputs_of(example: Example) -> list[tf.Tensor]:
    return [tf.constant(x, tf.float32) for x in example.inputs]


def known(example: Example) -> list[Grid]:
    return [Grid(*grid) for grid in example.grids]


def parts_of(example: Example) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Scales and zero points as tensors, to be arguments of a graph: unknown in it."""
    return [(grid.scale, grid.zero_point) for grid in known(example)]


def from_parts(parts):
    return [Grid(*pair) for pair in parts]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_runtime_computes_the_same(example):
    expected, placed = run_file(example)
    assert placed == example.placed
    computed = example.compute(inputs_of(example), known(example)).numpy()
    assert computed.dtype == np.float32
    np.testing.assert_array_equal(computed, expected)


@pytest.fixture(scope="module")
def eager():
    return [example.compute(inputs_of(example), known(example)).numpy() for example in FORMS]


# All operators in one graph: also what is next to an operator may not change its bits.
@pytest.mark.parametrize("compiled", [None, True], ids=["graph", "xla"])
def test_grids_that_are_trained_give_the_same_bits(eager, compiled):
    @tf.function(jit_compile=compiled, autograph=False)
    def everything(inputs, parts):
        return [
            example.compute(q, from_parts(grids))
            for example, q, grids in zip(FORMS, inputs, parts, strict=True)
        ]

    found = everything([inputs_of(e) for e in FORMS], [parts_of(e) for e in FORMS])
    for example, expected, values in zip(FORMS, eager, found, strict=True):
        np.testing.assert_array_equal(values, expected, example.name)


@pytest.mark.parametrize("compiled", [None, True], ids=["graph", "xla"])
def test_grids_that_are_constants_give_the_same_bits(eager, compiled):
    grids = [known(example) for example in FORMS]

    @tf.function(jit_compile=compiled, autograph=False)
    def everything(inputs):
        return [e.compute(q, g) for e, q, g in zip(FORMS, inputs, grids, strict=True)]

    found = everything([inputs_of(example) for example in FORMS])
    for example, expected, values in zip(FORMS, eager, found, strict=True):
        np.testing.assert_array_equal(values, expected, example.name)


def test_constant_grids_leave_one_form_in_the_graph():
    grids = [Grid(0.1, 3), Grid(0.2, -4), Grid(0.3, 5)]

    @tf.function(autograph=False)
    def known_grids(a, b):
        return elementwise.add(a, b, *grids)

    @tf.function(autograph=False)
    def unknown_grids(a, b, scale):
        return elementwise.add(a, b, *grids[:2], Grid(scale, 5))

    q = tf.zeros((2, 3))
    kinds = {op.type for op in known_grids.get_concrete_function(q, q).graph.get_operations()}
    assert not kinds & {"If", "StatelessIf", "Cast"}
    graph = unknown_grids.get_concrete_function(q, q, tf.constant(0.3)).graph
    assert {op.type for op in graph.get_operations()} & {"If", "StatelessIf"}


def test_the_bound_of_a_sum_is_reached_and_pieces_keep_it_exact():
    x = Grid(0.1, -128)
    kernel = tf.fill((3, 3, 60, 2), 127.0)
    bound = linear.accumulator_bound(kernel, x, tf.constant([5.0, -7.0]))
    np.testing.assert_array_equal(bound, 255 * 127 * 540 + np.array([5, 7]))
    assert linear.pieces_needed(518) == 1
    assert linear.pieces_needed(519) == 2
    # 57 channels of 9 taps are 513 products; 58 would be 522.
    assert linear.pieces_needed(57, taps=9) == 1
    assert linear.pieces_needed(115, taps=9) == 3
    assert linear.pieces_needed(3, taps=600) == 0
    assert linear.pieces_needed(2000, weight_bits=4) == 1


def test_arm_rounds_ties_of_a_product_up():
    a, b = tf.constant([[-127.0, 125.0, 3.0]]), tf.constant([[1.0, 1.0, 1.0]])
    grids = (Grid(0.5), Grid(1.0), Grid(1.0))
    np.testing.assert_array_equal(elementwise.multiply(a, b, *grids), [[-64, 62, 2]])
    on_arm = elementwise.multiply(a, b, *grids, target="arm")
    np.testing.assert_array_equal(on_arm, [[-63, 63, 2]])


def test_arm_differs_by_one_and_rarely():
    q = tf.constant(np.random.default_rng(0).integers(-128, 128, (4000, 49)), tf.float32)
    x, out = Grid(0.0235, -128), Grid(0.0117, -128)
    for function in (
        lambda target: reductions.mean(q, 1, x, out, target=target),
        lambda target: reductions.sum(q, 1, x, Grid(0.3, 4), target=target),
        lambda target: reductions.softmax(q, Grid(0.05, 3), target=target),
    ):
        difference = np.abs(function("x86").numpy() - function("arm").numpy())
        assert difference.max() <= 1
        assert difference.mean() < 2e-3


def test_bounds_of_fused_activations():
    assert [float(v) for v in bounds(Grid(0.05, -3), "relu")] == [-3, 127]
    assert [float(v) for v in bounds(Grid(0.05, -3), "relu6")] == [-3, 117]
    # 6 / 4 + 1 = 2.5: to even on XNNPACK, away from zero (before the zero point) elsewhere.
    assert [float(v) for v in bounds(Grid(4.0, 1), "relu6")] == [1, 2]
    assert [float(v) for v in bounds(Grid(4.0, 1), "relu6", builtin=True)] == [1, 3]
    with pytest.raises(tfc.ConfigError, match="relu6"):
        bounds(Grid(0.05), "swish")


def test_a_mean_of_too_many_or_unknown_values_is_refused():
    with pytest.raises(tfc.ConfigError, match="131072"):
        reductions.mean(tf.zeros((1, 257, 512)), [1, 2], Grid(1.0), Grid(1.0))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((1, None, 3))])
    def unknown(q):
        return reductions.mean(q, [1], Grid(1.0), Grid(1.0))

    with pytest.raises(tfc.ConfigError, match="known size"):
        unknown.get_concrete_function()


@pytest.mark.parametrize("settings", [(0.0237, 4), (6 / 255, -128), (0.25, 100)])
def test_float_input_and_output(settings):
    grid = Grid(*settings)
    x = np.random.default_rng(0).normal(0, 3, (1, 20_000)).astype(np.float32)
    x[0, :512] = np.arange(-256, 256) * 0.125  # Ties of the last grid.
    tensors = {"x": T(x.shape), "q": T(x.shape, "int8", None, *settings), "y": T(x.shape)}
    operators = [
        Op("QUANTIZE", ["x"], ["q"], ("QuantizeOptions", {})),
        Op("DEQUANTIZE", ["q"], ["y"], ("DequantizeOptions", {}), 2),
    ]
    example = Example("", Graph(tensors, operators), [x], lambda t, g: t[0], [])
    expected, placed = run_file(example)
    assert placed
    q = elementwise.quantize(tf.constant(x), grid)
    np.testing.assert_array_equal(elementwise.dequantize(q, grid), expected)
