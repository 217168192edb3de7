"""`tfc.evaluate` against scikit-learn, sacreBLEU, rouge-score and NumPy on the same predictions."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
import sacrebleu
import tensorflow as tf
from rouge_score import rouge_scorer
from sklearn import metrics as sk

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.deploy import evaluate as module
from tfcompress.deploy.metrics import Metrics


@pytest.fixture(scope="module")
def scored(float_file, images):
    """A file, data, and the scores that the runtime gives for it."""
    x, y = images[0][:600], images[1][:600].astype("int64")
    return float_file, x, y, tfc.TFLiteModel(float_file).predict(x)


def test_classification_is_scikit_learns(scored):
    file, x, y, scores = scored
    guess = scores.argmax(-1)
    found = tfc.evaluate(
        file, (x, y), metrics=["accuracy", "top_1", "top_3", "f1", "f1_weighted", "f1_micro"]
    )
    assert found == {
        "accuracy": sk.accuracy_score(y, guess),
        "top_1": sk.accuracy_score(y, guess),
        "top_3": sk.top_k_accuracy_score(y, scores, k=3, labels=np.arange(10)),
        "f1": sk.f1_score(y, guess, average="macro"),
        "f1_weighted": sk.f1_score(y, guess, average="weighted"),
        "f1_micro": sk.f1_score(y, guess, average="micro"),
        "examples": 600,
    }
    assert 0 < found["accuracy"] < found["top_3"] < 1


def test_every_form_of_data_gives_the_same(scored):
    file, x, y, scores = scored
    expected = {"accuracy": np.mean(scores.argmax(-1) == y), "examples": 600}
    one_hot = np.eye(10)[y]

    def batches(size):
        return ((x[i : i + size], y[i : i + size]) for i in range(0, 600, size))

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return x[100 * index : 100 * index + 100], y[100 * index : 100 * index + 100]

    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    forms = [
        (x, y[:, None]),
        (x, one_hot),
        (x, y.astype("float32"), np.ones(600)),
        ({"image": x}, {"scores": y}),
        dataset,
        dataset.batch(37),
        Data(),
        batches(37),
        lambda: batches(501),
        list(batches(100)),
    ]
    for data in forms:
        assert tfc.evaluate(file, data) == expected
    endless = dataset.repeat().batch(64)
    assert tfc.evaluate(file, endless, limit=600) == expected
    assert tfc.evaluate(file, (x, y), limit=599)["examples"] == 599


def test_workers_and_batches_change_nothing(scored):
    file, x, y, scores = scored
    model = tfc.TFLiteModel(file)
    shares = []

    def scores_of(y_true, y_pred):
        np.testing.assert_array_equal(y_true, y)
        np.testing.assert_array_equal(y_pred, scores)
        return float(y_pred.sum())

    alone = tfc.evaluate(model, (x, y), metrics=["f1", scores_of], progress=shares.append)
    assert shares == [256 / 600, 512 / 600, 1.0]
    assert tfc.evaluate(model, (x, y), metrics=["f1", scores_of], workers=3) == alone
    assert alone["scores_of"] == float(scores.sum())
    assert tfc.evaluate(model, (x, y), metrics="f1", batch=7)["f1"] == alone["f1"]


def test_ties_of_integer_scores_are_the_same_answer_at_any_rank(int8_file, images):
    x, y = images[0][:300], images[1][:300]
    scores = tfc.TFLiteModel(int8_file).predict(x)
    found = tfc.evaluate(int8_file, (x, y), metrics=["top_1", "top_2", "accuracy"])
    assert found["top_1"] == found["accuracy"] == np.mean(scores.argmax(-1) == y)
    # a stable sort by falling score keeps lower classes first
    second = np.argsort(-scores, -1, kind="stable")[:, :2]
    assert found["top_2"] == np.mean((second == y[:, None]).any(-1))


@pytest.fixture(scope="module")
def binary():
    """Two files of one network: one ends in a sigmoid, one in its logits, all of these in 0..1."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(0.4))
    logits = dense(inputs)
    x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32") * 0.2
    sigmoid = keras.Model(inputs, keras.ops.sigmoid(logits))
    return tfc.convert(sigmoid), tfc.convert(keras.Model(inputs, logits)), x


