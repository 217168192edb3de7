"""Teachers' outputs on disk: every example gets its own, or an error."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from distilling import CLASSES, convnet, data, same

import tfcompress as tfc
from tfcompress.distillation.examples import keys_of

X, Y = data()


@pytest.fixture(scope="module")
def teacher():
    return convnet(8)


@pytest.fixture(scope="module")
def cached(teacher, tmp_path_factory):
    return tfc.cache_teacher(teacher, X, tmp_path_factory.mktemp("cache") / "teacher.npy")


def student():
    made = convnet(4, seed=1)
    made.get_layer("wide_norm").trainable = False
    for layer in made.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return made


def fitted(teacher, x, y=None, **options):
    made = student()
    model = tfc.distill(made, teacher)
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", run_eagerly=True)
    keras.utils.set_random_seed(0)
    history = model.fit(x, y, verbose=0, **options)
    return made.get_weights(), history.history


def close(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_cache_teaches_what_the_teacher_does(teacher, cached):
    wanted, _ = fitted(teacher, X, Y, epochs=2)
    found, history = fitted(cached, X, Y, epochs=2, validation_data=(X, Y))
    close(found, wanted)
    assert set(history) == {
        "loss", "student_loss", "distillation_loss", "val_loss",
    }  # fmt: skip


def batches():
    for start in range(0, len(X), 32):
        yield X[start : start + 32], Y[start : start + 32]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[32 * index :][:32], Y[32 * index :][:32]


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "generator"])
def test_data_of_every_kind(teacher, cached, kind):
    def made():
        if kind == "tf.data":
            return tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
        return Batches() if kind == "PyDataset" else batches()

    wanted, _ = fitted(teacher, made())
    found, _ = fitted(cached, made())
    close(found, wanted)


def test_shuffled_data_gets_its_own_rows(teacher, cached):
    order = np.random.default_rng(1).permutation(len(X))
    logits = np.log(teacher.predict(X, verbose=0).astype(np.float64))
    found = cached.said_of(X[order])[0].astype(np.float64)
    wanted = logits[order]
    np.testing.assert_allclose(
        found - found.mean(-1, keepdims=True), wanted - wanted.mean(-1, keepdims=True), atol=1e-5
    )


def test_examples_that_are_not_there_are_an_error(cached):
    for changed in (X + 0.01, np.ascontiguousarray(X[:, :, ::-1]), X[:, :4]):
        with pytest.raises(tfc.DataError, match="in the teacher's cache"):
            fitted(cached, changed, Y)
    with pytest.raises(tfc.DataError, match="1 of 2"):
        cached.said_of(np.stack([X[0], X[1] * 2]))


def test_outputs_of_other_frameworks(teacher, tmp_path):
    probabilities = teacher.predict(X, verbose=0)
    logits = np.log(probabilities) + 7.0  # any constant is the same
    wanted, _ = fitted(teacher, X, Y)
    np.save(tmp_path / "logits.npy", logits.astype("float16").astype("float32"))
    np.savez(tmp_path / "logits.npz", scores=logits)
    for source in (probabilities, logits, tmp_path / "logits.npz"):
        found, _ = fitted(tfc.CachedTeacher(source, X), X, Y)
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert len(tfc.CachedTeacher(tmp_path / "logits.npy", X)) == len(X)
    with pytest.raises(tfc.DataError, match="one row of outputs for each example"):
        tfc.CachedTeacher(logits[:-1], X)
    with pytest.raises(tfc.ConfigError, match="data"):
        tfc.CachedTeacher(logits)
    with pytest.raises(tfc.ConfigError, match="No such file"):
        tfc.CachedTeacher(tmp_path / "none.npy", X)
    (tmp_path / "torn.npy").write_bytes((tmp_path / "logits.npy").read_bytes()[:-100])
    with pytest.raises(tfc.CorruptFileError):
        tfc.CachedTeacher(tmp_path / "torn.npy", X)
    with pytest.raises(tfc.ConfigError, match="method='logits'"):
        tfc.distill(student(), tfc.CachedTeacher(logits, X), method="hints")


def test_outputs_must_have_the_student_s_shape(teacher):
    wrong = np.zeros((len(X), 1), "float32")  # would be broadcast to the student's
    model = tfc.distill(student(), tfc.CachedTeacher(wrong, X))
    with pytest.raises(tfc.DataError, match=r"student's shape, \(5,\).*Received: \(1,\)"):
        model.compile("sgd", "sparse_categorical_crossentropy")
    inner = student()

    class Whole(keras.Model):
        def call(self, x):
            return inner(x)

    own = Whole()
    own(X[:2])
    model = tfc.distill(own, tfc.CachedTeacher(wrong, X), outputs="softmax")
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    with pytest.raises(tfc.DataError, match="student's shape"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_outputs_without_a_last_axis(activation):
    # As other frameworks give them: (n,) for a student's (n, 1).
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    said = 1 / (1 + np.exp(-x.sum(-1)))
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation=activation)])
    model = tfc.distill(made, tfc.CachedTeacher(said, x), alpha=1.0, temperature=1.0)
    loss = "mse" if activation is None else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(0.05), loss, jit_compile=False)
    model.fit(x, said, epochs=150, batch_size=64, verbose=0)
    assert np.abs(made.predict(x, verbose=0)[:, 0] - said).max() < 0.2


def test_what_is_missing_in_tf_data_is_our_error(cached):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).map(lambda x, y: (x + 0.01, y)).batch(32)
    model = tfc.distill(student(), cached)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    with pytest.raises(tfc.DataError, match="in the teacher's cache"):
        model.fit(dataset, verbose=0)


def test_files_that_are_no_caches(tmp_path):
    good = tmp_path / "good.npz"
    np.savez(good, scores=np.zeros((len(X), CLASSES), "float32"))
    torn = tmp_path / "torn.npz"
    torn.write_bytes(good.read_bytes()[:-40])
    with pytest.raises(tfc.CorruptFileError, match="not a whole"):
        tfc.CachedTeacher(torn, X)
    other = np.zeros(len(X), [("example", "<u8"), ("size", "<f4")])
    with pytest.raises((tfc.DataError, tfc.ConfigError)):
        tfc.CachedTeacher(other)


def test_texts_are_examples(tmp_path):
    vectorize = keras.layers.TextVectorization(output_mode="multi_hot")
    vectorize.adapt(["good", "bad", "fine"])
    inputs = keras.Input((1,), dtype="string")
    teacher = keras.Model(inputs, keras.layers.Dense(2, "softmax")(vectorize(inputs)))
    texts = np.array([["good"], ["bad"], ["good bad"]], object)
    cached = tfc.cache_teacher(teacher, texts, tmp_path / "t.npy", batch_size=2)
    assert (cached.said_of(tf.constant(texts[::-1]))[0] == cached.said_of(texts)[0][::-1]).all()
    assert len(set(keys_of(np.array(["ab", "a", "b", "", "ba"]))) | set(keys_of(texts))) == 8


def test_another_teacher_of_the_same_weights_begins_anew(tmp_path):
    def made(scale):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Rescaling(scale)(inputs))

    def torn():
        yield np.ones((2, 4), "float32")
        raise KeyboardInterrupt

    x, path = np.ones((2, 4), "float32"), tmp_path / "t.npy"
    options = {"outputs": "values"}
    with pytest.raises(KeyboardInterrupt):
        tfc.cache_teacher(made(0.5), torn, path, **options)
    cached = tfc.cache_teacher(made(0.25), x, path, **options)
    assert (cached.said_of(x)[0] == 0.25).all()


def test_a_file_says_what_it_holds_and_is_replaced_when_asked_only(teacher, cached, tmp_path):
    rows = np.load(cached.path, mmap_mode="r")
    assert rows.dtype.names == ("example", "0|0|softmax") and len(rows) == len(X)
    with pytest.raises(tfc.ConfigError, match="overwrite"):
        tfc.cache_teacher(teacher, X, cached.path)
    pair = tfc.cache_teacher([teacher, convnet(6)], X, tmp_path / "two.npy", dtype="float16")
    assert [a.shape for a in pair.said_of(X[:3])] == [(3, CLASSES)] * 2
    with pytest.raises(tfc.DataError, match="an example to cache"):
        tfc.cache_teacher(teacher, iter([]), tmp_path / "none.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two.npy"]


def test_a_call_that_was_killed_goes_on(teacher, cached, tmp_path, monkeypatch):
    from tfcompress.distillation.cache import _Speaker

    def torn(stop):
        for number, (x, _) in enumerate(batches()):
            if number == stop:
                raise KeyboardInterrupt
            yield x

    path, part = tmp_path / "teacher.npy", tmp_path / "teacher.npy.part"
    with pytest.raises(KeyboardInterrupt):
        tfc.cache_teacher(teacher, lambda: torn(2), path)
    assert not path.exists()
    part.write_bytes(part.read_bytes()[:-5])  # killed in the middle of a write
    asked, rows = [], _Speaker.rows
    monkeypatch.setattr(_Speaker, "rows", lambda *a: asked.append(1) or rows(*a))
    made = tfc.cache_teacher(teacher, lambda: torn(None), path)
    assert not part.exists() and len(asked) == 2  # the torn batch, and the third
    close(made.said_of(X), cached.said_of(X))
    # Of another teacher or other data nothing is taken over.
    for other, x in ((convnet(8, seed=9), X), (teacher, X[::-1])):
        with pytest.raises(KeyboardInterrupt):
            tfc.cache_teacher(teacher, lambda: torn(2), path, overwrite=True)
        again = tfc.cache_teacher(other, x, path, overwrite=True, batch_size=32)
        assert again.said_of(x)[0].shape == (len(X), CLASSES)
        fresh = tfc.cache_teacher(other, x, tmp_path / "fresh.npy", overwrite=True, batch_size=32)
        assert same(again.said_of(x), fresh.said_of(x))


def test_keys_are_of_the_content():
    assert len(np.unique(keys_of(X))) == len(X)
    assert np.array_equal(keys_of(X), keys_of(X.astype("float64")))
    assert np.array_equal(keys_of(np.array([[0.0]])), keys_of(np.array([[-0.0]])))
    whole = np.arange(6).reshape(3, 2)
    assert np.array_equal(keys_of(whole.astype("int32")), keys_of(whole))
    assert not np.array_equal(keys_of(whole), keys_of(whole.astype("float32")))
    assert not np.array_equal(keys_of(whole.reshape(3, 1, 2)), keys_of(whole))
    with pytest.raises(tfc.DataError, match="equally many"):
        keys_of({"a": X, "b": X[:2]})
