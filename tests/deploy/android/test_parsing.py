"""Reading the program's file, its profile, and the program itself."""

import pytest
from android_phone import result_bytes

import tfcompress as tfc
from tfcompress.deploy.android import profile, program, results

HEADINGS = (
    "\t\t\t                         [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t"
    "  [mem KB]\t[times called]\t[Name]\n"
)


def row(kind, ms, name):
    numbers = f"    0.300\t    {ms:.3f}\t 12.345%\t 12.345%\t     0.000\t        1"
    return f"\t\t\t{kind:>36}\t{numbers}\t{name}\n"


def table(*rows):
    line = "=" * 30
    text = f"{line} Run Order {line}\n{HEADINGS}" + "".join(row(*r) for r in rows)
    return (
        text
        + f"\n{line} Top by Computation Time {line}\n{HEADINGS}"
        + "".join(row(*r) for r in sorted(rows, key=lambda r: -r[1]))
        + f"\nNumber of nodes executed: {len(rows)}\n"
    )


INITIALIZATION = "INFO: Profiling Info for Benchmark Initialization:\n" + table(
    ("ModifyGraphWithDelegate", 14.842, "ModifyGraphWithDelegate/0"),
    ("AllocateTensors", 0.102, "AllocateTensors/0"),
)
TIMED = "\n\nINFO: Operator-wise Profiling Info for Regular Benchmark Runs:\n"


@pytest.fixture(scope="module")
def convolutions(float_file):
    return tfc.TFLiteModel(float_file)


def test_kernels_of_xnnpack(convolutions):
    text = INITIALIZATION + TIMED
    text += table(
        ("Convolution (NHWC, F32) IGEMM", 0.25, "Delegate/Convolution (NHWC, F32) IGEMM:0"),
        ("Mean (ND) Reduce2", 0.75, "Delegate/Mean (ND) Reduce2:1"),
    )
    found = profile.parse_profile(text, convolutions)
    assert [(o.index, o.name, o.layer, o.ms, o.share) for o in found] == [
        (-1, "Convolution (NHWC, F32) IGEMM", "", 0.25, 0.25),
        (-1, "Mean (ND) Reduce2", "", 0.75, 0.75),
    ]


def test_the_runtimes_own_kernels_and_what_is_inside_a_delegate(convolutions):
    operators = convolutions.parsed.subgraphs[0].operators
    last = operators[-1]
    text = INITIALIZATION + TIMED
    text += table(
        ("TfLiteXNNPackDelegate", 0.75, "[mean]:9"),
        (last.name, 0.125, f"[StatefulPartitionedCall_1:0]:{last.index}"),
    )
    text += "Delegate internal: \n" + table(
        ("DelegateOpInvoke", 0.5, "Delegate/Convolution (NHWC, F32) IGEMM:0"),
        ("DelegateOpInvoke", 0.375, "Delegate/Add (ND, F32):1"),
    )
    found = profile.parse_profile(text, convolutions)
    assert sum(o.ms for o in found) == 1.0  # the delegate's node is not counted twice
    assert (found[0].index, found[0].name, found[0].layer) == (last.index, last.name, "scores")
    assert [o.share for o in found] == [0.125, 0.5, 0.375]
    assert [o.name for o in found[1:]] == ["Convolution (NHWC, F32) IGEMM", "Add (ND, F32)"]


def test_the_profile_of_litert(convolutions):
    """Padded with spaces, and with the column [start]."""
    text = (
        "INFO: \n======== Run Order ========\n"
        "      [node type]    [start]    [first]   [avg ms]        [%]     [cdf%]   [mem KB] "
        "[times called]   [Name]\n"
        "   Delegate/Convolution (NHWC, F32) DWConv      0.000      0.021      0.023    10.900%"
        "    22.775%      0.000             50   [Delegate/Convolution (NHWC, F32) DWConv]:1\n"
        "   Delegate/Softmax (NC, F32)      0.000      0.000      0.000     0.000%   100.000%"
        "      0.000             50   [Delegate/Softmax (NC, F32)]:30\n\n"
        "======== Top by Computation Time ========\n"
    )
    found = profile.parse_profile(text, convolutions)
    assert [(o.name, o.ms, o.index) for o in found] == [
        ("Convolution (NHWC, F32) DWConv", 0.023, -1),
        ("Softmax (NC, F32)", 0.0, -1),
    ]
    assert profile.parse_profile("INFO: STARTING!\n", convolutions) == ()


