"""The GPU accelerator, for real: on a software Vulkan driver where there is no GPU."""

import os
import subprocess
import time
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from one_operator import Graph, Op, T
from operator_cases import cases

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.runtime import gpu as gpu_module
from tfcompress.runtime import vulkan
from tfcompress.runtime.gpu_session import GpuPlacement, placement_of


def chain(middle="FLOOR", dtype="float32"):
    """x -> tanh -> middle -> abs -> neg -> y"""
    tensors = {name: T([1, 4], dtype) for name in "xabcy"}
    names = ["TANH", middle, "ABS", "NEG"]
    operators = [Op(n, [a], [b]) for n, a, b in zip(names, "xabc", "abcy", strict=True)]
    return Graph(tensors, operators).build()


def test_the_adapter_has_a_name(gpu_adapter, capsys):
    with capsys.disabled():
        print(f"\nGPU of the tests: {gpu_adapter}")
    assert gpu_adapter.name and gpu_adapter.interface
    if "swiftshader" in os.environ["VK_DRIVER_FILES"]:
        assert gpu_adapter.software and "its speed is not a GPU's" in str(gpu_adapter)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_predict(gpu_adapter, float_file, images, precision):
    model = tfc.TFLiteModel(float_file)
    x = images[0][:3]
    ours = model.predict(x, backend="gpu", gpu_precision=precision)
    theirs = model.predict(x)
    assert ours.shape == theirs.shape == (3, 10) and ours.dtype == np.float32
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error < (1e-5 if precision == "fp32" else 1e-2)


def test_int8_and_partial_last_batch(gpu_adapter, int8_file, images):
    model = tfc.TFLiteModel(int8_file)
    ours = model.predict(images[0][:3], backend="gpu")
    theirs = model.predict(images[0][:3])
    step = model.parsed.subgraphs[0].tensors[model.parsed.subgraphs[0].operators[-1].inputs[0]]
    assert np.abs(ours - theirs).max() <= 2.001 * step.quantization.scales[0]


def test_what_the_gpu_refuses_is_told(gpu_adapter):
    outputs, placement = run(chain("ZEROS_LIKE"))
    assert placement == GpuPlacement(
        gpu_adapter, 2, 4, ("ZEROS_LIKE: Operation is not supported.",)
    )
    assert not placement.fully_accelerated
    assert (outputs[0] == 0).all()
    _, placement = run(chain())
    assert placement == GpuPlacement(gpu_adapter, 4, 4) and placement.fully_accelerated


def run(content):
    return gpu_module.run(content, precision="fp32")


def test_no_adapter_is_a_message_that_says_what_was_looked_for(
    monkeypatch, tmp_path, float_file, capsys
):
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    message = r"No GPU was found .* VK_DRIVER_FILES=.*none\.json \(found: none\).*Install"
    for call in (
        gpu_module.accelerator,
        lambda: tfc.TFLiteModel(float_file).predict(np.zeros((1, 28, 28, 1)), backend="gpu"),
        lambda: tfc.benchmark(float_file, backend="gpu"),
    ):
        with pytest.raises(tfc.DeviceError, match=message):
            call()
    assert main(["benchmark", str(float_file), "--backend", "gpu"]) == 3
    assert "No GPU was found" in capsys.readouterr().err


def test_where_drivers_are_looked_for(tmp_path):
    folder = tmp_path / "vulkan" / "icd.d"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{}")
    places, files = vulkan.driver_files({"XDG_DATA_HOME": str(tmp_path)})
    assert folder in places and folder / "a.json" in files
    named = {"VK_ICD_FILENAMES": f"{folder}/a.json{os.pathsep}{folder}/b.json"}
    assert vulkan.driver_files(named) == (
        [folder / "a.json", folder / "b.json"],
        [folder / "a.json"],
    )


def test_a_driver_that_dies_is_an_exception(gpu_adapter):
    """LiteRT aborts the process where a bias is computed; XNNPACK runs such a file."""
    (case,) = [case for case in cases() if case.name == "dense computed bias"]
    with pytest.raises(tfc.DeviceError, match=r"does not survive this model.*SIGABRT"):
        run(case.graph.build())


def test_a_driver_that_hangs_is_an_exception(gpu_adapter, float_file, monkeypatch):
    monkeypatch.setattr(gpu_module, "_SECONDS", 0.05)
    with pytest.raises(tfc.DeviceError, match=r"did not end within 0\.05 seconds"):
        run(float_file.read_bytes())


