"""Runs of one host that faults interrupt: their recipes, their checkpoints, and how the host resumes them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.hosts.features import hosts
from benchmarks.hosts.features.host import Log
from benchmarks.hosts.features.twins import filled
from benchmarks.hosts.features.worker import Run, Worker
from otr_plugin.hosts.resume import STATE_FILE, last_checkpoint

STEPS, SAVE_STEPS, KEPT = 100, 2, 3  # an epoch has 48 steps, so every run crosses the end of two
SAVING = {
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": SAVE_STEPS,
    "save_total_limit": KEPT,
    "learning_rate": 0.001,
}
SETTINGS = {"samples": 16}
FIRST_SEED = 1  # the random state of processes that train from step 0

# What makes each host resume: keys that a recipe has from the start, or that name the checkpoint.
RESUMES_BY_ITSELF: dict[str, dict[str, Any]] = {
    "axolotl": {"auto_resume_from_checkpoints": True},
    "llamafactory": {"overwrite_output_dir": False},
}


class Runs:
    """One host in one folder. The model has dropout, so that a run that resumes needs the host's random state, too."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.host = name, hosts.of(name)
        self.driver = self.host.driver(folder)
        for config in folder.glob("*/config.json"):
            config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.1}))
        self.worker = Worker(name, self.driver, {})

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.worker.close()

    def keys(self, feature: str) -> dict[str, Any]:
        """The recipe of a feature of benchmarks/hosts/features, with checkpoints."""
        return self.host.recipe(self.host.features[feature]) | SAVING | RESUMES_BY_ITSELF.get(self.name, {})

    def start(
        self, run: str, keys: dict[str, Any], *, otr: bool, seed: int = FIRST_SEED, fault: str = "", clean: bool = True
    ) -> int:
        """Starts the run, or resumes it from its last checkpoint as the host does; returns the process's id.

        With `clean`, the last checkpoints are deleted first if they are broken.
        """
        last = remove_broken_checkpoints(self.output(run))[0] if clean else last_checkpoint(self.output(run))
        keys = keys | resume_keys(self.name, last)
        keys = filled(keys, {"{folder}": str(self.driver.folder)})
        path = self.driver.recipe(run, **(self.host.with_otr(keys, **SETTINGS) if otr else keys))
        return self.worker.start(path, seed=seed, fault=fault)

    def finish(self, run: str) -> Run:
        return self.worker.finish(self.output(run).with_suffix(".yaml"))

    def train(self, run: str, keys: dict[str, Any], **how: Any) -> Run:
        """Runs it to its end. `how`: the options of `start`."""
        self.start(run, keys, **how)
        return self.finish(run)

    def output(self, run: str) -> Path:
        return self.driver.folder / run

    def clear(self, run: str) -> None:
        shutil.rmtree(self.output(run), ignore_errors=True)


def resume_keys(host: str, checkpoint: Path | None) -> dict[str, Any]:
    """The keys that a person adds to resume a run from this checkpoint, its last."""
    if checkpoint is None or host in RESUMES_BY_ITSELF:
        return {}
    return {"resume_from_checkpoint": True if host == "transformers" else str(checkpoint)}


def is_whole(checkpoint: Path) -> bool:
    """Whether the checkpoint was written to its end. The state of the trainer is what is written last."""
    try:
        json.loads((checkpoint / STATE_FILE).read_text())
    except (OSError, ValueError):
        return False
    return True


def remove_broken_checkpoints(output: Path) -> tuple[Path | None, int]:
    """Deletes last checkpoints until one is whole; returns it, and how many were deleted.

    A run that has saved nothing starts in an empty folder.
    """
    deleted = 0
    while (last := last_checkpoint(output)) and not is_whole(last):
        shutil.rmtree(last)
        deleted += 1
    if last is None:
        shutil.rmtree(output, ignore_errors=True)
    return last, deleted


def step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


def outcome(output: Path) -> dict[str, Any]:
    """What a run that has ended leaves: a digest of its last checkpoint's weights, and what it logged by step."""
    checkpoint = last_checkpoint(output)
    assert checkpoint is not None, f"{output} has no checkpoint"
    assert step_of(checkpoint) == STEPS, checkpoint
    return {
        "weights": digest_of_weights(checkpoint),
        "log": training_log(json.loads((checkpoint / STATE_FILE).read_text())["log_history"]),
    }


def digest_of_weights(checkpoint: Path) -> str:
    """SHA-256 over the names and the bits of all saved weights."""
    import torch
    from safetensors.torch import load_file

    digest, files = hashlib.sha256(), sorted(checkpoint.glob("*.safetensors"))
    assert files, f"{checkpoint} has no weights"
    for file in files:
        for name, tensor in sorted(load_file(file).items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def training_log(log: Log) -> list[dict[str, float]]:
    """What training computed, without speeds and times; otr/hit_rate differs if a single draw does."""
    kept = re.compile(r"step|loss|grad_norm|eval_loss|otr/.*")
    return [{name: value for name, value in entry.items() if kept.fullmatch(name)} for entry in log if "loss" in entry]


def first_difference(log: list[dict[str, float]], other: list[dict[str, float]]) -> int | None:
    """The first step at which two logs differ."""
    for a, b in zip(log, other, strict=False):
        if a != b:
            return int(min(a["step"], b["step"]))
    return None if len(log) == len(other) else min(len(log), len(other)) + 1
