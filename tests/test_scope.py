import keras
import pytest

import tfcompress as tfc
from tfcompress import registry, scope

layers = keras.layers


@pytest.fixture(scope="module")
def walked():
    hidden = keras.Input((4,), name="hidden")
    last = layers.Dense(3, name="dense_last")(layers.Dense(3, name="dense")(hidden))
    inner = keras.Model(hidden, last, name="inner")
    inputs = keras.Input((4,), name="inputs")
    x = layers.Dense(4, name="first")(inputs)
    x = layers.MultiHeadAttention(1, 2, name="attention")(x[:, None], x[:, None])
    model = keras.Model(inputs, inner(layers.Flatten()(x)))
    return registry.walk(model)


def names(walked, chosen):
    return {path for path, layer in walked if id(layer) in chosen}


CASES = {
    "name": ("first", {"first"}),
    "path": ("inner/dense", {"inner/dense"}),
    "glob over names": ("dense*", {"inner/dense", "inner/dense_last"}),
    "glob over paths": ("inner/d*", {"inner/dense", "inner/dense_last"}),
    "holder": ("inner", {"inner", "inner/hidden", "inner/dense", "inner/dense_last"}),
    "function": (lambda layer: layer.name == "first", {"first"}),
    "list": (["first", "dense"], {"first", "inner/dense"}),
    "nothing": (None, set()),
}


@pytest.mark.parametrize("case", CASES)
def test_scopes(walked, case):
    pattern, expected = CASES[case]
    assert names(walked, scope.resolve(pattern, walked, "include")) == expected


def test_classes_choose_subclasses_and_what_they_hold(walked):
    found = names(walked, scope.resolve(layers.Dense, walked, "include"))
    assert found == {"first", "inner/dense", "inner/dense_last"}
    found = names(walked, scope.resolve(layers.MultiHeadAttention, walked, "include"))
    assert {"attention/query", "attention/key", "attention/value"} <= found


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("frist", "Did you mean 'first'"),
        (["first", "zz*"], r"'zz\*' matches none. The layers are"),
        (layers.Conv2D, "matches none"),
        (lambda layer: False, "matches none"),
        ([3], "Received: 3"),
    ],
)
def test_what_matches_nothing_is_an_error(walked, pattern, message):
    with pytest.raises(tfc.ScopeError, match=message):
        scope.resolve(pattern, walked, "exclude")


def test_walk_finds_every_layer_once(walked):
    paths = [path for path, _ in walked]
    assert len(paths) == len(set(paths))
    assert "inner/dense" in paths and "attention/query" in paths


def test_register_layer_checks_its_arguments():
    with pytest.raises(tfc.ConfigError, match=r"keras\.Layer"):
        tfc.register_layer(dict, kernels=("kernel",))
    with pytest.raises(tfc.ConfigError, match="tuple of attribute names"):
        tfc.register_layer(layers.Dense, kernels="kernel")


def test_report_prints_what_was_left_and_why():
    report = tfc.CompressionReport("prune", {"target": 0.5})
    report.add("dense", "Dense", "pruned", sparsity=0.5)
    report.add("norm", "BatchNormalization", "left", "it has no kernel")
    text = str(report)
    assert "prune: target=0.5" in text and "sparsity 0.5" in text
    assert text.index("left as it was") < text.index("it has no kernel")
    assert [e.name for e in report.left] == ["norm"]
    assert report.to_dict()["entries"][0]["details"] == {"sparsity": 0.5}


def test_layers_themselves(walked):
    by_path = dict(walked)
    first, inner = by_path["first"], by_path["inner"]
    assert scope.resolve(first, walked, "include") == {id(first)}
    assert names(walked, scope.resolve([first, "dense"], walked, "include")) == {
        "first",
        "inner/dense",
    }
    assert "inner/dense_last" in names(walked, scope.resolve(inner, walked, "include"))
    with pytest.raises(scope.ScopeError, match="the layer 'other' is not in it"):
        scope.resolve([first, layers.Dense(1, name="other")], walked, "exclude")
