"""A device that is recorded: a stand-in adb that prints what the real one and the program do."""

import json
import os
import re
import shlex
import signal
import threading
import time

import keras
import numpy as np
import pytest
from android_phone import PHONE, result_bytes

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.deploy.android import adb, placement, run


def bench(paths, binary, **arguments):
    return tfc.benchmark(paths, **{"backend": "android", "binary": binary, **arguments})


def test_rows_of_both_models_in_every_setting(phone, binary, tiny, tmp_path):
    phone.set(starts=True)  # adb tells on stderr that it starts its server
    shares = []
    report = bench(tiny, binary, threads=[1, 4], affinity="f0", runs=20, progress=shares.append)
    expected = {
        ("android-reference", 1): 8.0,
        ("android-reference", 4): 3.0,
        ("android-xnnpack", 1): 2.0,
        ("android-xnnpack", 4): 1.0,
        ("android-gpu", 1): 4.0,
    }
    assert [(r.name, r.backend, r.threads) for r in report.rows] == [
        (name, *setting) for name in ("first", "second") for setting in expected
    ]
    for row in report.rows:
        median = expected[row.backend, row.threads]
        assert (row.median_ms, row.p5_ms, row.p95_ms) == (median, median - 0.5, median + 2)
        assert row.ratio == median / 8.0 and row.init_ms == 12.5 and row.error == ""
        assert np.isnan(row.p10_ms) and np.isnan(row.p90_ms)  # the program does not tell them
        assert row.peak_mb == (7.5 if row.backend == "android-gpu" else 9.75)
        assert row.fp16 == ""
        assert np.isnan(row.placed) if "reference" in row.backend else row.placed == 1.0
    assert report.machine == {
        "device": "Google Pixel 8",
        "processor": "Tensor G3",
        "system": "Android 14",
        "serial": PHONE,
        "int8": "dot products",
        "runtime": "benchmark_model (tflite)",
    }
    assert shares == [(n + 1) / 10 for n in range(10)]
    flags = phone.runs
    assert [f.get("use_xnnpack") for f in flags] == ["false"] * 4 + ["true"] * 4 + [None] * 2
    assert [f["num_threads"] for f in flags] == ["1", "1", "4", "4"] * 2 + ["1", "1"]
    assert all(f["num_runs"] == "20" and f["warmup_runs"] == "5" for f in flags)
    assert flags[-1]["use_gpu"] == "true" and flags[-1]["gpu_precision_loss_allowed"] == "false"
    lines = [command for command in phone.shells if "--graph=" in command]
    assert all(re.match(r"taskset f0 /data/local/tmp/tfcompress-\w+/bench", x) for x in lines)
    assert phone.left == []
    text = str(report)
    assert "(p5)" in text and "Pixel 8" in text
    saved = report.save(tmp_path / "report.json").read_text()
    assert '"p10_ms": null' in saved and '"median_ms": 8.0' in saved


