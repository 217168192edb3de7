"""`convert(sparse=True)` reports the sizes of both forms, and which to ship when."""

from __future__ import annotations

import gzip

import pytest
from keras import layers
from sparse_networks import network, pointwise

import tfcompress as tfc
from tfcompress.conversion import storage


def weighed(tflite):
    return {e.name: e.details for e in tflite.report.entries if e.action == "weighed"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_sizes_side_by_side(precision):
    model = network(lambda x: pointwise(x, 128))
    dense, sparse = (tfc.convert(model, precision, sparse=sparse) for sparse in (False, True))
    sizes = weighed(sparse)
    assert set(sizes) == {"stored dense", "stored sparse"}
    assert sizes["stored dense"]["raw"] == len(dense.content)
    assert sizes["stored sparse"]["raw"] == len(sparse.content)
    assert sizes["stored sparse"]["gzip"] == len(gzip.compress(sparse.content, 9, mtime=0))
    assert sizes["stored sparse"]["zstd"] == sparse.sizes.zstd
    share = f"{len(sparse.content) / len(dense.content):.2f} of the dense file's bytes"
    assert any(share in note and "ARM" in note for note in sparse.report.notes)
    assert weighed(dense) == {}


def test_a_dense_file_is_weighed_alone():
    tflite = tfc.convert(network(layers.MaxPooling2D()), sparse=True)
    assert set(weighed(tflite)) == {"stored dense"}
    assert any("archive" in note for note in tflite.report.notes)


def test_a_sparse_file_that_is_not_smaller_is_said_to_be_so():
    assert "is not smaller: it has 1.10" in storage._advice({"raw": 100}, {"raw": 110})


def test_a_large_file_is_not_packed(monkeypatch):
    monkeypatch.setattr(storage, "_QUICK_TO_PACK", 10)
    tflite = tfc.convert(network(), sparse=True)
    assert all(set(details) == {"raw"} for details in weighed(tflite).values())
