"""Every Python example of the README runs, one after the other, as one session."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_examples_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) >= 5
    session = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README example {number + 1}", "exec"), session)


VERBS = ["PruningCallback", "Pruner", "prune", "strip", "sparsity", "Resume", "RigL"]
VERBS += ["xnnpack_sparse_layers", "sparse_friendly", "convert", "benchmark", "inspect"]
VERBS += ["quantize_aware", "QuantizationScheme", "QuantizationCallback", "verify"]
VERBS += ["evaluate", "watch_baseline", "html_report"]
VERBS += ["to_onnx", "cluster", "Pipeline", "distill", "cache_teacher"]
VERBS += ["convert_decoder", "generate", "beam_search", "adapt"]
VERBS += ["shrink", "ShrinkSchedule", "BatchNormSparsity", "remove_dead"]
VERBS += ["complexity", "fold_batchnorm", "separate", "factorize", "rank_blocks", "drop_layers"]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_an_example(name):
    assert any(f"tfc.{name}(" in block for block in BLOCKS)


def test_architecture_names_every_module():
    root = README.parent
    section = TEXT.split("## Architecture")[1]
    for path in [*(root / "tfcompress").glob("*"), *(root / "tfcompress").glob("*/*.py")]:
        if path.name.startswith("__") or path.suffix not in ("", ".py"):
            continue
        assert path.stem in section, f"{path.name} is missing in the README's Architecture"
