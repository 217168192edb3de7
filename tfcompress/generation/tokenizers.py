"""Text to token ids and back, by the file that describes a tokenizer. No TensorFlow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tfcompress.errors import ConfigError, CorruptFileError, DataError
from tfcompress.files import read_bytes, write_json

BYTES = "bytes"
_UNFINISHED = "\ufffd"  # what stands for bytes that are no character yet


class Tokenizer(Protocol):
    """What all tokenizers offer."""

    size: int
    """How many different tokens there are."""

    def encode(self, text: str) -> list[int]:
        """The token ids of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""

    def number(self, token: str) -> int | None:
        """The id of one token as it is written, such as `"</s>"`; None where there is none."""


class CharacterTokenizer:
    """A token for each character of a vocabulary.

    Args:
        characters: all different; the first is token 0.

    Raises:
        ConfigError: no characters, or one of them twice.

    Example:
        >>> CharacterTokenizer("abc").encode("cab")
        [2, 0, 1]
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = list(characters)
        self._numbers = {one: number for number, one in enumerate(self.characters)}
        if not self._numbers or len(self._numbers) < len(self.characters):
            raise ConfigError(
                "A vocabulary of characters holds at least one, none of them twice. "
                f"Received: {''.join(self.characters)[:40]!r}"
            )
        self.size = len(self.characters)

    @classmethod
    def of(cls, text: str) -> CharacterTokenizer:
        """With all characters of a text, in their own order."""
        return cls(sorted(set(text)))

    def encode(self, text: str) -> list[int]:
        """The token ids of a text.

        Raises:
            DataError: a character that is not in the vocabulary.
        """
        missing = sorted(set(text) - set(self._numbers))
        if missing:
            raise DataError(
                f"The vocabulary has no {', '.join(map(repr, missing[:5]))}. It holds "
                f"{''.join(self.characters)[:100]!r}. Leave such characters away."
            )
        return [self._numbers[one] for one in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids.

        Raises:
            DataError: a token that there is not.
        """
        _check(tokens, self.size)
        return "".join(self.characters[token] for token in tokens)

    def number(self, token: str) -> int | None:
        """The id of a character; None where there is none."""
        return self._numbers.get(token)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the vocabulary as JSON, which `load_tokenizer` reads."""
        write_json(path, {"characters": "".join(self.characters)})


class ByteTokenizer:
    """A token for each byte of UTF-8: needs no file, and knows every text.

    Example:
        >>> ByteTokenizer().encode("é")
        [195, 169]
    """

    size = 256

    def encode(self, text: str) -> list[int]:
        """The bytes of a text."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of bytes; U+FFFD for those that are none.

        Raises:
            DataError: a token that there is not.
        """
        _check(tokens, self.size)
        return bytes(tokens).decode(errors="replace")

    def number(self, token: str) -> int | None:
        """A byte written as a character of one byte; None for any other."""
        encoded = token.encode()
        return encoded[0] if len(encoded) == 1 else None


class LibraryTokenizer:
    """A `tokenizer.json` of the `tokenizers` library.

    Args:
        content: of the file.
        name: what to call it in errors.

    Raises:
        ConfigError: the library is not installed.
        CorruptFileError: it does not read the file.
    """

    def __init__(self, content: str, name: str) -> None:
        try:
            import tokenizers
        except ImportError:
            raise ConfigError(
                f"{name!r} is a tokenizer of the `tokenizers` library, which is not installed. "
                "Install it with: pip install 'tfcompress[generate]'"
            ) from None
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare Exceptions
            raise CorruptFileError(f"{name!r} is no sound tokenizer: {error}") from error
        self.size = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without what marks its beginning and end."""
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        text: str = self._tokenizer.decode([int(token) for token in tokens])
        return text

    def number(self, token: str) -> int | None:
        """The id of a token as the file writes it; None where there is none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found


def load_tokenizer(source: str | os.PathLike[str]) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        source: path of a `tokenizer.json` of the `tokenizers` library (needs
            `pip install 'tfcompress[generate]'`); or of a JSON file `{"characters": "abc..."}`,
            whose tokens are characters; or `"bytes"`, for the bytes of UTF-8.

    Raises:
        ConfigError: there is no such file, or a library is missing.
        CorruptFileError: the file is no tokenizer.

    Example:
        >>> tokenizer = tfc.load_tokenizer("bytes")
        >>> tokenizer.decode(tokenizer.encode("To be"))
        'To be'
    """
    if source == BYTES:
        return ByteTokenizer()
    name, content = Path(source).name, read_bytes(source)
    try:
        text = content.decode()
        found = json.loads(text)
    except ValueError as error:
        raise CorruptFileError(f"{name!r} is no JSON file: {error}") from error
    characters = found.get("characters") if isinstance(found, dict) else found
    if isinstance(characters, str) or (
        isinstance(characters, list)
        and all(isinstance(one, str) and len(one) == 1 for one in characters)
    ):
        return CharacterTokenizer(characters)
    if isinstance(found, dict) and "model" in found:
        return LibraryTokenizer(text, name)
    raise CorruptFileError(
        f"{name!r} is neither a tokenizer.json of the `tokenizers` library, nor a vocabulary "
        'such as {"characters": "abc"}. Received: '
        f"{sorted(found) if isinstance(found, dict) else type(found).__name__}"
    )


class TextStream:
    """Turns tokens into text as they come; a character of several tokens is held back.

    Args:
        tokenizer: of the tokens.
        before: tokens in front of them, as of a prompt.

    Example:
        >>> stream = TextStream(ByteTokenizer())
        >>> [stream.feed(token) for token in "né".encode()]
        ['n', '', 'é']
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # How tokens are spelled may depend on those in front of them: a few are kept.
        self._tokens = list(before)[-8:]
        self._start, self._told = 0, len(self._tokens)

    def feed(self, token: int) -> str:
        """The text that is certain with one more token."""
        self._tokens.append(token)
        text = self._fresh()
        return "" if text.endswith(_UNFINISHED) else self._tell(text)

    def end(self) -> str:
        """What was held back."""
        return self._tell(self._fresh())

    def _fresh(self) -> str:
        before = self._tokenizer.decode(self._tokens[self._start : self._told])
        return self._tokenizer.decode(self._tokens[self._start :])[len(before) :]

    def _tell(self, text: str) -> str:
        self._start, self._told = self._told, len(self._tokens)
        return text


def _check(tokens: Sequence[int], size: int) -> None:
    unknown = [token for token in tokens if not 0 <= token < size]
    if unknown:
        raise DataError(
            f"The tokenizer has the tokens 0 to {size - 1}. Received: {unknown[:5]}. It is "
            "another than the model was trained with."
        )
