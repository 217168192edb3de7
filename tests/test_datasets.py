import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.datasets import load_images


def test_digits_are_bundled_and_the_split_is_seeded():
    data = load_images(None)
    assert data.x_train.shape == (1438, 32, 32, 1) and data.x_test.shape == (359, 32, 32, 1)
    assert data.classes == 10 and data.x_train.dtype == np.float32
    assert data.x_train.min() >= 0 and data.x_train.max() == 1
    np.testing.assert_array_equal(load_images(None).y_test, data.y_test)
    assert (load_images(None, seed=1).y_test != data.y_test).any()


def write(path, **changes):
    arrays = {
        "x_train": np.zeros((6, 8, 8), "uint8"),
        "y_train": np.arange(6),
        "x_test": np.zeros((3, 8, 8), "uint8"),
        "y_test": np.arange(3),
    }
    arrays.update(changes)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return str(path)


def test_npz(tmp_path):
    data = load_images(write(tmp_path / "d.npz", x_train=np.full((6, 8, 8), 255, "uint8")))
    assert data.x_train.shape == (6, 8, 8, 1) and data.x_train.max() == 1.0
    assert data.name == "d" and data.classes == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, r"Missing: \['x_test'\]"),
        ({"y_train": np.arange(5)}, "one class index"),
        ({"y_train": -np.arange(6)}, "one class index"),
        ({"y_train": np.arange(6) / 2}, "one class index"),
        ({"x_train": np.zeros((6, 64))}, "n, height, width"),
        ({"x_test": np.zeros((3, 9, 8), "uint8")}, "one shape"),
        ({"x_train": np.full((6, 8, 8), np.nan)}, "finite"),
        ({"x_train": np.zeros((0, 8, 8)), "y_train": np.zeros(0, int)}, "one class index"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, changes, message):
    with pytest.raises(tfc.DataError, match=message):
        load_images(write(tmp_path / "d.npz", **changes))


def test_files_that_are_no_data(tmp_path):
    with pytest.raises(tfc.ConfigError, match="No such file"):
        load_images(str(tmp_path / "no.npz"))
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(tfc.ConfigError, match="folder of images"):
        load_images(str(tmp_path / "data.csv"))
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(tfc.DataError, match="not a readable"):
        load_images(str(tmp_path / "bad.npz"))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(tfc.DataError, match=r"no zip archive.*np\.savez"):
        load_images(str(tmp_path / "array.npz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(tfc.DataError, match="one folder of images per class"):
        load_images(str(tmp_path / "empty"))
