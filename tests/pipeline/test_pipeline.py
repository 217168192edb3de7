"""Pipeline.run: what it makes, that it is resumed exactly, and what it refuses."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from pipeline_runs import STEPS, digests, examples, network, run

import tfcompress as tfc
from tfcompress import registry

RUNS = Path(__file__).with_name("pipeline_runs.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    keras.utils.set_random_seed(1)  # not that of `network`, which other tests may have left
    before = random.getstate(), np.random.get_state()[1].tolist()
    model = network()
    weights = [np.array(w) for w in model.get_weights()]
    names = keras.layers.Dense(1).name
    state = random.getstate(), np.random.get_state()[1].tolist()
    result = tfc.Pipeline(STEPS).run(model, examples(), folder, progress=False)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state != before
    assert keras.layers.Dense(1).name != names, "names go on as if nothing had been made"
    for own, was in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(own, was)
    return folder, result


def test_killed_at_any_moment_it_ends_with_the_same_bytes(finished, tmp_path):
    """As the run that nobody killed, in this process, which has made other models before."""
    done = subprocess.run(
        [sys.executable, RUNS, tmp_path], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    # The last moment is close to the end: that run may be over before it is seen.
    assert all(told["killed"][:-1]), "each of these runs was to be killed"
    assert told["code"] == 0, done.stderr
    made = digests(tmp_path)
    assert made == digests(finished[0])
    files = {"model_int8.tflite", "model_int8.tfcp", "model.keras", "report.json", "report.html"}
    assert files | {"recipe.yaml", "stages/2_quantize.keras"} <= set(made)
    assert not any(name.startswith((".training", ".tfcompress")) for name in made)


def test_what_comes_out(finished):
    folder, result = finished
    rows = {row.name: row for row in result.report.rows}
    assert list(rows)[:3] == ["0_original", "1_prune", "2_quantize"]
    assert (
        list(rows)[3:]
        == ["model_int8.tflite", "model_int8.tfcp"]
        == [path.name for path in result.files]
    )
    # 8 * 16 + 16 * 2 weights, half of them zero; 18 biases.
    assert rows["0_original"].parameters == rows["1_prune"].parameters == 178
    assert rows["0_original"].multiply_adds == 160 and rows["0_original"].size == 4 * 178
    assert rows["1_prune"].zeros == 0.5 and rows["0_original"].zeros == 0.0
    content = (folder / "model_int8.tflite").read_bytes()
    assert rows["model_int8.tflite"].size == len(content)
    assert tfc.unpack(folder / "model_int8.tfcp") == tfc.slim(content).content

    x, y = examples()
    held_out = np.sort(np.random.default_rng(0).permutation(160)[:32])
    scores = tfc.TFLiteModel(content).predict(x[held_out])
    accuracy = float((scores.argmax(-1) == y[held_out]).mean())
    assert rows["model_int8.tflite"].metrics["accuracy"] == pytest.approx(accuracy, abs=1e-7)
    assert rows["2_quantize"].metrics == rows["model_int8.tflite"].metrics
    np.testing.assert_array_equal(result.model.predict(x[held_out], verbose=0), scores)

    pruned = keras.models.load_model(folder / "stages" / "1_prune.keras", compile=False)
    zeros = [kernel == 0 for kernel in (pruned.layers[0].kernel, pruned.layers[2].kernel)]
    file = tfc.inspect(content)
    assert file.operators and sum(int(np.sum(zero)) for zero in zeros) == 80
    assert any("sparse_categorical_crossentropy of logits" in n for n in result.report.notes)
    assert any("32 of the 160 examples" in note for note in result.report.notes)
    assert [len(history.get("loss", [])) for history in result.report.histories] == [3, 2, 0, 0]
    again = tfc.PipelineReport.from_dict(json.loads((folder / "report.json").read_text()))
    assert again == result.report
    page = (folder / "report.html").read_text()
    assert "1_prune" in page and "<script src" not in page
    assert tfc.Pipeline.load(folder / "recipe.yaml") == tfc.Pipeline(STEPS)


def test_a_finished_run_is_not_run_again(finished):
    folder, result = finished
    before = digests(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert run(folder).report == result.report
    assert digests(folder) == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_another_run_is_refused_in_its_folder(finished):
    folder, _ = finished
    x, y = examples()
    model = network()
    model.layers[0].bias.assign_add(np.ones(16, "float32"))
    others = [
        ("model", lambda: tfc.Pipeline(STEPS).run(model, (x, y), folder)),
        ("data", lambda: tfc.Pipeline(STEPS).run(network(), (x, 1 - y), folder)),
        ("recipe", lambda: run(folder, STEPS[:1])),
        ("recipe", lambda: tfc.Pipeline(STEPS, seed=1).run(network(), (x, y), folder)),
        ("objective", lambda: run(folder, metrics=["mse"])),
    ]
    before = digests(folder)
    for name, other in others:
        with pytest.raises(tfc.ConfigError, match=f"the {name} is another now"):
            other()
    assert digests(folder) == before


def test_files_that_are_gone_or_damaged(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    before = digests(folder)
    for names in (["stages/2_quantize.keras", "report.json"], ["model_int8.tflite"]):
        for name in names:
            (folder / name).unlink()
        run(folder)
        assert digests(folder) == before, "what is missing is made again, the same"
    for name in ("model_int8.tflite", "report.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        with pytest.raises(tfc.CorruptFileError, match=name):
            run(folder)
        (folder / name).write_bytes(content)
    (folder / "journal.json").write_text("{}")
    with pytest.raises(tfc.CorruptFileError, match="no journal"):
        run(folder)


def test_folders_that_are_not_ours(tmp_path):
    (tmp_path / "mine.txt").write_text("dear diary")
    for overwrite in (False, True):
        with pytest.raises(tfc.ConfigError, match=r"which has mine\.txt"):
            run(tmp_path, ["fold_batchnorm"], overwrite=overwrite)
    with pytest.raises(tfc.ConfigError, match="Cannot write in the folder"):
        run(tmp_path / "mine.txt", ["fold_batchnorm"])


def test_one_run_at_a_time(tmp_path):
    from tfcompress.pipeline.locking import locked

    code = "import sys; from tfcompress.pipeline.locking import locked; from pathlib import Path\n"
    code += "with locked(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(tfc.ConfigError, match="another process is at work"), locked(tmp_path):
            pass
        other.kill()  # its lock goes with it
    twice = pytest.raises(tfc.ConfigError, match="One pipeline at a time")
    with locked(tmp_path), twice, locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_loss_that_is_nan_is_told_with_the_step(tmp_path):
    steps = ["remove_dead", {"train": {"train": {"epochs": 2, "learning_rate": 1e30}}}]
    steps[1]["train"]["train"]["optimizer"] = "sgd"
    with pytest.raises(tfc.TrainingError, match=r"step 2 \(train\): the loss must stay finite"):
        run(tmp_path / "run", steps)
    first = tmp_path / "run" / "stages" / "1_remove_dead.keras"
    made = first.stat().st_mtime_ns
    steps[1]["train"]["train"]["learning_rate"] = 0.01
    with pytest.raises(tfc.ConfigError, match="the recipe is another now"):
        run(tmp_path / "run", steps[1:])  # what is done is not of it
    run(tmp_path / "run", steps)
    assert first.stat().st_mtime_ns == made, "the mended recipe goes on after what was done"
    run(tmp_path / "anew", steps)
    assert digests(tmp_path / "run") == digests(tmp_path / "anew")


def test_names_that_keras_numbers_do_not_make_another_model(tmp_path):
    def unnamed():
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])

    first, again = unnamed(), unnamed()
    assert first.layers[0].name != again.layers[0].name
    pipeline, (x, y) = tfc.Pipeline(["remove_dead"]), examples()
    one = pipeline.run(first, (x, y), tmp_path / "run")
    assert pipeline.run(again, (x, y), tmp_path / "run").report == one.report


def two_in_two_out():
    keras.utils.set_random_seed(0)
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    h = keras.layers.Dense(8, activation="relu")(keras.layers.Concatenate()([a, b]))
    scores = keras.layers.Dense(3, activation="softmax", name="scores")(h)
    size = keras.layers.Dense(1, name="size")(h)
    return keras.Model([a, b], [scores, size])


def test_several_inputs_and_outputs_and_few_examples(tmp_path):
    random = np.random.default_rng(0)
    x = {"b": random.random((12, 3), "float32"), "a": random.random((12, 4), "float32")}
    y = {"size": random.random((12, 1)).astype("float32"), "scores": np.arange(12) % 3}
    steps = [
        {"prune": {"sparsity": 0.5, "train": {"epochs": 2}}},
        {"train": {"train": {"epochs": 2, "learning_rate": 0.05}}},
        "convert",
    ]
    result = tfc.Pipeline(steps).run(
        two_in_two_out(), (x, y), tmp_path / "run", validation_data=(x, y), progress=False
    )
    assert result.report.objective["loss"] == ["sparse_categorical_crossentropy",
                                               "mean_squared_error"]  # fmt: skip
    rows = {row.name: row for row in result.report.rows}
    assert {"loss", "scores_accuracy", "size_mae"} <= set(rows["2_train"].metrics)
    assert rows["1_prune"].zeros == rows["2_train"].zeros == 0.5, "zeros stay in later training"
    assert rows["2_train"].metrics["loss"] < rows["1_prune"].metrics["loss"]
    file, kept = rows["model_fp32.tflite"].metrics, rows["2_train"].metrics
    for name, value in file.items():
        assert value == pytest.approx(kept[name], rel=1e-4), name


@pytest.mark.parametrize(
    "data",
    [
        "d.npz",
        np.zeros((4, 8)),
        {"x_train": np.zeros((4, 8))},
        (np.zeros((4, 7)), np.zeros(4, int)),
        (np.zeros((4, 8)), np.zeros(3, int)),
        (np.zeros((0, 8)), np.zeros(0, int)),
        (np.full((4, 8), np.nan), np.zeros(4, int)),
        (np.zeros((4, 8)), np.full(4, np.inf)),
        (np.zeros((4, 8)), {"other": np.zeros(4, int)}),
    ],
)
def test_data_that_does_not_fit(tmp_path, data):
    with pytest.raises(tfc.DataError):
        tfc.Pipeline(["convert"]).run(network(), data, tmp_path / "run")


def test_labels_of_classes_that_the_model_has_not(tmp_path):
    x, y = examples()
    for labels, said in ((y + 1, "from 1 to 2"), (y - 1, "from -1 to 0")):
        with pytest.raises(tfc.DataError, match=rf"must be from 0 to 1\. Received: labels {said}"):
            tfc.Pipeline(["convert"]).run(network(), (x, labels), tmp_path / "run")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    labels = np.where(np.arange(len(y)) % 5, y, -1)
    tfc.Pipeline(["convert"]).run(network(), (x, labels), tmp_path / "ignored", loss=loss)


def test_what_cannot_teach_is_told_before_anything_trains(tmp_path):
    teacher = tmp_path / "teacher.keras"
    step = {"train": {"train": {"epochs": 1, "distill": {"teacher": str(teacher)}}}}
    pipeline = tfc.Pipeline([{"train": {"train": {"epochs": 1}}}, step])
    teacher.write_bytes(b"junk")
    with pytest.raises(tfc.ModelTypeError, match=r"needs its teacher's \.keras file, and"):
        pipeline.run(network(), examples(), tmp_path / "run")
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(7)]).save(teacher)
    with pytest.raises(tfc.ConfigError, match="must have the same outputs"):
        pipeline.run(network(), examples(), tmp_path / "run")
    for save_freq in (0, "x"):
        with pytest.raises(tfc.ConfigError, match="save_freq"):
            tfc.Pipeline(["convert"]).run(
                network(), examples(), tmp_path / "other", save_freq=save_freq
            )
    assert not (tmp_path / "other").exists() and not list(tmp_path.rglob("*.tflite"))
    assert not list(tmp_path.rglob("stages"))


def test_a_distilled_model_stands_for_its_student(tmp_path):
    student = network()
    distilled = tfc.distill(student, tfc.strip(student))
    distilled.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    result = tfc.Pipeline(["convert"]).run(distilled, examples(), tmp_path / "run")
    assert result.files[0].read_bytes()
    assert not isinstance(result.model, type(distilled))


def test_a_model_that_is_none(tmp_path):
    with pytest.raises(tfc.ModelTypeError):
        tfc.Pipeline(["convert"]).run("model.keras", examples(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def recurrent():
    """A recurrent layer, which quantize_aware leaves in float."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((4, 2), name="steps")
    x = layers.LSTM(8, name="memory")(inputs)
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(2, name="scores")(x), name="recurrent")