def test_only_what_was_proven_is_pushed(phone, binary, tiny, tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(tiny[0].read_bytes()[:-300])
    start = time.monotonic()
    with pytest.raises(tfc.CorruptFileError):
        bench([tiny[0], broken], binary)
    assert time.monotonic() - start < 1
    assert phone.log == []


def test_fp16_and_the_gpus_options(phone, binary, tiny):
    report = bench(
        tiny[0],
        binary,
        backend=["android-xnnpack", "android-gpu"],
        fp16=[False, True],
        gpu_backend="gl",
        require_full_delegation=True,
    )
    assert [(r.backend, r.fp16) for r in report.rows] == [
        ("android-xnnpack", ""),
        ("android-xnnpack", "native"),  # the device has fphp and asimdhp
        ("android-gpu", ""),
        ("android-gpu", "allowed"),
    ]
    flags = phone.runs
    assert [f.get("xnnpack_force_fp16") for f in flags] == [None, "true", None, None]
    assert [f.get("gpu_precision_loss_allowed") for f in flags] == [None, None, "false", "true"]
    assert [f.get("gpu_backend") for f in flags] == [None, None, "gl", "gl"]
    assert all(f["require_full_delegation"] == "true" for f in flags)


def test_a_phone_without_dot_products(phone, binary, tiny, tmp_path):
    file = tmp_path / "int8.tflite"
    layers = [keras.Input((8,)), keras.layers.Dense(4)]
    tfc.convert(keras.Sequential(layers), "int8", representative_data=np.ones((4, 8)), path=file)
    for features, arithmetic, told in (("asimdhp", "widened", 1), ("asimddp", "dot products", 0)):
        phone.set(features=features)
        report = bench([tiny[0], file], binary, backend="android-xnnpack")
        assert report.machine["int8"] == arithmetic
        assert sum("dotprod" in note for note in report.notes) == told


def test_the_program_of_litert(phone, binary, tiny):
    phone.set(generation="litert")
    report = bench(tiny[0], binary, fp16=[False, True], require_full_delegation=True)
    errors = [r.error for r in report.rows]
    assert "no switch for XNNPACK off" in errors[0] and "no fp16 on XNNPACK" in errors[2]
    assert [r.median_ms for r in report.rows if not r.error] == [2.0, 4.0, 4.0]
    assert report.rows[1].ratio == 1.0  # the first that ran
    cpu, *gpus = phone.runs
    assert cpu["use_cpu"] == "true" and "require_full_delegation" not in cpu  # it would abort
    assert [(f["use_cpu"], f["require_full_delegation"]) for f in gpus] == [("false", "true")] * 2
    assert [f["gpu-precision"] for f in gpus] == ["fp32", "fp16"]
    assert report.machine["runtime"] == "benchmark_model (litert)"
    bench(tiny[0], binary, backend="android-gpu")
    assert phone.runs[-1]["use_cpu"] == "true"  # for what the GPU leaves


def test_an_old_program_without_result_file(phone, binary, tiny):
    phone.set(generation="old")
    (row,) = bench(tiny[0], binary, backend="android-xnnpack").rows
    assert (row.median_ms, row.init_ms, row.peak_mb) == (2.0505, 12.345, 9.75)
    assert np.isnan(row.p5_ms)
    phone.set(counts="count=50 first=21 curr=2 min=1 max=26 avg=20 std=9 p5=1500 median=1750 p95=3")
    report = bench(tiny[0], binary, backend="android-xnnpack")
    assert (report.rows[0].median_ms, report.rows[0].p5_ms) == (1.75, 1.5)
    assert "result_file_path" not in phone.runs[-1]


@pytest.mark.parametrize("generation", ["tflite", "litert"])
def test_a_model_taken_in_part(phone, binary, tiny, generation):
    phone.set(applied={"gpu": "partially"}, generation=generation)
    report = bench(tiny[0], binary, backend="android-gpu")
    (row,) = report.rows
    assert row.placed == 0.75 and row.left == ("CUMSUM: Operation is not supported.",)
    text = str(report)
    assert "first: The GPU took a part of the model" in text and "75%" in text
    assert "first: left by the GPU: CUMSUM" in text
    with pytest.raises(tfc.DeviceError, match="Disallowed CPU fallback"):
        bench(tiny[0], binary, backend="android-gpu", require_full_delegation=True)
    phone.set(applied={"gpu": "not"})
    report = bench(tiny[0], binary, backend=["android-xnnpack", "android-gpu"])
    assert report.rows[0].placed == 1.0
    assert "The GPU took no operator of the model. CUMSUM" in report.rows[1].error
    assert phone.left == []


@pytest.mark.parametrize(
    ("text", "backend", "share", "partly"),
    [
        ("", "gpu", None, False),
        # Old runtimes do not tell of how many; their program's own lines do.
        (
            "INFO: Replacing 63 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 2 "
            "partitions.\nINFO: Explicitly applied GPU delegate, and the model graph will be "
            "partially executed by the delegate w/ 1 delegate kernels.",
            "gpu",
            None,
            True,
        ),
        ("WARN: GPU acceleration is unsupported on this platform.", "gpu", 0.0, True),
        (
            "VERBOSE: Replacing 456 out of 506 node(s) with delegate (TfLiteXNNPackDelegate) node, "
            "yielding 13 partitions for subgraph 0.",
            "xnnpack",
            456 / 506,
            True,
        ),
        # XNNPACK alone, where the GPU was asked for
        (
            "VERBOSE: Replacing 5 out of 5 node(s) with delegate (TfLiteXNNPackDelegate) node",
            "gpu",
            0.0,
            True,
        ),
    ],
)
def test_placement(text, backend, share, partly):
    found = placement.parse_placement(text, backend)
    assert found.partly is partly
    assert np.isnan(found.share) if share is None else found.share == share


LISTED = "List of devices attached\n"


@pytest.mark.parametrize(
    ("devices", "serial", "match"),
    [
        (LISTED + "\n", None, "No device is connected.*USB debugging"),
        (f"{LISTED}{PHONE}\tunauthorized\n\n", None, "allow USB debugging in the dialog"),
        (f"{LISTED}{PHONE}\toffline\n\n", None, "is offline"),
        (f"{LISTED}{PHONE}\trecovery\n\n", None, "recovery mode"),
        (
            f"{LISTED}{PHONE}\tno permissions (user in plugdev group; are your udev rules wrong?); "
            "see [http://developer.android.com/tools/device.html]\n\n",
            None,
            "udev rules",
        ),
        (
            f"{LISTED}{PHONE}\tdevice\nemulator-5554\tdevice\n\n",
            None,
            rf"Several.*{PHONE} \(device\), emulator-5554 \(device\).*--serial",
        ),
        (f"{LISTED}{PHONE}\tdevice\n\n", "X9", f"No device has the serial 'X9'.*{PHONE}"),
    ],
)
def test_no_device_to_use(phone, binary, tiny, devices, serial, match):
    phone.set(devices=devices)
    with pytest.raises(tfc.DeviceError, match=match):
        bench(tiny[0], binary, serial=serial)
    assert phone.log == [["devices"]]


def test_one_of_several_devices(phone, binary, tiny):
    phone.set(devices=f"{LISTED}{PHONE}\tdevice\nemulator-5554\tdevice\n\n")
    bench(tiny[0], binary, serial=PHONE, backend="android-gpu")
    assert all(command[:2] == ["-s", PHONE] for command in phone.log[1:])
    phone.set(devices=f"{LISTED}{PHONE}\tdevice\nold\tunauthorized\n\n")
    assert bench(tiny[0], binary, backend="android-gpu").machine["serial"] == PHONE


def test_no_adb(tmp_path, binary, tiny, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    with pytest.raises(tfc.DeviceError) as found:
        bench(tiny[0], binary)
    assert "PATH" in str(found.value)
    assert str(tmp_path / "sdk" / "platform-tools" / "adb") in str(found.value)
    program = tmp_path / "sdk" / "platform-tools" / "adb"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert adb.find_adb() == str(program)


GONE = {"err": f"adb: device '{PHONE}' not found\n"}
COPY = "adb: error: failed to copy 'x' to '/data/local/tmp/y': remote "


@pytest.mark.parametrize(
    ("at", "failure", "match"),
    [
        ("devices", {"err": "* failed to start daemon\nadb: cannot connect to daemon\n"}, "server"),
        ("getprop", {"code": 0}, "does not tell what it is"),
        ("mkdir", {"err": "mkdir: '/data/local/tmp/t': No space left on device\n"}, "is full"),
        ("push", {"err": COPY + "write failed: No space left on device\n"}, "storage is full"),
        (r"push .*model-0", {"err": COPY + "couldn't create file: Permission denied\n"}, "allow"),
        ("push", {"err": "adb: error: something new\n"}, r"`adb push .*failed: .*something new"),
        (
            "--help",
            {
                "err": "/system/bin/sh: /data/local/tmp/b: not executable: 64-bit ELF file\n",
                "code": 126,
            },
            "does not run on the device.*64-bit ELF.*processor",
        ),
        (
            "--help",
            {"err": 'CANNOT LINK EXECUTABLE "b": library "libvndksupport.so" not found\n'},
            "does not run.*libvndksupport",
        ),
        ("--help", {"err": "Illegal instruction\n", "code": 132}, "does not run.*illegal instr"),
        ("--help", {"out": "hello\n", "code": 0}, "flags of a benchmark_model"),
        ("--graph", GONE, f"The device {PHONE} went away"),
        ("pull", GONE, "went away"),
        ("push .*model-0", {"err": "adb: error: failed to read copy response: EOF\n"}, "went away"),
        ("--graph", {"err": "Segmentation fault\n", "code": 139}, "crashed.*segmentation fault"),
        ("--graph", {"err": "Killed\n", "code": 137}, "memory runs out"),
        (
            "--graph",
            {"err": "ERROR: Failed to load model\nERROR: Benchmarking failed.\n"},
            "Failed",
        ),
        (
            "pull",
            {"err": "adb: error: failed to stat remote object 'r': No such file or directory\n"},
            "left no result file",
        ),
    ],
)
def test_every_failure_has_its_message(phone, binary, tiny, at, failure, match):
    phone.fail(at, **failure)
    with pytest.raises(tfc.DeviceError, match=match):
        bench(tiny[0], binary, backend="android-xnnpack")
    assert phone.left == []


def test_a_device_that_never_comes_back_and_what_is_left_there(phone, binary, tiny):
    phone.fail("--graph|pkill", **GONE)
    with pytest.raises(tfc.DeviceError, match=r"went away.*may still be in /data/local/tmp/tfcomp"):
        bench(tiny[0], binary)
    assert len(phone.left) == 1
    # Results that were got are not lost where only the cleaning fails.
    phone.fail("pkill", **GONE)
    report = bench(tiny[0], binary, backend="android-gpu")
    assert report.rows[0].median_ms == 4.0 and "may still be in" in report.notes[-1]


def test_one_setting_that_fails_is_a_row(phone, binary, tiny):
    phone.set(results={"xnnpack": result_bytes(2.0).hex(), "gpu": b"\x12\x50garbage".hex()})
    report = bench(tiny[0], binary)
    assert "left no result file" in report.rows[0].error
    assert report.rows[1].median_ms == 2.0 and report.rows[1].ratio == 1.0
    assert "cannot be read" in report.rows[2].error
    phone.fail("use_gpu", err="Aborted\n", code=134)
    report = bench(tiny[0], binary, backend=["android-gpu", "android-xnnpack"])
    assert "crashed (it aborted)" in report.rows[0].error and not report.rows[1].error


def test_a_run_without_end(phone, binary, tiny, monkeypatch):
    monkeypatch.setattr(run, "RUN_SECONDS", 0.3)
    phone.fail("use_gpu", hang=20)
    report = bench(tiny[0], binary, backend=["android-gpu", "android-xnnpack"])
    assert "did not end within" in report.rows[0].error and report.rows[1].median_ms == 2.0
    ended = [command for command in phone.shells if command.startswith("pkill")]
    assert len(ended) == 2  # at once, and when cleaning up
    with pytest.raises(tfc.DeviceError, match=r"`.*adb.*devices use_gpu` did not end within 0 s"):
        adb.Adb(adb.find_adb()).run(["devices", "use_gpu"], seconds=0.2)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_interrupted(phone, binary, tiny, number, error):
    before = signal.getsignal(signal.SIGTERM)
    # A shell's background jobs ignore it, and what these start.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    phone.fail("--graph", hang=20)

    def interrupt():
        while not phone.runs:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(error):
        bench(tiny[0], binary)
    thread.join()
    signal.signal(signal.SIGINT, ctrl_c)
    assert phone.left == []
    assert phone.log[-1][3].startswith("pkill") and "rm -rf" in phone.log[-1][3]
    assert signal.getsignal(signal.SIGTERM) is before


def test_dry_run_prints_what_would_be_run(phone, binary, tiny, capsys, monkeypatch):
    options = ["--threads", "4", "--affinity", "f0", "--fp16", "both", "--serial", PHONE]
    options += ["--binary", str(binary), "--per-operator"]
    paths = [str(path) for path in tiny]
    phone.set(profile="")
    assert main(["benchmark", *paths, "--backend", "android", *options]) == 0
    capsys.readouterr()
    done = [["adb", *command] for command in phone.log]
    count = len(done)
    monkeypatch.setenv("PATH", "")
    assert main(["benchmark", *paths, "--android", "--dry-run", *options]) == 0
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(phone.log) == count

    def alike(words):
        words = [re.sub(r"fcompress-[0-9a-f]{12}", "fcompress-XXXX", word) for word in words]
        if "push" in words and "model-" in words[-1]:
            words[-2] = "FILE"  # what was proven is pushed from a copy
        return words[:-1] if "pull" in words else words

    assert [alike(words) for words in printed] == [alike(words) for words in done]
    assert printed[0] == ["adb", "devices"]


def test_dry_run_writes_its_commands_where_asked(tiny, capsys, tmp_path):
    out = tmp_path / "commands.json"
    arguments = ["benchmark", str(tiny[0]), "--android", "--dry-run", "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == found and found["commands"]
    assert main(arguments) == 2, "an existing file is not replaced unasked"


def test_dry_run_of_the_other_program_needs_nothing(tiny, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    arguments = ["benchmark", str(tiny[0]), "--android", "--dry-run", "--binary", "litert"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "# first, reference: LiteRT's program has no switch" in text
    assert "--gpu-precision=fp32" in text and f"push {tiny[0]} " in text


@pytest.mark.parametrize(
    "arguments",
    [
        {"affinity": "0-3"},
        {"gpu_backend": "vulkan"},
        {"binary": "/no/such/file"},
        {"threads": 0},
        {"fp16": "yes"},
        {"inputs": np.zeros((1, 4))},
        {"weight_cache": True},
        {"backend": ["android", "xnnpack"]},
        {"backend": "android-npu"},
        {"backend": "xnnpack", "serial": "X"},
        {"backend": "xnnpack", "affinity": "f"},
    ],
)
def test_bad_arguments(phone, binary, tiny, arguments):
    with pytest.raises(tfc.ConfigError, match=r"Received|No such file"):
        bench(tiny[0], **{"binary": binary, **arguments})
    assert phone.log == []
