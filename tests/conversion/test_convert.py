import keras
import numpy as np
import pytest
from support import randomize

import tfcompress as tfc

layers = keras.layers


def real_weights(model, seed=0):
    return randomize(model, seed)


def close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def snr_db(actual, expected):
    noise = np.square(actual - expected).mean()
    return 10 * np.log10(np.square(expected).mean() / noise)


# ---------------------------------------------------------------- precisions


def test_fp32_computes_what_keras_computes(small_model, images):
    x = images[0][:50]
    tflite = tfc.convert(small_model)
    close(tflite.predict(x), small_model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("precision", "least_db"),
    [
        ("fp16", 50),
        ("dynamic", 25),
        ("int8", 20),
        ("int16x8", 30),
        ("weight-int8", 30),
        ("weight-int4", 10),
        ("dynamic-int4", 10),
        ("int8-matmul", 20),
    ],
)
def test_precisions_are_as_close_as_their_bits_allow(small_model, images, precision, least_db):
    x = images[0][:100]
    tflite = tfc.convert(small_model, precision, representative_data=x)
    assert snr_db(tflite.predict(x), small_model.predict(x, verbose=0)) > least_db


@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_int8_holds_no_float_tensor_and_predicts_real_values_whatever_the_io(
    small_model, images, int8_file, io
):
    x = images[0][:100]
    tflite = tfc.convert(small_model, "int8", representative_data=x, io=io)
    assert tflite.float_tensors == []
    assert tflite.report.settings["float_tensors"] == 0
    graph = tflite.parsed.subgraphs[0]
    assert {graph.tensors[i].dtype for i in (*graph.inputs, *graph.outputs)} == {io}
    # the same integers inside: the same real values outside
    np.testing.assert_array_equal(tflite.predict(x), tfc.TFLiteModel(int8_file).predict(x))


def test_int16_io(small_model, images):
    x = images[0][:50]
    tflite = tfc.convert(small_model, "int16x8", representative_data=x, io="int16")
    assert tflite.float_tensors == []
    assert snr_db(tflite.predict(x), small_model.predict(x, verbose=0)) > 30


def test_batch_normalization_and_activation_are_fused(int8_file):
    names = [operator.name for operator in tfc.TFLiteModel(int8_file).operators]
    assert names == [
        "QUANTIZE",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "MEAN",
        "FULLY_CONNECTED",
        "DEQUANTIZE",
    ]


def test_static_batch_and_larger_batch(small_model, images):
    x = images[0][:5]
    tflite = tfc.convert(small_model, batch_size=4)
    assert tflite.parsed.subgraphs[0].tensors[0].shape == (4, 28, 28, 1)
    close(tflite.predict(x), small_model.predict(x, verbose=0))  # 5 examples in batches of 4


def test_the_same_model_gives_the_same_bytes(small_model, images):
    x = images[0][:20]
    files = [tfc.convert(small_model, "int8", representative_data=x).content for _ in range(2)]
    assert files[0] == files[1]


def test_the_model_is_left_as_it_was(small_model):
    before, config = small_model.get_weights(), small_model.get_config()
    tfc.convert(small_model, "fp16")
    assert small_model.get_config() == config
    for old, new in zip(before, small_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# ---------------------------------------------------------------- kinds of models


def two_inputs_two_outputs():
    image = keras.Input((8, 8, 1), name="image")
    facts = keras.Input((4,), name="facts")
    x = layers.concatenate([layers.Flatten()(image), facts])
    return keras.Model(
        {"image": image, "facts": facts},
        {"kind": layers.Dense(3, name="k")(x), "size": layers.Dense(1, name="s")(x)},
    )


def test_names_and_signature_are_kept():
    model = two_inputs_two_outputs()
    tflite = tfc.convert(model)
    (signature,) = tflite.parsed.signatures
    assert signature.key == "serving_default"
    assert set(signature.inputs) == {"image", "facts"}
    assert set(signature.outputs) == {"kind", "size"}
    generator = np.random.default_rng(0)
    x = {
        "image": generator.random((6, 8, 8, 1), "float32"),
        "facts": generator.random((6, 4), "float32"),
    }
    expected, actual = model.predict(x, verbose=0), tflite.predict(x)
    assert set(actual) == {"kind", "size"}
    for name in actual:
        close(actual[name], expected[name])


def test_int8_with_several_inputs_of_swapped_order():
    model = two_inputs_two_outputs()
    generator = np.random.default_rng(0)
    x = {
        "facts": generator.normal(0, 9, (40, 4)).astype("float32"),
        "image": generator.random((40, 8, 8, 1), "float32"),
    }
    tflite = tfc.convert(model, "int8", representative_data=x)
    expected, actual = model.predict(x, verbose=0), tflite.predict(x)
    for name in actual:
        assert snr_db(actual[name], expected[name]) > 20


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3)
        self.head = layers.Dense(3)

    def call(self, x, training=False):
        return self.head(keras.ops.mean(self.conv(x), axis=(1, 2)))


