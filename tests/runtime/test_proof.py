"""A damaged file never harms the user's process: thousands of mutations through native code."""

import os
import resource
import time

import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.runtime import proof


def mutations(content, count, seed):
    """Damage as it happens, and as an attacker would do it."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        data = bytearray(content)
        kind = generator.integers(5)
        if kind == 0:  # bits that flip
            for place in generator.integers(0, len(data), generator.integers(1, 9)):
                data[place] ^= 1 << int(generator.integers(8))
        elif kind == 1:  # numbers that go wild: offsets, lengths, shapes, indices
            for place in generator.integers(0, len(data) // 4, generator.integers(1, 4)):
                wild = generator.choice([0, 1, 2, 7, 255, 65535, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF])
                data[4 * place : 4 * place + 4] = int(wild).to_bytes(4, "little")
        elif kind == 2:  # a download that broke off
            del data[generator.integers(0, len(data)) :]
        elif kind == 3:  # a stretch of something else
            start = int(generator.integers(0, len(data)))
            length = int(generator.integers(1, 256))
            data[start : start + length] = generator.bytes(len(data[start : start + length]))
        else:  # numbers in the structure, which is at the file's end in what the converter writes
            first = len(data) * 2 // 3
            for place in generator.integers(first, len(data), generator.integers(1, 4)):
                data[place] = int(generator.integers(256))
        yield bytes(data)


@pytest.mark.parametrize("backend", ["xnnpack", "reference"])
@pytest.mark.parametrize("name", ["float", "int8"])
def test_the_users_process_survives_thousands_of_mutations(float_file, int8_file, name, backend):
    content = (float_file if name == "float" else int8_file).read_bytes()
    x = np.random.default_rng(0).random((1, 28, 28, 1), "float32")
    counts = {"refused": 0, "ran": 0}
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for damaged in mutations(content, 1000, seed=len(content)):
        started = time.monotonic()
        try:
            tfc.TFLiteModel(damaged).predict(x, backend=backend)
            counts["ran"] += 1
        except tfc.CompressError as error:
            assert str(error)
            counts["refused"] += 1
        slowest = max(slowest, time.monotonic() - started)
    assert counts["refused"] > 300 and counts["ran"] > 100, counts  # both sides were exercised
    assert slowest < 30, "no file may take more than seconds"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1 << 20, "no file may take gigabytes"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty|Received: 0 bytes|short"),
        (b"TFL3", "short|bytes"),
        (b"hello, this is no model at all" * 10, "TFL3"),
        (os.urandom(5000), "TFL3|offset|outside"),
    ],
    ids=["empty", "too short", "text", "random"],
)
def test_files_that_are_no_models(content, message, tmp_path):
    path = tmp_path / "file.tflite"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(tfc.CorruptFileError, match=message):
            tfc.TFLiteModel(source)


def test_another_version_of_the_format(float_file):
    content = float_file.read_bytes()
    with pytest.raises(tfc.CorruptFileError, match="TFL3"):
        tfc.TFLiteModel(content[:4] + b"TFL2" + content[8:])


def test_a_file_that_kills_the_runtime_is_an_exception(monkeypatch, float_file):
    monkeypatch.setattr(
        proof, "run_isolated", lambda _, arguments, **kw: real("os:abort", {}, **kw)
    )
    from tfcompress.runtime.isolation import run_isolated as real

    content = float_file.read_bytes() + b"\0\0\0\0"  # another digest: not yet proven
    with pytest.raises(tfc.CorruptFileError, match="SIGABRT"):
        tfc.TFLiteModel(content).predict(np.zeros((1, 28, 28, 1), "float32"))


def test_a_proven_file_is_not_proven_again(float_file, monkeypatch):
    content = float_file.read_bytes()
    proof.prove(content)
    monkeypatch.setattr(proof, "trial", None)
    proof.prove(bytes(content))
