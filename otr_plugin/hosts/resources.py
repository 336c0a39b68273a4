"""The models and data that a recipe names: where they are here, which commit of a hub they are, and their files.

Reads names, sizes and bytes only: no file is parsed but LLaMA-Factory's list of data sets, and nothing is fetched.
Imports only the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Keys whose values are models or data sets: a folder, a file, or a name on a hub.
MODEL_KEYS = (
    *("base_model", "base_model_config", "tokenizer_config", "processor_config", "model_name_or_path", "model"),
    *("adapter_name_or_path", "lora_model_dir", "adapters", "ref_model", "teacher_model", "reward_model"),
    "resume_from_hub",
)
DATA_KEYS = (
    *("dataset", "datasets", "dataset_name", "eval_dataset", "test_datasets", "val_dataset", "path"),
    "pretraining_dataset",
)
HUB_KEYS = (*MODEL_KEYS, *DATA_KEYS)
LISTED_KEYS = ("dataset", "eval_dataset")  # of LLaMA-Factory: names in dataset_info.json
HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
REVISION_KEYS = ("revision", "revision_of_model", "model_revision", "dataset_revision")
WRITTEN_KEYS = ("output_dir", "dataset_prepared_path", "logging_dir", "tokenized_path", "cache_dir", "hub_model_id")
MOST_FILES = 1000  # of a folder


@dataclass
class Resource:
    """`key`: where the recipe names it. `files`: names and sizes, at most MOST_FILES; None if there are more."""

    key: str
    name: str
    kind: str  # file, folder, hub; path: it is not here
    path: Path | None = None  # where it is here
    revision: str | None = None  # the commit of a hub
    files: dict[str, dict[str, Any]] | None = field(default_factory=dict)


def resources_of(recipe: Mapping[str, Any], folder: Path) -> list[Resource]:
    """What a recipe names that is here, or in the hub's cache; `folder` is where its run was started."""
    found: dict[str, Resource] = {}
    for key, name, revision in [*_named(recipe, "", "", None), *_of_llamafactory(recipe, folder)]:
        resource = resource_named(key, name, revision, folder)
        if resource is not None:
            found.setdefault(resource.name, resource)
    return list(found.values())


def resource_named(key: str, name: str, revision: str | None, folder: Path) -> Resource | None:
    """The resource of this name, which may be one of a hub if there is a revision; None if it is nothing."""
    try:
        path = folder / Path(name).expanduser()
        if path.is_file():
            return Resource(key, name, "file", path, files={path.name: _stat(path)})
        if path.is_dir():
            return Resource(key, name, "folder", path, files=_files_below(path))
    except (OSError, ValueError, RuntimeError):  # a text that is no path, or the home of nobody
        return None
    if revision is None or "/" not in name:
        return None
    if not HUB_NAME.match(name):
        return Resource(key, name, "path")
    for kind in ("models", "datasets"):
        cached = _cache() / f"{kind}--{name.replace('/', '--')}"
        commit = _commit(cached, revision)
        snapshot = cached / "snapshots" / (commit or "none")
        if snapshot.is_dir():
            return Resource(key, name, "hub", snapshot, commit, _files_below(snapshot))
    return Resource(key, name, "hub")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _named(value: Any, key: str, at: str, revision: str | None) -> Iterator[tuple[str, str, str | None]]:
    """Place, name and revision of every text in the recipe that may name a model or data."""
    if isinstance(value, Mapping):
        own = next((str(value[name]) for name in REVISION_KEYS if value.get(name)), "main")
        for name, each in value.items():
            if name not in WRITTEN_KEYS and name != "dataset_dir":
                yield from _named(each, str(name), f"{at}.{name}".lstrip("."), own)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for i, each in enumerate(value):
            yield from _named(each, key, f"{at}[{i}]", revision)
    elif isinstance(value, str) and 0 < len(value) < 1000 and "\n" not in value:
        if key in HUB_KEYS:
            yield at, re.sub(r"^(HF|MS)::", "", value.partition("#")[0]), revision  # as ms-swift writes them
        elif "/" in value or "." in value:
            yield at, value, None


def _of_llamafactory(recipe: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str, str | None]]:
    """The data sets of LLaMA-Factory, whose recipes name entries of dataset_info.json."""
    where = recipe.get("dataset_dir", "data") if "stage" in recipe or "dataset_dir" in recipe else None
    if not isinstance(where, str):
        return
    listed = folder / Path(where).expanduser() / "dataset_info.json"
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    yield "dataset_dir", f"{where}/dataset_info.json", None
    for key in LISTED_KEYS:
        names = recipe.get(key) or []
        for name in names.split(",") if isinstance(names, str) else names:
            entry = entries.get(str(name).strip()) if isinstance(entries, dict) else None
            if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
                yield key, f"{where}/{entry['file_name']}", None
            elif isinstance(entry, dict) and isinstance(entry.get("hf_hub_url"), str):
                yield key, entry["hf_hub_url"], "main"


def _files_below(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Names and sizes, without hidden files and a run's checkpoints; None if there are too many to list."""
    found: dict[str, dict[str, Any]] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith((".", "checkpoint-")))
        for name in sorted(names):
            path = Path(place) / name
            if name.startswith(".") or not path.is_file():
                continue
            if len(found) == MOST_FILES:
                return None
            found[path.relative_to(folder).as_posix()] = _stat(path)
    return found


def _stat(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


def _cache() -> Path:
    """The cache of Hugging Face's hub, where its library would look for it."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(named) if named else Path(home) / "hub"


def _commit(cached: Path, revision: str) -> str | None:
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        return (cached / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return None
