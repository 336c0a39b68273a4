"""What a recipe would fetch, run, send or reveal: a recipe is a program for its host, and may come from a stranger.

Only reads the text. A secret is never printed, only where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from otr_plugin.hosts.axolotl.recipe import is_class_name
from otr_plugin.hosts.recipe_text import RecipeText, nodes, scalars
from otr_plugin.hosts.resources import HUB_KEYS, HUB_NAME
from otr_plugin.hosts.secrets import COMMIT_KEYS, IN_ADDRESS, SECRET_KEYS, SECRETS, is_given

CODE_KEYS = ("external_plugins", "custom_register_path", "trainer_cls", "reward_funcs", "custom_modules_path")
UPLOAD_KEYS = ("push_to_hub", "hub_model_id", "push_dataset_to_hub")
# Variables that change which code a process loads, or where it connects to.
VARIABLES = re.compile(r"LD_\w+|PYTHON\w+|PATH|HF_ENDPOINT|\w*_PROXY|\w*_proxy|PIP_\w+|MODELSCOPE_DOMAIN")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
URL = re.compile(r"^[a-z][a-z0-9+.-]*://")


@dataclass(frozen=True)
class Finding:
    """`kind`: what would happen. One that is only `notable` is in nearly every recipe."""

    line: int
    kind: str
    what: str
    advice: str
    is_notable_only: bool = False


def warnings(text: RecipeText, source: str, folder: Path) -> list[Finding]:
    """The warnings of a recipe in the order of its lines; `folder` is where its host would start."""
    found = [*_of_keys(text, folder), *_duplicates(text)]
    named = {each.line for each in found if each.kind == "secret"}
    found += [each for each in _secrets_in(source) if each.line not in named]
    return sorted(dict.fromkeys(found), key=lambda each: each.line)


def _secrets_in(source: str) -> Iterator[Finding]:
    for number, line in enumerate(source.split("\n"), 1):
        if any(re.search(rf"\b{key}\b", line) for key in COMMIT_KEYS):
            continue
        for pattern in SECRETS:
            for match in pattern.finditer(line):
                yield Finding(number, "secret", f"{match[0][:4]}… ({len(match[0])} characters)", REVOKE)
        if IN_ADDRESS.search(line):
            yield Finding(number, "secret", "an address that gives access", REVOKE)


REVOKE = "revoke it, and take it out of the file"


def _of_keys(text: RecipeText, folder: Path) -> Iterator[Finding]:
    for entry in text.everywhere():
        key = entry.key
        words = list(scalars(entry.value))
        if key == "trust_remote_code" and [word.lower() for word, _ in words] in (["true"], ["yes"], ["on"]):
            yield Finding(entry.line, "runs code", f"{key}: true", "the model's repository may run any Python: read it")
        if entry.at_the_top and key == "plugins":
            for word, line in words:
                if not is_class_name(word) and not word.startswith("axolotl."):
                    yield Finding(
                        line, "runs code", f"plugins: {_short(word)}", "a module that is not the host's: read it"
                    )
        if key in CODE_KEYS:
            for word, line in words:
                yield Finding(line, "runs code", f"{key}: {_short(word)}", "code that is not the host's: read it")
        if key in UPLOAD_KEYS and words and words[0][0].lower() not in ("false", "null", "no", ""):
            yield Finding(entry.line, "uploads", f"{key}: {_short(words[0][0])}", "is the account yours?")
        if SECRET_KEYS.search(key) and words and is_given(words[0][0]):
            what = f"{key}: … ({len(words[0][0])} characters)"
            yield Finding(entry.line, "secret", what, REVOKE)
        if VARIABLES.fullmatch(key) and entry.around and entry.around[-1].lower() == "env":
            yield Finding(entry.line, "sets a variable", f"{key}: {_short(words[0][0] if words else '')}", CHANGES)
        if isinstance(entry.value, yaml.MappingNode) or _holds_mappings(entry.value):
            continue  # its own entries follow
        for word, line in words:
            yield from _of_value(key, word, line, folder)


CHANGES = "changes which code runs, or where the host connects to"


def _of_value(key: str, word: str, line: int, folder: Path) -> Iterator[Finding]:
    short = f"{key}: {_short(word)}"
    if URL.match(word):
        yield Finding(line, "fetches", short, "an address that is not a hub's: do you trust it?")
    elif re.match(r"^(/|~|[A-Za-z]:\\|\.\./)", word):
        yield Finding(
            line, "reads or writes outside", short, "a path on its author's machine: write one in your folder"
        )
    elif key in HUB_KEYS and HUB_NAME.match(word) and not (folder / word).exists():
        yield Finding(line, "fetches", short, "from a hub, or a folder that is not here", is_notable_only=True)
    if word.lower().endswith(PICKLES):
        yield Finding(line, "unpickles", short, "a pickle can run any code: take safetensors")
    if word.endswith(".py") and key not in CODE_KEYS:
        yield Finding(line, "runs code", short, "a Python file: read it")


def _holds_mappings(node: yaml.Node) -> bool:
    return any(isinstance(each, yaml.MappingNode) for each in nodes(node))


def _short(word: str) -> str:
    for pattern in SECRETS:
        word = pattern.sub(lambda match: f"{match[0][:4]}…", word)
    word = IN_ADDRESS.sub("…", word)
    return word if len(word) <= 60 else f"{word[:57]}..."


def _duplicates(text: RecipeText) -> Iterator[Finding]:
    for mapping in nodes(text.root):
        first: dict[str, int] = {}
        for key, _ in mapping.value if isinstance(mapping, yaml.MappingNode) else []:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                what = f"{_short(key.value)}: also on line {first[key.value]}"
                yield Finding(line, "duplicate", what, "hosts keep the last: keep one")
            first.setdefault(key.value, line)
