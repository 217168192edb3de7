import json
import shutil
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import tfcompress as tfc

PHONE = "R5CT10ABCDE"


def result_bytes(median, *, peak=9.75):
    """A result file as the program writes it, by Google's own library.

    Fields and numbers of tflite/tools/benchmark/proto/benchmark_result.proto.
    """
    file = descriptor_pb2.FileDescriptorProto(name="result.proto", package="t", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(title, /, **fields):
        made = file.message_type.add(name=title)
        for field, (number, kind, *of) in fields.items():
            made.field.add(
                name=field, number=number, type=kind, label=1, type_name=of[0] if of else None
            )

    real, whole, nested = kinds.TYPE_FLOAT, kinds.TYPE_INT64, kinds.TYPE_MESSAGE
    names = ["avg_ms", "min_ms", "max_ms", "stddev_ms", "median_ms", "p5_ms", "p95_ms", "init_ms"]
    message("Latency", **{name: (place + 1, real) for place, name in enumerate(names)})
    message(
        "Memory",
        init_footprint_kb=(1, whole),
        overall_footprint_kb=(2, whole),
        peak_mem_mb=(3, real),
    )
    message("Misc", model_size_mb=(1, real), num_runs=(2, kinds.TYPE_INT32))
    message(
        "Result",
        name=(1, kinds.TYPE_STRING),
        latency_metrics=(2, nested, ".t.Latency"),
        memory_metrics=(3, nested, ".t.Memory"),
        misc_metrics=(4, nested, ".t.Misc"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Result"))()
    made.name = "run"
    for name, value in zip(
        names, (median + 0.25, median - 1, median + 9, 0.5, median, median - 0.5), strict=False
    ):
        setattr(made.latency_metrics, name, value)
    made.latency_metrics.p95_ms, made.latency_metrics.init_ms = median + 2, 12.5
    made.memory_metrics.overall_footprint_kb = 7680
    if peak is not None:
        made.memory_metrics.peak_mem_mb = peak
    made.misc_metrics.num_runs = 50
    return made.SerializeToString()


class Phone:
    """The stand-in on PATH, its device and its log."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "storage").mkdir()
        program = folder / "adb"
        source = Path(__file__).with_name("fake_adb.py").read_text()
        program.write_text(f"#!{sys.executable} -IS\n{source}")
        program.chmod(0o755)
        self.set(
            devices=f"List of devices attached\n{PHONE}\tdevice\n\n",
            generation="tflite",
            results={
                "reference": result_bytes(8.0).hex(),
                "reference-4": result_bytes(3.0).hex(),
                "xnnpack": result_bytes(2.0).hex(),
                "xnnpack-4": result_bytes(1.0).hex(),
                "gpu": result_bytes(4.0, peak=None).hex(),
            },
        )

    def set(self, **values):
        file = self.folder / "device.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | values))

    def fail(self, at, **values):
        self.set(failures=[{"at": at, **values}])

    @property
    def log(self):
        file = self.folder / "log.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def left(self):
        return list((self.folder / "storage").iterdir())

    @property
    def shells(self):
        """The commands for the device's shell."""
        return [c[3] for c in self.log if len(c) > 3 and c[2] == "shell"]

    @property
    def runs(self):
        """The flags of each run of the program, as dicts."""
        lines = [command for command in self.shells if "--graph=" in command]
        return [dict(w[2:].split("=", 1) for w in line.split() if w[:2] == "--") for line in lines]


@pytest.fixture
def phone(tmp_path, monkeypatch):
    folder = tmp_path / "platform-tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Phone(folder)


@pytest.fixture
def binary(tmp_path):
    """A file that is an ARM64 program by its header."""
    path = tmp_path / "my_benchmark_model"
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(100))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Two small files."""
    import keras

    folder = tmp_path_factory.mktemp("tiny")
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(inputs))
    first = folder / "first.tflite"
    tfc.convert(model, path=first)
    shutil.copy(first, folder / "second.tflite")
    return [first, folder / "second.tflite"]
