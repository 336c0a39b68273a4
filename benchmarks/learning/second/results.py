"""The results file of the second edition: one line for every call, base model and run.

A run counts only if the code that decides its figures is the present one: its call recorded a checksum of that code.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks import paths
from benchmarks.learning import store
from benchmarks.learning.second.design import Trial

FILE = paths.RESULTS / "learning-2.jsonl"
# Relative to the repository: what decides the figures of a run besides the plugin.
DECIDING = (
    *(f"benchmarks/learning/second/{name}.py" for name in ("tasks", "design", "trial")),
    *(f"benchmarks/learning/{name}.py" for name in ("regimes", "base_skills", "cards", "evaluation", "vocabulary")),
    "benchmarks/string_skills.py",
)


def fingerprints() -> dict[str, str]:
    """Checksums of the study's code, and of the plugin's loss, which may change as long as its values do not."""
    loss = sorted((paths.ROOT / "otr_plugin" / "loss").rglob("*.py"))
    return {"study": _checksum([paths.ROOT / name for name in DECIDING]), "loss": _checksum(loss)}


def _checksum(files: list[Path]) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


def checksum_of_weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def figures_by_key(lines: list[dict[str, Any]], study: str, bases: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The figures of every run, by the key of its Trial, that was made with this code and with these base models."""
    calls = {line["session"]: line for line in lines if line["kind"] == "session"}
    names = [field.name for field in fields(Trial)]
    found = {}
    for line in lines:
        if line["kind"] in ("search", "final"):
            call = calls[line["session"]]
            if call["study"] == study and line["weights"] == bases.get(line["base"]):
                found[Trial(**{name: line[name] for name in names}).key] = line["figures"]
    return found


def line_of(trial: Trial, call: int, weights: str, figures: dict[str, Any]) -> dict[str, Any]:
    return asdict(trial) | {"session": call, "weights": weights, "figures": store.rounded(figures)}
