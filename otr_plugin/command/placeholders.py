"""Replaces the paths of one machine by placeholders, which are paths relative to where a run starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "local"  # of every placeholder: local/model
WHOLE_PATH = re.compile(r"^(file://)?(~|/[^/\s]+/|[A-Za-z]:[\\/]|\.\.[\\/])")
HOMES = r"/home/|/Users/|/root/|[A-Za-z]:[\\/]+Users[\\/]+"
REST_OF_PATH = r"[^\s\"'`,;:)}\]<>]*"


class Placeholders:
    """`keys`: for each placeholder, the places in the recipe where it stands."""

    def __init__(self) -> None:
        self.keys: dict[str, list[str]] = {}
        self._of: dict[str, str] = {}
        home = re.escape(str(Path.home()).rstrip("/")) or "(?!)"
        self._homes = re.compile(rf"(?:{HOMES}|{home}(?=[\\/]|\b)){REST_OF_PATH}")

    def learn(self, value: Any) -> None:
        """Give every path in the value its placeholder: the shortest first, so that paths below it stay below it."""
        found = {path for path in _texts(value) if WHOLE_PATH.match(path) and "\n" not in path}
        for path in sorted(found, key=lambda path: (len(path), path)):
            self._placeholder(path, "")

    def in_value(self, value: Any, at: str = "") -> Any:
        """The value with placeholders; `at` is its place, such as `datasets[0].path`."""
        if isinstance(value, Mapping):
            return {
                self._in_text(str(name), at): self.in_value(each, f"{at}.{name}".lstrip("."))
                for name, each in value.items()
            }
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return [self.in_value(each, f"{at}[{i}]") for i, each in enumerate(value)]
        return self.in_text(value, at) if isinstance(value, str) else value

    def in_words(self, words: Sequence[str]) -> list[str]:
        """A command line: the program's name without its folder, and values of options such as `--model=/data/m`."""
        changed = []
        for word in words:
            option, equals, value = word.partition("=")
            changed.append(f"{option}={self.in_text(value, '')}" if equals else self.in_text(word, ""))
        return changed

    def in_text(self, text: str, at: str) -> str:
        """A path becomes its placeholder; any other text keeps all but the paths in somebody's home."""
        if WHOLE_PATH.match(text) and "\n" not in text:
            return self._placeholder(text, at)
        return self._in_text(text, at)

    def _in_text(self, text: str, at: str) -> str:
        return self._homes.sub(lambda match: self._placeholder(match[0], at), text)

    def _placeholder(self, path: str, at: str) -> str:
        path = path.rstrip("/\\")
        if path not in self._of:
            above = next(
                (each for each in sorted(self._of, key=len, reverse=True) if path.startswith(f"{each}/")), None
            )
            name = _name_of(path)
            same = [each for each in self._of.values() if re.fullmatch(rf"{FOLDER}/{re.escape(name)}(-\d+)?", each)]
            if above is not None:
                self._of[path] = self._of[above] + path[len(above) :]
            else:
                self._of[path] = f"{FOLDER}/{name}-{len(same) + 1}" if same else f"{FOLDER}/{name}"
        places = self.keys.setdefault(self._of[path], [])
        if at and at not in places:
            places.append(at)
        return self._of[path]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _name_of(path: str) -> str:
    """The last part of the path, unless that names a person: the home folder itself."""
    parts = [part for part in re.split(r"[\\/]+", path.removeprefix("file://")) if part]
    is_home = (
        path == str(Path.home())
        or (len(parts) == 1 and parts[0].startswith("~"))
        or (len(parts) <= 3 and parts[-2:-1] and parts[-2] in ("home", "Users"))
    )
    if parts[-2:-1] == ["snapshots"]:  # of the hub's cache: models--org--name/snapshots/COMMIT
        parts = parts[:-2]
    name = re.sub(r"[^\w.-]+", "-", parts[-1]).strip("-.") if parts and not is_home else ""
    return name or "folder"