def test_profiles_in_the_report(phone, binary, float_file):
    text = TIMED + table(("CONV_2D", 0.5, "[a]:0"), ("DEPTHWISE_CONV_2D", 1.5, "[b]:1"))
    phone.set(profile=text)
    report = tfc.benchmark(
        float_file, backend="android-reference", binary=binary, per_operator=True
    )
    (found,) = report.rows
    assert [(o.index, o.name, o.ms) for o in found.operators] == [
        (0, "CONV_2D", 0.5),
        (1, "DEPTHWISE_CONV_2D", 1.5),
    ]
    # The profiler slows a run down, so times and profile are from runs apart.
    assert [f.get("enable_op_profiling") for f in phone.runs] == [None, "true"]
    assert "profile of a run apart" in str(report) and "75.0%" in str(report)


def test_the_result_file():
    found = results.parse_file(result_bytes(2.0))
    assert found == results.Measured(2.0, 2.25, 1.5, 4.0, 12.5, 9.75)
    assert results.parse_file(result_bytes(2.0, peak=None)).peak_mb == 7.5  # 7680 kB


def test_files_that_are_none():
    whole = result_bytes(2.0)
    for size in range(len(whole)):
        try:
            results.parse_file(whole[:size])
        except tfc.DeviceError as error:
            assert "result file" in str(error)
    for content in (b"", b"\x00", b"INFO: STARTING!\n", b"\xff" * 40, b"\x12\x02\x0d\x00"):
        with pytest.raises(tfc.DeviceError, match="result file"):
            results.parse_file(content)
    for text in ("", "Inference timings in us: Init: 1, Inference (avg): e+5"):
        with pytest.raises(tfc.DeviceError, match="output"):
            results.parse_output(text)


def test_programs_for_other_processors(tmp_path, binary):
    assert program.fetch(binary, ["arm64-v8a", "armeabi-v7a"]) == binary
    with pytest.raises(tfc.DeviceError, match="is for arm64-v8a, and the device runs x86_64"):
        program.fetch(binary, ["x86_64"])
    for content, match in (
        (b"PK\x03\x04" + bytes(30), r"an app \(.apk\)"),
        (b"#!/bin/sh\n", "benchmark_model for Android"),
        (b"", "benchmark_model for Android"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(tfc.ConfigError, match=match):
            program.fetch(tmp_path / "x", ["arm64-v8a"])


def test_the_generation_by_name_and_content(tmp_path, binary):
    assert program.generation_of("litert") == "litert"
    assert program.generation_of(binary) == "tflite"
    (tmp_path / "x").write_bytes(binary.read_bytes() + b"\x00use_npu\x00")
    assert program.generation_of(tmp_path / "x") == "litert"


def test_the_download(tmp_path, binary, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "served"
    source.write_bytes(binary.read_bytes())
    monkeypatch.setitem(program.DOWNLOADS, ("litert", "arm64-v8a"), source.as_uri())
    path = program.fetch("litert", ["arm64-v8a"])
    assert path.read_bytes() == binary.read_bytes() and path.is_relative_to(tmp_path / "cache")
    source.unlink()
    assert program.fetch("litert", ["arm64-v8a"]) == path  # kept
    path.unlink()
    with pytest.raises(tfc.DeviceError, match=r"cannot be downloaded from file:.*--binary"):
        program.fetch("litert", ["arm64-v8a"])
    with pytest.raises(tfc.DeviceError, match="no ready-made litert program for x86_64"):
        program.fetch("litert", ["x86_64"])
    source.write_bytes(b"<html>not found</html>")
    with pytest.raises(tfc.ConfigError, match="benchmark_model for Android"):
        program.fetch("litert", ["arm64-v8a"])
    assert not path.exists()
    assert all(url.startswith("https://storage.googleapis.com/") for url in ORIGINALS)


ORIGINALS = list(program.DOWNLOADS.values())
