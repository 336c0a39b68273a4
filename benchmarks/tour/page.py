"""The parts of docs/tour.md that show tour.json."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from benchmarks import provenance
from benchmarks.tour.terminal import COLUMNS


def seconds(results: dict[str, Any]) -> list[str]:
    """How long each command took; the installation waits for the network, and is not in the sum."""
    lines = ["| command | seconds | CPU seconds |", "|---|---:|---:|"]
    steps = results["steps"]
    lines += [f"| `{each['command']}` | {each['seconds']:.1f} | {each['cpu_seconds']:.1f} |" for each in steps]
    sums = [sum(each[name] for each in steps[1:]) for name in ("seconds", "cpu_seconds")]
    return [*lines, f"| all but the installation | {sums[0]:.1f} | {sums[1]:.1f} |", "", provenance.describe(results)]


def printed(results: dict[str, Any]) -> list[str]:
    """What the terminal showed, as text."""
    lines = []
    for step in results["steps"]:
        shown = [Text.from_ansi(line).plain for _, line in step["lines"]]
        lines += [f"$ {step['command']}", *(cut(line) for line in shown), ""]
    return ["", *(f"    {line}".rstrip() for line in lines[:-1]), ""]


def cut(line: str) -> str:
    return line if len(line) <= COLUMNS else f"{line[: COLUMNS - 1]}…"
