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


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A file that listens, and its tokenizer, whose words are its tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("translate")
    words = ["<pad>", "<s>", "</s>", "<unk>", "eins", "zwei", "drei", "one", "two", "four"]
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    model = tfc.models.encoder_decoder(
        len(words), len(words), 6, 10, width=8, heads=2, blocks=1, dropout=0.0
    )
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    tfc.convert_decoder(model, path=folder / "translator.tflite")
    return folder, words


def test_translates(translator, capsys):
    folder, words = translator
    command = ["generate", str(folder / "translator.tflite"), "--tokenizer",
               str(folder / "tokenizer.json"), "--source", "two four one", "--json"]  # fmt: skip
    source = [words.index(word) for word in ("two", "four", "one")]
    greedy = list(
        tfc.generate(folder / "translator.tflite", [1], source=source, stop=[2], max_new_tokens=6)
    )
    assert main([*command, "--max-tokens", "6"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == greedy
    # Another token to begin with, and what the answer begins with.
    chosen = ["--start", "four", "--prompt", "eins", "--end", "drei", "--max-tokens", "4"]
    assert main([*command, *chosen]) == 0
    expected = tfc.generate(
        folder / "translator.tflite", [words.index("four"), words.index("eins")], source=source,
        stop=[words.index("drei")], max_new_tokens=4,
    )  # fmt: skip
    assert json.loads(capsys.readouterr().out)["tokens"] == list(expected)
    assert main([*command, "--beams", "3", "--max-tokens", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    answers = tfc.beam_search(
        folder / "translator.tflite", [1], source=source, end=2, beams=3, max_new_tokens=5
    )
    assert [tuple(one["tokens"]) for one in found["answers"]] == [a.tokens for a in answers]
    assert found["text"] == " ".join(words[token] for token in answers[0].tokens)


def test_what_cannot_be_translated(translator, command, folder, capsys):
    listening = ["generate", str(translator[0] / "translator.tflite"), "--tokenizer",
                 str(translator[0] / "tokenizer.json")]  # fmt: skip
    for arguments, code, text in (
        (listening, 2, "--source, one to translate"),
        ([*listening, "--prompt", "one"], 3, "`source`"),
        ([*listening, "--source", "one", "--start", "fünf"], 2, "--start is a token"),
        ([*listening, "--source", "one", "--beams", "2", "--top-k", "3"], 2, "--top-k too"),
        ([*listening, "--source", "one", "--beams", "2", "--greedy"], 2, "--greedy too"),
        ([*listening, "--source", "one", "--beams", "0"], 2, "`beams`"),
        ([*command, "--source", "a"], 2, "no '<s>'"),
        ([*command, "--source", "a", "--start", "a"], 3, "listens to no other"),
        ([*command, "--beams", "2"], 2, "no '</s>'"),
    ):
        assert main(arguments) == code, arguments
        assert text in capsys.readouterr().err
