"""The tables of docs/several-gpus.md, from the result file."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from benchmarks import provenance
from benchmarks.engines.cells import CASES, ENGINES, HEADS
from benchmarks.engines.judge import DIFFERS, ENGINES_ERROR, ENGINES_OWN, FAILS, REFUSED, ROUNDING, SAME

WORDS = {
    REFUSED: "refused",
    ENGINES_ERROR: "engine's error",
    ENGINES_OWN: "engine differs",
    DIFFERS: "**differs**",
    FAILS: "**fails**",
}


def table(results: dict[str, Any]) -> list[str]:
    """Rows are engines, columns heads; a cell has the largest error of all cases."""
    lines = [f"| engine | {' | '.join(HEADS)} |", "|---" * (len(HEADS) + 1) + "|"]
    for engine in ENGINES:
        row = [word([results["cells"].get(" | ".join((engine, head, case))) for case in CASES]) for head in HEADS]
        if any(row):
            lines.append(f"| {engine} | {' | '.join(row)} |")
    return lines


def word(cells: list[dict[str, Any] | None]) -> str:
    """All cases of an engine and a head in the table."""
    run = [cell for cell in cells if cell is not None]
    errors = [cell["errors"]["update"] for cell in run if cell["result"] == SAME]
    words = [f"{max(errors):.0e}"] if errors else []
    return ", ".join([*words, *sorted({WORDS[cell["result"]] for cell in run if cell["result"] != SAME})])


def summary(results: dict[str, Any]) -> list[str]:
    """How many cells have which result, and the largest errors; then where the figures come from."""
    cells = results["cells"]
    lines = ["| | cells | parameters' updates | losses | metrics |", "|---|---|---|---|---|"]
    for precision in ROUNDING:
        same = [
            cell["errors"]
            for name, cell in cells.items()
            if cell["result"] == SAME and ENGINES[name.split(" | ")[0]].precision == precision
        ]
        largest = [
            f"{max(errors[kind] for errors in same):.0e}" if all(kind in errors for errors in same) else "not compared"
            for kind in ("update", "loss", "metrics")
        ]
        lines.append(f"| as one process, {precision} | {len(same)} | {' | '.join(largest)} |")
    for result, words in WORDS.items():
        count = sum(cell["result"] == result for cell in cells.values())
        lines.append(f"| {words.strip('*')} | {count} | | | |")
    return [*lines, "", provenance.describe(results)]


def others(results: dict[str, Any]) -> list[str]:
    """The cells that are not as one process: by engine and head, the cases, the result, and the error."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name, cell in results["cells"].items():
        engine, head, case = name.split(" | ")
        if cell["result"] != SAME:
            told = cell.get("message") or (
                f"the update differs by {cell['errors']['update']:.0e} with OTR, and by "
                f"{cell['without OTR']['update']:.0e} without"
            )
            groups[engine, head, f"{WORDS[cell['result']]}: {_escaped(told)}"].append(case)
    lines = ["| engine | head | cases | result |", "|---|---|---|---|"]
    for (engine, head, told), cases in groups.items():
        named = "all" if len(cases) == len(CASES) else ", ".join(cases)
        lines.append(f"| {engine} | {head} | {named} | {told} |")
    return lines


def _escaped(text: str) -> str:
    text = text.replace("\n", " ").replace("|", "\\|").replace("<", "\\<")
    return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " …"
