"""tfc.pack and tfc.unpack: the same bytes or an error, and smaller than zip."""

import errno
import io
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_operator import Graph, Op, T
from parcel_files import int8_network
from runtime import tflite_samples

import tfcompress as tfc
from tfcompress.parcel import pack as module
from tfcompress.parcel import plain

KINDS = ("floating", "half", "dynamic_range", "int8", "int16x8", "int8_of_zeros", "sparse", "int4",
         "outside_buffers", "strings", "variables")  # fmt: skip


def resealed(container):
    """The container with the checksum that its bytes call for."""
    return container[:-4] + zlib.crc32(container[:-4]).to_bytes(4, "little")


@pytest.fixture(scope="module")
def pruned():
    return int8_network(0.8)


@pytest.fixture(scope="module")
def tiny():
    return int8_network(0.5, widths=(24, 20, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(kind):
    content = tflite_samples.CONVERTERS[kind]()
    container = tfc.pack(content)
    assert tfc.unpack(container) == content
    assert len(container) <= 1.01 * len(zlib.compress(content, 9))


def test_a_model_is_packed_like_its_bytes(pruned):
    assert tfc.pack(tfc.TFLiteModel(pruned)) == tfc.pack(pruned)


def test_pruned_is_15_percent_below_zip(pruned):
    container = tfc.pack(pruned)
    assert tfc.unpack(container) == pruned
    assert len(container) <= 0.85 * len(zlib.compress(pruned, 9))


def test_clustered_weights_cost_what_clusters_cost():
    plain, clustered = (tfc.pack(int8_network(0.8, clusters)) for clusters in (None, 16))
    weights = 64 * 128 + 128 * 128 + 128 * 96
    # 20 % of the weights have 16 values: 4 bits each; as int8 they have up to 8.
    assert len(clustered) < len(plain) - 0.2 * weights * 1.5 / 8
    assert tfc.unpack(clustered) == int8_network(0.8, 16)


def test_biases_scales_take_no_room(tiny):
    """They are the products of two others."""
    found = module.survey(tiny)
    assert len(found.known) == 2
    changed = bytearray(tiny)
    for known in found.known:
        changed[known.start] ^= 1  # one bit off: to be stored
    assert tfc.unpack(tfc.pack(bytes(changed))) == changed
    assert len(tfc.pack(bytes(changed))) > len(tfc.pack(tiny)) + 2 * 3 * (20 + 16) // 2


def test_large_tensors_are_not_tried(pruned, monkeypatch):
    monkeypatch.setattr("tfcompress.parcel.numbers._LARGE", 10_000)
    assert tfc.unpack(tfc.pack(pruned)) == pruned


def test_deterministic(pruned):
    assert tfc.pack(pruned) == tfc.pack(bytearray(pruned))


@pytest.mark.parametrize("name", ["int8", "float"])
def test_containers_of_version_1_stay_readable(name):
    """Packed once and kept; what they hold is checked by the digest that is in them."""
    kept = (Path(__file__).parent / f"version1_{name}.tfcp").read_bytes()
    content = tfc.unpack(kept)
    assert len(tfc.TFLiteModel(content).operators) == 3
    again = tfc.pack(content)  # the same but for other versions of zlib and liblzma
    assert abs(len(again) - len(kept)) <= 0.01 * len(kept)


def test_many_lanes(pruned, monkeypatch):
    one = tfc.pack(pruned)
    monkeypatch.setattr("tfcompress.parcel.entropy._LANES", ((1024, 256),))
    many = tfc.pack(pruned)
    assert len(many) > len(one)
    assert tfc.unpack(many) == tfc.unpack(one) == pruned


def test_many_blocks(pruned, monkeypatch):
    monkeypatch.setattr("tfcompress.parcel.entropy._BLOCK", 5000)
    assert tfc.unpack(tfc.pack(pruned)) == pruned


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400) | st.binary(max_size=8).map(lambda b: b * 300))
def test_any_bytes(content):
    container = tfc.pack(content)
    assert tfc.unpack(container) == content
    assert len(container) <= len(zlib.compress(content, 9)) + 40


def test_files_and_streams(tiny, tmp_path):
    source, packed, out = (tmp_path / name for name in ("a.tflite", "a.tfcp", "b.tflite"))
    source.write_bytes(tiny)
    assert tfc.pack(source, out=packed) == packed
    assert packed.read_bytes() == tfc.pack(source)
    with pytest.raises(tfc.ConfigError, match="exists"):
        tfc.pack(source, out=packed)
    assert tfc.pack(source, out=packed, overwrite=True) == packed
    assert tfc.unpack(packed) == tiny
    assert tfc.unpack(io.BytesIO(packed.read_bytes())) == tiny
    assert tfc.unpack(packed, out=out) == out
    assert out.read_bytes() == tiny
    with pytest.raises(tfc.ConfigError, match="exists"):
        tfc.unpack(packed, out=out)
    assert tfc.unpack(packed, out=out, overwrite=True) == out
    empty = tmp_path / "empty"
    assert tfc.unpack(tfc.pack(b""), out=empty).read_bytes() == b""


def test_a_damaged_container_leaves_no_file(tiny, tmp_path):
    container = bytearray(tfc.pack(tiny))
    container[10] ^= 1  # in the digest
    with pytest.raises(tfc.CorruptFileError, match="digest"):
        tfc.unpack(resealed(bytes(container)), out=tmp_path / "out")
    for mutant in mutants(bytes(container), 40, seed=1):  # errors from within a mapped file
        with pytest.raises(tfc.CorruptFileError):
            tfc.unpack(resealed(mutant), out=tmp_path / "out", max_size=1 << 20)
    assert list(tmp_path.iterdir()) == []


