"""What a checkpoint says about OTR: the settings of the run that saved it, and how those of a resumed run differ.

The settings are plain JSON in the checkpoint's trainer_state.json, under the states of the trainer's callbacks, where
transformers keeps the entries of other packages. Loading a checkpoint needs nothing of this package. Imports neither
torch nor a host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otr_plugin import __version__
from otr_plugin.config import OTRConfig

STATE_FILE, STATES, STATE_KEY = "trainer_state.json", "stateful_callbacks", "OTR"


def to_save(config: OTRConfig, seed: int) -> dict[str, Any]:
    """The entry for a trainer's `state.stateful_callbacks`, in the form that the states of callbacks have there."""
    return {"args": {}, "attributes": {"settings": config.model_dump(), "seed": seed, "version": __version__}}


def settings_in_state(callback_states: Any) -> dict[str, Any] | None:
    """`settings`, `seed` and `version` from a trainer's `state.stateful_callbacks`; None if OTR saved none there."""
    entry = callback_states.get(STATE_KEY) if isinstance(callback_states, Mapping) else None
    saved = entry.get("attributes") if isinstance(entry, Mapping) else None
    return saved if isinstance(saved, dict) and isinstance(saved.get("settings"), dict) else None


def settings_in_checkpoint(folder: str | Path) -> dict[str, Any] | None:
    """`settings`, `seed` and `version` of the run that saved a checkpoint; None if it trained without OTR."""
    try:
        state = json.loads((Path(folder) / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the host raises for a checkpoint that it cannot read, and not every one has a state
        return None
    return settings_in_state(state.get(STATES)) if isinstance(state, dict) else None


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders checkpoint-N, the one with the highest N first."""
    numbered = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(output_dir).glob("checkpoint-*")]
    found = [(int(match[1]), path) for match, path in numbered if match and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The checkpoint from which transformers resumes."""
    return next(iter(checkpoints(output_dir)), None)


def changed_settings(callback_states: Any, config: OTRConfig, seed: int) -> str | None:
    """A warning for a resumed run: what differs from the run that saved the checkpoint. None if nothing does."""
    saved = settings_in_state(callback_states)
    if saved is None:
        return (
            "otr: the checkpoint holds no settings of OTR, so the run that saved it trained without OTR, or with a "
            "version that did not save them. This run continues it with OTR."
        )
    defaults = {name: field.default for name, field in OTRConfig.model_fields.items()}
    before = defaults | saved["settings"] | {"seed": saved.get("seed")}
    now = config.model_dump() | {"seed": seed}
    changes = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in before | now
        if before.get(name) != now.get(name)
    ]
    if not changes:
        return None
    versions = f" Saved by otr-plugin {saved.get('version')}, resumed by {__version__}."
    return (
        "otr: the run that is resumed had other settings of OTR than this one, which does not continue it as an "
        f"unbroken run would: {'; '.join(changes)}.{versions}"
    )


def resumed_without_otr(checkpoint: str | Path | bool | None, output_dir: str | Path | None) -> str | None:
    """A warning for a run without OTR that resumes from `checkpoint`, if a run with OTR saved it.

    True stands for the last checkpoint in `output_dir`, as in Trainer's argument resume_from_checkpoint.
    """
    if isinstance(checkpoint, bool):
        checkpoint = last_checkpoint(output_dir) if checkpoint and output_dir else None
    saved = settings_in_checkpoint(checkpoint) if checkpoint else None
    if saved is None:
        return None
    settings = {name: value for name, value in saved["settings"].items() if value != _default(name)}
    return (
        f"otr: {checkpoint} was saved by a run with OTR (settings other than the defaults: {settings}), and this run "
        "resumes it without OTR. Add the plugin and its settings to the recipe, unless plain SFT is what you want."
    )


def _default(name: str) -> Any:
    return OTRConfig.model_fields[name].default if name in OTRConfig.model_fields else None