class TwoArguments(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = layers.Dense(3)

    def call(self, first, second):
        return self.head(keras.ops.concatenate([first, second], -1))


def lstm():
    return keras.Sequential([keras.Input((7, 5)), layers.LSTM(6), layers.Dense(2)])


def gru():
    return keras.Sequential(
        [keras.Input((7, 5)), layers.Bidirectional(layers.GRU(6)), layers.Dense(2)]
    )


def stateful():
    inputs = keras.Input(batch_shape=(1, 7, 5))
    return keras.Model(inputs, layers.LSTM(6, stateful=True)(inputs))


def upsampling():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.UpSampling2D(interpolation="bilinear"),
            layers.Conv2DTranspose(3, 3, strides=2, padding="same"),
            layers.UpSampling2D(),
        ]
    )


def one_dimensional():
    return keras.Sequential(
        [
            keras.Input((16, 3)),
            layers.SeparableConv1D(5, 3),
            layers.Conv1DTranspose(4, 3),
            layers.GlobalMaxPooling1D(),
        ]
    )


def nested_and_shared():
    block = keras.Sequential([layers.Dense(5, activation="relu"), layers.BatchNormalization()])
    inputs = keras.Input((5,))
    return keras.Model(inputs, block(block(inputs)) + inputs)


def transformer():
    inputs = keras.Input((6, 8))
    x = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(2, 4)(inputs, inputs))
    return keras.Model(inputs, layers.Dense(8, activation="gelu")(x))


def with_dropout_and_noise():
    return keras.Sequential(
        [keras.Input((5,)), layers.GaussianNoise(1.0), layers.Dropout(0.5), layers.Dense(2)]
    )


@pytest.mark.parametrize(
    "make",
    [
        lstm,
        gru,
        stateful,
        upsampling,
        one_dimensional,
        nested_and_shared,
        transformer,
        with_dropout_and_noise,
    ],
    ids=lambda make: make.__name__,
)
def test_kinds_of_networks_convert_exactly(make):
    keras.utils.set_random_seed(3)
    model = real_weights(make())
    x = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype("float32")
    tflite = tfc.convert(model)
    if make is stateful:
        expected = np.concatenate([model(x[i : i + 1]) for i in range(3)])
    else:
        expected = model.predict(x, verbose=0)
    close(tflite.predict(x), expected)


@pytest.mark.parametrize(
    "make", [lstm, upsampling, one_dimensional, nested_and_shared, transformer]
)
def test_what_int8_cannot_do_is_left_in_float_and_named(make):
    keras.utils.set_random_seed(3)
    model = real_weights(make())
    x = np.random.default_rng(0).normal(size=(50, *model.input_shape[1:])).astype("float32")
    tflite = tfc.convert(model, "int8", representative_data=x)
    assert snr_db(tflite.predict(x), model.predict(x, verbose=0)) > 12
    assert bool(tflite.float_tensors) == bool(tflite.report.notes)
    assert tflite.report.settings["float_tensors"] == len(tflite.float_tensors)