def test_one_unit_has_no_likelihood(binary):
    file, _, x = binary
    with pytest.raises(tfc.DataError, match="'perplexity' needs an output with a score for each"):
        tfc.evaluate(file, (x, np.ones(len(x))), metrics="perplexity")


def test_one_unit_is_two_classes(binary):
    sigmoid, logits, x = binary
    values = logits.predict(x)[:, 0]
    y = np.random.default_rng(1).integers(0, 2, 200)
    for model in binary[:2]:
        for labels in (y, y[:, None], y.astype("float32")):
            found = tfc.evaluate(model, (x, labels), metrics=["accuracy", "f1", "f1_binary"])
            assert found["accuracy"] == sk.accuracy_score(y, values > 0)
            assert found["f1"] == sk.f1_score(y, values > 0, average="macro")
            assert found["f1_binary"] == sk.f1_score(y, values > 0)
    strict = tfc.evaluate(sigmoid, (x, y), threshold=0.6)["accuracy"]
    assert strict == sk.accuracy_score(y, sigmoid.predict(x)[:, 0] > 0.6)
    with pytest.raises(tfc.DataError, match=r"0 to 1.*Received: 0 to 2"):
        tfc.evaluate(sigmoid, (x, y + (y == 1)))
    with pytest.raises(tfc.DataError, match="top_2"):
        tfc.evaluate(sigmoid, (x, y), metrics="top_2")


def test_logits_that_look_like_probabilities_are_told_by_the_file(binary):
    _, logits, x = binary
    some = x[(logits.predict(x)[:, 0] > 0) & (logits.predict(x)[:, 0] < 1)]
    assert len(some) > 50 and logits.predict(some).min() < 0.3
    assert tfc.evaluate(logits, (some, np.ones(len(some))))["accuracy"] == 1.0


@pytest.fixture(scope="module")
def two_outputs():
    keras.utils.set_random_seed(2)
    ids = keras.Input((5,), dtype="int32", name="ids")
    extra = keras.Input((3,), name="extra")
    x = keras.layers.Embedding(20, 6)(ids)
    tokens = keras.layers.Dense(20, name="tokens")(x)
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(x), extra])
    value = keras.layers.Dense(2, name="value")(joined)
    model = tfc.convert(keras.Model([ids, extra], {"tokens": tokens, "value": value}))
    generator = np.random.default_rng(3)
    x = {
        "ids": generator.integers(0, 20, (150, 5)),
        "extra": generator.normal(size=(150, 3)).astype("float32"),
    }
    y = {
        "tokens": generator.integers(0, 20, (150, 5)),
        "value": generator.normal(size=(150, 2)),
    }
    return model, x, y, model.predict(x)


def test_several_inputs_and_outputs(two_outputs):
    model, x, y, out = two_outputs
    wanted = {"tokens": ["accuracy"], "value": ("mae", "mse", "rmse")}
    found = tfc.evaluate(model, (x, y), metrics=wanted, workers=2)
    flat = out["tokens"].argmax(-1).reshape(-1)
    assert found["tokens_accuracy"] == sk.accuracy_score(y["tokens"].reshape(-1), flat)
    value = out["value"].astype("float64")
    mae, mse = sk.mean_absolute_error(y["value"], value), sk.mean_squared_error(y["value"], value)
    assert found["value_mae"] == pytest.approx(mae, rel=1e-12)
    assert found["value_mse"] == pytest.approx(mse, rel=1e-12)
    assert found["value_rmse"] == pytest.approx(mse**0.5, rel=1e-12)
    assert found["examples"] == 150
    only = tfc.evaluate(model, (x, {"value": y["value"]}), metrics="mae")
    assert list(only) == ["value_mae", "examples"]
    # in the model's own order, right after convert
    assert (
        tfc.evaluate(model, ([x["ids"], x["extra"]], {"value": y["value"]}), metrics="mae") == only
    )
    file = tfc.TFLiteModel(model.content)
    with pytest.raises(tfc.DataError, match="dict by name"):
        tfc.evaluate(file, ([x["ids"], x["extra"]], y), metrics="mae")
    with pytest.raises(tfc.DataError, match="give labels as a dict by these"):
        tfc.evaluate(model, (x, y["value"]), metrics="mae")
    with pytest.raises(tfc.DataError, match=r"labels for \['value'\]"):
        tfc.evaluate(model, (x, {"tokens": y["tokens"]}), metrics=wanted)


