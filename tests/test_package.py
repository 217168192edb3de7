import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tfcompress as tfc

ROOT = Path(__file__).resolve().parent.parent


def python(code, cwd=None):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_neither_tensorflow_nor_keras_nor_numpy():
    loaded = python("import tfcompress, sys; print(*sys.modules)").split()
    assert not {"tensorflow", "keras", "numpy"} & set(loaded)


def test_import_takes_under_a_tenth_of_a_second():
    code = "import time; t = time.process_time(); import tfcompress; print(time.process_time() - t)"
    assert min(float(python(code)) for _ in range(5)) < 0.1


def test_running_a_file_loads_no_tensorflow(float_file):
    code = (
        "import sys, numpy as np, tfcompress as tfc\n"
        f"model = tfc.TFLiteModel({str(float_file)!r})\n"
        "model.predict(np.zeros((2, 28, 28, 1), 'float32'))\n"
        "tfc.benchmark(model, runs=2)\n"
        "print(*sys.modules)"
    )
    loaded = set(python(code).split())
    assert not {"tensorflow", "keras"} & loaded


def test_every_public_name_resolves():
    for name in tfc.__all__:
        assert getattr(tfc, name) is not None
    assert set(tfc.__all__) <= set(dir(tfc))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_thing"):
        tfc.no_such_thing


@pytest.mark.parametrize("place", ["elsewhere", "root"])
def test_models_import_from_any_directory(tmp_path, place):
    cwd = ROOT if place == "root" else tmp_path
    assert python("import tfcompress.models as m; print(m.__name__)", cwd) == "tfcompress.models"


def test_models_cannot_be_imported_twice_under_another_name():
    code = "import sys; sys.path.insert(0, '.'); import models"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "tfcompress.models" in done.stderr


def test_wheel_holds_models_and_types(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "-q", "-o", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"tfcompress/models/{path.name}" for path in (ROOT / "models").glob("*.py")} | {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tfcompress").rglob("*.py")
    }
    assert sources <= names
    assert "tfcompress/py.typed" in names
    recipes = {f"tfcompress/pipeline/recipes/{name}.yaml" for name in ("small", "fast", "balanced")}
    assert recipes <= set(names)
    assert {f"tfcompress/reporting/page/{name}" for name in ("style.css", "script.js")} <= names
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); import tfcompress.models as m; "
        "print(m.__file__)"
    )
    assert python(code, tmp_path).startswith(str(unpacked))
    # in the repository's root, where the source folder shadows the wheel
    assert python("import tfcompress.models as m; print(m.__name__)", ROOT) == "tfcompress.models"
