"""The results file: one line for every session, base model and run.

The keys and values of recorded lines are fixed. Where the code has a clearer name than the file, it is translated here.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.learning.plan import METHODS, SIZES, Results, Run, Size
from benchmarks.learning.regimes import REGIMES
from otr_plugin import OTRConfig

# These settings change how the loss is computed, but not its value, so they are not recorded.
UNRECORDED_LOSS_SETTINGS = {"chunk_tokens", "kernel"}
RECORDED_SIZE_SETTINGS = {  # key in the file -> field of Size
    "steps": "steps",
    "batch": "batch",
    "asked": "questions",
    "sampled": "sampled_questions",
    "answers": "samples_per_question",
    "looks": "evaluations",
}


def read(path: Path) -> list[dict[str, Any]]:
    """Every complete line. A last line without a newline is left out: its process was killed while writing it."""
    if not path.exists():
        return []
    complete, _, _ = path.read_text().rpartition("\n")
    lines = []
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected one JSON object per line, got {line[:60]!r}. Remove that line; the "
                "next call repeats its run."
            ) from None
    return lines


def append(path: Path, line: dict[str, Any]) -> None:
    """Adds one line, which is on disk when this returns. An incomplete last line is removed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def settings(run: Run, base_checksum: str) -> dict[str, Any]:
    """Everything that a run's figures depend on. A recorded run whose settings differ is repeated."""
    size, regime = SIZES[run.size], REGIMES[run.regime]
    found: dict[str, Any] = {
        "base": base_checksum,
        "examples": regime.examples * size.data_multiplier,
        "wrong": regime.wrong,
    }
    found |= {key: getattr(size, field) for key, field in RECORDED_SIZE_SETTINGS.items()}
    if run.method:
        found |= OTRConfig(**METHODS[run.method]).model_dump(exclude=UNRECORDED_LOSS_SETTINGS)
    return found


def _with_later_settings(recorded: dict[str, Any], run: Run) -> dict[str, Any]:
    """The recorded settings, and the defaults of settings that OTRConfig did not have yet: they change no loss."""
    return OTRConfig().model_dump(exclude=UNRECORDED_LOSS_SETTINGS) | recorded if run.method else recorded


def run_line(run: Run, base_checksum: str, session: int, figures: dict[str, Any]) -> dict[str, Any]:
    return asdict(run) | {"session": session, "config": settings(run, base_checksum), "figures": rounded(figures)}


def rounded(figures: Any) -> Any:
    """Figures with six significant digits, which is more than their precision and keeps the file readable."""
    if isinstance(figures, float):
        return float(f"{figures:.6g}")
    if isinstance(figures, dict):
        return {name: rounded(value) for name, value in figures.items()}
    return [rounded(value) for value in figures] if isinstance(figures, list) else figures


def last_base_line(lines: list[dict[str, Any]], size: Size) -> dict[str, Any] | None:
    """The line of the last base model of this size."""
    found = [line for line in lines if line.get("kind") == "base" and line["size"] == size.name]
    return found[-1] if found else None


def results(lines: list[dict[str, Any]], size: Size) -> Results:
    """The recorded runs of this size that have the last base model and the present settings."""
    base = last_base_line(lines, size)
    found = Results()
    if base is not None:
        names = asdict(Run("", "", "")).keys()
        for line in lines:
            if line["size"] == size.name and line.get("kind") not in ("base", "session"):
                run = Run(**{name: line[name] for name in names})
                if _with_later_settings(line["config"], run) == settings(run, base["print"]):
                    found.figures[run.key] = line["figures"]
    return found
