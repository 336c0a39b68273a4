"""Computes every hash of a shared run again, as far as its files are on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from otr_plugin.command.console import UNREADABLE, Failure
from otr_plugin.command.sharing import MOST_BYTES, NAMES, RUN, SUMS
from otr_plugin.hosts.resources import resource_named, sha256

SAME, DIFFERS, UNKNOWN = "same", "differs", "cannot tell"


@dataclass(frozen=True)
class Check:
    name: str
    state: str
    note: str = ""


def checks(folder: Path, here: Path) -> list[Check]:
    """One for each file; `here` is the folder relative to which the recipe's paths are."""
    found = list(_of_files(folder))
    try:
        document = json.loads((folder / RUN).read_text(encoding="utf-8"))
        sections = document["meta_info"]
        sources = [each for name in ("model_info", "dataset_info", "other_info") for each in sections[name].values()]
        results, output = document["train_info"]["files"], document["run_info"]["train_config"].get("output_dir")
        for source in sources:
            found += _of_source(source, here)
        for name, entry in results.items() if (here / str(output)).is_dir() else ():
            found.append(_compared(f"{output}/{name}", entry, here / str(output) / name, f"{output}/{name}"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if all(check.state == SAME for check in found):  # it is as it was written, but not by this command
            raise Failure(f"{folder / RUN}: is not as `otr share` writes it", UNREADABLE) from None
    return found


def _of_files(folder: Path) -> Iterator[Check]:
    try:
        lines = (folder / SUMS).read_bytes()[:MOST_BYTES].decode("utf-8", "replace").splitlines()
    except OSError:
        raise Failure(f"{folder}: has no {SUMS}: name a folder that `otr share` has written", UNREADABLE) from None
    sums = {}
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if match is None or match[2] not in NAMES:
            yield Check(SUMS, DIFFERS, "a line is not as `otr share` writes it")
        else:
            sums[match[2]] = match[1]
    for name in NAMES:
        path = folder / name
        if name not in sums and (path.exists() or name == RUN):
            yield Check(name, DIFFERS, f"it is not listed in {SUMS}")
        elif name in sums and not path.is_file():
            yield Check(name, DIFFERS, "it is listed, but not there")
        elif name in sums:
            same = sha256(path) == sums[name]
            yield Check(name, SAME) if same else Check(name, DIFFERS, "it was changed after `otr share` wrote it")


def _of_source(source: dict[str, Any], here: Path) -> Iterator[Check]:
    name = str(source["name"])
    if not _is_below(name):
        yield Check(name, UNKNOWN, "it is outside the folder")
        return
    if not source["files"]:
        yield Check(name, UNKNOWN, "it was shared without hashes")
        return
    resource = resource_named(str(source["key"]), name, source["sha"], here)
    if resource is None or resource.path is None:
        note = "the hub's cache has no such commit" if source["kind"] == "hub" else "it is not here: put it there"
        yield Check(name, UNKNOWN, note)
        return
    for part, entry in source["files"].items():
        path = resource.path if resource.kind == "file" else resource.path / part
        yield _compared(name if resource.kind == "file" else f"{name}/{part}", entry, path, part)


def _compared(name: str, entry: dict[str, Any], path: Path, part: str) -> Check:
    if not _is_below(part):
        return Check(name, UNKNOWN, "it is outside the folder")
    if not path.is_file():
        return Check(name, UNKNOWN, "it is not here")
    if path.stat().st_size != entry["bytes"]:
        return Check(name, DIFFERS, f"it has {path.stat().st_size:,} bytes instead of {entry['bytes']:,}")
    return Check(name, SAME) if sha256(path) == entry["sha256"] else Check(name, DIFFERS, "its content is another")


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and not name.startswith("~")
