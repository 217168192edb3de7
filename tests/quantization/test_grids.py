"""Grids: chosen, and found again by the real converter to the last bit."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress.quantization import grids
from tfcompress.quantization.grids import Grid

RANDOM = np.random.default_rng(1)
sizes = st.floats(2.0**-20, 2.0**20, width=32)


def converted(function, *shape: int) -> Interpreter:
    """The int8 file of a function of one float32 input that holds fake-quant operators."""
    module = tf.Module()
    module.f = tf.function(function, input_signature=[tf.TensorSpec(shape)], autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.f.get_concrete_function()], module
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def ranges():
    """50 ranges: of every size, one-sided, with zero points on ties, empty ones."""
    found = [(-8, 8), (-1, 1), (0, 6), (-6, 0), (0, 0), (-1e-9, 1e-9), (0.5, 3), (-3, -0.5)]
    while len(found) < 50:
        size = 10 ** RANDOM.uniform(-5, 4)
        found.append((-size * RANDOM.uniform(0, 1) * (len(found) % 3 > 0), size))
    return found


def test_the_converter_finds_our_grids():
    made = [grids.choose_grid(*pair) for pair in ranges()]
    made += [grids.choose_grid(*pair, symmetric=True) for pair in ranges()[::5]]
    made += [grids.softmax_grid(), grids.tanh_grid(), grids.log_softmax_grid()]
    made.append(Grid(grids.SMALLEST, 7))

    def function(x):
        return [
            tf.reshape(
                tf.quantization.fake_quant_with_min_max_vars(x, *grids.fake_quant_range(grid)),
                (4, 1),
            )
            for grid in made
        ]

    details = converted(function, 1, 4).get_tensor_details()
    stored = {
        (float(scale), int(zero_point))
        for detail in details
        for scale, zero_point in zip(
            detail["quantization_parameters"]["scales"],
            detail["quantization_parameters"]["zero_points"],
            strict=True,
        )
    }
    assert stored == {(float(grid.scale), int(grid.zero_point)) for grid in made}


@pytest.mark.parametrize("bits", [8, 4])
def test_the_converter_finds_our_weights_and_biases(bits):
    channels = 30
    kernel = (RANDOM.normal(0, 1, (3, 3, 5, channels)) * np.geomspace(1e-7, 9, channels)).astype(
        "f"
    )
    kernel[..., 5] = 0
    bias = RANDOM.normal(0, 3, channels).astype("f")
    bias[:4] = [0, 1e4, -1e4, 1e-9]
    x = grids.choose_grid(-1.3, 2.9)
    weights = grids.weight_grid(kernel, bits=bits, least=grids.least_weight_scale(bias, x))
    integers = grids.quantize_weights(kernel, weights, bits=bits)
    bias_integers = grids.quantize_bias(bias, x, weights)
    assert np.abs(integers).max() == 2 ** (bits - 1) - 1
    assert np.abs(bias_integers).max() < grids.BIAS_LIMIT
    out = grids.choose_grid(-99, 120)
    # A 4-bit grid in int8 tensors: the range is that of 8 bits.
    low, high = grids.fake_quant_range(weights, narrow=True)

    def function(values):
        fake_quant = tf.quantization.fake_quant_with_min_max_vars
        values = fake_quant(values, *grids.fake_quant_range(x))
        w = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            integers * weights.scale, low, high, narrow_range=True
        )
        values = tf.nn.conv2d(values, w, 1, "SAME")
        values = tf.nn.bias_add(values, grids.bias_values(bias_integers, x, weights))
        return fake_quant(values, *grids.fake_quant_range(out))

    interpreter = converted(function, 1, 6, 6, 5)
    found = {tuple(detail["shape"]): detail for detail in interpreter.get_tensor_details()}
    stored = found[channels, 3, 3, 5]
    np.testing.assert_array_equal(stored["quantization_parameters"]["scales"], weights.scale)
    np.testing.assert_array_equal(
        interpreter.get_tensor(stored["index"]).transpose(1, 2, 3, 0), integers
    )
    stored = found[channels,]
    np.testing.assert_array_equal(interpreter.get_tensor(stored["index"]), bias_integers)
    np.testing.assert_array_equal(
        stored["quantization_parameters"]["scales"],
        grids.bias_grid(x, weights).numpy().astype(np.float32),
    )


@given(sizes, st.floats(0, 1), st.integers(2, 8), st.booleans())
def test_a_chosen_grid_covers_its_range_to_half_a_step(size, share, bits, symmetric):
    low, high = np.float32(-size * share), np.float32(size * (1 - share))
    grid = grids.choose_grid(low, high, bits=bits, symmetric=symmetric)
    bottom, top = (float(v) for v in grids.fake_quant_range(grid, bits=bits))
    half = float(grid.scale) * 0.502
    assert bottom <= low + half
    assert top >= high - half
    assert symmetric or top - bottom <= max(high - low, 2e-6) * (1 + 2.0**-15)
    assert float(grid.zero_point) == round(float(grid.zero_point))
    assert not symmetric or float(grid.zero_point) == 0


@given(st.floats(2.0**-60, 2.0**60, width=32), st.integers(2, 8))
def test_short_scales_are_close_and_exact(scale, bits):
    short = grids.short_scale(np.float32(scale), bits=bits).numpy()
    assert abs(float(short) - scale) <= scale * 2.0 ** (bits - 24)
    largest = 2**bits - 1
    assert float(np.float32(largest) * short) == largest * float(short)


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.floats(-1e6, 1e6, width=32),
    st.integers(2, 8),
)
def test_weight_scales_have_eight_significant_bits(values, bias, bits):
    kernel, bias = np.float32(values)[:, None], np.float32([bias])
    x = grids.choose_grid(-1.3, 2.9)
    grid = grids.weight_grid(kernel, bits=bits, least=grids.least_weight_scale(bias, x))
    (scale,) = grid.scale.numpy()
    assert scale.view(np.int32) & 0xFFFF == 0
    assert np.abs(kernel).max() <= float(scale) * (2 ** (bits - 1) - 0.5) * (1 + 1e-6)
    assert abs(grids.quantize_bias(bias, x, grid)[0]) < grids.BIAS_LIMIT


def test_grids_are_the_same_in_graphs_and_under_xla():
    kernel = tf.constant(RANDOM.normal(0, 1, (3, 3, 4, 9)), tf.float32)
    bias = tf.constant(RANDOM.normal(0, 1, 9), tf.float32)

    def choose(low, high, kernel, bias):
        x = grids.choose_grid(low, high)
        weights = grids.weight_grid(kernel, least=grids.least_weight_scale(bias, x))
        integers = grids.quantize_weights(kernel, weights)
        return (
            x.scale,
            x.zero_point,
            weights.scale,
            integers,
            grids.quantize_bias(bias, x, weights),
        )

    for low, high in ((-0.7, 3.1), (-8.0, 8.0), (0.0, 0.0)):
        arguments = (tf.constant(low), tf.constant(high), kernel, bias)
        expected = choose(*arguments)
        for compiled in (None, True):
            function = tf.function(choose, jit_compile=compiled, autograph=False)
            for value, one in zip(function(*arguments), expected, strict=True):
                np.testing.assert_array_equal(value, one)


def test_a_scale_that_would_not_survive_is_refused():
    with pytest.raises(tfc.ConfigError, match="short_scale"):
        grids.fake_quant_range(Grid(np.float32(1.8574042320251465), -28))
    with pytest.raises(tfc.ConfigError, match="2 to 8"):
        grids.choose_grid(0, 1, bits=9)


def test_a_variable_is_read_where_it_is_used():
    scale = tf.Variable(0.5)

    @tf.function(autograph=False)
    def read():
        return Grid(scale, 0).scale

    assert float(read()) == 0.5
    scale.assign(0.25)
    assert float(read()) == 0.25
