"""Switches OTR on and off in the text of a recipe, by edits of single lines: all other lines stay as they are.

A line that is switched off becomes a comment that holds it, so that `switched_off` can restore it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from otr_plugin.hosts.mentions import SETTINGS_KEY
from otr_plugin.hosts.recipe_text import value_of
from otr_plugin.hosts.swift.recipe import BLOCK, LOSS_TYPE, VARIABLE, VARIABLES

HEADER = "# One-Token Rollout, added by `otr add`; `otr remove` takes it out again."
MARK = "# off for otr: "
MARKED = re.compile(rf"^{re.escape(MARK)}(.*)$", re.MULTILINE)
NO_CONTENT = (
    *(yaml.KeyToken, yaml.BlockEndToken, yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken),
    *(yaml.StreamEndToken, yaml.DocumentEndToken, yaml.DocumentStartToken),
)


class CannotEditError(ValueError):
    """A recipe in which no edit of single lines does what is needed."""


def begin(node: yaml.Node) -> int:
    return int(node.start_mark.index)


def end(node: yaml.Node) -> int:
    return int(node.end_mark.index)


def is_flow(node: yaml.Node) -> bool:
    """Whether a list or a mapping is in brackets or braces."""
    return isinstance(node, yaml.SequenceNode | yaml.MappingNode) and bool(node.flow_style)


@dataclass(frozen=True)
class Pair:
    """A key at the top and its value; the indices of its first character and of the end of its content."""

    key: str
    value: yaml.Node
    start: int
    end: int

    def holds(self, nodes: Iterable[yaml.Node]) -> bool:
        """Whether the nodes are written in the pair, one after the other: none stands elsewhere, behind an alias."""
        marks = [self.start, *(mark for node in nodes for mark in (begin(node), end(node))), self.end]
        return marks == sorted(marks)


@dataclass
class Document:
    """The text of a recipe, its pairs, and the edits to make in it."""

    text: str
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    new_lines: list[str] = field(default_factory=list)  # after the last pair

    def __post_init__(self) -> None:
        # JSON allows tabs between tokens, YAML does not; neither allows them in a string of JSON.
        plain = self.text.replace("\t", " ") if self.text.lstrip().startswith("{") else self.text
        try:
            root, tokens = yaml.compose(plain, Loader=yaml.SafeLoader), list(yaml.scan(plain, Loader=yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise CannotEditError("with its lines switched on again, it is not YAML") from error
        if not isinstance(root, yaml.MappingNode) or not root.value:
            raise CannotEditError("the recipe should consist of keys and values")
        self.root = root
        content = [
            (token.start_mark.index, self._end_of(token)) for token in tokens if not isinstance(token, NO_CONTENT)
        ]
        starts = [begin(key) for key, _ in root.value]
        self.pairs = []
        for (key, value), (start, following) in zip(
            root.value, itertools.pairwise([*starts, len(self.text) + 1]), strict=True
        ):
            last = max(stop for first, stop in content if start <= first < following)
            name = key.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge") else ""
            self.pairs.append(Pair(name, value, start, last))
        self.dashes = [token.start_mark.index for token in tokens if isinstance(token, yaml.BlockEntryToken)]
        self.newline = "\r\n" if "\r\n" in self.text else "\n"
        first = next(
            token for token in tokens if isinstance(token, yaml.BlockMappingStartToken | yaml.FlowMappingStartToken)
        )
        self.indent = " " * first.start_mark.column

    def _end_of(self, token: yaml.Token) -> int:
        stop = int(token.end_mark.index)
        if isinstance(token, yaml.ScalarToken) and token.style in ("|", ">"):  # ends at the start of the next line
            stop -= len(re.search(r"(\r?\n)?\Z", self.text[:stop])[0])  # type: ignore[index] # it always matches
        return stop

    @property
    def is_flow(self) -> bool:
        return is_flow(self.root)

    def named(self, key: str) -> list[Pair]:
        return [pair for pair in self.pairs if pair.key == key]

    def only(self, key: str) -> Pair | None:
        """The pair of a key; None without it."""
        found = self.named(key)
        if not found and any(each.tag.endswith(":merge") and key in _keys(value) for each, value in self.root.value):
            raise CannotEditError(f"`{key}` is merged by `<<`")
        if len(found) > 1:
            raise CannotEditError(f"`{key}` stands twice")
        return found[0] if found else None

    # Lines

    def line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def line_end(self, index: int) -> int:
        """The start of the line after the one with this index."""
        return self.text.find("\n", index) + 1 or len(self.text)

    def lines_of(self, start: int, stop: int) -> tuple[int, int]:
        return self.line_start(start), self.line_end(stop)

    def indent_of(self, index: int) -> str:
        before = self.text[self.line_start(index) : index]
        if before.strip(" "):
            raise CannotEditError("a list or a block begins on the line of its key")
        return before

    def switch_off(self, start: int, stop: int) -> None:
        """Turn lines into comments that hold them."""
        first, last = self.lines_of(start, stop)
        for line in re.finditer(r".*(?:\n|\Z)", self.text[first:last]):
            if line[0]:
                self.edits.append((first + line.start(), first + line.start(), MARK))

    def insert_lines(self, after: int, lines: Sequence[str]) -> None:
        place = self.line_end(after)
        joined = self.newline.join(lines)
        at_end = self.text[place - 1] != "\n"  # the file's last line has no line break, and gets none
        self.edits.append((place, place, self.newline + joined if at_end else joined + self.newline))

    def delete_lines(self, start: int, stop: int) -> None:
        self.edits.append((*self.lines_of(start, stop), ""))

    def result(self) -> str:
        if self.new_lines:
            lines = [self.indent + line for line in (HEADER, *self.new_lines)]
            last = self.pairs[-1]
            if getattr(last.value, "style", None) in ("|", ">") and last.end == len(
                self.text
            ):  # a line break would be part of its text
                place = self.line_start(last.start)
                self.edits.append((place, place, "".join(line + self.newline for line in lines)))
            else:
                self.insert_lines(last.end, lines)
        text = self.text
        for start, stop, new in reversed(self._merged()):
            if stop == len(self.text) and not new and start < stop and not self.text.endswith("\n"):
                start -= len(re.search(r"(\r?\n)?\Z", text[:start])[0])  # type: ignore[index] # it always matches
            text = text[:start] + new + text[stop:]
        return text

    def _merged(self) -> list[tuple[int, int, str]]:
        """The edits in their order, with deletions that touch as one. New lines come before a line that is marked."""
        merged: list[tuple[int, int, str]] = []
        for start, stop, new in sorted(self.edits, key=lambda edit: (*edit[:2], edit[2] == MARK)):
            if merged and start < stop and start <= merged[-1][1] and not new and not merged[-1][2]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]), "")
            else:
                merged.append((start, stop, new))
        return merged


def _keys(node: yaml.Node) -> set[str]:
    found = value_of(node)
    blocks = found if isinstance(found, list) else [found]
    return {str(key) for block in blocks if isinstance(block, Mapping) for key in block}


def in_yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6).split("\n")[0])


# On


@dataclass(frozen=True)
class Request:
    """What to write: settings, None for none of OTR; and what to switch off: keys, and plugins by their class."""

    in_variables: bool  # as ms-swift reads them
    settings: Mapping[str, Any] | None
    off: Sequence[str] = ()
    off_plugins: Callable[[Any], bool] = lambda name: False


def switched_on(text: str, request: Request) -> str:
    """The recipe with OTR. It must not have OTR before."""
    if any(line.strip().startswith((HEADER, MARK)) for line in text.splitlines()):
        raise CannotEditError("it has comments that an earlier `otr add` made: run `otr remove` first")
    document = Document(text)
    if document.is_flow:
        _switch_on_in_flow(document, request)
        return document.result()
    for key in request.off:
        document.only(key)
        for pair in document.named(key):
            document.switch_off(pair.start, pair.end)
    if request.in_variables:
        if request.settings is not None:
            _replace(document, "loss_type", f"loss_type: {LOSS_TYPE}")
            _add_variables(document, request.settings)
    else:
        _edit_plugins(document, request)
        if request.settings is not None:
            document.new_lines.append(f"{SETTINGS_KEY}:")
            document.new_lines += [f"  {name}: {in_yaml(value)}" for name, value in request.settings.items()]
    return document.result()


def _replace(document: Document, key: str, line: str) -> None:
    if pair := document.only(key):
        document.switch_off(pair.start, pair.end)
    document.new_lines.append(line)


def _edit_plugins(document: Document, request: Request) -> None:
    """Add otr to `plugins:`, and switch other plugins off, in a list as it is written or in a new one."""
    pair = document.only("plugins")
    wanted = [SETTINGS_KEY] if request.settings is not None else []
    if pair is None:
        if wanted:
            document.new_lines.append(f"plugins: [{SETTINGS_KEY}]")
        return
    node = pair.value
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    off = [item for item in items if request.off_plugins(value_of(item))]
    if not wanted and not off:
        return
    if items and pair.holds(items):
        if is_flow(node) and not off:
            document.edits.append((end(items[-1]), end(items[-1]), f", {SETTINGS_KEY}"))
            return
        if not is_flow(node):
            dash = next(index for index in document.dashes if index >= pair.start)
            if wanted:
                document.insert_lines(pair.end, [f"{document.indent_of(dash)}- {SETTINGS_KEY}"])
            if wanted or len(off) < len(items):
                for item in off:
                    document.switch_off(begin(item), end(item))
                return
    value = value_of(node)
    names = value if isinstance(value, list) else [] if value is None else [value]
    names = [name for name in names if not request.off_plugins(name)] + wanted
    document.switch_off(pair.start, pair.end)
    if names:
        document.new_lines.append(f"plugins: {in_yaml(names)}")


def _add_variables(document: Document, settings: Mapping[str, Any]) -> None:
    variables = {f"{VARIABLE}{name.upper()}": value for name, value in settings.items()}
    pair = document.only(BLOCK)
    pairs = pair.value.value if pair and isinstance(pair.value, yaml.MappingNode) else []
    if pair and pairs:
        if not pair.holds([each for both in pairs for each in both]):
            raise CannotEditError(f"`{BLOCK}` holds an alias")
        if is_flow(pair.value):
            last = end(pairs[-1][1])
            document.edits.append((last, last, "".join(f", {name}: {in_yaml(v)}" for name, v in variables.items())))
        else:
            indent = document.indent_of(begin(pairs[0][0]))
            document.insert_lines(pair.end, [f"{indent}{name}: {in_yaml(value)}" for name, value in variables.items()])
        return
    _replace(document, BLOCK, f"{BLOCK}:")
    document.new_lines += [f"  {name}: {in_yaml(value)}" for name, value in variables.items()]


def _switch_on_in_flow(document: Document, request: Request) -> None:
    """In JSON, or in a YAML file in braces: OTR's pairs come first. There are no lines to switch off."""
    plugins = document.only("plugins")
    listed = plugins.value.value if plugins and isinstance(plugins.value, yaml.SequenceNode) else []
    if off := [*filter(document.only, request.off), *(n for n in map(value_of, listed) if request.off_plugins(n))]:
        raise CannotEditError(f"it is in braces, where no line can be switched off: remove {', '.join(off)}")
    if request.settings is None:
        return
    new: dict[str, Any] = {}
    if request.in_variables:
        if document.only("loss_type"):
            raise CannotEditError("it is in braces, where no line can be switched off: remove `loss_type`")
        new["loss_type"] = LOSS_TYPE
        variables = {f"{VARIABLE}{name.upper()}": value for name, value in request.settings.items()}
        if pair := document.only(BLOCK):
            pairs = pair.value.value if isinstance(pair.value, yaml.MappingNode) else []
            if not pairs or not pair.holds([each for both in pairs for each in both]):
                raise CannotEditError(f"`{BLOCK}` holds no variables: remove it")
            last = end(pairs[-1][1])
            document.edits.append((last, last, f", {json.dumps(variables)[1:-1]}"))
        else:
            new[BLOCK] = variables
    else:
        if plugins is None:
            new["plugins"] = [SETTINGS_KEY]
        elif listed and plugins.holds(listed):
            document.edits.append((end(listed[-1]), end(listed[-1]), f', "{SETTINGS_KEY}"'))
        else:
            raise CannotEditError("`plugins` is no list of names: write it as a list")
        new[SETTINGS_KEY] = dict(request.settings)
    first = document.pairs[0].start
    document.edits.append((first, first, json.dumps(new)[1:-1] + ", "))


