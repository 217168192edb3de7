"""Recipes run from end to end: the ready ones, and every verb, interrupted in each training."""

import keras
import numpy as np
import pytest
from pipeline_runs import digests

import tfcompress as tfc
from tfcompress.pipeline import fitting


def examples():
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 96)
    x = random.random((96, 12, 12, 3)) + 0.5 * y[:, None, None, None]
    return x.astype("float32"), y


def network():
    """Convolutions with a residual block."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(24, 3, strides=2, padding="same", name="first")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="norm")(x))
    y = layers.Conv2D(24, 3, padding="same", activation="relu", name="inner")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(2, name="scores")(x), name="network")


def run(pipeline, out):
    return pipeline.run(network(), examples(), out, progress=False, save_freq=1)


def interrupted(pipeline, out, monkeypatch):
    """Runs it until a batch of some training, again and again, in the middle of each."""
    whole = fitting._Watch.on_train_batch_end
    trainings = sum(step.training is not None for step in pipeline.steps)
    for _ in range(trainings):
        count = 0

        def dies(self, batch, logs=None):
            nonlocal count
            count += 1
            if count == 2:
                raise KeyboardInterrupt
            whole(self, batch, logs)

        with monkeypatch.context() as patch:
            patch.setattr(fitting._Watch, "on_train_batch_end", dies)
            with pytest.raises(KeyboardInterrupt):
                run(pipeline, out)
    return run(pipeline, out)


def shortened(pipeline):
    """With small batches, so that each training has several."""
    steps = pipeline.scaled(0.01).to_plain()
    for step in steps:
        for arguments in step.values() if isinstance(step, dict) else ():
            if "train" in arguments:
                arguments["train"].update(batch_size=32, epochs=1)
    return tfc.Pipeline(steps)


def kernels_of(tflite):
    """The kernels of convolutions in a file."""
    found = [tflite.parsed.data(t) for t in tflite.parsed.subgraphs[0].tensors if len(t.shape) == 4]
    return [values for values in found if values is not None]


@pytest.mark.parametrize("name", ["small", "balanced", "fast"])
def test_ready_recipes(name, tmp_path):
    result = run(shortened(tfc.Pipeline.load(name)), tmp_path / "whole")
    tflite = tfc.TFLiteModel(next(path for path in result.files if path.suffix == ".tflite"))
    assert not tflite.float_tensors or all("image" in name for name in tflite.float_tensors)
    rows = result.report.rows
    if name == "small":
        kernels = kernels_of(tflite)
        assert len(kernels) >= 3
        assert all(len(np.unique(channel)) <= 32 for k in kernels for channel in k)
        zeros = sum(int((k == 0).sum()) for k in kernels)
        assert zeros >= 0.75 * sum(k.size for k in kernels)
    else:
        assert rows[1].multiply_adds < rows[0].multiply_adds


def test_every_way_of_training(tmp_path, monkeypatch):
    teacher = network()
    teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher.fit(*examples(), epochs=1, verbose=0)
    teacher.save(tmp_path / "teacher.keras")
    train = {"epochs": 1, "batch_size": 32, "learning_rate": 0.003}
    augment = {"flip": True, "shift": 0.1}
    steps = [
        {"drop_layers": {"blocks": 1, "samples": 32, "train": train | {"augment": augment}}},
        {"factorize": {"energy": 0.9, "samples": 32}},
        {"shrink": {"ratio": 0.2, "train": train | {"distill": {"teacher": "original"}}}},
        {"prune": {"sparsity": 0.5, "train": train | {"label_smoothing": 0.1}}},
        {"cluster": {"number_of_clusters": 8, "train": train}},
        {"distill": {"teacher": str(tmp_path / "teacher.keras"), "train": train}},
        {"quantize": {"train": train}},
        {"convert": {"precision": "int8"}},
        {"pack": {"slim": True}},
    ]
    pipeline = tfc.Pipeline(steps)
    result = interrupted(pipeline, tmp_path / "interrupted", monkeypatch)
    whole = run(pipeline, tmp_path / "whole")
    assert digests(tmp_path / "interrupted") == digests(tmp_path / "whole")
    assert result.report == whole.report
    rows = {row.name: row for row in result.report.rows}
    assert rows["5_cluster"].zeros >= rows["4_prune"].zeros >= 0.45
    kernels = kernels_of(tfc.TFLiteModel(result.files[0]))
    zeros = sum(int((k == 0).sum()) for k in kernels)
    assert zeros >= 0.45 * sum(k.size for k in kernels)
    counts = [rows[name].multiply_adds for name in ("0_original", "1_drop_layers", "3_shrink")]
    assert counts == sorted(set(counts), reverse=True)
