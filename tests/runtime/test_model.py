import pickle

import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.runtime import adapter


@pytest.fixture(scope="module")
def x(images):
    return images[0][:40]


def test_paths_bytes_and_models_are_sources(float_file, x):
    by_path = tfc.TFLiteModel(float_file)
    for source in (str(float_file), float_file.read_bytes(), by_path):
        np.testing.assert_array_equal(tfc.TFLiteModel(source).predict(x), by_path.predict(x))
    assert by_path.name == "float"
    assert by_path.content == float_file.read_bytes()


def test_save_replaces_a_file_whole_or_not_at_all(float_file, tmp_path):
    model = tfc.TFLiteModel(float_file)
    path = model.save(tmp_path / "copy.tflite")
    assert path.read_bytes() == model.content
    with pytest.raises(tfc.ConfigError, match="exists"):
        model.save(path)
    model.save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["copy.tflite"]


def test_sizes(float_file):
    import gzip

    import zstandard

    sizes = tfc.TFLiteModel(float_file).sizes
    content = float_file.read_bytes()
    assert sizes.raw == len(content)
    assert sizes.gzip == len(gzip.compress(content, 9, mtime=0))
    assert sizes.zstd == len(zstandard.ZstdCompressor(level=19).compress(content))


def test_operators_are_named_in_order(float_file):
    operators = tfc.TFLiteModel(float_file).operators
    assert [operator.name for operator in operators] == [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "MEAN",
        "FULLY_CONNECTED",
    ]
    assert [operator.index for operator in operators] == list(range(5))
    assert operators[1].inputs[0] == operators[0].outputs[0]


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tensorflow"])
@pytest.mark.parametrize("backend", ["xnnpack", "reference"])
def test_runtimes_and_backends_agree(float_file, int8_file, x, runtime, backend):
    model = tfc.TFLiteModel(float_file)
    found = model.predict(x, runtime=runtime, backend=backend)
    np.testing.assert_allclose(found, model.predict(x), rtol=0, atol=1e-5 * abs(found).max())
    model = tfc.TFLiteModel(int8_file)
    found = model.predict(x, runtime=runtime, backend=backend)
    step = model.session().outputs[0].scale or abs(found).max() / 127
    assert abs(found - model.predict(x)).max() <= 2.001 * step


def test_any_number_of_examples(float_file, x):
    model = tfc.TFLiteModel(float_file)
    assert model.predict(x[:0]).shape == (0, 10)
    whole = model.predict(x)
    np.testing.assert_array_equal(model.predict(x[:1]), whole[:1])
    batched = model.predict(x, batch_size=16)  # 40 = 2 * 16 + 8
    np.testing.assert_allclose(batched, whole, rtol=0, atol=1e-5 * abs(whole).max())


def test_threads_do_not_change_the_answer(int8_file, x):
    model = tfc.TFLiteModel(int8_file)
    np.testing.assert_array_equal(model.predict(x, threads=2), model.predict(x))


def test_int8_rows_do_not_depend_on_the_batch(int8_file, x):
    model = tfc.TFLiteModel(int8_file)
    np.testing.assert_array_equal(model.predict(x, batch_size=8), model.predict(x))


def test_a_graph_tied_to_its_batch_says_so(tmp_path):
    import keras

    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(2, 1)(inputs)
    model = keras.Model(inputs, keras.layers.Reshape((2, 16))(x))
    tflite = tfc.convert(model)
    values = np.zeros((4, 4, 4, 2), "float32")
    assert tflite.predict(values).shape == (4, 2, 16)
    with pytest.raises((tfc.ConfigError, tfc.DeviceError)):
        tflite.predict(values, batch_size=4)


def test_integer_pixels_are_real_values(float_file, images):
    model = tfc.TFLiteModel(float_file)
    pixels = (images[0][:3] * 255).astype("uint8")
    np.testing.assert_array_equal(model.predict(pixels), model.predict(pixels.astype("float32")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((2, 27, 28, 1), "float32"), r"\(examples, 28, 28, 1\)"),
        (np.zeros((28, 28, 1), "float32"), r"Received: \(28, 28, 1\)"),
        ({"picture": np.zeros((2, 28, 28, 1))}, "'image'"),
        (np.full((2, 28, 28, 1), "a"), "numeric"),
        (np.array([None, 3], dtype=object), "numeric"),
    ],
)
def test_data_that_does_not_fit(float_file, data, message):
    with pytest.raises(tfc.DataError, match=message):
        tfc.TFLiteModel(float_file).predict(data)


def test_nan_never_becomes_an_integer(small_model, images):
    int8 = tfc.convert(small_model, "int8", representative_data=images[0][:20], io="int8")
    with pytest.raises(tfc.DataError, match="NaN"):
        int8.predict(np.full((1, 28, 28, 1), np.nan, "float32"))


def test_names_are_checked(float_file, x):
    model = tfc.TFLiteModel(float_file)
    with pytest.raises(tfc.ConfigError, match="`runtime` must be"):
        model.predict(x, runtime="tflite")
    with pytest.raises(tfc.ConfigError, match=r"\('xnnpack', 'reference', 'gpu'\)\. Received"):
        model.predict(x, backend="npu")
    with pytest.raises(tfc.ConfigError, match=r"\('xnnpack', 'reference'\)\. Received: 'gpu'"):
        model.session(backend="gpu")
    with pytest.raises(tfc.ConfigError, match="`threads`"):
        model.predict(x, threads=0)
    with pytest.raises(tfc.DeviceError, match="pip install tflite-runtime"):
        model.predict(x, runtime="tflite-runtime")
    with pytest.raises(tfc.ConfigError, match="No such file"):
        tfc.TFLiteModel("missing.tflite")


def test_no_runtime_at_all(monkeypatch):
    monkeypatch.setattr(adapter, "available_runtimes", list)
    with pytest.raises(tfc.DeviceError, match="pip install ai-edge-litert"):
        adapter.resolve_runtime()


def test_pickle(float_file, x):
    model = tfc.TFLiteModel(float_file)
    model.predict(x[:1])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert again.name == "float"


def test_a_stateful_model_starts_afresh_in_each_call():
    import keras

    inputs = keras.Input(batch_shape=(1, 3, 2))
    tflite = tfc.convert(keras.Model(inputs, keras.layers.LSTM(4, stateful=True)(inputs)))
    values = np.random.default_rng(0).random((5, 3, 2), "float32")
    first = tflite.predict(values)
    np.testing.assert_array_equal(tflite.predict(values), first)
    assert abs(tflite.predict(values[1:]) - first[1:]).max() > 1e-4  # the state matters


def test_threads_of_the_user_share_a_model(float_file, x):
    from concurrent.futures import ThreadPoolExecutor

    model = tfc.TFLiteModel(float_file)
    expected = model.predict(x)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict(x), range(40)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("source", [None, 3, [], "/dev/zero"])
def test_what_is_no_source(source):
    with pytest.raises(tfc.ConfigError):
        tfc.TFLiteModel(source)
