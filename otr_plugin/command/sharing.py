"""What a finished run was, from its output folder, as documents that can be published.

Reads JSON, YAML and the README.md of a run. No pickle is loaded: training_args.bin stays unread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from otr_plugin import __version__
from otr_plugin.command import conversion, files
from otr_plugin.command.card import card
from otr_plugin.command.comparison.run_files import ModelCard
from otr_plugin.command.console import CANNOT_TELL, SCHEMA_VERSION, UNREADABLE, Failure
from otr_plugin.command.edits import CannotEditError, with_value
from otr_plugin.command.placeholders import Placeholders
from otr_plugin.command.recipes import RecipeHost, host_of, recipe_of
from otr_plugin.hosts.recipe_text import RecipeText
from otr_plugin.hosts.resources import DATA_KEYS, MODEL_KEYS, Resource, resource_named, resources_of, sha256
from otr_plugin.hosts.resume import STATE_FILE, last_checkpoint, settings_in_checkpoint
from otr_plugin.hosts.run_record import RECORD_FILE, section
from otr_plugin.hosts.secrets import without_secrets, words_without_secrets

RECIPE, TWIN, RUN, CARD, SUMS = "recipe.yaml", "recipe-without-otr.yaml", "run.json", "README.md", "SHA256SUMS"
NAMES = (CARD, RECIPE, TWIN, RUN)  # the files that SUMS lists
HEADER = "# The recipe of a run, as its host resolved it. Paths in local/ are placeholders, which README.md lists.\n"
MOST_BYTES = 64 * 1024 * 1024  # of a JSON file in the run's folder
MOST_ENTRIES = 2000  # of the log
GROUPS = ("model", "dataset", "other")
WEIGHTS = ("*.safetensors", "adapter_config.json", "config.json", "tokenizer*.json", "chat_template.jinja")


@dataclass
class Run:
    """A run's folder, and what is found in it."""

    folder: Path
    host: RecipeHost
    recipe: dict[str, Any]
    record: dict[str, Any]  # otr_run.json; {} without one
    removed: list[str]  # the places of secrets in the recipe
    missing: list[str] = field(default_factory=list)

    def section(self, name: str) -> dict[str, Any]:
        return section(self.record, name)


def read_run(folder: Path, recipe_file: Path | None, host_name: str | None) -> Run:
    if not folder.is_dir():
        raise Failure(f"{folder}: is no folder: name the output folder of a run", UNREADABLE)
    record = _json(folder / RECORD_FILE)
    missing = [] if record else [f"{RECORD_FILE}, which a run with OTR writes: versions, hardware and time are unknown"]
    source, text = _recipe(folder, recipe_file, record, missing)
    host = host_of(text, source, host_name or (record.get("host") if recipe_file is None else None))
    recipe, removed = without_secrets(recipe_of(text))
    recorded = record.get("secrets_removed_from")
    removed += [str(each) for each in recorded] if isinstance(recorded, list) and recipe_file is None else []
    return Run(folder, host, recipe, record, removed, missing)


def documents(run: Run) -> dict[str, str]:
    """The files to publish, by name."""
    places = Placeholders()
    places.learn(run.recipe)
    recipe = places.in_value(run.recipe)
    text = HEADER + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)
    texts = {RECIPE: text}
    parsed = RecipeText(text, RECIPE)
    if run.host.read(parsed) is not None:
        plain = conversion.remove(text, parsed, run.host)
        with contextlib.suppress(CannotEditError):  # it has no output_dir; both runs then write to the host's default
            plain = with_value(plain, "output_dir", lambda folder: f"{str(folder).rstrip('/')}-sft")
        texts[TWIN] = plain
    described = _described(run, recipe, places)
    texts[RUN] = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    texts[CARD] = card(described, run.host.title, TWIN in texts)
    sums = [f"{hashlib.sha256(texts[name].encode()).hexdigest()}  {name}\n" for name in NAMES if name in texts]
    return texts | {SUMS: "".join(sums)}


