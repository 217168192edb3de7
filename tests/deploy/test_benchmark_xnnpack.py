import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.runtime import adapter, instructions, xnnpack


def test_fp16_is_named_only_where_it_is_in_force(float_file, int8_file):
    report = tfc.benchmark(
        [float_file, int8_file],
        backend=["xnnpack", "reference"],
        fp16=[False, True],
        runs=2,
        warmup=0,
    )
    rows = {(r.name, r.backend, bool(r.fp16 or r.error)): r for r in report.rows}
    assert len(rows) == 6  # the reference kernels have no fp16
    half = rows["float", "xnnpack", True]
    assert half.fp16 == instructions.fp16_arithmetic() and half.median_ms > 0 and not half.error
    assert half.setting == f"xnnpack, fp16 {half.fp16}"
    refused = rows["int8", "xnnpack", True]
    assert "not in force" in refused.error and refused.fp16 == "" and np.isnan(refused.median_ms)
    assert rows["float", "xnnpack", False].fp16 == ""


def test_values_are_those_of_half_precision(float_file, images):
    content = float_file.read_bytes()
    plain, full, half = (
        adapter.Session(content),
        xnnpack.XnnpackSession(content),
        xnnpack.XnnpackSession(content, fp16=True),
    )
    image = images[0][:1]
    results = [s.run({s.inputs[0].index: image})[0] for s in (plain, full, half)]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert np.array_equal(results[2], results[2].astype("float16").astype("float32"))
    np.testing.assert_allclose(results[2], results[0], rtol=0.02, atol=0.02)


def test_several_inputs_and_outputs_find_their_places():
    """Signatures list names in alphabetic order, graphs in their own."""
    ins = [keras.Input((size,), name=name) for size, name in ((3, "zebra"), (5, "ant"))]
    dense = [keras.layers.Dense(4, name=n)(x) for n, x in zip(("p", "b"), ins, strict=True)]
    content = tfc.convert(keras.Model(ins, dense)).content
    plain, other = adapter.Session(content), xnnpack.XnnpackSession(content)
    values = {
        info.index: np.random.default_rng(info.index).random(info.shape, "float32")
        for info in plain.inputs
    }
    for a, b in zip(plain.run(values), other.run(values), strict=True):
        assert np.array_equal(a, b)


def test_the_processor_tells(monkeypatch):
    def processor(text):
        monkeypatch.setattr(instructions.Path, "read_text", lambda self: text)
        return instructions.fp16_arithmetic(), instructions.int8_arithmetic()

    monkeypatch.setattr(instructions.platform, "system", lambda: "Linux")
    assert processor("Features : fp asimd fphp asimdhp asimddp") == ("native", "dot products")
    assert processor("Features : fp asimd evtstrm crc32") == ("emulated", "widened")
    assert processor("flags : sse2 avx2 f16c avx512f avx512_bf16") == ("emulated", "widened")
    assert processor("flags : sse2 avx512f avx512_vnni avx512_fp16") == ("native", "dot products")
    assert processor("flags : sse2 avx2 AVX_VNNI")[1] == "dot products"
    assert processor("flags : sse2 avx512f avx512_vnni amx_tile amx_int8")[1] == "tiles"
    assert processor("isa : rv64imafdcv") == ("emulated", "")


def test_where_int8_gains_little_it_is_said(float_file, int8_file, monkeypatch):
    def notes(files, features, **options):
        monkeypatch.setattr(instructions, "features", lambda: frozenset(features.split()))
        report = tfc.benchmark(files, runs=1, warmup=0, **options)
        return report.machine.get("int8"), [n for n in report.notes if "int8" in n]

    both = [float_file, int8_file]
    assert notes(both, "sse2 avx2") == ("widened", [instructions.INT8_NOTES["widened"]])
    assert notes(both, "sse2 avx512_vnni amx_int8") == ("tiles", [instructions.INT8_NOTES["tiles"]])
    assert notes(both, "sse2 avx2 avx512_vnni") == ("dot products", [])
    assert notes(both, "rv64") == (None, [])
    assert notes([float_file], "sse2 avx2") == ("widened", [])
    assert notes(both, "sse2 avx2", backend="reference") == ("widened", [])


def test_weight_cache(float_file, int8_file, tmp_path):
    report = tfc.benchmark([float_file, int8_file], weight_cache=tmp_path, runs=1, warmup=0)
    assert all(row.weight_cache and not row.error for row in report.rows)
    assert "weight cache" in str(report)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(files) == 2 and all(file.stat().st_size > 0 for file in files)
    tfc.benchmark(float_file, weight_cache=tmp_path, runs=1, warmup=0)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    options = {"weight_cache": True, "per_operator": True, "fp16": [False, True]}
    row, half = tfc.benchmark(float_file, runs=1, warmup=0, **options).rows
    assert row.weight_cache and row.init_ms > 0 and row.operators
    assert half.fp16 and not half.weight_cache and not half.error  # together they abort


def test_operators_that_xnnpack_left(float_file):
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    tflite = tfc.convert(keras.Model(inputs, keras.ops.cumsum(x, axis=1)))
    report = tfc.benchmark([tflite, float_file], runs=1, warmup=0)
    partly, fully = report.rows
    assert fully.placed == 1.0 and fully.left == ()
    assert [text.split()[0] for text in partly.left] == ["CUMSUM"]
    count = len(tflite.operators)
    assert partly.placed == (count - 1) / count
    assert "left by XNNPACK: CUMSUM" in str(report)


@pytest.mark.parametrize(
    "arguments",
    [
        {"fp16": "yes"},
        {"fp16": []},
        {"backend": "reference", "fp16": True},
        {"backend": "reference", "weight_cache": True},
        {"weight_cache": "/no/such/folder"},
        {"weight_cache": True, "fp16": True},
    ],
)
def test_bad_arguments(float_file, arguments):
    with pytest.raises(tfc.ConfigError, match="Received"):
        tfc.benchmark(float_file, **arguments)
