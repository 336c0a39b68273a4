"""The settings of a host among what a run's files hold, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Names, places, secrets, ms-swift's descriptions of Python objects, and what Axolotl estimates: no settings.
NAMES_ONLY = re.compile(
    r"(output_dir|logging_dir|run_name|dataset_prepared_path|tokenized_path|model_dir|best_model_checkpoint|project|"
    r"(push_to_)?hub.*|wandb.*|swanlab.*|.*(key|token|secret|password)|sample_packing_efficiency|"
    r"training_args|model_info|model_meta|template_meta|model_suffix|_.*|.*_version)$"
)


def of_the_host(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the host among flat settings: without names and places, and without those of OTR."""
    found = dict(values)
    if isinstance(found.get("callbacks"), list):  # of ms-swift, where OTR adds one
        others = [each for each in found.pop("callbacks") if not str(each).startswith("otr_")]
        found |= {"callbacks": others} if others else {}
    return {name: value for name, value in found.items() if not NAMES_ONLY.match(name) and not _is_of_otr(name, value)}


def _is_of_otr(name: str, value: Any) -> bool:
    return name.split(".")[0] in ("otr", "plugins") or "OTR_" in name or (name == "loss_type" and value == "otr")


def first_of(values: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of these settings that has one."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def in_one_line(value: Any) -> str | None:
    """The data or the model that a recipe names."""
    if isinstance(value, list):
        parts = [in_one_line(each) or "" for each in value]
        return ", ".join(part for part in parts if part) or None
    if isinstance(value, dict):
        kept = [str(value[name]) for name in ("path", "name", "split", "data_files") if value.get(name)]
        return " ".join(kept) or None
    return str(value) if value else None