def _recipe(folder: Path, given: Path | None, record: Mapping[str, Any], missing: list[str]) -> tuple[Path, RecipeText]:
    """The recipe, from the first place that has it: --recipe, the record, LLaMA Board's file, Axolotl's card."""
    if given is not None:
        return given, files.read(given)[1]
    path = folder / RECORD_FILE
    if isinstance(record.get("recipe"), dict):
        return path, RecipeText(yaml.safe_dump(record["recipe"], sort_keys=False), RECIPE)
    path = folder / "training_args.yaml"
    if path.is_file():
        return path, files.read(path)[1]
    path = folder / CARD
    text = ModelCard(path).recipe_text()
    if text:
        missing.append("changes by the command line: the recipe is that of Axolotl's card, which shows the file")
        return path, RecipeText(text, RECIPE)
    raise Failure(
        f"{folder}: no recipe is found there: it has no {RECORD_FILE}, which runs with OTR write. Name the recipe with "
        "--recipe FILE",
        CANNOT_TELL,
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON file of the run; {} if there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Failure(f"{path}: is no JSON of a run: remove it, or name another folder", UNREADABLE)
    return found


def _last_line(path: Path) -> dict[str, Any]:
    """The last line of a file of JSON lines, in which ms-swift sums a run up; {} without one."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return {}
    try:
        found = json.loads(path.read_bytes().splitlines()[-1])
    except (ValueError, IndexError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _described(run: Run, recipe: dict[str, Any], places: Placeholders) -> dict[str, Any]:
    """run.json, in the sections of the result files of PEFT's method_comparison."""
    checkpoint = last_checkpoint(run.folder)
    sources = [each | {"name": places.in_text(each["name"], "")} for each in _hashed(run)]
    command = run.record.get("command")
    words = words_without_secrets([str(each) for each in command]) if isinstance(command, list) else []
    own = {
        "run_info": {
            "created_at": run.record.get("created_at"),
            "total_time": run.record.get("seconds"),
            "experiment_name": run.folder.resolve().name,
            "host": run.host.name,
            "command": places.in_words(words),
            "train_config": recipe,
            "otr_config": _settings(run, checkpoint),
            "seeds": run.section("seeds"),
            "processes": run.record.get("processes"),
            "resumed_at_step": run.record.get("resumed_at_step"),
        },
        "train_info": _train_info(run, checkpoint),
        "meta_info": {
            **{f"{group}_info": {each["name"]: each for each in sources if _group(each) == group} for group in GROUPS},
            "tokenizer_info": {k: v for k, v in run.section("tokenizer").items() if k != "name"},
            "rows_info": {k: v for k, v in run.section("data").items() if k != "sources"},
            "package_info": run.section("packages"),
            "system_info": run.section("system") | run.section("hardware"),
        },
        "secrets_removed_from": run.removed,
        "missing": run.missing,
    }
    cleaned: dict[str, Any] = places.in_value(without_secrets(own)[0])
    return {
        "schema_version": SCHEMA_VERSION,
        **cleaned,
        "placeholders": {name: keys for name, keys in places.keys.items() if keys},
        "made_by": f"otr-plugin {__version__}",
    }


def _train_info(run: Run, checkpoint: Path | None) -> dict[str, Any]:
    memory, model, results = run.section("peak_memory"), run.section("model"), _results(run.folder, checkpoint)
    return {
        "status": run.record.get("status", "unknown"),
        "train_time": run.record.get("seconds"),
        "steps": run.record.get("steps_done"),
        "epochs": run.record.get("epochs_done"),
        "accelerator_memory_max": memory.get("device_reserved"),
        "accelerator_memory_allocated_max": memory.get("device_allocated"),
        "process_memory_max": memory.get("process"),
        "num_trainable_params": model.get("trained_parameters"),
        "num_total_params": model.get("parameters"),
        "file_size": sum(each["bytes"] for name, each in results.items() if name.endswith(".safetensors")) or None,
        "files": results,
        "metrics": _log(run, checkpoint),
    }


def _group(resource: Mapping[str, Any]) -> str:
    key = re.sub(r"\[\d+\]$", "", str(resource["key"])).rsplit(".", 1)[-1]
    if key in MODEL_KEYS:
        return "model"
    return "dataset" if key in (*DATA_KEYS, "data_files", "dataset_dir") else "other"


def _hashed(run: Run) -> list[dict[str, Any]]:
    """The models and data that the recipe names, with the hashes of their files."""
    started_in = run.record.get("folder")
    folder = Path(started_in) if isinstance(started_in, str) else Path.cwd()
    recorded = run.record.get("resources")
    before = {each.get("name"): each for each in recorded or [] if isinstance(each, dict)}
    found: list[Resource] = []
    for name, each in before.items():
        revision = each.get("revision") or ("main" if each.get("kind") == "hub" else None)
        resource = resource_named(str(each.get("key")), str(name), revision, folder)
        found.append(resource or Resource(str(each.get("key")), str(name), str(each.get("kind")), files=None))
    hashed = []
    for resource in found or resources_of(run.recipe, folder):
        entry: dict[str, Any] = {"key": resource.key, "name": resource.name, "kind": resource.kind}
        entry |= {"sha": resource.revision, "files": {}}
        then = (before.get(resource.name) or {}).get("files")
        if resource.path is None or resource.files is None:
            run.missing.append(f"hashes of {resource.key}: its files are not here, or too many")
        elif then and then != resource.files:
            run.missing.append(f"hashes of {resource.key}: its files were changed after the run")
        else:
            for name, stat in resource.files.items():
                path = resource.path if resource.kind == "file" else resource.path / name
                entry["files"][name] = {"bytes": stat["bytes"], "sha256": sha256(path)}
        hashed.append(entry)
    return hashed


def _settings(run: Run, checkpoint: Path | None) -> dict[str, Any] | None:
    if run.section("otr"):
        return run.section("otr")
    saved = settings_in_checkpoint(checkpoint or run.folder)
    return saved["settings"] if saved else None


def _log(run: Run, checkpoint: Path | None) -> list[Any]:
    """The log of the run: that of trainer_state.json or of ms-swift, or else the last entries in the record."""
    states = [_json(folder / STATE_FILE) for folder in (run.folder, checkpoint) if folder]
    for state in (*states, _last_line(run.folder / "logging.jsonl")):
        history = state.get("log_history")
        if isinstance(history, list) and history:
            every = -(-len(history) // MOST_ENTRIES)
            return history if every == 1 else [*history[::every], history[-1]]
    run.missing.append(f"the log: there is no {STATE_FILE}")
    return [each for each in (run.record.get("last_train_log"), run.record.get("last_eval_log")) if each]


def _results(folder: Path, checkpoint: Path | None) -> dict[str, dict[str, Any]]:
    """The trained weights and the tokenizer, in the run's folder or in its last checkpoint."""
    for place in (folder, checkpoint):
        paths = sorted({path for pattern in WEIGHTS for path in place.glob(pattern)}) if place else []
        if any(path.suffix == ".safetensors" for path in paths):
            names = {path.relative_to(folder).as_posix(): path for path in paths}
            return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in names.items()}
    return {}
