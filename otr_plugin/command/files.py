"""Reads a recipe's file, and writes what a verb was told to write, in bounded time and memory, whatever the file holds.

A file that no host could read, or that is made to exhaust who reads it, ends in an error with its line.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from otr_plugin.command.console import UNREADABLE, Failure
from otr_plugin.hosts.recipe_text import RecipeText, nodes

MOST_BYTES = 256 * 1024
MOST_NODES = 20_000  # with every alias replaced by what it stands for
DEEPEST = 100
PLAIN_TAGS = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # of the keys `<<` and `=`

# What to do about some of PyYAML's messages.
ADVICE = {
    "'\\t' that cannot start": ": indent with spaces, not with a tab",
    "mapping values are not allowed": ": indent the line as those around it, or put a value with a colon into quotes",
}


def unreadable(path: Path, message: str) -> Failure:
    return Failure(f"{path}: {message}", UNREADABLE)


def read(path: Path) -> tuple[str, RecipeText]:
    """The file's text with its line endings, and the text parsed."""
    source = _decoded(path)
    text = RecipeText(source, path.name)
    if text.root is None:
        _explain(path, source)
    else:
        _require_bounds(path, text.root)
        _require_plain_tags(path, text.root)
    return source, text


def write(path: Path, content: str | bytes) -> None:
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror}", UNREADABLE) from None


def _decoded(path: Path) -> str:
    if not path.exists():
        raise unreadable(path, "there is no such file")
    if not path.is_file():
        raise unreadable(path, "is no file: name a recipe, such as recipe.yaml")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise unreadable(path, f"has {size:,} bytes; a recipe has at most {MOST_BYTES:,}. Is it data or a model?")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise unreadable(path, f"line {line} is not UTF-8, which hosts require: save the file as UTF-8") from None
    except OSError as error:
        raise unreadable(path, f"cannot be read: {error.strerror}") from None


def _explain(path: Path, source: str) -> None:
    """Raise the parser's reason why there is no recipe; return if the file is only empty."""
    try:
        yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = source[: error.position].count("\n") + 1
        message = (
            f"line {line} has the character #x{ord(source[error.position]):02x}, which YAML does not allow: remove it"
        )
        raise unreadable(path, message) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise unreadable(path, f"{place}is not YAML: {_reason(error)}") from None
    except RecursionError:
        raise unreadable(path, f"is nested too deeply: a recipe has at most {DEEPEST} levels") from None
    except (yaml.YAMLError, ValueError) as error:
        raise unreadable(path, f"is not YAML: {error}") from None


def _reason(error: yaml.MarkedYAMLError) -> str:
    """What the parser found, where the value that it was reading begins, and how to write it."""
    reason, begins = str(error.problem or error.context), error.context_mark
    if begins and error.problem_mark and begins.line != error.problem_mark.line and error.context:
        reason += f", {error.context} that begins on line {begins.line + 1}"
    return reason + next((advice for found, advice in ADVICE.items() if found in reason), "")


def _require_bounds(path: Path, root: yaml.Node) -> None:
    """Raise for aliases that multiply ("a billion laughs"), that hold themselves, and for deep nesting."""
    sizes: dict[int, int] = {}
    depths: dict[int, int] = {}
    open_nodes: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, is_done = waiting.pop()
        line = node.start_mark.line + 1
        inside = _inside(node)
        if is_done:
            open_nodes.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(each)] for each in inside)
            depths[id(node)] = 1 + max((depths[id(each)] for each in inside), default=0)
            if sizes[id(node)] > MOST_NODES:
                raise unreadable(path, f"line {line}: holds more than {MOST_NODES:,} values, aliases included")
            if depths[id(node)] > DEEPEST:
                raise unreadable(path, f"line {line}: is nested too deeply: a recipe has at most {DEEPEST} levels")
        elif id(node) in open_nodes:
            raise unreadable(path, f"line {line}: an alias stands for a value that holds the alias: remove it")
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            waiting += [(node, True), *((each, False) for each in inside)]


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _require_plain_tags(path: Path, root: yaml.Node) -> None:
    for node in nodes(root):
        if node.tag not in (*yaml.SafeLoader.yaml_constructors, *PLAIN_TAGS):
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            where = f"line {node.start_mark.line + 1}: the tag {tag!r}"
            raise unreadable(path, f"{where} makes an object of a program, which hosts refuse: remove the tag")