def wild(content):
    """The file with a tensor index that no tensor has."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.subgraphs[0].operators[0].inputs = [1 << 20]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def huge(side):
    """y = tanh(x) of side * side values, of which the file holds none."""
    shape = [1, side, side, 1]
    return Graph({"x": T(shape), "y": T(shape)}, [Op("TANH", ["x"], ["y"])]).build()


@pytest.mark.parametrize("damage", ["truncated", "wild", "huge", "large"])
def test_a_damaged_file_never_reaches_the_driver(gpu_adapter, float_file, monkeypatch, damage):
    content = float_file.read_bytes()
    content = {"truncated": content[:-500], "wild": wild(chain()), "huge": huge(60_000)}.get(
        damage,
        huge(22_000),  # 1.9 GB, which the format allows
    )
    monkeypatch.setattr(gpu_module, "run_isolated", lambda *_, **__: pytest.fail("reached"))
    for call in (
        lambda: run(content),
        lambda: tfc.TFLiteModel(content).predict(np.zeros((1, 28, 28, 1)), backend="gpu"),
        lambda: tfc.benchmark(content, backend="gpu", inputs=np.zeros((1, 1, 1, 1))),
        lambda: tfc.inspect(content, target="gpu"),
    ):
        start = time.process_time()
        if damage == "large":
            with pytest.raises((tfc.CorruptFileError, tfc.DeviceError)):
                run(content)
            break
        with pytest.raises(tfc.CorruptFileError):
            call()
        assert time.process_time() - start < 1


@pytest.fixture(scope="module")
def no_delegate(tmp_path_factory):
    """A library of a delegate that takes nothing."""
    library = tmp_path_factory.mktemp("delegate") / "libno_delegate.so"
    source = Path(__file__).with_name("no_delegate.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def test_a_delegate_of_the_users_own(no_delegate, float_file, images):
    model = tfc.TFLiteModel(float_file)
    x = images[0][:3]
    assert (model.predict(x, backend="gpu", delegate=no_delegate) == model.predict(x)).all()
    (row,) = tfc.benchmark(float_file, backend="gpu", delegate=no_delegate, runs=1).rows
    assert (row.gpu.placement.placed, row.gpu.placement.operators) == (0, 5)
    assert row.gpu.placement.adapter.name == "libno_delegate.so" and row.gpu.largest == 0


def test_what_is_no_delegate(float_file, tmp_path):
    model, x = tfc.TFLiteModel(float_file), np.zeros((1, 28, 28, 1))
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    with pytest.raises(tfc.DeviceError, match="cannot be loaded as a delegate"):
        model.predict(x, backend="gpu", delegate=broken)
    with pytest.raises(tfc.ConfigError, match=r"No such file. Received: 'gone\.so'"):
        model.predict(x, backend="gpu", delegate="gone.so")
    with pytest.raises(tfc.ConfigError, match="needs backend 'gpu'"):
        model.predict(x, delegate=broken)


@pytest.mark.parametrize(
    "arguments",
    [
        {"gpu_precision": "int8"},
        {"batch_size": 2},
        {"runtime": "tensorflow"},
        {"threads": 0},
        {"backend": "cuda"},
    ],
)
def test_bad_arguments(float_file, arguments):
    with pytest.raises(tfc.ConfigError, match="Received"):
        tfc.TFLiteModel(float_file).predict(
            np.zeros((1, 28, 28, 1)), **({"backend": "gpu"} | arguments)
        )


def test_what_the_accelerator_says_is_read():
    log = (
        "I0000 00:00:1.2 3 environment.cc:532] Selected adapter: NVIDIA H100, arch=hopper, "
        "vendor=nvidia, backend=Vulkan, adapterType=Discrete GPU\n"
        "I0000 00:00:1.2 3 x.cc:9] Following operations are not supported by GPU delegate:\n"
        "CUMSUM: Operation is not supported.\n"
        "3 operations will run on the GPU, and the remaining 2 operations will run on the CPU.\n"
    )
    placement = placement_of(log, 5)
    assert (placement.placed, placement.operators) == (3, 5)
    assert placement.refused == ("CUMSUM: Operation is not supported.",)
    assert str(placement.adapter) == "NVIDIA H100 (Vulkan)" and not placement.adapter.software
