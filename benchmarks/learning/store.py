"""The results file: one line a run, and a line for every base model and every session before them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.learning.plan import METHODS, SIZES, Results, Run, Size
from benchmarks.learning.regimes import REGIMES
from otr_plugin import OTRConfig

NOT_THE_LOSS = {"chunk_tokens", "kernel"}  # how it is computed, not what


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines. One that was being written when a session was killed is none."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected one JSON object a line, got {line[:60]!r}. Remove that line; its run "
                "will be made again."
            ) from None
    return lines


def append(path: Path, line: dict[str, Any]) -> None:
    """On disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def settings(run: Run, base: str) -> dict[str, Any]:
    """All that a run's figures depend on, so that a changed study makes its runs again."""
    size, regime = SIZES[run.size], REGIMES[run.regime]
    found: dict[str, Any] = {"base": base, "examples": regime.examples * size.more, "wrong": regime.wrong}
    found |= {name: getattr(size, name) for name in ("steps", "batch", "asked", "sampled", "answers", "looks")}
    if run.method:
        found |= OTRConfig(**METHODS[run.method]).model_dump(exclude=NOT_THE_LOSS)
    return found


def line_of(run: Run, base: str, session: int, figures: dict[str, Any]) -> dict[str, Any]:
    return asdict(run) | {"session": session, "config": settings(run, base), "figures": rounded(figures)}


def rounded(figures: Any) -> Any:
    """Six digits: more than the figures are worth, and a file that can be read."""
    if isinstance(figures, float):
        return float(f"{figures:.6g}")
    if isinstance(figures, dict):
        return {name: rounded(value) for name, value in figures.items()}
    return [rounded(value) for value in figures] if isinstance(figures, list) else figures


def base_line(lines: list[dict[str, Any]], size: Size) -> dict[str, Any] | None:
    """The last base model of this size."""
    found = [line for line in lines if line.get("kind") == "base" and line["size"] == size.name]
    return found[-1] if found else None


def results(lines: list[dict[str, Any]], size: Size) -> Results:
    """What is known of the last base model of this size."""
    base = base_line(lines, size)
    known = Results()
    if base is not None:
        names = asdict(Run("", "", "")).keys()
        for line in lines:
            if line["size"] == size.name and line.get("kind") not in ("base", "session"):
                run = Run(**{name: line[name] for name in names})
                if line["config"] == settings(run, base["print"]):
                    known.figures[run.key] = line["figures"]
    return known
