import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.runtime import adapter


def test_the_newest_runtime_comes_first():
    found = tfc.available_runtimes()
    assert found[0] == "ai-edge-litert" and "tensorflow" in found
    assert adapter.resolve_runtime() == "ai-edge-litert"
    assert adapter.resolve_runtime("tensorflow") == "tensorflow"


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tensorflow"])
def test_a_session_describes_inputs_and_outputs(int8_file, runtime):
    session = adapter.Session(int8_file.read_bytes(), runtime=runtime)
    (image,), (scores,) = session.inputs, session.outputs
    assert (image.name, image.shape, image.dtype) == ("image", (1, 28, 28, 1), np.float32)
    assert (scores.name, scores.shape) == ("scores", (1, 10))
    assert image.scale == 0.0


def test_quantized_io_has_scales(small_model, images):
    tflite = tfc.convert(small_model, "int8", representative_data=images[0][:20], io="uint8")
    session = adapter.Session(tflite.content)
    (image,) = session.inputs
    assert image.dtype == np.uint8
    assert image.scale == pytest.approx(1 / 255, rel=1e-3) and image.zero_point == 0


def test_backends_differ_in_what_runs(float_file):
    names = {}
    for backend in ("xnnpack", "reference"):
        session = adapter.Session(float_file.read_bytes(), backend=backend)
        names[backend] = {op["op_name"] for op in session.interpreter._get_ops_details()}
    assert "DELEGATE" in names["xnnpack"] and "DELEGATE" not in names["reference"]


def test_a_refusal_names_the_operator_and_the_runtime_it_needs(monkeypatch, float_file):
    """An old runtime is played by its version; a real one is tried in `test_boards`."""
    from tfcompress.runtime import versions

    monkeypatch.setattr(adapter, "runtime_version", lambda _: "1.5.0")
    needed = versions.needing(tfc.TFLiteModel(float_file).parsed, "1.5.0")
    assert needed
    text = adapter.explain_refusal(float_file.read_bytes(), "tensorflow", "no such operator")
    assert needed[0] in text and "pip install ai-edge-litert" in text and "no such operator" in text


def test_several_signatures_keep_the_tensors_own_names(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec((1, 3), tf.float32, name="x")
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[spec])
    module.triple = tf.function(lambda x: {"y": 3 * x}, input_signature=[spec])
    tf.saved_model.save(
        module, str(tmp_path), signatures={"double": module.double, "triple": module.triple}
    )
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    model = tfc.TFLiteModel(content)
    assert len(model.parsed.signatures) == 2
    assert model.predict(np.ones((2, 3), "float32")).shape == (2, 3)