def kernels_of(result, step):
    """Kernels of a step's model by layer, plain."""
    path = next((result.out / "stages").glob(f"{step}_*.keras"))
    model = tfc.strip(keras.models.load_model(path, compile=False))
    return {
        layer.name: [np.array(k) for k in registry.kernels(layer)]
        for _, layer in registry.walk(model)
        if registry.kernels(layer)
    }


TRAINED = {"epochs": 1, "learning_rate": 0.01, "batch_size": 32}


def test_what_steps_made_is_held_where_later_steps_leave_layers_as_they_are(tmp_path):
    x, y = examples()
    steps = [
        {"prune": {"sparsity": 0.5, "train": TRAINED}},
        {"cluster": {"number_of_clusters": 4, "exclude": "scores", "train": TRAINED}},
        {"quantize": {"train": TRAINED}},
    ]
    result = tfc.Pipeline(steps).run(
        recurrent(), (x.reshape(-1, 4, 2), y), tmp_path / "run", progress=False
    )
    pruned, clustered, trained = (kernels_of(result, step) for step in (1, 2, 3))
    assert any((k == 0).mean() >= 0.5 for k in pruned["lstm_cell"])
    for before, after in zip(pruned["scores"], clustered["scores"], strict=True):
        assert ((before == 0) <= (after == 0)).all() and (before != after).any()
    for before, after in zip(clustered["lstm_cell"], trained["lstm_cell"], strict=True):
        assert ((before == 0) == (after == 0)).all()
        assert len(np.unique(after)) <= 4
    assert any("memory" in entry.name for entry in result.report.reports[2].left)


