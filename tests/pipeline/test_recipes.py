"""Recipes: what they may say, what errors say, and that they are read back as written."""

import json

import pytest

import tfcompress as tfc
from tfcompress.pipeline import recipe

TRAIN = {"epochs": 1}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "1 to 100 steps"),
        ("prune", "`steps` must be a list"),
        ([{"squash": {}}], "step 1: a step's verb must be one of shrink"),
        ([{"prune": {}, "pack": {}}], "step 1: a step must be a verb"),
        ([{"prune": {"sparsity": 0.5, "sparsty": 1}}], "step 1 (prune): arguments are: sparsity"),
        ([{"prune": {}}], "step 1 (prune): `sparsity` is needed"),
        ([{"prune": {"sparsity": 1.0}}], "above 0 and below 1. Received: 1.0"),
        ([{"prune": {"sparsity": True}}], "Received: True"),
        ([{"prune": {"sparsity": "0.5"}}], "Received: '0.5'"),
        ([{"prune": {"sparsity": float("nan")}}], "Received: nan"),
        ([{"prune": {"sparsity": 0.6, "pattern": "2:4"}}], "step 1 (prune): The pattern"),
        ([{"prune": {"sparsity": 0.6, "floor": 0.1}}], "step 1 (prune): `floor` and `cap`"),
        ([{"prune": {"sparsity": 0.6, "criterion": "taylor"}}], "needs gradients"),
        ([{"prune": {"sparsity": 0.6, "include": [1]}}], "a layer's name, a glob"),
        ([{"shrink": {"ratio": 0.5, "target": "latency"}}], "could not be resumed"),
        ([{"drop_layers": {}}], "either `layers` or a number of `blocks`"),
        ([{"factorize": {"rank": 4, "energy": 0.9}}], "only one of"),
        ([{"train": {}}], "step 1 (train): `train` is needed"),
        ([{"train": {"train": {}}}], "step 1 (train), train: `epochs` is needed"),
        ([{"train": {"train": {"epochs": 0}}}], "at least 1. Received: 0"),
        ([{"train": {"train": {"epochs": 1, "momentum": 0.9}}}], "goes with optimizer sgd"),
        ([{"train": {"train": {"epochs": 1, "augment": {"blur": 1}}}}], "train, augment:"),
        ([{"convert": {"train": TRAIN}}], "step 1 (convert): it trains nothing"),
        ([{"convert": {"precision": "int4"}}], "Received: precision='int4'"),
        ([{"convert": {"precision": "int3"}}], "step 1 (convert): `precision` must be one"),
        ([{"convert": {"io": "int8"}}], "precision fp32 has `io` float32"),
        (["convert", "convert"], "each precision makes one file"),
        (["convert", "quantize"], "step 2 (quantize) cannot come after step 1 (convert): what"),
        (
            [{"cluster": {"number_of_clusters": 4}}, "fold_batchnorm"],
            "step 2 (fold_batchnorm) cannot come after step 1 (cluster)",
        ),
        (["quantize", {"convert": {"precision": "fp16"}}], "what step 1 (quantize) makes"),
        (["pack"], "step 1 (pack) must come after a step `convert`"),
        (["convert", "pack", {"convert": {"precision": "fp16"}}], "whose files it packs"),
        ([{"distill": {"alpha": 2, "train": TRAIN}}], "step 1 (distill): `alpha` must be"),
    ],
)
def test_what_cannot_be_is_told_with_the_step(steps, said):
    with pytest.raises(tfc.ConfigError) as error:
        tfc.Pipeline(steps)
    assert said in str(error.value)


FULL = [
    {"shrink": {"ratio": 0.5, "importance": "taylor", "exclude": ["head", "conv_*"]}},
    {"prune": {"sparsity": 0.5, "pattern": "2:4", "train": {"epochs": 2, "learning_rate": 1e-5}}},
    "fold_batchnorm",
    {"train": {"train": {"epochs": 1, "augment": {"flip": True}, "label_smoothing": 0.1}}},
    {"distill": {"temperature": 2.0, "train": TRAIN}},
    {"quantize": {"freeze_ranges": None, "preserve": [], "train": {"epochs": 1, "distill": {}}}},
    {"convert": {"precision": ["int8", "int4"]}},
]


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_saved_and_loaded_it_is_the_same(tmp_path, ending):
    pipeline = tfc.Pipeline(FULL, seed=7)
    path = pipeline.save(tmp_path / f"r.{ending}")
    again = tfc.Pipeline.load(path)
    assert again == pipeline and hash(again) == hash(pipeline)
    assert again.save(tmp_path / f"s.{ending}").read_bytes() == path.read_bytes()
    assert again.steps[1].arguments["pattern"] == "2:4"
    assert again.steps[4].training.distill.temperature == 2.0
    with pytest.raises(tfc.ConfigError, match="exists"):
        pipeline.save(path)


