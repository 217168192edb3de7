"""`tfcompress generate`."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.generation.tokenizers import CharacterTokenizer

LETTERS = "abcdefghij klmno\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    model = tfc.models.gpt_decoder(len(LETTERS), 16, width=8, heads=2, blocks=1)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    tfc.convert_decoder(model, path=folder / "letters.tflite", prefill=4)
    CharacterTokenizer(LETTERS).save(folder / "letters.json")
    return folder


@pytest.fixture
def command(folder):
    return ["generate", str(folder / "letters.tflite"), "--tokenizer",
            str(folder / "letters.json"), "--prompt", "a cab", "--max-tokens", "7"]  # fmt: skip


def test_text_goes_out_and_figures_to_the_error_stream(command, folder, capsys):
    tokens = [LETTERS.index(one) for one in "a cab"]
    expected = [LETTERS[t] for t in tfc.generate(folder / "letters.tflite", tokens,
                                                 max_new_tokens=7)]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out == "".join(expected) + "\n"
    assert "prefill: 5 tokens" in said.err and "decode: 7 tokens" in said.err


def test_json_and_out(command, tmp_path, capsys):
    path = tmp_path / "text.json"
    drawn = ["--temperature", "1.5", "--top-k", "9", "--top-p", "0.9", "--seed", "3"]
    assert main([*command, *drawn, "--json", "--out", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(path.read_text())
    assert len(found["text"]) == len(found["tokens"]) == found["new_tokens"] == 7
    assert found["decode_tokens_per_second"] > 0
    assert main([*command, *drawn, "--json", "--out", str(path)]) == 2
    assert main([*command, *drawn, "--json", "--out", str(path), "--overwrite"]) == 0
    again = json.loads(path.read_text())
    assert again["tokens"] == found["tokens"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--greedy", "--top-k", "3"], 2, "--top-k too"),
        (["--max-tokens", "0"], 2, "max_new_tokens"),
        (["--tokenizer", "missing.json"], 2, "missing.json"),
        (["--prompt", "XYZ"], 3, "no 'X'"),
        (["--prompt", ""], 3, "at least one"),
        (["--tokenizer", "bytes"], 3, "from 0 to 16"),
    ],
)
def test_what_cannot_be_generated(arguments, code, text, command, capsys):
    assert main([*command, *arguments]) == code
    assert text in capsys.readouterr().err


def test_a_file_that_is_no_decoder(command, float_file, capsys):
    assert main(["generate", str(float_file), *command[2:]]) == 3
    assert "convert_decoder" in capsys.readouterr().err