def test_padding_is_not_counted(two_outputs):
    model, x, y, out = two_outputs
    labels = np.where(np.arange(5) < 3, y["tokens"], -100)
    found = tfc.evaluate(
        model, (x, {"tokens": labels}), metrics=["accuracy", "f1"], ignore_label=-100
    )
    true, guess = labels[:, :3].reshape(-1), out["tokens"].argmax(-1)[:, :3].reshape(-1)
    assert found["tokens_accuracy"] == sk.accuracy_score(true, guess)
    assert found["tokens_f1"] == sk.f1_score(true, guess, average="macro")
    with pytest.raises(tfc.DataError, match="Received: -100 to"):
        tfc.evaluate(model, (x, {"tokens": labels}))


def test_likelihood_is_that_of_keras(two_outputs, scored):
    model, x, y, out = two_outputs
    wanted = ("cross_entropy", "perplexity", "accuracy")
    labels = np.where(np.arange(5) < 3, y["tokens"], -100)
    found = tfc.evaluate(model, (x, {"tokens": labels}), metrics=wanted, ignore_label=-100)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
    expected = float(loss(labels, out["tokens"]))
    assert found["tokens_cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert found["tokens_perplexity"] == pytest.approx(np.exp(expected), rel=1e-5)
    file, images, classes, logits = scored
    found = tfc.evaluate(file, (images, classes), metrics=["cross_entropy"])
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert found["cross_entropy"] == pytest.approx(sk.log_loss(classes, chances), rel=1e-5)
    # Probabilities, as their sums tell, are not taken for logits, even where the file ends in a
    # mean, as of softmaxes.
    view = Metrics(["perplexity"], linear=True)
    view.add(list(classes), chances)
    assert view.results()["perplexity"] == pytest.approx(np.exp(found["cross_entropy"]), rel=1e-5)


def test_scores_beyond_all_bounds():
    view = Metrics(["perplexity", "cross_entropy"])
    view.add([0], np.array([[0.0, 5000.0]]))
    found = view.results()
    assert found["cross_entropy"] == 5000 and np.isfinite(found["perplexity"])
    with pytest.raises(tfc.DataError, match="finite scores"):
        Metrics(["perplexity"]).add([0], np.array([[0.0, np.inf]]))


def test_text_metrics_are_those_of_their_libraries(two_outputs):
    model, x, _, out = two_outputs
    words = [f"w{i}" for i in range(20)]

    def decode(ids):
        return " ".join(words[i] for i in ids)

    texts = [decode(row) for row in out["tokens"].argmax(-1)]
    generator = np.random.default_rng(4)
    first = [" ".join([*t.split()[: generator.integers(2, 6)], "w1"]) for t in texts]
    second = [decode(generator.integers(0, 20, 5)) for _ in texts]
    found = tfc.evaluate(
        model, (x, {"tokens": first}), metrics=("rouge", "bleu"), decode=decode, workers=2
    )
    assert found["tokens_bleu"] == sacrebleu.corpus_bleu(texts, [first]).score > 1
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for kind in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score(a, b)[kind].fmeasure for a, b in zip(first, texts, strict=True)]
        assert found[f"tokens_{kind}"] == np.mean(each) > 0
    both = [list(pair) for pair in zip(first, second, strict=True)]
    found = tfc.evaluate(model, (x, {"tokens": both}), metrics="bleu", decode=decode)
    assert found["tokens_bleu"] == sacrebleu.corpus_bleu(texts, [first, second]).score
    ids = tf.data.Dataset.from_tensor_slices((x, {"tokens": out["tokens"].argmax(-1)})).batch(8)
    assert tfc.evaluate(model, ids, metrics="bleu", decode=decode)["tokens_bleu"] == pytest.approx(
        100
    )
    strings = tf.data.Dataset.from_tensor_slices((x, {"tokens": first})).batch(8)
    assert tfc.evaluate(model, strings, metrics="rouge", decode=decode)["tokens_rouge1"] > 0
    with pytest.raises(tfc.DataError, match="Pass `decode`"):
        tfc.evaluate(model, (x, {"tokens": first}), metrics="bleu")


