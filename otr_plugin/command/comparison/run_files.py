"""Reads the files that hosts write beside a model, in bounded memory; what cannot be read is as if absent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 256 * 1024**2  # of a log: a million logged steps
MOST_BYTES_OF_A_CARD = 1024**2


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if there is none, or if it is too large or half written."""
    try:
        return json.loads(_text(path, MOST_BYTES))
    except (ValueError, RecursionError):
        return None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file with one JSON object a line; a line that is half written is left out."""
    found = []
    for line in _text(path, MOST_BYTES).splitlines():
        try:
            each = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(each, dict):
            found.append(each)
    return found


def _text(path: Path, most: int) -> str:
    try:
        if not path.is_file() or path.stat().st_size > most:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def seconds_in_log(path: Path) -> float | None:
    """The time of training in Axolotl's debug.log, which no other of its files has."""
    found = re.findall(r"'train_runtime': '?([\d.]+)", _text(path, MOST_BYTES))
    return float(found[-1]) if found else None


class ModelCard:
    """README.md, which the host writes when a run has ended: versions, data and, by Axolotl, the recipe."""

    def __init__(self, path: Path) -> None:
        self.text = _text(path, MOST_BYTES_OF_A_CARD)

    def versions(self) -> dict[str, str]:
        found = dict(re.findall(r"^- (TRL|PEFT|Transformers|Pytorch|Datasets|Tokenizers):? (\S+)$", self.text, re.M))
        axolotl = re.search(r"^axolotl version: `([^`]+)`", self.text, re.M)
        names = {"Pytorch": "torch"}
        versions = {names.get(name, name.lower()): version for name, version in found.items()}
        return versions | ({"axolotl": axolotl[1]} if axolotl else {})

    def recipe_text(self) -> str:
        """The recipe that Axolotl copies into the card, without the changes of its command line; "" without one."""
        found = re.search(r"^axolotl version: .*?^```yaml\n(.*?)^```", self.text, re.M | re.S)
        return found[1] if found else ""

    def recipe(self) -> dict[str, Any]:
        return _mapping(self.recipe_text())

    def facts(self) -> dict[str, Any]:
        """The model and the data that the card names."""
        front = re.match(r"---\n(.*?)^---$", self.text, re.M | re.S)
        head = _mapping(front[1]) if front else {}
        facts = {name: head[name] for name in ("base_model", "datasets") if head.get(name)}
        named = re.search(r" on the (\S+(?:, \S+)*(?: and the \S+)?) datasets?\.", self.text)
        if named and "datasets" not in facts:
            facts["datasets"] = named[1]
        return facts


def _mapping(source: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(source)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def flattened(value: dict[str, Any], prefix: str = "", deepest: int = 10) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, under names such as `otr.samples`; a list is one value."""
    for name, each in value.items():
        if isinstance(each, dict) and each and deepest:
            yield from flattened(each, f"{prefix}{name}.", deepest - 1)
        else:
            yield f"{prefix}{name}", each
