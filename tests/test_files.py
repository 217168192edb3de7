import json
import os
import stat

import numpy as np
import pytest

import tfcompress as tfc
from tfcompress import files


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(tfc.ConfigError, match="No space left"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_links_are_followed_and_devices_left_alone(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    files.write_bytes(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(tfc.ConfigError, match="plain file"):
        files.write_bytes(tmp_path / "pipe", b"")
    for bad in (3, "a\0b"):
        with pytest.raises(tfc.ConfigError, match="must be a path"):
            files.write_bytes(bad, b"")


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = files.write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_json_takes_numpy_and_paths(tmp_path):
    path = files.write_json(
        tmp_path / "r.json", {"a": np.float32(0.5), "b": np.arange(3), "c": tmp_path}
    )
    assert json.loads(path.read_text()) == {"a": 0.5, "b": [0, 1, 2], "c": str(tmp_path)}


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(tfc.ConfigError, match="No such file"):
        files.read_bytes(tmp_path / "no")
    with pytest.raises(tfc.ConfigError, match="must name a file"):
        files.read_bytes(tmp_path)
