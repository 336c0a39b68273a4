"""The text of a recipe, with what a YAML parser drops: lines, duplicate keys and overridden merge keys.

Only reads: nothing that the text names is imported or run. Anchors are followed once each, so a recipe whose aliases
multiply ("a billion laughs") takes no longer than its own length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MERGE = "<<"
SUFFIXES = (".yaml", ".yml", ".json")  # of recipes


@dataclass(frozen=True)
class Entry:
    """One `key: value` of a mapping, with the keys of the mappings around it."""

    around: tuple[str, ...]
    key: str
    value: yaml.Node
    line: int
    merged: bool = False  # written in another mapping, and taken from there by `<<`

    @property
    def at_the_top(self) -> bool:
        return not self.around


class RecipeText:
    """A YAML or JSON file as its author wrote it; `root` is None if it cannot be parsed, which is the host's to say."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        if name.endswith(".json"):  # YAML allows no tabs between tokens, JSON does; neither allows them in a string
            text = text.replace("\t", " ")
        try:
            self.root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError, ValueError):
            self.root = None

    @classmethod
    def read(cls, path: str | Path | None) -> RecipeText:
        """The file's text; an empty one if there is no such file."""
        if path is None or not Path(path).is_file():
            return cls("", "the recipe")
        try:
            return cls(Path(path).read_text(encoding="utf-8"), Path(path).name)
        except (OSError, UnicodeDecodeError):
            return cls("", Path(path).name)

    def place(self, line: int | None) -> str:
        return self.name if line is None else f"{self.name}:{line}"

    def top(self) -> list[Entry]:
        """The entries at the top, in the order of the file, merged ones last."""
        return entries(self.root)

    def everywhere(self) -> Iterator[Entry]:
        """Every entry that is written in the file, once, those of a merged mapping at the place where it is written."""
        yield from _walk(self.root, (), set())

    @property
    def value(self) -> Any:
        """What a YAML parser makes of the whole file; {} if it is empty or cannot be parsed."""
        return {} if self.root is None else value_of(self.root)

    def block(self, key: str) -> dict[str, Any]:
        """The keys and values below a key at the top; {} if there is no such block."""
        entry = kept(self.top(), key)
        value = value_of(entry.value) if entry else None
        return {str(name): each for name, each in value.items()} if isinstance(value, dict) else {}

    def line_of(self, *keys: str) -> int | None:
        """The line of the entry that a YAML parser keeps for these keys, one below the other."""
        node, line = self.root, None
        for key in keys:
            found = kept(entries(node), key)
            if found is None:
                return line
            node, line = found.value, found.line
        return line


def entries(node: yaml.Node | None, around: tuple[str, ...] = ()) -> list[Entry]:
    """The entries of a mapping: its own, duplicates included, then those that `<<` merges into it."""
    return [*_own(node, around), *_merged(node, around, {id(node)})]


def kept(found: list[Entry], key: str) -> Entry | None:
    """The entry that a YAML parser keeps: the last of the mapping's own, or else the first that is merged."""
    own = [entry for entry in found if entry.key == key and not entry.merged]
    merged = [entry for entry in found if entry.key == key and entry.merged]
    return own[-1] if own else merged[0] if merged else None


def value_of(node: yaml.Node) -> Any:
    """The value that a YAML parser makes of a node; the node itself if it cannot."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError):
        return node
    finally:
        loader.dispose()


def is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _own(node: yaml.Node | None, around: tuple[str, ...]) -> Iterator[Entry]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                yield Entry(around, key.value, value, key.start_mark.line + 1)


def _merged(node: yaml.Node | None, around: tuple[str, ...], seen: set[int]) -> Iterator[Entry]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if not (isinstance(key, yaml.ScalarNode) and key.tag == "tag:yaml.org,2002:merge"):
            continue
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if id(source) not in seen:
                seen.add(id(source))
                for entry in _own(source, around):
                    yield Entry(around, entry.key, entry.value, entry.line, merged=True)
                yield from _merged(source, around, seen)


def _walk(node: yaml.Node | None, around: tuple[str, ...], seen: set[int]) -> Iterator[Entry]:
    if node is None or id(node) in seen or len(around) > 50:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _walk(item, (*around, "-"), seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name != MERGE:
                yield Entry(around, name, value, key.start_mark.line + 1)
            yield from _walk(value, (*around, name), seen)


def nodes(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """A node and all below it, once each, in the order of the file."""
    seen: set[int] = set()
    waiting = [] if node is None else [node]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            waiting += reversed([each for pair in node.value for each in pair])


def scalars(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Every scalar below a node, keys included, with its line."""
    return ((each.value, each.start_mark.line + 1) for each in nodes(node) if isinstance(each, yaml.ScalarNode))
