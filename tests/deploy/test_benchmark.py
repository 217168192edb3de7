import json
import math

import numpy as np
import pytest
from operator_cases import cases

import tfcompress as tfc
from tfcompress.deploy import timing


def test_rows_ratios_and_json(float_file, int8_file, tmp_path):
    shares = []
    report = tfc.benchmark(
        [float_file, int8_file],
        backend=["xnnpack", "reference"],
        threads=[1, 2],
        runs=4,
        warmup=1,
        progress=shares.append,
    )
    assert [(r.name, r.backend, r.threads) for r in report.rows] == [
        (name, backend, threads)
        for name in ("float", "int8")
        for backend in ("xnnpack", "reference")
        for threads in (1, 2)
    ]
    assert report.rows[0].ratio == 1.0
    for row in report.rows:
        assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms
        assert row.ratio == row.median_ms / report.rows[0].median_ms
        assert row.init_ms > 0 and row.peak_mb > 0 and row.error == ""
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert report.machine["runtime"].startswith("ai-edge-litert 2")
    loaded = json.loads(report.save(tmp_path / "report.json").read_text())
    assert loaded["rows"][1]["median_ms"] == report.rows[1].median_ms
    assert "float" in str(report) and "x1.00" in str(report)


def test_a_model_alone_and_given_inputs(float_file, images):
    (row,) = tfc.benchmark(float_file, runs=2, inputs=images[0][:1]).rows
    assert row.median_ms > 0
    (row,) = tfc.benchmark(tfc.TFLiteModel(float_file), runs=2, warmup=0).rows
    assert row.name == "float"


def test_models_take_turns_in_blocks_of_alike_length(float_file, int8_file, monkeypatch):
    asked = []
    real = timing.TimedModel.ask

    def watch(self, **request):
        if "run" in request:
            asked.append((self.name, request["run"]))
        return real(self, **request)

    monkeypatch.setattr(timing.TimedModel, "ask", watch)
    tfc.benchmark([float_file, int8_file], runs=6)
    timed = asked[-12:]
    for turn in range(6):
        assert {name for name, _ in timed[2 * turn : 2 * turn + 2]} == {"float", "int8"}
    # a block of either is as many runs as take 5 ms
    assert len({runs for name, runs in timed if name == "float"}) == 1
    assert all(runs > 1 for _, runs in timed)


def test_token_ids_are_valid_without_inputs():
    import keras

    inputs = keras.Input((6,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Embedding(3, 4)(inputs))
    assert tfc.benchmark(tfc.convert(model), runs=2).rows[0].median_ms > 0


def test_a_refused_model_is_a_row_and_the_others_are_measured(float_file, monkeypatch):
    real = timing.TimedModel.load

    def load(self, *arguments):
        if self.backend == "reference":
            self.error = "too old"
        else:
            real(self, *arguments)

    monkeypatch.setattr(timing.TimedModel, "load", load)
    report = tfc.benchmark(float_file, backend=["reference", "xnnpack"], runs=2)
    assert report.rows[0].error == "too old" and math.isnan(report.rows[0].median_ms)
    assert report.rows[1].ratio == 1.0
    assert report.to_dict()["rows"][0]["median_ms"] is None
    assert "too old" in str(report)
    with pytest.raises(tfc.DeviceError, match="too old"):
        tfc.benchmark(float_file, backend="reference", runs=2)


def test_a_dying_worker_is_an_exception(float_file, monkeypatch):
    monkeypatch.setattr(
        timing.TimedModel,
        "load",
        lambda self, *_: self._helper._process.kill() or self.ask(memory=True),
    )
    with pytest.raises(tfc.CorruptFileError, match="died on 'float'"):
        tfc.benchmark(float_file, runs=2)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"backend": "npu"}, tfc.ConfigError),
        ({"threads": 0}, tfc.ConfigError),
        ({"threads": []}, tfc.ConfigError),
        ({"runs": 0}, tfc.ConfigError),
        ({"warmup": -1}, tfc.ConfigError),
        ({"runtime": "tflite"}, tfc.ConfigError),
        ({"inputs": np.zeros((1, 3))}, tfc.DataError),
    ],
)
def test_bad_arguments(float_file, arguments, error):
    with pytest.raises(error, match=r"Received"):
        tfc.benchmark(float_file, **arguments)


def test_bad_files(tmp_path, float_file):
    with pytest.raises(tfc.ConfigError, match="at least one"):
        tfc.benchmark([])
    with pytest.raises(tfc.ConfigError, match="No such file"):
        tfc.benchmark(tmp_path / "missing.tflite")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(float_file.read_bytes()[:-500])
    with pytest.raises(tfc.CorruptFileError):
        tfc.benchmark([float_file, broken])


def test_gpu(gpu_adapter, float_file, int8_file):
    report = tfc.benchmark([float_file, int8_file], backend=["xnnpack", "gpu"], runs=2, warmup=1)
    rows = [row for row in report.rows if row.backend == "gpu"]
    assert [(row.name, row.threads) for row in rows] == [("float", 1), ("int8", 1)]
    for row in rows:
        assert row.median_ms > 0 and row.gpu.placement.fully_accelerated
        assert row.gpu.placement.adapter == gpu_adapter and row.gpu.not_finite == 0
        assert row.gpu.largest <= 0.02 * row.gpu.reach and row.placed == 1.0
        assert str(row.gpu) in str(report) and "on 8 examples of noise" in str(row.gpu)
    assert all(row.gpu is None for row in report.rows if row.backend == "xnnpack")
    assert report.machine["gpu"] == str(gpu_adapter) and gpu_adapter.name in str(report)
    (row, *_) = [r for r in json.loads(json.dumps(report.to_dict()))["rows"] if r["gpu"]]
    assert row["placed"] == 1.0 and row["gpu"]["placed"] == 5
    assert row["gpu"]["examples"] == 8 and row["gpu"]["noise"] is True


def test_a_model_that_kills_the_gpu_driver_is_a_row(gpu_adapter, float_file):
    (case,) = [case for case in cases() if case.name == "dense computed bias"]
    report = tfc.benchmark([float_file, case.graph.build()], backend="gpu", runs=1)
    assert report.rows[0].error == "" and "does not survive" in report.rows[1].error


def test_precision_of_the_gpu(float_file):
    with pytest.raises(tfc.ConfigError, match=r"precision .* Received: 'int4'"):
        tfc.benchmark(float_file, backend="gpu", gpu_precision="int4")
