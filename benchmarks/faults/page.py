"""The tables of docs/overnight.md, from the result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.faults import broken_checkpoint, full_disk, memory, odd_data, signals
from benchmarks.faults.kills import MOMENTS
from benchmarks.hosts.features.feature import FULL
from benchmarks.hosts.features.page import escaped

PARTS: dict[str, Any] = {part: {} for part in ("kills", "broken checkpoint", "signals", "disk", "memory", "data")}
COLUMNS = ("axolotl", "llamafactory", "trl", "swift", "transformers")


NOT_RUN = "not run"


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The result files by host."""
    files = {name: folder / f"faults-{name}.json" for name in COLUMNS}
    return {name: PARTS | json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def kills(folder: Path) -> list[str]:
    """How the runs of a full fine-tuning were killed, and how they ended."""
    lines = [
        f"| | kills {' | kills '.join(MOMENTS)} | checkpoints left broken | runs | as the unbroken run |",
        "|---" * (len(MOMENTS) + 4) + "|",
    ]
    for file in results(folder).values():
        for kind, words in (("OTR", "with OTR"), ("plain", "without OTR")):
            part = file["kills"][FULL][kind]
            numbers = [*part["moments"].values(), part["checkpoints left broken"]]
            numbers += [part["runs"], part["runs as the unbroken one"]]
            lines.append(f"| {file['title']}, {words} | {' | '.join(map(str, numbers))} |")
    return lines


def recipes(folder: Path) -> list[str]:
    """Which recipes continue as the unbroken run: rows are recipes, columns are hosts."""
    files = results(folder)
    names = list(dict.fromkeys(name for file in files.values() for name in file["kills"]))
    lines = _head(files)
    for name in names:
        cells = [told(cell) if (cell := file["kills"].get(name)) else "" for file in files.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def told(cell: dict[str, Any]) -> str:
    """The result of a killed recipe."""
    if "error" in cell:
        return "not run by the host here"
    ours, plain = cell["OTR"], cell["plain"]
    if "errors" in plain:
        return "the host does not resume it" if "errors" in ours else "only OTR resumes it"
    if repeats(plain) and repeats(ours):
        return "same bits"
    if repeats(plain):
        return "**differs**"
    if repeats(ours):
        return "same bits; the host alone differs"
    return f"the host alone differs, from step {plain['first other step']}; so does OTR"


def repeats(part: dict[str, Any]) -> bool:
    """Whether all killed runs ended as the unbroken one."""
    return bool(part["runs"] == part["runs as the unbroken one"])


def broken_checkpoints(folder: Path) -> list[str]:
    """How a run ends that resumes from a checkpoint without trainer_state.json."""
    lines = ["| | without OTR | with OTR |", "|---|---|---|"]
    for file in results(folder).values():
        cell = file["broken checkpoint"].get(broken_checkpoint.CASE)
        told = [escaped(cell[kind][:120]) or "trains on" for kind in ("plain", "OTR")] if cell else [NOT_RUN] * 2
        lines.append(f"| {file['title']} | {' | '.join(told)} |")
    return lines


def by_signal(folder: Path) -> list[str]:
    """How a run ends by a signal, and whether it ends as the unbroken one when it is resumed."""
    lines = [f"| | {' | resumed | '.join(signals.CASES)} | resumed |", "|---" * (2 * len(signals.CASES) + 1) + "|"]
    for file in results(folder).values():
        cells = []
        for case in signals.CASES:
            if case not in file["signals"]:
                cells += [NOT_RUN] * 2
                continue
            plain, ours = (file["signals"][case][kind] for kind in ("plain", "OTR"))
            ended = escaped(ours["ended"].strip(" :") or "as if done")
            same = "as without OTR" if ours["ended"] == plain["ended"] else "**otherwise without OTR**"
            cells += [f"{ended}, {same}", "same bits" if ours.get("as the unbroken run") else "**differs**"]
        lines.append(f"| {file['title']} | {' | '.join(cells)} |")
    return lines


def disk(folder: Path) -> list[str]:
    lines = [
        "| | runs | ended with the host's own error | resumed, as the unbroken run | errors |",
        "|---|---|---|---|---|",
    ]
    for file in results(folder).values():
        cell = file["disk"].get(full_disk.CASE, {"skipped": NOT_RUN})
        if "skipped" in cell:
            lines.append(f"| {file['title']} | 0 | | | {escaped(cell['skipped'])} |")
            continue
        ours = [trial["OTR"] for trial in cell["trials"]]
        ended = sum(own_error(trial["plain"], trial["OTR"]) for trial in cell["trials"])
        same = sum(trial.get("as the unbroken run", False) for trial in ours)
        errors = "<br>".join(dict.fromkeys(escaped(trial["error"][:100]) for trial in ours))
        lines.append(f"| {file['title']} | {len(ours)} | {ended} | {same} | {errors} |")
    return lines


def own_error(plain: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether the run with OTR ended, and with an error of the type that the plain run ended with."""
    types = [trial["error"].split(":")[0] for trial in (plain, ours)]
    return bool(ours["error"]) and types[0] == types[1] and "otr" not in ours["error"].lower()


def short_memory(folder: Path) -> list[str]:
    lines = [
        "| | fails for more than two positions | fails once | fails for good |",
        "|---|---|---|---|",
    ]
    for file in results(folder).values():
        cells = [_memory(file["memory"].get(case)) for case in memory.CASES]
        lines.append(f"| {file['title']} | {' | '.join(cells)} |")
    return lines


def _memory(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return NOT_RUN
    if "error" in cell:
        return escaped(cell["error"][:120])
    warned = f"{cell['warnings']} warning{'s' if cell['warnings'] != 1 else ''}"
    if "ends with" in cell:
        what = "with what to do" if cell["advice"] else "**without what to do**"
        return f"PyTorch's {cell['ends with']}, {what}" if cell["own message"] else f"**{cell['ends with']}**"
    return f"{cell['steps']} steps, {warned}, losses and gradient norms within {cell['largest difference']:.0e}"


def data(folder: Path) -> list[str]:
    files = {name: file for name, file in results(folder).items() if file["data"]}
    lines = _head(files)
    for name in odd_data.CASES:
        cells = [_data(file["data"].get(name)) for file in files.values()]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _data(cell: dict[str, str] | None) -> str:
    if cell is None:
        return ""
    if cell["result"] in (odd_data.SAME, odd_data.HOSTS_NAN):
        return f"{cell['result']}: {cell['SFT']}"
    return f"{cell['result']}: {escaped(cell['OTR'])}"


def sources(folder: Path) -> list[str]:
    return [line for file in results(folder).values() for line in (f"- {file['title']}: {provenance.describe(file)}",)]


def _head(files: dict[str, dict[str, Any]]) -> list[str]:
    return [f"| | {' | '.join(file['title'] for file in files.values())} |", "|---" * (len(files) + 1) + "|"]
