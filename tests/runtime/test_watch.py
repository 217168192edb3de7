"""Counts at the ends of ranges against NumPy; the drift test against SciPy and by simulation."""

import json

import keras
import numpy as np
import pytest
import scipy.stats

import tfcompress as tfc
from tfcompress.runtime import drift, watch


@pytest.fixture(scope="module")
def watched_file(int8_file, images):
    return tfc.watch_baseline(int8_file, images[0][:300])


def test_hits_are_those_of_the_stored_integers(small_model, images):
    """Both forms of io: what an int8 file stores is known exactly."""
    x = images[0][:100]
    inside = tfc.convert(small_model, "int8", representative_data=x * 0.5, io="int8")
    session = inside.session()
    (given,), (result,) = session.inputs, session.outputs
    data = images[0][100:140] * 2 - 0.5  # beyond both ends
    stored = np.clip(np.rint(data / np.float32(given.scale)) + given.zero_point, -128, 127)
    scores = inside.predict(data, watch=True)
    steps = np.rint(scores / np.float32(result.scale)) + result.zero_point
    rows = inside.watched.ranges
    assert [(r.tensor, r.end) for r in rows] == [
        (f"{side} {info.name}", end)
        for side, info in (("input", given), ("output", result))
        for end in ("low", "high")
    ]
    expected = [(stored == -128).sum(), (stored == 127).sum()]
    expected += [(steps == -128).sum(), (steps == 127).sum()]
    assert [r.hits for r in rows] == expected
    assert min(expected[:2]) > 100 and sum(expected[2:]) > 0
    assert [r.values for r in rows] == [data.size] * 2 + [scores.size] * 2
    # The same network with float32 io quantizes inside: the same counts, in any parts.
    outside = tfc.convert(small_model, "int8", representative_data=x * 0.5)
    for start in range(0, 40, 7):
        outside.predict(data[start : start + 7], watch=True)
    outside.predict(data)
    assert [r.hits for r in outside.watched.ranges] == expected
    assert outside.watched.examples == 40
    outside.watched.reset()
    assert [r.hits for r in outside.watched.ranges] == [0, 0, 0, 0]


def test_a_baseline_changes_no_output_and_little_of_the_size(watched_file, int8_file, images):
    x = images[0][:50]
    np.testing.assert_array_equal(watched_file.predict(x), tfc.TFLiteModel(int8_file).predict(x))
    assert len(watched_file.content) - int8_file.stat().st_size < 4000
    again = tfc.watch_baseline(watched_file, images[0][:300])
    assert len(again.content) == len(watched_file.content), "one entry, not two"
    reference = tfc.TFLiteModel(int8_file)
    reference.predict(images[0][:300], watch=True)
    for row, plain in zip(watched_file.watched.ranges, reference.watched.ranges, strict=True):
        assert row.calibration == plain.share


def test_buffers_lie_where_wide_numbers_may_be_read(watched_file):
    base = np.frombuffer(watched_file.content, np.uint8).__array_interface__["data"][0]
    for buffer in watched_file.parsed.buffers:
        if buffer is not None and len(buffer):
            place = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
            assert (place - base) % 16 == 0


def test_drift_is_told_and_its_absence_too(watched_file, images):
    model = tfc.TFLiteModel(watched_file.content)
    assert model.watched.calibrated and model.watched.drifted is None
    model.predict(images[0][300:555], watch=True)
    assert model.watched.windows == 0 and "0 full windows" in str(model.watched)
    model.predict(images[0][555:812], watch=True)
    assert (model.watched.windows, model.watched.alarms) == (2, 0)
    assert model.watched.drifted is False and "The last one is like it" in str(model.watched)
    model.predict(images[0][812:1068] + 0.2, watch=True)
    assert (model.watched.windows, model.watched.alarms) == (3, 1)
    assert model.watched.drifted and "The data has drifted" in str(model.watched)
    low, high = model.watched.ranges[:2]
    assert low.drifted and low.probability < 1e-9, "nothing is black any more"
    assert high.drifted and high.share > high.calibration
    model.predict(images[0][1068:1324], watch=True)
    assert not model.watched.drifted and model.watched.alarms == 1


def test_counts_of_devices_add_up(watched_file, images, tmp_path):
    one, two, both = (tfc.TFLiteModel(watched_file.content) for _ in range(3))
    one.predict(images[0][300:812], watch=True)
    two.predict(images[0][812:1068] + 0.2, watch=True)
    both.predict(np.concatenate([images[0][300:812], images[0][812:1068] + 0.2]), watch=True)
    path = two.watched.save(tmp_path / "two.json")
    one.watched.merge(json.loads(path.read_text()))
    ours, theirs = one.watched.to_dict(), both.watched.to_dict()
    for name in ("file", "examples", "windows", "alarms", "drifted"):
        assert ours[name] == theirs[name]
    for key, found in theirs["tensors"].items():
        for name in ("hits", "values", "bins"):
            assert ours["tensors"][key][name] == found[name]
    other = tfc.TFLiteModel(tfc.watch_baseline(watched_file, images[0][:120]).content)
    with pytest.raises(tfc.ConfigError, match="same file"):
        one.watched.merge(other.watched)
    last = list(theirs["tensors"])[-1]
    damaged = json.loads(path.read_text())
    del damaged["tensors"][last]["bins"]
    for wrong in (None, [1], damaged, {"file": ours["file"]}, {**ours, "tensors": {"other": {}}}):
        with pytest.raises(tfc.ConfigError, match="Received"):
            one.watched.merge(wrong)
    assert one.watched.to_dict() == ours, "nothing of it was added"


