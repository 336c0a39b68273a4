"""The steps of a run's log, from the files in which hosts keep it, by step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from otr_plugin.command.comparison.run_files import read_json
from otr_plugin.hosts.resume import STATE_FILE, checkpoints

SWIFT_LINE = re.compile(r"(\d+)/(\d+)$")


class Log:
    """Entries by step. A file that is read later adds the steps that the files before did not have."""

    def __init__(self) -> None:
        self.entries: dict[tuple[int, bool], dict[str, float]] = {}

    def add(self, log: list[dict[str, Any]]) -> bool:
        """Whether there was a new entry. Later ones of one file, after a resume, replace earlier ones."""
        new: dict[tuple[int, bool], dict[str, float]] = {}
        for each in log:
            numbers = {name: value for name, value in each.items() if number(value) is not None}
            if "step" in numbers and ("loss" in numbers or "eval_loss" in numbers):
                key = int(numbers["step"]), "eval_loss" in numbers
                if key not in self.entries:
                    new[key] = numbers
        self.entries |= new
        return bool(new)

    def training(self) -> list[dict[str, float]]:
        return [self.entries[key] for key in sorted(self.entries) if not key[1]]

    def evaluations(self) -> list[dict[str, float]]:
        return [self.entries[key] for key in sorted(self.entries) if key[1]]


def number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def entries(state: dict[str, Any]) -> list[dict[str, Any]]:
    log = state.get("log_history")
    return [each for each in log if isinstance(each, dict)] if isinstance(log, list) else []


def lines_of_swift(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int | None]:
    log, planned = [], None
    for line in lines:
        match = SWIFT_LINE.match(str(line.get("global_step/max_steps")))
        if match:
            planned = int(match[2])
            log.append({"step": int(match[1]), **line})
    return log, planned


def lines_of_llamafactory(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int | None]:
    """Without OTR's metrics, which LLaMA-Factory does not write to this file."""
    log = [{"step": line["current_steps"], **line} for line in lines if isinstance(line.get("current_steps"), int)]
    return log, next((line["total_steps"] for line in reversed(lines) if line.get("total_steps")), None)


def states(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The trainer's states in the folder and in its last checkpoint, the one of fewer steps first."""
    paths = [folder / STATE_FILE, *(each / STATE_FILE for each in checkpoints(folder)[:1])]
    found = [(path, state) for path in paths if isinstance(state := read_json(path), dict)]
    return sorted(found, key=lambda each: number(each[1].get("global_step")) or 0)
