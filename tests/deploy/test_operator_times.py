import json

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.deploy import operator_times as module
from tfcompress.deploy.timing_worker import make_inputs
from tfcompress.runtime import adapter
from tfcompress.runtime.exposure import cut


@pytest.fixture(scope="module")
def branched():
    """A residual block whose weights are stored in fp16: DEQUANTIZE operators, a long-lived tensor,
    two outputs of which one is also read on."""
    inputs = keras.Input((8, 8, 4), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(inputs)
    y = keras.layers.Conv2D(4, 3, padding="same", name="second")(x)
    y = keras.layers.Add(name="sum")([y, inputs])
    out = keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(y))
    return tfc.convert(keras.Model(inputs, [out, x]), "fp16")


def test_prefixes_compute_what_the_graph_computes(branched):
    graph = branched.parsed.subgraphs[0]
    whole = adapter.Session(branched.content, backend="reference", keep_all=True)
    values = {i.index: v for i, v in zip(whole.inputs, make_inputs(whole.inputs), strict=True)}
    whole.run(values)
    parts = module.prefixes(branched)
    names = [operator.name for operator in graph.operators]
    assert "DEQUANTIZE" in names
    assert [p.operator for p in parts] == [
        i for i, name in enumerate(names) if name != "DEQUANTIZE"
    ]
    for part, content in zip(
        parts, cut(branched, [(p.operators, p.outputs) for p in parts]), strict=True
    ):
        assert part.operator == part.operators[-1]
        for found, tensor in zip(
            adapter.Session(content, backend="reference").run(values), part.outputs, strict=True
        ):
            assert np.array_equal(found, whole.interpreter.get_tensor(tensor))
    assert set(parts[-1].outputs) == set(graph.outputs)
    assert len(parts[-1].operators) == len(graph.operators)


@pytest.mark.parametrize("chunk", [1, module.CHUNK_BYTES])
def test_times_are_the_steps_between_prefixes(branched, chunk, monkeypatch):
    """A device whose every prefix takes a known time."""
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    parts = module.prefixes(branched)
    lasts = [1.0, 1.5, 3.5, 3.5, 7.5, 8.0][: len(parts)]
    loaded, most = {}, []

    def load(content, number):
        loaded[number] = len(tfc.TFLiteModel(content).parsed.subgraphs[0].operators)
        most.append(len(loaded))

    def ask(**request):
        if "forget" in request:
            loaded.clear()
            return {}
        place = [len(p.operators) for p in parts].index(loaded[request["number"]])
        # Half of the wall clock belongs to somebody else.
        return {"ms": 2 * lasts[place], "on_cpu": 0.5}

    shares = []
    found = module.operator_times(branched, ask, load, 1, 3, 5.0, shares.append)
    steps = [b - a for a, b in zip([0.0, *lasts], lasts, strict=False)]
    assert [o.ms for o in found] == steps
    assert [o.share for o in found] == [step / lasts[-1] for step in steps]
    assert all(o.error_ms == 0 for o in found)
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] == 1.0
    assert max(most) == (2 if chunk == 1 else len(parts))
    assert [o.layer for o in found][:3] == ["first", "second", "sum"]
    found = module.operator_times(branched, ask, load, 2, 3, 5.0)
    assert [o.ms for o in found] == [2 * step for step in steps]  # two threads: wall clock


def test_in_the_report(float_file, tmp_path):
    report = tfc.benchmark(float_file, runs=3, per_operator=True)
    (row,) = report.rows
    operators = tfc.TFLiteModel(float_file).parsed.subgraphs[0].operators
    assert [(o.index, o.name) for o in row.operators] == [(o.index, o.name) for o in operators]
    assert abs(sum(o.share for o in row.operators) - 1) < 1e-9
    saved = json.loads(report.save(tmp_path / "report.json").read_text())
    assert saved["rows"][0]["operators"][1]["ms"] == row.operators[1].ms
    text = str(report)
    assert "differences between prefixes" in text and f"{row.operators[0].ms:.4f}" in text


def test_operators_that_cannot_be_timed_cost_no_row(float_file, monkeypatch):
    def refuse(*_):
        raise tfc.DeviceError("no writer of the format")

    monkeypatch.setattr("tfcompress.deploy.timing.operator_times", refuse)
    report = tfc.benchmark(float_file, runs=1, warmup=0, per_operator=True)
    assert report.rows[0].median_ms > 0 and report.rows[0].operators == ()
    assert "operators of 'float' are not timed: no writer" in str(report)
