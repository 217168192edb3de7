"""Text to tokens and back, whole and as it comes."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import tfcompress as tfc
from tfcompress.errors import ConfigError, CorruptFileError, DataError
from tfcompress.generation.tokenizers import ByteTokenizer, CharacterTokenizer, TextStream

TEXT = "To be, or not to be — that is the naïve question: 問 and 🙂!\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator(["to be or not to be that is the question"], trainer)
    library.save(str(folder / "tokenizer.json"))
    CharacterTokenizer.of(TEXT).save(folder / "characters.json")
    (folder / "list.json").write_text(json.dumps(sorted(set(TEXT))))
    return folder


@pytest.fixture(params=["tokenizer.json", "characters.json", "list.json", "bytes"])
def tokenizer(request, folder):
    name = request.param
    return tfc.load_tokenizer(name if name == "bytes" else folder / name)


def test_a_text_comes_back(tokenizer):
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode(tokens) == TEXT
    assert all(0 <= token < tokenizer.size for token in tokens)


def test_a_text_comes_piece_by_piece(tokenizer):
    tokens = tokenizer.encode(TEXT)
    stream = TextStream(tokenizer, tokens[:3])
    pieces = [stream.feed(token) for token in tokens[3:]] + [stream.end()]
    assert tokenizer.decode(tokens[:3]) + "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_never_ends_is_told_at_last():
    stream = TextStream(ByteTokenizer())
    assert [stream.feed(token) for token in "é".encode()[:1]] == [""]
    assert stream.end() == "\ufffd"


def test_tokens_of_characters_are_their_places():
    tokenizer = CharacterTokenizer("zab")
    assert tokenizer.encode("bazz") == [2, 1, 0, 0]
    assert ByteTokenizer().encode("é") == [195, 169]


def test_unknown_characters_and_tokens():
    with pytest.raises(DataError, match="no 'q'"):
        CharacterTokenizer("abc").encode("aqb")
    with pytest.raises(DataError, match="another than the model"):
        CharacterTokenizer("abc").decode([3])
    with pytest.raises(DataError):
        ByteTokenizer().decode([256])
    with pytest.raises(ConfigError, match="twice"):
        CharacterTokenizer("aa")


@pytest.mark.parametrize(
    "content", ["no json", "{}", "[1]", '["ab"]', '{"model": {"type": "unheard"}}', "\xff"]
)
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CorruptFileError, match=r"other\.json"):
        tfc.load_tokenizer(path)
    with pytest.raises(ConfigError):
        tfc.load_tokenizer(tmp_path / "missing.json")
