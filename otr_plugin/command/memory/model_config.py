"""The config of a recipe's model: a file that is given, a folder, the hub's cache, or the hub. No weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from otr_plugin.command.console import CANNOT_TELL, UNREADABLE, Failure

TIMEOUT = 10  # seconds, for the hub


def config_of(model: str, given: Path | None) -> Any:
    """transformers' config of the model of this name. `given` is its config.json, or a folder with several."""
    path = _given(model, given) if given is not None else _found(model)
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: is no config of a model: {error}", UNREADABLE) from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise Failure(f"{path}: has no model_type: give the model's config.json", UNREADABLE)
    return _parsed(path, values)


def _parsed(path: Path, values: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = values["model_type"]
    reason = None
    if kind not in CONFIG_MAPPING:
        reason = "the transformers that is installed here has no such model, and code from a hub is not run"
    elif "quantization_config" in values:
        reason = "its weights are stored quantised, which is not modelled: give the config of the original model"
    elif CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reason = "it is no causal language model"
    if reason:
        raise Failure(f"{path}: cannot tell how much memory a {kind} takes: {reason}", CANNOT_TELL)
    return CONFIG_MAPPING[kind].from_dict(values)


def _given(model: str, given: Path) -> Path:
    name = model.rstrip("/").rpartition("/")[2]
    candidates = [given, given / f"{name}.json", given / name / "config.json", given / "config.json"]
    for path in candidates:
        if path.is_file():
            return path
    files = ", ".join(sorted(path.name for path in given.glob("*.json"))) if given.is_dir() else ""
    others = f". It has {files}: name the file, if one has the model's shape" if files else ""
    raise Failure(f"--config {given}: is no file, and no folder with {name}.json or config.json{others}", UNREADABLE)


def _found(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model) / "config.json"
    reason = "it is no folder here"
    if not model.startswith((".", "/", "~")):
        try:
            return _from_the_hub(model)
        except Exception as error:  # of huggingface_hub, of its HTTP library, or of the system
            reason = f"{reason}, not in the hub's cache, and the hub was not reached ({type(error).__name__})"
    message = f"the config of {model!r} was not found: {reason}"
    raise Failure(f"{message}. Give it with --config FILE: config.json of the model's repository", UNREADABLE)


def _from_the_hub(model: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json")
    if isinstance(cached, str):
        return Path(cached)
    return Path(hf_hub_download(model, "config.json", etag_timeout=TIMEOUT))