def with_settings(text: str, in_variables: bool, settings: Mapping[str, Any]) -> str:
    """A recipe that has OTR, with other settings."""
    document = Document(text)
    block = document.only(BLOCK if in_variables else SETTINGS_KEY)
    pairs = block.value.value if block and isinstance(block.value, yaml.MappingNode) else []
    if not block or not pairs or not block.holds([each for both in pairs for each in both]):
        raise CannotEditError("it has no block of settings: run `otr remove` and `otr add`")
    lines = []
    for name, value in settings.items():
        key = f"{VARIABLE}{name.upper()}" if in_variables else name
        written = [node for each, node in pairs if isinstance(each, yaml.ScalarNode) and each.value == key]
        if written:
            document.edits.append((begin(written[-1]), end(written[-1]), in_yaml(value)))
        else:
            lines.append(f"{key}: {in_yaml(value)}")
    if lines and is_flow(block.value):
        document.edits.append((end(pairs[-1][1]), end(pairs[-1][1]), "".join(f", {line}" for line in lines)))
    elif lines:
        indent = document.indent_of(begin(pairs[0][0]))
        document.insert_lines(block.end, [indent + line for line in lines])
    return document.result()


# Off


def switched_off(text: str, in_variables: bool, is_otr: Callable[[Any], bool]) -> str:
    """The recipe without OTR, with every line that was switched off for it."""
    restored: list[range] = []
    pieces, length, last = [], 0, 0
    for line in MARKED.finditer(text):
        pieces += [text[last : line.start()], line[1]]
        length += line.start() - last
        restored.append(range(length, length + len(line[1])))
        length, last = length + len(line[1]), line.end()
    document = Document("".join(pieces) + text[last:])
    for line in re.finditer(r".+", document.text):
        if line[0].strip() == HEADER:
            document.delete_lines(line.start(), line.start())
    here = {pair.key for pair in document.pairs if any(pair.start in lines for lines in restored)}
    for pair in document.pairs:
        if any(pair.start in lines for lines in restored):
            continue
        if in_variables:
            _remove_from_swift(document, pair, here)
        elif pair.key == SETTINGS_KEY or pair.key.startswith(f"{SETTINGS_KEY}."):
            _remove(document, pair)
        elif pair.key == "plugins":
            _remove_plugin(document, pair, here, is_otr)
    return document.result()