def test_killed_and_resumed(scored, tmp_path, monkeypatch):
    file, x, y, _ = scored
    data, folder = tmp_path / "data.npz", tmp_path / "kept"
    big = np.concatenate([x] * 20), np.concatenate([y] * 20)
    for copy in range(20):  # no two parts are alike
        big[0][600 * copy : 600 * copy + 600] += copy / 100
    np.savez(data, x=big[0], y=big[1])
    arguments = ["evaluate", str(file), "--data", str(data), "--resume", str(folder)]
    code = f"from tfcompress.cli.main import main; main({[*arguments, '--workers', '2']!r})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (folder.exists() and len(list(folder.glob("[0-9a-f]*.npz"))) >= 3):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(folder.glob("[0-9a-f]*.npz")))
    assert 3 <= done < 47
    runs = []
    real = module.Predictors.predict
    monkeypatch.setattr(
        module.Predictors, "predict", lambda self, part: runs.append(1) or real(self, part)
    )
    found = tfc.evaluate(file, big, metrics=["accuracy", "f1"], resume=folder)
    assert len(runs) == 47 - done
    assert found == tfc.evaluate(file, big, metrics=["accuracy", "f1"])
    runs.clear()
    assert tfc.evaluate(file, big, metrics="top_2", resume=folder)["top_2"] > 0
    assert not runs, "other metrics need no run"


def test_kept_predictions_of_another_file_or_data_or_damaged_ones_are_not_taken(
    scored, int8_file, tmp_path
):
    file, x, y, scores = scored
    x, y = x[:100], y[:100]
    kept = tmp_path / "kept"

    def outputs(model, data, **options):
        found = []
        tfc.evaluate(
            model, data, metrics=lambda _, out: found.append(out) or 0, resume=kept, **options
        )
        return found[0]

    np.testing.assert_array_equal(outputs(file, (x, y)), scores[:100])
    changed = x.copy()
    changed[50, 3, 3, 0] += 1
    np.testing.assert_array_equal(
        outputs(file, (changed, y)), tfc.TFLiteModel(file).predict(changed)
    )
    np.testing.assert_array_equal(outputs(int8_file, (x, y)), tfc.TFLiteModel(int8_file).predict(x))
    assert len(list(kept.iterdir())) == 3
    for path in kept.iterdir():
        path.write_bytes(path.read_bytes()[:-300])
    np.testing.assert_array_equal(outputs(file, (x, y)), scores[:100])


def test_a_kept_part_that_is_not_as_it_was_written_is_made_again(scored, tmp_path):
    file, x, y, scores = scored
    x, y, scores, found = x[:50], y[:50], scores[:50], []

    def outputs(_, out):
        found.append(out)
        return 0

    def run():
        tfc.evaluate(file, (x, y), metrics=outputs, resume=tmp_path)
        return found.pop()

    np.testing.assert_array_equal(run(), scores)
    (path,) = tmp_path.iterdir()
    with np.load(path) as arrays:
        written = dict(arrays)
    (name,) = (n for n, array in written.items() if array.shape == scores.shape)
    for other in (
        scores[:, :9],
        scores[:49],
        np.concatenate([scores, scores]),
        scores.astype("float64"),
        scores + 1,
        scores.astype("S8"),
    ):
        np.savez(path, **{**written, name: other})
        again = run()
        np.testing.assert_array_equal(again, scores)
        assert again.dtype == scores.dtype
    np.savez(path, **{name: scores})
    np.testing.assert_array_equal(run(), scores)
    for content in (b"no array", b"", b"\x93NUMPY\x01\x00\x06\x00{[(\xff'\n", b"\x93NUMPY\x09"):
        with zipfile.ZipFile(path, "w") as archive:
            for member in written:
                archive.writestr(f"{member}.npy", content)
        np.testing.assert_array_equal(run(), scores)


