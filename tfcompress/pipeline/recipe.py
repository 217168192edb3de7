"""Recipes as YAML or JSON: read with bounds, written so that they are read back the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tfcompress.errors import ConfigError
from tfcompress.files import read_bytes

FORMAT = 1
MOST_BYTES = 1 << 16
_KEYS = ("format", "seed", "steps")


def ready() -> dict[str, str]:
    """The recipes that come with tfcompress: name -> text."""
    folder = resources.files(__package__) / "recipes"
    return {
        Path(item.name).stem: item.read_text("utf-8")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".yaml")
    }


def read(source: Any) -> dict[str, Any]:
    """`seed` and `steps` of a recipe.

    Args:
        source: path of a `.yaml`, `.yml` or `.json` file, or the name of a ready recipe.

    Raises:
        ConfigError: no such file or recipe, or none that says what a recipe says.
    """
    shipped = ready()
    if isinstance(source, str) and source in shipped:
        return checked(_parsed(shipped[source], source), source)
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is None or path.suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(
            f"A recipe must be a .yaml or .json file, or one of {', '.join(shipped)}. "
            f"Received: {source!r:.80}"
        )
    content = read_bytes(path)
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"A recipe must have at most {MOST_BYTES:,} bytes. Received: {len(content):,} in "
            f"{str(path)!r}"
        )
    try:
        return checked(_parsed(content.decode(), str(path)), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"A recipe must be text in UTF-8. {str(path)!r}: {error}") from None


def checked(given: Any, name: str) -> dict[str, Any]:
    """The recipe's mapping, with its format and keys checked."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"The recipe {name!r} must be a mapping. Received: {given!r:.80}")
    unknown = [key for key in given if key not in _KEYS]
    if unknown or "steps" not in given:
        raise ConfigError(
            f"The recipe {name!r} must have `steps`, and may have `format` and `seed`. "
            f"Received: {[str(key)[:40] for key in given][:8]}"
        )
    version = given.get("format", FORMAT)
    if version != FORMAT or isinstance(version, bool):
        raise ConfigError(
            f"The recipe {name!r} must be of format {FORMAT}, which this version of tfcompress "
            f"reads. Received: format {version!r:.40}"
        )
    return {"seed": given.get("seed", 0), "steps": given["steps"]}


def dump(seed: int, steps: list[Any], *, as_json: bool = False) -> str:
    """A recipe as text."""
    value = {"format": FORMAT, "seed": seed, "steps": steps}
    if as_json:
        return json.dumps(value, indent=2) + "\n"
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _parsed(text: str, name: str) -> Any:
    try:
        if name.endswith(".json"):
            return json.loads(text, object_pairs_hook=_unique)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"The recipe {name!r} cannot be read: {said:.300}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is given twice in one mapping")
    return made


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can blow up, and without YAML 1.1's surprises.

    There `2:4` is the number 124, `1e-3` a text and `no` False.
    """

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken: write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        return _unique([(self._key(key, deep), self.construct_object(value, deep))
                        for key, value in node.value])  # fmt: skip

    def _key(self, node: Any, deep: bool) -> Any:
        key = self.construct_object(node, deep)
        if not isinstance(key, str):
            raise yaml.YAMLError(f"a key must be a text, and is {key!r:.40}")
        return key

    def construct_yaml_map(self, node: Any) -> Any:
        return self.construct_mapping(node, deep=True)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back the same."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_yaml_map)
for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in (
        ("bool", r"true|false", "tf"),
        ("null", r"~|null|", "~n\0"),
        ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}",
            re.compile(rf"^(?:{_pattern})$"),
            [*_first.replace("\0", ""), *([""] if "\0" in _first else [])],
        )