def test_token_ids():
    inputs = keras.Input((9,), dtype="int32", name="ids")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(50, 8)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    ids = np.random.default_rng(0).integers(0, 50, (20, 9))
    expected = model.predict(ids, verbose=0)
    close(tfc.convert(model).predict(ids), expected)
    int8 = tfc.convert(model, "int8", representative_data=ids, io="int8")
    assert snr_db(int8.predict(ids), expected) > 20
    with pytest.raises(tfc.DataError, match="whole numbers"):
        int8.predict(ids + 0.5)


def test_strings_through_a_lookup_table():
    inputs = keras.Input((3,), dtype="string")
    model = keras.Model(inputs, layers.StringLookup(vocabulary=["a", "b"])(inputs))
    tflite = tfc.convert(model)
    assert tflite.predict(np.array([["a", "b", "c"], ["b", "b", "a"]])).tolist() == [
        [1, 2, 0],
        [2, 2, 1],
    ]


def test_subclassed_models():
    x = np.random.default_rng(0).random((4, 8, 8, 2), "float32")
    model = Subclassed()
    model(x)
    close(tfc.convert(model).predict(x), model(x).numpy())
    a, b = x[:, 0, 0], x[:, 1, :, 0]
    two = TwoArguments()
    two(a, b)
    with pytest.raises(tfc.ModelTypeError, match="input_shapes"):
        tfc.convert(two)
    tflite = tfc.convert(two, input_shapes={"first": (2,), "second": (8,)})
    close(tflite.predict({"first": a, "second": b}), two(a, b).numpy())


def test_mixed_precision_model_converts_and_keeps_its_policy():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = nested_and_shared()
    finally:
        keras.config.set_dtype_policy("float32")
    real_weights(model)
    x = np.random.default_rng(0).random((4, 5), "float32")
    tflite = tfc.convert(model)
    assert model.layers[-1].compute_dtype == "float16"
    close(tflite.predict(x), model.predict(x, verbose=0).astype("float32"), 5e-3)


def test_open_sizes_come_from_the_argument_or_the_data():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(2, 3), layers.GlobalMaxPooling2D()]
    )
    with pytest.raises(tfc.ConfigError, match="input_shapes"):
        tfc.convert(model)
    assert tfc.convert(model, input_shapes=(12, 10, 3)).parsed.subgraphs[0].tensors[0].shape == (
        1,
        12,
        10,
        3,
    )
    x = np.zeros((3, 9, 8, 3), "float32")
    found = tfc.convert(model, representative_data=x).parsed.subgraphs[0].tensors[0].shape
    assert found == (1, 9, 8, 3)


# ---------------------------------------------------------------- errors


def test_unknown_precision_and_io(small_model):
    with pytest.raises(tfc.ConfigError, match="'int7'"):
        tfc.convert(small_model, "int7")
    with pytest.raises(tfc.ConfigError, match="`io` must be one of"):
        tfc.convert(small_model, "fp16", io="int8")
    with pytest.raises(tfc.ConfigError, match="batch_size"):
        tfc.convert(small_model, batch_size=0)


