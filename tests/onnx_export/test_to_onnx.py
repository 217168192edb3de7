"""Float and quantize-aware models as ONNX, beside Keras, in ONNX Runtime."""

import keras
import networks
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from support import randomize

import tfcompress as tfc
from tfcompress.onnx.layers import _as_keras
from tfcompress.quantization.layers import known
from tfcompress.quantization.linear_layer import QuantizedLinear

layers = keras.layers


def close(found, wanted):
    for mine, theirs in zip(networks.flat(found), networks.flat(wanted), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


class Doubled(keras.Model):
    """A subclassed model, whose graph Keras does not know."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x) * 2.0


@pytest.mark.parametrize("name", ["shared_and_nested", "words", "recurrent", "operations"])
def test_float_models_compute_what_keras_does(name):
    model, x = networks.build(name)
    x = [part[:5] for part in x] if isinstance(x, list) else x[:5]
    found = tfc.to_onnx(model).predict(x)
    names = model.output_names if isinstance(found, dict) else None
    close(networks.flat(found, names), model(x, training=False))


def test_subclassed_models_and_open_batches(tmp_path):
    model = Doubled()
    x = np.random.default_rng(0).normal(0, 1, (7, 4)).astype("float32")
    wanted = model(x).numpy()
    path = tmp_path / "model.onnx"
    result = tfc.to_onnx(model, path, batch_size=None)
    close(result.predict(x), wanted)
    # The file, in a session of the user's own, in any batch size.
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert not isinstance(given.shape[0], int)
    for count in (1, 7):
        close(session.run(None, {given.name: x[:count]})[0], wanted[:count])
    close(tfc.OnnxModel(path).predict(x), wanted)
    assert 0 <= result.report.settings["largest_difference"] < 1e-5


@pytest.fixture(scope="module")
def residual():
    model, x = networks.build("residual")
    model.layers[-1].bias.assign(np.linspace(-1, 1, 5))
    return tfc.quantize_aware(model, calibration_data=x), x


@pytest.fixture(scope="module")
def exported(residual):
    model, x = residual
    return tfc.to_onnx(model, data=x)


def test_quantized_models_hold_the_trained_integers(residual, exported):
    """Kernels, biases and grids are those that the layers compute with, and none is missing."""
    model, _ = residual
    onnx.checker.check_model(exported.proto, full_check=True)
    graph = exported.proto.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    weighted = [n for n in graph.node if n.op_type in ("Conv", "MatMul", "Gemm")]
    linear = [layer for layer in model.layers if isinstance(layer, QuantizedLinear)]
    assert [n.op_type for n in weighted] == ["Conv", "Conv", "Gemm"]
    for node, layer in zip(weighted, linear, strict=True):
        kernel, bias, grid = layer.integers(known(layer.input_sources[0]))
        stored = makers[node.input[1]]
        assert stored.op_type == "DequantizeLinear"
        integers = constants[stored.input[0]]
        assert integers.dtype == np.int8
        order = (3, 2, 0, 1) if node.op_type == "Conv" else (0, 1)
        wanted = kernel.numpy() if node.op_type == "Conv" else kernel.numpy()[0, 0]
        np.testing.assert_array_equal(integers, wanted.transpose(order))
        np.testing.assert_array_equal(constants[stored.input[1]], grid.scale.numpy())
        assert not constants[stored.input[2]].any()
        axis = next(a.i for a in stored.attribute if a.name == "axis")
        assert axis == (0 if node.op_type == "Conv" else 1)
        added = makers[node.input[2]]
        assert added.op_type == "DequantizeLinear"
        np.testing.assert_array_equal(constants[added.input[0]], bias.numpy())
        assert constants[added.input[0]].dtype == np.int32
        inputs = known(layer.input_sources[0])
        np.testing.assert_allclose(
            constants[added.input[1]], inputs.scale.numpy() * grid.scale.numpy(), rtol=1e-7
        )
    pairs = {
        (float(constants[n.input[1]]), int(constants[n.input[2]]))
        for n in graph.node
        if n.op_type == "QuantizeLinear"
    }
    grids = [known(layer.output_source) for layer in model.layers if hasattr(layer, "ranges")]
    assert pairs == {(float(g.scale), int(g.zero_point)) for g in grids}


def test_onnx_runtime_computes_what_the_quantized_model_does(residual, exported):
    model, x = residual
    x = x[:40]
    found, wanted = exported.predict(x), np.asarray(model(x, training=False))
    steps = np.abs(found - wanted) / float(known(model.layers[-1].output_source).scale)
    assert steps.max() < 1.01 and (steps < 0.5).mean() > 0.95
    settings = exported.report.settings
    assert settings["identical"] > 0.95 and settings["max_steps"] <= 1
    assert settings["first_beyond_one_step"] is None


def test_float_islands_stay_float():
    model, x = networks.build("recurrent")
    quantized = tfc.quantize_aware(model, calibration_data=x)
    result = tfc.to_onnx(quantized, data=x[:8])
    assert result.report.settings["identical"] == 1.0
    kinds = [node.op_type for node in result.proto.graph.node]
    assert "QuantizeLinear" in kinds and ("Loop" in kinds or "LSTM" in kinds)


def test_a_file_of_another_model_is_told_apart(residual, exported):
    """`tfc.verify` takes ONNX too, and names the layer that is off by more than one step."""
    model, x = residual
    changed = onnx.ModelProto()
    changed.CopyFrom(exported.proto)
    tensor = next(
        t for t in changed.graph.initializer if t.data_type == onnx.TensorProto.INT32 and t.dims
    )
    values = numpy_helper.to_array(tensor) + 2000
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    wrong = tfc.OnnxModel(changed.SerializeToString())
    report = tfc.verify(model, wrong, x[:8])
    assert report.identical < 1 and report.max_lsb > 1
    assert report.first_divergence.max_lsb > 1
    assert report.first_divergence.operator in ("Conv", "Relu", "Gemm")
    reader = next(n for n in changed.graph.node if any(tensor.name in i for i in n.input))
    assert report.first_divergence.name in reader.output[0].replace("_1", "")


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 3, 3), (2, 6, 4), (2, 1, 4), (2, 7)])
def test_layers_are_compared_in_one_order_of_the_axes(shape):
    """The graph has channels first, and sequences as images of one row."""
    ours = np.random.default_rng(0).normal(0, 1, shape)
    graphs = np.moveaxis(ours, -1, 1)
    graphs = graphs[:, :, None] if len(shape) == 3 else graphs
    for values in (ours, graphs):
        np.testing.assert_array_equal(_as_keras(values, ours + 0.01), ours)


def test_errors(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"precious")
    small = randomize(keras.Sequential([keras.Input((4,)), layers.Dense(2)]))
    for arguments, message in (
        ({"opset": 12}, "`opset` must be 13 to 18"),
        ({"target": "gpu"}, "`target` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"path": path}, "exists"),
    ):
        with pytest.raises(tfc.ConfigError, match=message):
            tfc.to_onnx(small, **arguments)
    assert path.read_bytes() == b"precious"
    wide = tfc.quantize_aware(small, "int16x8")
    with pytest.raises(tfc.ConfigError, match="activation_bits=8"):
        tfc.to_onnx(wide)
    inputs = keras.Input((6,))
    unknown = keras.Model(inputs, layers.Lambda(lambda x: keras.ops.fft((x, x))[0])(inputs))
    with pytest.raises(tfc.ConversionError, match="ONNX"):
        tfc.to_onnx(unknown)
    with pytest.raises(tfc.CorruptFileError, match="no valid ONNX"):
        tfc.OnnxModel(b"nothing of the kind")