def test_a_dead_worker_is_an_exception(scored, monkeypatch):
    file, x, y, _ = scored
    from tfcompress.deploy import prediction_workers

    real = prediction_workers._Process.ask

    def ask(self, *question):
        self._helper._process.kill()
        return real(self, *question)

    monkeypatch.setattr(prediction_workers._Process, "ask", ask)
    with pytest.raises(tfc.DeviceError, match="worker process died"):
        tfc.evaluate(file, (x, y), workers=2)


def test_errors(scored, binary):
    file, x, y, _ = scored
    cases = [
        ({"metrics": "acuracy"}, tfc.ConfigError, "acuracy"),
        ({"metrics": ["accuracy", "accuracy"]}, tfc.ConfigError, "once"),
        ({"metrics": []}, tfc.ConfigError, "at least one"),
        ({"metrics": "top_0"}, tfc.ConfigError, "top_0"),
        ({"metrics": "top_11"}, tfc.DataError, "as many classes"),
        ({"metrics": "mae"}, tfc.DataError, r"\('n', 10\)"),
        ({"metrics": "f1_binary"}, tfc.DataError, "two classes"),
        ({"workers": 0}, tfc.ConfigError, "workers"),
        ({"limit": True}, tfc.ConfigError, "limit"),
        ({"backend": "npu"}, tfc.ConfigError, "npu"),
        ({"resume": file}, tfc.ConfigError, "folder"),
        ({"metrics": lambda a, b: "much"}, tfc.DataError, "one number"),
        ({"metrics": lambda a, b: {}["key"]}, tfc.DataError, "<lambda>.*KeyError: 'key'"),
        ({"metrics": lambda a, b: 1 / 0}, tfc.DataError, "<lambda>.*ZeroDivisionError"),
        ({"metrics": None}, tfc.ConfigError, "Received: None"),
        ({"metrics": {}}, tfc.ConfigError, "at least one"),
        ({"metrics": {"scores": None}}, tfc.ConfigError, "Received: None"),
        ({"threshold": "a"}, tfc.ConfigError, "Received: 'a'"),
        ({"threshold": float("nan")}, tfc.ConfigError, "Received: nan"),
        ({"ignore_label": 0.5}, tfc.ConfigError, r"Received: 0\.5"),
        ({"decode": "text"}, tfc.ConfigError, "Received: 'text'"),
    ]
    for options, error, text in cases:
        with pytest.raises(error, match=text):
            tfc.evaluate(file, (x[:20], y[:20]), **options)
    for data, text in [
        (x, "pairs"),
        ((x[:20], y[:19]), "each of the 20 examples.*Received: 19"),
        ((x[:20], y[:20] + 5), "0 to 9"),
        ((x[:20], np.eye(9)[: 20 % 9]), "Received"),
        ((x[:20], np.ones((20, 10))), "one class for each"),
        ((x[:20], np.full((20, 10), 0.1)), "one class for each"),
        ((x[:20], np.eye(10)[y[:20]] * 0.9 + 0.01), "one class for each"),
        ((x[:20], y[:20] + 0.5), "whole numbers"),
        ((x[:20], ["cat"] * 20), "numbers"),
        ((x[:20, :14], y[:20]), "Received"),
        ((np.full_like(x[:20], np.nan), y[:20]), "finite"),
        (iter([]), "at least one"),
        ((x[:0], y[:0]), "at least one"),
        ([(x[:0], y[:0])] * 2, "at least one"),
        ("data.npz", "not a path"),
        (None, "not a path"),
    ]:
        with pytest.raises(tfc.DataError, match=text):
            tfc.evaluate(file, data)