def test_zeros_of_one_prune_step_stay_in_the_next(tmp_path):
    first = {"sparsity": 0.5, "include": "hidden", "train": TRAINED}
    second = {"sparsity": 0.5, "include": "scores", "train": TRAINED}
    result = run(tmp_path / "run", [{"prune": first}, {"prune": second}])
    before, after = (kernels_of(result, step) for step in (1, 2))
    assert (after["hidden"][0] == 0).mean() == (after["scores"][0] == 0).mean() == 0.5
    assert ((before["hidden"][0] == 0) == (after["hidden"][0] == 0)).all()
    result = run(
        tmp_path / "other",
        [{"prune": {"sparsity": 0.5}}, {"factorize": {"rank": 2, "exclude": "hidden"}}],
    )
    before, after = (kernels_of(result, step) for step in (1, 2))
    assert ((before["hidden"][0] == 0) == (after["hidden"][0] == 0)).all()


def test_a_kill_while_the_folder_is_cleared(finished, tmp_path, monkeypatch):
    from tfcompress.pipeline.journal import Journal

    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder, overwrite=True)
    run(folder, overwrite=True)
    assert digests(folder) == digests(finished[0])


def test_what_a_kill_left_of_the_last_training_goes(tmp_path):
    steps = [{"prune": {"sparsity": 0.5, "train": TRAINED}}]
    run(tmp_path / "run", steps)
    before = digests(tmp_path / "run")
    rest = tmp_path / "run" / ".training" / "1_prune"
    rest.mkdir(parents=True)
    (rest / "training.save").write_bytes(b"of a run that was killed when its step was done")
    run(tmp_path / "run", steps)
    assert digests(tmp_path / "run") == before


def test_losses_and_metrics_of_other_settings_are_another_objective(tmp_path):
    def begun(ignored=None, k=1):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)
        metric = keras.metrics.SparseTopKCategoricalAccuracy(k=k)
        return run(tmp_path / "run", ["fold_batchnorm"], loss=loss, metrics=[metric])

    begun()
    begun()
    for changed in ({"ignored": 1}, {"k": 2}):
        with pytest.raises(tfc.ConfigError, match="the objective is another now"):
            begun(**changed)


def test_a_functional_model_of_names_that_keras_numbers(tmp_path):
    def made():
        inputs = keras.Input((8,))
        outputs = [keras.layers.Dense(2)(inputs)]
        model = keras.Model(inputs, outputs, name="numbered")
        model.set_weights([np.ones((8, 2)), np.zeros(2)])
        return model

    for _ in range(2):
        tfc.Pipeline(["fold_batchnorm"]).run(
            made(), examples(), tmp_path / "run", progress=False,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )  # fmt: skip