def test_yaml_means_what_it_looks_like(tmp_path):
    """In YAML 1.1 2:4 is 124, 1e-3 a text, no is False and 010 is 8."""
    path = tmp_path / "r.yaml"
    path.write_text(
        "seed: 010\nsteps:\n- prune: {sparsity: 0.5, pattern: 2:4, include: no,"
        " train: {epochs: 1, learning_rate: 1e-3}}\n"
    )
    with pytest.raises(tfc.ConfigError, match="seed"):
        tfc.Pipeline.load(path)  # neither 8 nor 10 without a doubt
    path.write_text(path.read_text().replace("010", "10"))
    (step,) = tfc.Pipeline.load(path).steps
    assert step.arguments == {"sparsity": 0.5, "pattern": "2:4", "include": "no"}
    assert step.training.learning_rate == 1e-3


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nsteps: [*b, *b]\n"


@pytest.mark.parametrize(
    "content",
    [
        b"steps: [",
        b"steps: " + b"[" * 20_000,
        b'{"steps": ' + b"[" * 20_000,
        BOMB.encode(),
        b"steps:\n- prune: {sparsity: 0.5, sparsity: 0.6}\n",
        b"steps: [!!python/object/apply:os.system [true]]\n",
        b"steps: [{prune: {? [1] : 2}}]\n",
        b"steps: [prune]\nmore: 1\n",
        b"format: 2\nsteps: [convert]\n",
        b"- convert\n",
        b"\xff\xfe\x00",
        b"#" * 70_000,
        b"seed: 99999999999999999999999\nsteps: [convert]\n",
        b"seed: " + b"9" * 10_000 + b"\nsteps: [convert]\n",
        b"",
    ],
)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_hostile_files_are_config_errors(tmp_path, content, ending):
    path = tmp_path / f"r.{ending}"
    path.write_bytes(content)
    with pytest.raises(tfc.ConfigError):
        tfc.Pipeline.load(path)


@pytest.mark.parametrize("name", ["small", "fast", "balanced"])
def test_ready_recipes(name):
    pipeline = tfc.Pipeline.load(name)
    verbs = [step.verb for step in pipeline.steps]
    assert "quantize" in verbs and "convert" in verbs
    assert tfc.Pipeline(json.loads(pipeline.text(as_json=True))["steps"]) == pipeline
    assert all(s.training.epochs == 1 for s in pipeline.scaled(0.01).steps if s.training)


def test_no_such_recipe():
    with pytest.raises(tfc.ConfigError, match="one of balanced, fast, small"):
        tfc.Pipeline.load("tiny")
    with pytest.raises(tfc.ConfigError, match="No such file"):
        tfc.Pipeline.load("tiny.yaml")
    assert set(recipe.ready()) == {"small", "fast", "balanced"}


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([{"train": {"epochs": 3}}], "inside `train`"),
        ([{"prune": {"sparsity": 0.5, "epochs": 3}}], "inside `train`"),
        ([{"separate": {"terms": 2, "multiply_adds": 0.5}}], "chooses the `terms`"),
        ([{"quantize": {}}, {"convert": {"precision": "int8-matmul"}}], "converts to"),
    ],
)
def test_what_a_stranger_fell_into(steps, says):
    with pytest.raises(tfc.ConfigError, match=says):
        tfc.Pipeline(steps)


@pytest.mark.parametrize("epochs", [float("inf"), 1e300, 0, True])
def test_epochs_are_scaled_by_a_sensible_factor(epochs):
    with pytest.raises(tfc.ConfigError, match="factor above 0"):
        tfc.Pipeline([{"train": {"train": {"epochs": 3}}}]).scaled(epochs)


def test_separate_takes_a_share():
    tfc.Pipeline([{"separate": {"multiply_adds": 0.5}}])
