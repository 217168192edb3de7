"""Texts for language models: tiny Shakespeare, or what Python itself brings along."""

from __future__ import annotations

import os
from pathlib import Path


def long_text() -> tuple[str, str]:
    """(what it is, the text): about a megabyte of English."""
    path = Path(os.environ.get("TFCOMPRESS_DATA", ".")) / "tinyshakespeare.txt"
    if path.is_file():
        return "tiny Shakespeare", path.read_text()
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    kept = "".join(one for one in text if one == "\n" or " " <= one <= "~")
    return "Python's own help (tinyshakespeare.txt is not in TFCOMPRESS_DATA)", kept