def test_probability_is_scipys():
    generator = np.random.default_rng(0)
    for size, shift in ((40, 0.0), (100, 0.5), (300, 1.0)):
        a = generator.poisson(3, size).clip(0, 64)
        b = generator.poisson(3 + shift, 256).clip(0, 64)
        expected = scipy.stats.mannwhitneyu(a, b, method="asymptotic").pvalue
        found = drift.probability(np.bincount(a, minlength=65), np.bincount(b, minlength=65))
        assert found == pytest.approx(expected, rel=1e-9)
    assert drift.probability(np.eye(65)[3] * 50, np.eye(65)[3] * 9) == 1.0


def test_bins():
    shares = np.array([0, 1e-7, 1e-5, 0.01, 0.5, 0.99, 1])
    places = [int(np.flatnonzero(drift.bins(s[None]))[0]) for s in shares]
    assert places[0] == 0 and places[1:3] == [1, 1] and places[4] == 32 and places[-1] == 64
    assert places == sorted(places) and drift.bins(shares).sum() == 7


@pytest.mark.parametrize("kind", ["rare", "often", "smooth", "skewed"])
def test_false_alarms_are_as_rare_as_stated(kind):
    """10,000 pairs of one distribution at a level where chance can be seen: 1 in 100."""
    generator = np.random.default_rng(1)

    def draw(count):
        if kind == "rare":
            return (generator.random((10_000, count)) < 0.02) * 0.1
        if kind == "often":
            return (generator.random((10_000, count)) < 0.4) * 0.3
        if kind == "smooth":
            return generator.beta(5, 5, (10_000, count))
        return generator.beta(0.3, 20, (10_000, count))

    def counts(shares):
        places = np.ceil(np.arcsin(np.sqrt(shares)) * (2 / np.pi) * 64 - 1e-9).astype(int)
        flat = places + 65 * np.arange(len(places))[:, None]
        return np.bincount(flat.reshape(-1), minlength=650_000).reshape(-1, 65)

    pairs = zip(counts(draw(150)), counts(draw(watch.WINDOW)), strict=True)
    alarms = sum(drift.probability(a, b) < 0.01 for a, b in pairs)
    assert alarms <= 100 + 3 * 10 * np.sqrt(0.99), "three standard deviations above the level"


def test_what_cannot_be_watched(float_file, int8_file, watched_file, images):
    with pytest.raises(tfc.ConfigError, match="float one"):
        tfc.TFLiteModel(float_file).predict(images[0][:2], watch=True)
    with pytest.raises(tfc.DataError, match=r"100 examples.*Received: 99"):
        tfc.watch_baseline(int8_file, images[0][:99])
    model = tfc.TFLiteModel(int8_file)
    model.predict(images[0][:600], watch=True)
    assert not model.watched.calibrated and model.watched.drifted is None
    assert "tfc.watch_baseline" in str(model.watched)
    from tfcompress.runtime.packing import add_metadata

    for bad in (
        b"",
        b"{}",
        b'{"tensors": []}',
        b'{"tensors": {"input image": {"bins": [{"99": 1}, {}]}}}',
    ):
        broken = tfc.TFLiteModel(add_metadata(watched_file.content, watch.METADATA, bad))
        broken.predict(images[0][:2])
        with pytest.raises(tfc.CorruptFileError, match="tfcompress_watch"):
            broken.predict(images[0][:2], watch=True)


def test_several_inputs_and_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    outputs = {"sum": keras.layers.Add()([a, b]), "left": keras.layers.Dense(3)(a)}
    generator = np.random.default_rng(0)
    x = {name: generator.normal(size=(128, 4)).astype("float32") for name in "ab"}
    model = tfc.convert(keras.Model([a, b], outputs), "int8", representative_data=x)
    model = tfc.watch_baseline(model, x)
    model.predict({"a": x["a"] * 50, "b": x["b"]}, watch=True)
    share = {(r.tensor, r.end): r.share for r in model.watched.ranges}
    assert {tensor for tensor, _ in share} == {"input a", "input b", "output sum", "output left"}
    assert share["input a", "low"] + share["input a", "high"] > 0.8
    assert share["input b", "low"] + share["input b", "high"] < 0.05
