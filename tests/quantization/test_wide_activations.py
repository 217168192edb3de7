"""Activations of 16 bits: what a model computes is what TFLite's int16 kernels compute."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from int8_examples import Example
from networks import build, flat
from one_operator import Graph, Op, T
from test_arithmetic import run_file

import tfcompress as tfc
from tfcompress.quantization.arithmetic import wide
from tfcompress.quantization.grids import Grid, choose_grid, fake_quant_range

RANDOM = np.random.default_rng(3)
SCALES = [
    tuple(float(choose_grid(0.0, end, bits=16).scale) for end in ends)
    for ends in ((3.0, 1.3, 4.1), (0.7, 0.7, 0.9), (8.0, 0.02, 7.3), (1.0, 2.0, 0.4))
]
ALL = np.arange(-32768, 32768).astype(np.int16)


def operator(kind, inputs, out, compute, scales, options, constants=None):
    tensors = {
        f"x{i}": T(x.shape, "int16", None, scale, 0)
        for i, (x, scale) in enumerate(zip(inputs, scales, strict=False))
    } | (constants or {})
    names = list(tensors)
    tensors["y"] = T(out, "int16", None, scales[-1], 0)
    graph = Graph(tensors, [Op(kind, names, ["y"], options, 3)])
    return Example(kind, graph, list(inputs), compute, [(s, 0) for s in scales], False)


def numbers(*shape):
    return RANDOM.integers(-32768, 32768, shape).astype(np.int16)


def check(example):
    grids = [Grid(scale, 0.0, 16) for scale, _ in example.grids]
    expected, placed = run_file(example)
    assert not placed  # XNNPACK has no kernels of 16 bits.
    floats = [tf.constant(x, tf.float32) for x in example.inputs]
    for run in (lambda f: f, tf.function):
        np.testing.assert_array_equal(run(example.compute)(floats, grids).numpy(), expected)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("kind", ["add", "subtract", "multiply"])
def test_operators_of_two_inputs(kind, activation, scales):
    name = {"add": "ADD", "subtract": "SUB", "multiply": "MUL"}[kind]
    options = {"add": "AddOptions", "subtract": "SubOptions", "multiply": "MulOptions"}[kind]
    fused = {"fusedActivationFunction": {None: 0, "relu": 1, "relu6": 3}[activation]}
    check(
        operator(
            name,
            [ALL.reshape(1, -1), RANDOM.permutation(ALL).reshape(1, -1)],
            (1, ALL.size),
            lambda q, g: getattr(wide, kind)(q[0], q[1], *g, activation=activation),
            scales,
            (options, fused),
        )
    )


def test_sums_close_to_ties():
    """Found in a trained network: the kernel rounds the inputs once where it takes 16 at a time."""
    scales = [2.396106719970703e-05, 0.00013065338134765625, 0.0001401901244185865]
    for count in (17, 32, 2**19):
        a = RANDOM.integers(-3000, 3000, (1, count)).astype(np.int16)
        b = RANDOM.integers(-8000, 8000, (1, count)).astype(np.int16)
        a[0, :32], b[0, :32] = -476, 4809
        check(
            operator(
                "ADD",
                [a, b],
                a.shape,
                lambda q, g: wide.add(q[0], q[1], *g, activation=None),
                scales,
                ("AddOptions", {"fusedActivationFunction": 0}),
            )
        )


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("axes", [(1, 2), (2,), (3,)])
def test_means(axes, scales):
    x = numbers(2, 9, 31, 5)
    kept = [size for i, size in enumerate(x.shape) if i not in axes]
    check(
        operator(
            "MEAN",
            [x],
            kept,
            lambda q, g: wide.mean(q[0], axes, *g, keepdims=False),
            [scales[0], scales[2]],
            ("ReducerOptions", {"keepDims": False}),
            {"axes": T((len(axes),), "int32", np.array(axes, np.int32))},
        )
    )


@pytest.mark.parametrize("scales", SCALES)
def test_moves_to_another_grid(scales):
    x = ALL.reshape(1, -1)
    check(
        operator(
            "QUANTIZE",
            [x],
            x.shape,
            lambda q, g: wide.requantize_grid(q[0], *g),
            [scales[0], scales[1]],
            ("QuantizeOptions", {}),
        )
    )


@pytest.mark.parametrize("size", [3, 24])
def test_average_pools(size):
    x = numbers(1, 26, 25, 4)
    out = (1, (26 - size) + 1, (25 - size) + 1, 4)
    pool = {"filterHeight": size, "filterWidth": size, "strideH": 1, "strideW": 1, "padding": 1}
    check(
        operator(
            "AVERAGE_POOL_2D",
            [x],
            out,
            lambda q, g: wide.average_pool(q[0], [size, size], [1, 1], "VALID"),
            [0.01, 0.01],
            ("Pool2DOptions", pool),
        )
    )


def test_reals_are_quantized_as_by_the_runtime():
    grid = choose_grid(-3.0, 2.9, bits=16)
    x = RANDOM.normal(size=(1, 200_000)).astype(np.float32)
    x[0, :6] = 0, 1e9, -1e9, 2.9, np.nan, 3.5
    tensors = {
        "x": T(x.shape, "float32"),
        "y": T(x.shape, "int16", None, float(grid.scale), 0),
    }
    graph = Graph(tensors, [Op("QUANTIZE", ["x"], ["y"], ("QuantizeOptions", {}), 2)])
    expected, _ = run_file(Example("QUANTIZE", graph, [x], None, [], False))
    computed = wide.quantize(tf.constant(x), grid).numpy()
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("channels", [5, 700])  # 700: sums beyond 2^31
def test_sums_with_a_kernel(channels, scales):
    x = numbers(1, 6, 6, channels)
    kernel = RANDOM.integers(-127, 128, (3, 3, channels, 7)).astype(np.int8)
    kernel[..., 0] = 127 * np.sign(x[0, 0, 0])  # one channel as large as can be
    of_weights = (0.003 / channels * RANDOM.uniform(0.3, 2, 7)).astype(np.float32)
    bias = RANDOM.integers(-(2**29), 2**29, 7).astype(np.int64)
    constants = {
        "w": T((7, 3, 3, channels), "int8", kernel.transpose(3, 0, 1, 2), of_weights, 0, 0),
        "b": T((7,), "int64", bias, np.float64(scales[0]) * of_weights),
    }

    def compute(q, grids):
        def conv(part):
            return tf.nn.conv2d(tf.cast(part, tf.float64), kernel.astype(float), 1, "VALID")

        acc = wide.split_sum(conv, q[0]) + bias.astype(float)
        whole = wide.scaled(acc, wide.linear_ratio(grids[0], Grid(of_weights), grids[1]))
        return tf.cast(tf.clip_by_value(whole, -32768, 32767), tf.float32)

    conv_options = {"padding": 1, "strideH": 1, "strideW": 1, "dilationHFactor": 1}
    check(
        operator(
            "CONV_2D",
            [x],
            (1, 4, 4, 7),
            compute,
            [scales[0], scales[2]],
            ("Conv2DOptions", conv_options | {"dilationWFactor": 1}),
            constants,
        )
    )


def test_grids_of_16_bits():
    for end in RANDOM.lognormal(0, 4, 300):
        grid = choose_grid(-0.2 * end, end, bits=16)
        assert float(grid.zero_point) == 0
        assert np.frexp(float(grid.scale))[0] != 0.5  # no power of two: see ADD
        low, high = fake_quant_range(grid, bits=16, narrow=True)
        assert high == np.float32(32767) * grid.scale.numpy() == -low
        steps = RANDOM.integers(-32767, 32768, 100).astype(np.float32)
        values = steps * grid.scale.numpy()
        np.testing.assert_array_equal(np.float64(values) / np.float64(grid.scale), steps)


@pytest.mark.parametrize(
    "name", ["residual", "sequence", "two_readers", "causal", "transposed_without_bias"]
)
def test_file_computes_the_same_bits(name):
    model, x = build(name)
    qmodel = tfc.quantize_aware(model, "int16x8", calibration_data=x)
    tflite = tfc.convert(qmodel, "int16x8", verify=x)  # refuses any value that differs
    kinds = {t.dtype for t in tflite.parsed.subgraphs[0].tensors}
    assert "int16" in kinds
    narrow = tfc.quantize_aware(model, calibration_data=x)
    before = flat(model.predict(x, verbose=0))
    errors = []
    for made in (qmodel, narrow):
        pairs = zip(flat(made.predict(x, verbose=0)), before, strict=True)
        errors.append(sum(np.square(ours - theirs).mean() for ours, theirs in pairs))
    assert errors[0] < 0.75 * errors[1]  # what the 8 bits of the weights leave


def test_what_the_converter_has_in_8_bits_only_stays_float_and_is_reported(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu6")(inputs)
    gate = keras.layers.Dense(4, activation="sigmoid")(x)
    x = keras.layers.Concatenate()([keras.layers.Multiply()([x, gate]), x])
    x = keras.layers.UpSampling2D()(keras.layers.Conv2D(5, 1)(x))
    outputs = keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    data = RANDOM.normal(size=(32, 8, 8, 3)).astype(np.float32)
    qmodel = tfc.quantize_aware(model, "int16x8", calibration_data=data)
    reasons = {entry.kind: entry.reason for entry in qmodel.compression_report.left}
    assert "16-bit" in reasons["UpSampling2D"]
    assert "16 bits" in reasons["Concatenate"]
    assert "16-bit" in reasons["Softmax"]
    qmodel.save(tmp_path / "q.keras")
    again = keras.models.load_model(tmp_path / "q.keras")
    tflite = tfc.convert(again, "int16x8", io="int16")
    report = tfc.verify(again, tflite, data)
    assert report.agreement == 1
    assert report.within_one_lsb == 1


@pytest.mark.parametrize(("scheme", "side"), [("int8", 363), ("int16x8", 257)])
def test_means_that_overflow_stay_float(scheme, side):
    """The kernels' sums, or ours in float32, hold 362 and 256 squared; nothing may abort."""
    inputs = keras.Input((side, side, 1))
    x = keras.layers.Conv2D(2, 1)(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    data = RANDOM.normal(size=(2, side, side, 1)).astype(np.float32) + 1
    qmodel = tfc.quantize_aware(model, scheme, calibration_data=data)
    (left,) = qmodel.compression_report.left
    assert left.kind == "GlobalAveragePooling2D"
    assert f"{side**2:,}" in left.reason
    ours, before = qmodel.predict(data, verbose=0), model.predict(data, verbose=0)
    np.testing.assert_allclose(ours, before, atol=0.01)
    np.testing.assert_allclose(tfc.convert(qmodel, scheme).predict(data), ours, rtol=1e-4)


def test_it_trains_and_what_is_trained_ships():
    model, x = build("residual")
    for method in ("moving_average", "lsq"):
        scheme = tfc.QuantizationScheme(8, 16, range_method=method)
        qmodel = tfc.quantize_aware(model, scheme, calibration_data=x)
        qmodel.compile(keras.optimizers.Adam(1e-3), "mse")
        wanted = model.predict(x, verbose=0) + 0.1
        history = qmodel.fit(x, wanted, epochs=4, verbose=0).history["loss"]
        assert history[-1] < history[0]
        assert tfc.verify(qmodel, tfc.convert(qmodel, "int16x8"), x).identical == 1


def test_errors():
    model, x = build("residual")
    qmodel = tfc.quantize_aware(model, "int16x8", calibration_data=x)
    with pytest.raises(tfc.ConfigError, match="16 bits"):
        tfc.convert(qmodel, "int8")
    with pytest.raises(tfc.ConfigError, match="io"):
        tfc.convert(qmodel, "int16x8", io="int8")
    with pytest.raises(tfc.ConfigError, match="8 bits"):
        tfc.convert(tfc.quantize_aware(model, calibration_data=x), "int16x8")
    with pytest.raises(tfc.ConfigError, match="one for the whole model"):
        tfc.QuantizationScheme(overrides={"a": tfc.QuantizationScheme(8, 16)})
