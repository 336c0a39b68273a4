"""A YAML document as a tree, which is written in any of YAML's styles; every pair keeps the lines that it stands on.

The writer is the generator's own, and not PyYAML's: a recipe by a person has comments, anchors, odd indentation, and
mistakes that no YAML library would write.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass
class Scalar:
    """A value, and how the file spells it; `spelling` is chosen by `styles.py` where it is None."""

    value: Any
    spelling: str | None = None
    quotable: bool = False  # the reader of this value accepts a number in quotes


@dataclass
class TextBlock:
    """A string as a literal block: the lines below `key: |`."""

    lines: list[str]


@dataclass
class Sequence:
    items: list[Node]
    flow: bool | None = None
    indented: bool = True


@dataclass
class Mapping:
    pairs: list[Pair]
    flow: bool | None = None
    wrapped: bool = False  # a flow mapping with one pair on each line
    tag: str = ""  # written before the mapping: an anchor, or a tag such as !!map

    def __getitem__(self, name: str) -> Pair:
        return next(pair for pair in self.pairs if pair.name == name)

    def __contains__(self, name: str) -> bool:
        return any(pair.name == name for pair in self.pairs)

    def remove(self, pair: Pair) -> None:
        self.pairs = [other for other in self.pairs if other is not pair]  # equal pairs may stand twice

    def insert_after(self, pair: Pair, new: Pair) -> None:
        place = next(i for i, other in enumerate(self.pairs) if other is pair)
        self.pairs.insert(place + 1, new)


Node = Scalar | TextBlock | Sequence | Mapping


@dataclass(eq=False)
class Pair:
    """A key with its value; or, with `raw`, lines that stand in the file as they are."""

    name: str
    value: Node
    spelling: str | None = None  # the key's spelling
    explicit: bool = False  # `? key` and `: value` on lines of their own
    comment: str = ""
    above: list[str] = field(default_factory=list)  # lines of comment above the key, or empty lines
    raw: list[str] | None = None
    line: int = 0  # the line that the key stands on, from 1; set by `write`
    last_line: int = 0  # the last line of its value


@dataclass
class Layout:
    """What concerns the whole file."""

    step: int = 2
    newline: str = "\n"
    start: str = ""  # such as `---`
    end: str = "\n"
    mark: bool = False  # a byte order mark
    json: bool = False


def pairs_in(node: Node) -> Iterator[Pair]:
    """Every pair of the tree."""
    if isinstance(node, Mapping):
        for pair in node.pairs:
            yield pair
            yield from pairs_in(pair.value)
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from pairs_in(item)


def raw(line: str) -> Pair:
    return Pair("", Scalar(None), raw=[line])


def node_of(value: Any) -> Node:
    """The tree of a value that consists of dicts, lists and scalars."""
    if isinstance(value, dict):
        return Mapping([Pair(key, node_of(item)) for key, item in value.items()])
    if isinstance(value, list):
        return Sequence([node_of(item) for item in value])
    if isinstance(value, Scalar | TextBlock | Sequence | Mapping):
        return value
    return Scalar(value)


def write(document: Mapping, layout: Layout) -> str:
    """The text of the file. Sets `line` of every pair."""
    writer = _Writer(layout)
    if layout.json:
        writer.json(document, 0)
    else:
        if layout.start:
            writer.put(f"{layout.start}\n")
        if document.flow:
            writer.flow(document, 0)
        else:
            writer.block_mapping(document, 0)
    text = "".join(writer.parts).rstrip("\n") + layout.end
    return ("\ufeff" if layout.mark else "") + text.replace("\n", layout.newline)


class _Writer:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.parts: list[str] = []
        self.line = 1

    def put(self, text: str) -> None:
        self.parts.append(text)
        self.line += text.count("\n")

    # Block style

    def block_mapping(self, mapping: Mapping, indent: int, started: bool = False) -> None:
        """`started`: the first key continues a line, as after `- `."""
        margin = " " * indent
        for pair in mapping.pairs:
            if pair.raw is not None:
                pair.line = self.line
                self.put("".join(f"{line}\n" for line in pair.raw))
                pair.last_line = self.line - 1
                continue
            if not started:
                self.put("".join(f"{margin}{line}".rstrip(" ") + "\n" for line in pair.above))
                self.put(margin)
            started = False
            pair.line = self.line
            key = _key(pair)
            if pair.explicit and not _is_block(pair.value):
                self.put(f"? {key}\n{margin}: ")
            else:
                self.put(f"{key}:")
            self.block_value(pair.value, indent, pair.comment, space=not (pair.explicit and not _is_block(pair.value)))
            pair.last_line = self.line - 1

    def block_value(self, value: Node, indent: int, comment: str, space: bool = True) -> None:
        gap, note = " " if space else "", f"  # {comment}" if comment else ""
        match value:
            case TextBlock():
                margin = " " * (indent + self.layout.step)
                self.put(f"{gap}|{note}\n" + "".join(f"{margin}{line}\n" for line in value.lines))
            case Mapping() if _is_block(value):
                self.put(f"{gap}{value.tag}{note}\n" if value.tag else f"{note}\n")
                self.block_mapping(value, indent + self.layout.step)
            case Sequence() if _is_block(value):
                self.put(f"{note}\n")
                inner = indent + (self.layout.step if value.indented else 0)
                for item in value.items:
                    self.put(" " * inner + "-")
                    if isinstance(item, Mapping) and _is_block(item):
                        self.put(" ")
                        self.block_mapping(item, inner + 2, started=True)
                    else:
                        self.block_value(item, inner + 2, "")
            case _:
                before = self.parts.copy(), self.line
                self.put(gap)
                self.flow(value, indent)
                if "".join(self.parts[len(before[0]) :]).strip() == "":  # an empty value leaves no space behind
                    self.parts, self.line = before
                self.put(f"{note}\n")

    # Flow style

    def flow(self, value: Node, indent: int) -> None:
        match value:
            case Scalar():
                self.put(_scalar(value))
            case TextBlock():
                self.put(json.dumps("\n".join(value.lines) + "\n"))
            case Sequence():
                self._items(value, indent, self.flow)
            case Mapping():
                inside = "\n" + " " * (indent + self.layout.step)
                self.put((f"{value.tag} " if value.tag else "") + "{")
                for i, pair in enumerate(value.pairs):
                    self.put(("," if value.wrapped else ", ") if i else "")
                    self.put(inside if value.wrapped else "")
                    pair.line = self.line
                    self.put(f"{_key(pair)}: ")
                    self.flow(pair.value, indent + self.layout.step)
                    pair.last_line = self.line
                self.put("}")

    def _items(self, value: Sequence, indent: int, write: Callable[[Node, int], None]) -> None:
        self.put("[")
        for i, item in enumerate(value.items):
            self.put(", " if i else "")
            write(item, indent)
        self.put("]")

    # JSON

    def json(self, value: Node, indent: int) -> None:
        margin = " " * (indent + self.layout.step)
        match value:
            case Scalar():
                self.put(json.dumps(value.value))
            case TextBlock():
                self.put(json.dumps("\n".join(value.lines) + "\n"))
            case Sequence():
                self._items(value, indent, self.json)
            case Mapping():
                self.put("{")
                for i, pair in enumerate(value.pairs):
                    self.put(",\n" if i else "\n")
                    pair.line = self.line
                    self.put(f"{margin}{json.dumps(pair.name)}: ")
                    self.json(pair.value, indent + self.layout.step)
                    pair.last_line = self.line
                self.put(f"\n{' ' * indent}}}" if value.pairs else "}")


def _is_block(value: Node) -> bool:
    match value:
        case Mapping():
            return not value.flow and bool(value.pairs)
        case Sequence():
            return not value.flow and bool(value.items)
        case TextBlock():
            return True
        case Scalar():
            return False


def _key(pair: Pair) -> str:
    return plain(pair.name) if pair.spelling is None else pair.spelling


def _scalar(scalar: Scalar) -> str:
    return plain(scalar.value) if scalar.spelling is None else scalar.spelling


def plain(value: Any) -> str:
    """The value without quotes where YAML reads the same value then, and in double quotes elsewhere."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _plain_text(value) if isinstance(value, str) else str(value)


@functools.cache
def _plain_text(text: str) -> str:
    if text == text.strip():
        with contextlib.suppress(yaml.YAMLError):
            if yaml.safe_load(f"[{text}]") == [text] and yaml.safe_load(f"{{{text}: 1}}") == {text: 1}:
                return text
    return json.dumps(text)