def test_neither_tensorflow_nor_keras_is_loaded():
    code = (
        "import sys, tfcompress as tfc\n"
        "assert tfc.unpack(tfc.pack(b'x' * 99)) == b'x' * 99\n"
        "assert not {'tensorflow', 'keras', 'zstandard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def mutants(container, count, seed=0):
    """Containers with bytes changed, taken out, put in, or cut off."""
    generator = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(container)
        for _ in range(generator.choice((1, 1, 2, 8))):
            at = generator.randrange(len(mutant))
            move = generator.randrange(5)
            if move < 2:
                mutant[at] ^= 1 << generator.randrange(8)
            elif move == 2:
                mutant[at] = generator.choice((0, 1, 127, 128, 255))
            elif move == 3:
                del mutant[at : at + generator.randrange(1, 9)]
            else:
                mutant[at:at] = generator.randbytes(generator.randrange(1, 5))
            if not mutant:
                break
        yield bytes(mutant)


def test_ten_thousand_mutants(tiny):
    container = tfc.pack(tiny)
    for mutant in mutants(container, 10_000):
        if mutant != container:
            with pytest.raises(tfc.CorruptFileError):
                tfc.unpack(mutant)


def test_mutants_with_a_sound_checksum(tiny):
    """What is behind the checksum is not believed either."""
    container = tfc.pack(tiny)
    right = 0
    for mutant in mutants(container, 150):
        try:
            right += tfc.unpack(resealed(mutant), max_size=1 << 20) == tiny
        except tfc.CorruptFileError:
            continue
    assert right < 15  # such as a changed checksum, mended


def test_mutants_of_what_is_compressed(tiny):
    """Places, plan and skeleton, changed before they are compressed, are not believed."""
    _, _, body = module._checked(memoryview(tfc.pack(tiny)), 1 << 30)
    body.take(1)
    text = plain.expand(body, 1 << 20)
    rest = bytes(body.take(body.left))
    whole = tfc.pack(tiny)
    start = whole[: len(whole) - 4 - len(rest) - len(plain.squeeze(text))]
    assert resealed(start + plain.squeeze(text) + rest + bytes(4)) == whole
    for mutant in mutants(text, 250):
        container = resealed(start + plain.squeeze(mutant, thorough=False) + rest + bytes(4))
        if mutant != text:
            with pytest.raises(tfc.CorruptFileError):
                tfc.unpack(container, max_size=1 << 20)


def test_every_truncation():
    container = tfc.pack(b"some bytes, not many" * 3)
    for size in range(len(container)):
        with pytest.raises(tfc.CorruptFileError):
            tfc.unpack(container[:size])


def test_hostile_sizes(tiny):
    container = tfc.pack(tiny)
    with pytest.raises(tfc.CorruptFileError, match="max_size"):
        tfc.unpack(container, max_size=len(tiny) - 1)
    size = module.varint(len(tiny))
    huge = container.replace(size, module.varint(1 << 40), 1)
    with pytest.raises(tfc.CorruptFileError, match="max_size"):
        tfc.unpack(resealed(huge))
    with pytest.raises(tfc.CorruptFileError, match="do not stand for"):
        tfc.unpack(resealed(huge), max_size=1 << 50)
    with pytest.raises(tfc.CorruptFileError, match="version is one of"):
        tfc.unpack(resealed(container[:4] + b"\3" + container[5:]))


def test_no_room_for_what_comes_out(pruned, tmp_path, monkeypatch):
    """Said before mapped pages are written, which would end the process."""
    container = tfc.pack(pruned)

    def full(file, start, size):
        assert (start, size) == (0, len(pruned))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(tfc.ConfigError, match="No space left"):
        tfc.unpack(container, out=tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
    monkeypatch.delattr(os, "posix_fallocate")  # as on other systems
    assert tfc.unpack(container, out=tmp_path / "m.tflite").read_bytes() == pruned


@pytest.mark.parametrize("shape", [(1, 90, 90, 1), (2, 40, 40, 3), (1, 90, 90, 3), (1, 20_000)])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_constants_that_are_no_kernels(shape, dtype):
    """Whole batches at a time, not value by value: containers of version 2."""
    values = np.random.default_rng(0).normal(0, 20, shape).astype(dtype)
    scale = {"scale": 0.02} if dtype == "int8" else {}
    tensors = {
        "x": T(shape, dtype, **scale),
        "mask": T(shape, dtype, values, **scale),
        "y": T(shape, dtype, **scale),
    }
    content = Graph(tensors, [Op("ADD", ["x", "mask"], ["y"], ("AddOptions", {}))]).build()
    container = tfc.pack(content)
    assert tfc.unpack(container) == content
    model = container[4] == 2 or len(shape) == 2
    assert model and len(container) < len(zlib.compress(content, 9))
    if container[4] == 2:
        with pytest.raises(tfc.CorruptFileError, match="too large"):
            tfc.unpack(resealed(container[:4] + bytes([1]) + container[5:]))


def test_very_compressible_bytes_stay_in_the_limit():
    content = bytes(30 << 20)
    container = tfc.pack(content)
    assert len(container) < 30_000
    assert tfc.unpack(container) == content


def test_wrong_arguments(tmp_path):
    with pytest.raises(tfc.ConfigError, match="No such file"):
        tfc.pack(tmp_path / "none.tflite")
    with pytest.raises(tfc.ConfigError, match="max_size"):
        tfc.unpack(b"", max_size=-1)
    with pytest.raises(tfc.ConfigError, match="bytes"):
        tfc.unpack(io.StringIO("text"))
    with pytest.raises(tfc.CorruptFileError, match="b'TFCP'"):
        tfc.unpack(b"no container")