def _remove(document: Document, pair: Pair) -> None:
    if not document.is_flow:
        document.delete_lines(pair.start, pair.end)
        return
    gone = [pair.start for pair in document.pairs].index(pair.start)
    following = document.pairs[gone + 1 :]
    if following:
        document.edits.append((pair.start, following[0].start, ""))
    elif gone:
        document.edits.append((end(document.pairs[gone - 1].value), end(pair.value), ""))
    else:
        document.edits.append((pair.start, end(pair.value), ""))


def _remove_plugin(document: Document, pair: Pair, here: set[str], is_otr: Callable[[Any], bool]) -> None:
    items = pair.value.value if isinstance(pair.value, yaml.SequenceNode) else [pair.value]
    gone = [item for item in items if is_otr(value_of(item))]
    if pair.key in here or len(gone) == len(items) > 0:
        _remove(document, pair)
    elif gone and not pair.holds(items):
        raise CannotEditError("`plugins:` holds an alias")
    else:
        _remove_parts(document, is_flow(pair.value), [[item] for item in items], [[item] for item in gone])


def _remove_from_swift(document: Document, pair: Pair, here: set[str]) -> None:
    if pair.key == "loss_type" and value_of(pair.value) in (LOSS_TYPE, [LOSS_TYPE]):
        _remove(document, pair)
    elif pair.key == BLOCK and isinstance(pair.value, yaml.MappingNode):
        pairs = [list(both) for both in pair.value.value]
        gone = [both for both in pairs if both[0].value in VARIABLES]
        if pair.key in here or (gone and len(gone) == len(pairs)):
            _remove(document, pair)
        elif gone and not pair.holds(itertools.chain(*pairs)):
            raise CannotEditError(f"`{BLOCK}` holds an alias")
        else:
            _remove_parts(document, is_flow(pair.value), pairs, gone)


def _remove_parts(document: Document, is_flow: bool, parts: list[Any], gone: list[Any]) -> None:
    """Remove items of a list, or pairs of a mapping, with their commas or lines."""
    for i, part in enumerate(parts):
        if part not in gone:
            continue
        if not is_flow:
            document.delete_lines(begin(part[0]), end(part[-1]))
        elif all(each in gone for each in parts[:i]):
            document.edits.append((begin(part[0]), begin(parts[i + 1][0]), ""))
        else:
            document.edits.append((end(parts[i - 1][-1]), end(part[-1]), ""))


def with_value(text: str, key: str, change: Callable[[Any], Any]) -> str:
    """The recipe with another value of a key that holds text."""
    document = Document(text)
    pair = document.only(key)
    if pair is None or not isinstance(pair.value, yaml.ScalarNode) or not pair.holds([pair.value]):
        raise CannotEditError(f"it has no `{key}` of its own")
    value = change(value_of(pair.value))
    new = json.dumps(value) if document.is_flow else in_yaml(value)
    document.edits.append((begin(pair.value), end(pair.value), new))
    return document.result()