def test_models_that_cannot_be_converted_say_why():
    with pytest.raises(tfc.ModelTypeError, match="not built"):
        tfc.convert(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(tfc.ModelTypeError, match="not built"):
        tfc.convert(Subclassed())
    with pytest.raises(tfc.ModelTypeError, match=r"keras\.Model"):
        tfc.convert("model.keras")
    import tf_keras

    old = tf_keras.Sequential([tf_keras.layers.InputLayer((4,)), tf_keras.layers.Dense(2)])
    with pytest.raises(tfc.ModelTypeError, match=r"Keras 2.*legacy\.to_keras3"):
        tfc.convert(old)


def test_nan_in_weights_names_the_variable():
    model = lstm()
    weights = model.get_weights()
    weights[0][0, 0] = np.nan
    model.set_weights(weights)
    with pytest.raises(tfc.DataError, match=r"1 NaN or infinite values in '.*kernel'"):
        tfc.convert(model)


def test_paths_are_checked_before_any_work(small_model, tmp_path, float_file):
    with pytest.raises(tfc.ConfigError, match="overwrite=True"):
        tfc.convert(small_model, path=float_file)
    with pytest.raises(tfc.ConfigError, match="does not exist"):
        tfc.convert(small_model, path=tmp_path / "no" / "such.tflite")
    with pytest.raises(tfc.ConfigError, match="folder"):
        tfc.convert(small_model, path=tmp_path)
    with pytest.raises(tfc.ConfigError, match="Cannot write"):
        tfc.convert(small_model, path="/proc/model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_failing_conversion_writes_nothing_and_shows_why(known, monkeypatch, tmp_path):
    if not known:  # as when the converter fails for another reason
        monkeypatch.setattr("tfcompress.conversion.converter.lacking", lambda said: "")
    inputs = keras.Input((3, 3))
    model = keras.Model(inputs, keras.ops.eigh(inputs)[0])
    with pytest.raises(tfc.ConversionError) as caught:
        tfc.convert(model, path=tmp_path / "model.tflite")
    assert ("converter's output" in str(caught.value)) != known
    assert "SelfAdjointEig" in str(caught.value) and "SelfAdjointEig" in caught.value.log
    assert list(tmp_path.iterdir()) == []


def test_the_converters_noise_is_kept_away(small_model, capfd):
    tfc.convert(small_model, "fp16")
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_crash_of_the_converter_is_an_exception(monkeypatch, small_model, tmp_path):
    from tfcompress.conversion import converter

    monkeypatch.setattr(converter, "_JOB", "os")
    run = converter._job
    monkeypatch.setattr(converter, "_job", lambda *_: run("abort", {}))
    with pytest.raises(tfc.ConversionError, match="SIGABRT"):
        tfc.convert(small_model, path=tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert tfc.convert(small_model).content  # the next conversion works


def test_a_list_is_taken_in_the_order_of_the_keras_model(tmp_path):
    inputs = [keras.Input((2,), name=name) for name in ("zz", "aa", "mm")]
    model = keras.Model(inputs, layers.Concatenate()(inputs))
    data = [np.full((1, 2), value, "float32") for value in (1, 2, 3)]
    tflite = tfc.convert(model, path=tmp_path / "m.tflite")
    np.testing.assert_array_equal(tflite.predict(data), [[1, 1, 2, 2, 3, 3]])
    with pytest.raises(tfc.DataError, match="Received"):
        tflite.predict(data[:2])
    assert tfc.benchmark(tflite, inputs=data, runs=1).rows
    loaded = tfc.TFLiteModel(tmp_path / "m.tflite")
    for use in (loaded.predict, lambda x: tfc.benchmark(loaded, inputs=x)):
        with pytest.raises(tfc.DataError, match="dict by name"):
            use(data)
    assert "zz float32[1, 2]" in repr(loaded)  # the names that `predict` takes


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_one_tensor_may_be_two_outputs(precision):
    inputs = keras.Input((4,))
    output = layers.Dense(2)(inputs)
    model = keras.Model(inputs, {"a": output, "b": output})
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    found = tfc.convert(model, precision, representative_data=x).predict(x)
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"], found["b"])


def test_fp16_says_what_it_cannot_hold():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="big")])
    assert tfc.convert(model, "fp16").report.notes == []
    model.set_weights([np.array([[1e6, 1.0], [1.0, 1.0]]), np.zeros(2)])
    (note,) = tfc.convert(model, "fp16").report.notes
    assert "65,504" in note and "big" in note


def test_recurrent_int8_with_integer_io_says_what_to_do():
    model = lstm()
    x = np.random.default_rng(0).normal(size=(20, 7, 5)).astype("float32")
    with pytest.raises(tfc.ConversionError, match="Pass io='float32'"):
        tfc.convert(model, "int8", representative_data=x, io="int8")


def test_calibration_on_nothing_but_zeros_is_plain_json(small_model, tmp_path):
    import json

    zeros = np.zeros((5, 28, 28, 1), "float32")
    report = tfc.convert(small_model, "int8", representative_data=zeros).report
    json.loads(report.save(tmp_path / "r.json").read_text())