def test_a_model_with_state_is_refused():
    from tflite_samples import variables

    with pytest.raises(tfc.ConfigError, match="keeps state"):
        tfc.evaluate(variables(), (np.zeros((2, 3), "float32"), np.zeros((2, 3))), metrics="mae")


def test_command(capsys, scored, int8_file, tmp_path):
    file, x, y, scores = scored
    accuracy = float(np.mean(scores.argmax(-1) == y))
    for arrays in ({"x_test": x, "y_test": y}, {"image": x, "y": y}, {"image": x, "scores": y}):
        np.savez(tmp_path / "d.npz", **arrays)
        arguments = ["evaluate", str(file), "--data", str(tmp_path / "d.npz")]
        assert main([*arguments, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row == {"file": str(file), "accuracy": accuracy, "examples": 600}
    out = tmp_path / "figures.json"
    both = [*arguments[:2], str(int8_file), *arguments[2:], "--metrics", "accuracy,top_3"]
    assert main([*both, "--out", str(out), "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    assert "top_3" in printed and f"{accuracy:.4f}" in printed
    assert len(json.loads(out.read_text())) == 2
    assert main([*both, "--out", str(out)]) == 2
    assert main([*arguments, "--require", f"accuracy>={accuracy}"]) == 0
    assert main([*arguments, "--require", f"accuracy>={accuracy + 0.01}"]) == 1
    assert main([*arguments, "--require", "accuracy<=0.01"]) == 1
    assert main([*arguments, "--require", "f1>=0.5"]) == 2
    # Said before anything is run: the file is not even opened.
    assert main(["evaluate", "missing.tflite", *arguments[2:], "--require", "f1>=0.5"]) == 2
    assert "names a metric" in capsys.readouterr().err
    assert main([*arguments, "--require", "accuracy"]) == 2
    assert main([*arguments, "--metrics", "acuracy"]) == 2
    capsys.readouterr()
    assert main([*arguments, "--metrics", "accuracy, top_3", "--json"]) == 0
    assert {"accuracy", "top_3"} < set(json.loads(capsys.readouterr().out)[0])
    np.savez(tmp_path / "d.npz", x=x[:0], y=y[:0])
    assert main([*arguments, "--require", "accuracy>=0"]) == 3
    assert "at least one example" in capsys.readouterr().err
    np.savez(tmp_path / "d.npz", x=x)
    assert main(arguments) == 3
    assert "labels" in capsys.readouterr().err


def test_command_takes_decode_from_the_current_folder(two_outputs, capsys, tmp_path, monkeypatch):
    model, x, _, out = two_outputs
    model.save(tmp_path / "m.tflite")
    ids = out["tokens"].argmax(-1)
    texts = [" ".join(f"w{i}" for i in row) for row in ids]
    np.savez(tmp_path / "d.npz", **x, tokens=np.array(texts))
    (tmp_path / "my_decode.py").write_text(
        "number = 3\n"
        "def decode(ids):\n    return ' '.join(f'w{i}' for i in ids)\n"
        "def broken(ids):\n    raise LookupError('no such id')\n"
    )
    (tmp_path / "my_broken.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", "m.tflite", "--data", "d.npz", "--metrics", "bleu", "--json"]
    assert main([*arguments, "--decode", "my_decode:decode"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["tokens_bleu"] == pytest.approx(100)
    assert main([*arguments, "--decode", "my_decode:broken"]) == 3
    assert "LookupError: no such id" in capsys.readouterr().err
    for name in (
        "my_decode:none",
        "my_decode:number",
        "my_broken:decode",
        "no_such:f",
        "my_decode",
    ):
        assert main([*arguments, "--decode", name]) == 2
        assert name in capsys.readouterr().err
