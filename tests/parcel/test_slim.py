"""tfc.slim: what no runtime reads goes, the outputs stay."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from parcel_files import int8_network
from runtime import tflite_samples

import tfcompress as tfc
from tfcompress.runtime.packing import add_metadata


def outputs(tflite, backend):
    from tfcompress.runtime.model import input_infos

    random = np.random.default_rng(0)
    (info,) = input_infos(tflite.parsed)
    x = random.random((3, *info.shape[1:])).astype("float32")
    found = tflite.predict(x, backend=backend)
    return found if isinstance(found, dict) else {"": found}


@pytest.mark.parametrize("kind", ["floating", "half", "dynamic_range", "int8", "int16x8", "sparse"])
def test_same_outputs_on_the_stock_runtime(kind):
    before = tfc.TFLiteModel(tflite_samples.CONVERTERS[kind]())
    after = tfc.slim(before)
    assert len(after.content) < len(before.content)
    assert sum(entry.details["bytes"] for entry in after.report.changed) > 0
    for backend in ("xnnpack", "reference"):
        old, new = outputs(before, backend), outputs(after, backend)
        assert old.keys() == new.keys()
        assert all(np.array_equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("kind", ["signatures", "variables", "strings", "custom", "int4"])
def test_what_others_read_stays(kind):
    before = tfc.TFLiteModel(tflite_samples.CONVERTERS[kind]())
    after = tfc.slim(before)
    assert after.parsed.signatures == before.parsed.signatures
    for one, other in zip(before.parsed.subgraphs, after.parsed.subgraphs, strict=True):
        assert one.operators == other.operators
        assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
        for index in (*one.inputs, *one.outputs):
            assert one.tensors[index].name == other.tensors[index].name
        for a, b in zip(one.tensors, other.tensors, strict=True):
            assert before.parsed.constant(a) == after.parsed.constant(b)


def test_names_and_metadata():
    content = add_metadata(tflite_samples.CONVERTERS["int8"](), "labels.txt", b"cat\ndog")
    after = tfc.slim(content)
    assert dict(after.parsed.metadata) == {"labels.txt": b"cat\ndog"}
    assert after.parsed.description == ""
    graph = after.parsed.subgraphs[0]
    assert {t.index for t in graph.tensors if t.name} <= {*graph.inputs, *graph.outputs}
    kept = tfc.slim(content, keep_names=True)
    assert all(tensor.name for tensor in kept.parsed.subgraphs[0].tensors)
    assert not tfc.slim(content, drop_metadata="labels.txt").parsed.metadata.keys() & {"labels.txt"}
    assert tfc.slim(after).content == after.content


def test_equal_parts_are_stored_once():
    """Two layers with the same weights, and ranges that an old converter left."""
    model = schema.ModelT.InitFromPackedBuf(int8_network(0.5, widths=(32, 32, 32)), 0)
    graph = model.subgraphs[0]
    one, two = (t for t in graph.tensors if t.name in (b"w0", b"w1"))
    model.buffers[two.buffer].data = model.buffers[one.buffer].data.copy()
    one.quantization.min = np.full(32, -1, np.float32)
    one.quantization.max = np.full(32, 1, np.float32)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    before = tfc.TFLiteModel(bytes(builder.Output()))
    after = tfc.slim(before)
    tensors = after.parsed.subgraphs[0].tensors
    shared = [tensor.buffer for tensor in tensors if tensor.shape == (32, 32)]
    assert len(shared) == 2 and len(set(shared)) == 1
    assert not any(len(t.quantization.mins) for t in tensors if t.quantization)
    assert len(before.content) - len(after.content) > 32 * 32 + 3 * 32 * 8 + 2 * 32 * 4
    old, new = outputs(before, "xnnpack"), outputs(after, "xnnpack")
    assert all(np.array_equal(old[name], new[name]) for name in old)


def test_errors():
    with pytest.raises(tfc.CorruptFileError):
        tfc.slim(b"no model")
    with pytest.raises(tfc.ConfigError, match="drop_metadata"):
        tfc.slim(int8_network(widths=(8, 8)), drop_metadata=[1])
    with pytest.raises(tfc.ConfigError, match="drop_metadata"):
        tfc.slim(int8_network(widths=(8, 8)), drop_metadata=3)


def test_nothing_is_taken_out_in_negative_amounts():
    slim = tfc.slim(int8_network(widths=(8, 8)), drop_metadata=None)
    assert all(entry.details["bytes"] > 0 for entry in slim.report.entries)


def test_what_the_writer_cannot_read_is_left(monkeypatch):
    content = int8_network(widths=(8, 8))
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.metadataBuffer = np.array([7777, 8888], np.int32)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    whole = bytes(builder.Output())
    numbers = np.array([7777, 8888], "<i4").tobytes()
    assert whole.count((2).to_bytes(4, "little") + numbers) == 1
    broken = whole.replace(
        (2).to_bytes(4, "little") + numbers, (0x7FFFFFFF).to_bytes(4, "little") + numbers
    )
    found = tfc.slim(broken)
    assert found.content == broken and "cannot be written anew" in str(found.report)
    monkeypatch.setattr("tfcompress.parcel.slim._LARGEST", 50)
    found = tfc.slim(whole)
    assert found.content == whole and "less than 2 GiB" in str(found.report)
