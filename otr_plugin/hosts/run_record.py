"""otr_run.json: what a run with OTR was, in its output folder. The first process writes it at the start and at the end.

The file holds the recipe as the host resolved it, with options of the command line and without secrets; and what the
recipe leaves open: versions, hardware, the commits and the files of models and data. `otr share` reads it. Imports
neither torch nor a host.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from otr_plugin.hosts.patching import trace
from otr_plugin.hosts.resources import resources_of
from otr_plugin.hosts.secrets import without_secrets, words_without_secrets

RECORD_FILE = "otr_run.json"
RECORD_VERSION = 1  # of the file's shape
PACKAGES = (
    *("otr-plugin", "torch", "transformers", "axolotl", "llamafactory", "trl", "ms-swift", "peft", "accelerate"),
    *("datasets", "tokenizers", "triton", "bitsandbytes", "liger-kernel", "deepspeed", "flash-attn"),
)

_recipes: dict[Path, tuple[str, dict[str, Any]]] = {}  # the host and the recipe, by the output folder of its run


def remember(host: str, recipe: Mapping[str, Any], output_dir: Any) -> None:
    """Keep a recipe that a host has read in this process until its run starts, which writes into `output_dir`."""
    if isinstance(output_dir, str | os.PathLike):
        _recipes[Path(output_dir).absolute()] = host, _plain(recipe)


def with_options(recipe: Mapping[str, Any], words: Sequence[str], without: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe with the options of a command line, such as `--seed 3`, `--seed=3`, `--packing`, in their places.

    Options that state the recipe's own value leave it as it is. `without` are names of options that are no keys.
    """
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values = found[name.replace("-", "_")] = [value] if equals else []
        else:
            values.append(word)
    changed = dict(recipe)
    for name, given in found.items():
        if name not in without and given != _as_words(recipe.get(name)):
            read = [_yaml(value) for value in given] or [True]
            changed[name] = read if len(read) > 1 or isinstance(recipe.get(name), list) else read[0]
    return changed


class RunRecord:
    """The file of one run. An error in writing it is a warning, because it is no reason to end a run."""

    def __init__(self, output_dir: str, warn: Callable[[str], Any]) -> None:
        self.path, self.warn = Path(output_dir) / RECORD_FILE, warn
        self.document: dict[str, Any] = {}
        self.started = time.monotonic()

    def start(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Write what is known when training starts; `facts` returns the trainer's part of it."""

        def document() -> dict[str, Any]:
            host, recipe = _recipes.get(self.path.parent.absolute(), ("transformers", None))
            cleaned, removed = without_secrets(recipe)
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            return {
                "record_version": RECORD_VERSION,
                "host": host,
                "status": "started",
                "created_at": now,
                "recipe": cleaned,
                "secrets_removed_from": removed,
                "command": words_without_secrets([Path(sys.argv[0]).name, *sys.argv[1:]]),
                "folder": str(Path.cwd()),
                "packages": {"python": platform.python_version()} | versions(),
                "system": {"system": sys.platform, "release": platform.release(), "machine": platform.machine()},
                "resources": [] if recipe is None else _resources(cleaned),
                **facts(),
            }

        self._write(document)

    def finish(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Add what is known when training has ended."""
        seconds = round(time.monotonic() - self.started, 3)
        if self.document:
            self._write(lambda: self.document | {"status": "finished", "seconds": seconds, **facts()})

    def _write(self, document: Callable[[], dict[str, Any]]) -> None:
        try:
            found = document()
            text = json.dumps(_plain(found), indent=2, ensure_ascii=False) + "\n"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_name(f".{RECORD_FILE}.part")
            part.write_text(text, encoding="utf-8")
            part.replace(self.path)
        except Exception as error:  # of any type: a library's object may not be as expected
            self.warn(
                f"otr: {self.path} could not be written, and `otr share` will lack it; training goes on: {error!r}"
            )
        else:
            self.document = found
            trace(f"wrote {self.path}")


def section(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A mapping in a record; {} if the record has none under this name."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _resources(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = resources_of(recipe, Path.cwd())
    return [{name: each for name, each in asdict(resource).items() if name != "path"} for resource in found]


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: a host's own types as their text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _as_words(value: Any) -> list[str]:
    """A value as ms-swift's command passes it to the process that trains."""
    if isinstance(value, list):
        return [str(each) for each in value]
    return [json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)]


def _yaml(word: str) -> Any:
    try:
        return yaml.safe_load(word)
    except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2026-13-01
        return word
