"""The comparison of runs as one document: what `--json` prints, and what the tables and the page show."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from otr_plugin.command.comparison import comparable
from otr_plugin.command.comparison import run as runs_module
from otr_plugin.command.comparison.comparable import DIFFERS, SAME, UNKNOWN, Check, Difference
from otr_plugin.command.comparison.course import UNITS, Course, Stretch, common_counter, course_of, stretches
from otr_plugin.command.comparison.nll import names_of_nll
from otr_plugin.command.comparison.run import Run
from otr_plugin.command.console import CANNOT_TELL, GOOD, PROBLEM

NOT_IN_JSON = ("log", "evaluations", "layers", "times", "peaks")


@dataclass
class Evaluation:
    """The NLL on the evaluation data at one step that several runs evaluated at; None where a run did not."""

    step: int
    losses: list[float | None]


@dataclass
class Comparison:
    runs: list[Run]
    of_otr: list[Difference]
    of_settings: list[Difference]
    checks: list[Check]
    unit: str = "steps"
    nll: list[Stretch] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)  # the runs that have a NLL, by number
    courses: list[Course] = field(default_factory=list)  # theirs
    evaluations: list[Evaluation] = field(default_factory=list)
    metrics: dict[str, list[float | None]] = field(default_factory=dict)  # over the last quarter
    seconds: list[float | None] = field(default_factory=list)
    peaks_gib: list[float | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def seconds_per_step(self, i: int) -> float | None:
        seconds, steps = self.seconds[i], self.runs[i].steps
        return seconds / steps if seconds and steps else None

    @property
    def exit_code(self) -> int:
        if any(check.verdict == DIFFERS for check in self.checks):
            return PROBLEM
        is_known = {check.name: check.verdict == SAME for check in self.checks}
        return GOOD if is_known["data"] and is_known["seed"] and is_known["tokens"] else CANNOT_TELL

    def as_json(self) -> dict[str, Any]:
        runs = [
            {
                **{name: value for name, value in asdict(run).items() if name not in NOT_IN_JSON},
                "settings": run.settings(),
                "seconds": self.seconds[i],
                "seconds_per_step": self.seconds_per_step(i),
                "peak_gib": self.peaks_gib[i],
                "finished": run.is_finished,
            }
            for i, run in enumerate(self.runs)
        ]
        return {
            "runs": runs,
            "differences": {
                "otr": [asdict(each) for each in self.of_otr],
                "settings": [asdict(each) for each in self.of_settings],
            },
            "checks": [asdict(each) for each in self.checks],
            "nll": {"unit": self.unit, "runs": self.compared, "stretches": [asdict(each) for each in self.nll]},
            "evaluations": [asdict(each) for each in self.evaluations],
            "metrics": self.metrics,
            "notes": self.notes,
            "exit_code": self.exit_code,
        }


def of_one_source(values: Sequence[dict[str, float]]) -> list[float | None]:
    """One value of each run: of a file that all runs have; if there is none, of the first that each has."""
    common = [name for name in values[0] if all(name in each for each in values)]
    return [next((each[name] for name in (*common, *each)), None) for each in values]


def compare(paths: Sequence[Path]) -> Comparison:
    runs = [runs_module.read(path) for path in paths]
    for run, name in zip(runs, short_names(paths), strict=True):
        run.name = name
    found = Comparison(
        runs,
        comparable.differences_of_otr(runs),
        comparable.differences_of_settings(runs),
        comparable.checks(runs),
    )
    names, notes = names_of_nll(runs)
    scale = _scale(found)
    found.unit = UNITS[scale]
    found.compared = [i for i, name in enumerate(names) if name is not None]
    found.courses = [course_of(runs[i].log, str(names[i]), scale) for i in found.compared]
    found.nll = stretches(found.courses) if len(found.courses) > 1 else []
    found.evaluations = _evaluations(runs)
    found.metrics = _metrics(runs)
    found.seconds = of_one_source([run.times for run in runs])
    found.peaks_gib = of_one_source([run.peaks for run in runs])
    found.notes = [*notes, *_notes(found)]
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """The paths without the folders that all of them are in."""
    full = [path.resolve() for path in paths]
    around = Path(os.path.commonpath([path.parent for path in full]))
    return [path.relative_to(around).as_posix() for path in full]


def _scale(found: Comparison) -> str:
    """Tokens, where all runs count them; else steps, if they have as many tokens; else epochs, of the same data."""
    verdicts = {check.name: check.verdict for check in found.checks}
    counter = common_counter([run.log for run in found.runs])
    counts = comparable.same_counts(found.runs)
    was_reset = counts is not None and bool(counts[2]) and verdicts["data"] == SAME
    if counter is not None and not was_reset:
        return counter
    with_epochs = all("epoch" in entry for run in found.runs for entry in run.log)
    return "epoch" if verdicts["tokens"] == DIFFERS and verdicts["data"] != DIFFERS and with_epochs else "step"


def _evaluations(runs: Sequence[Run]) -> list[Evaluation]:
    losses = [{int(each["step"]): float(each["eval_loss"]) for each in run.evaluations} for run in runs]
    steps = sorted({step for each in losses for step in each})
    found = [Evaluation(step, [each.get(step) for each in losses]) for step in steps]
    return [each for each in found if sum(loss is not None for loss in each.losses) > 1]


def metric_names(runs: Sequence[Run]) -> list[str]:
    """OTR's metrics in the runs' logs, but for the NLL, which is compared by itself."""
    logged = {name for run in runs for entry in run.log for name in entry if name.startswith("otr/")}
    return sorted(logged - {"otr/nll"})


def _metrics(runs: Sequence[Run]) -> dict[str, list[float | None]]:
    found = {}
    for metric in metric_names(runs):
        values: list[float | None] = []
        for run in runs:
            end = run.log[-1]["step"] if run.log else 0
            last = [entry.get(metric) for entry in run.log if entry["step"] > 0.75 * end]
            known = [value for value in last if value is not None and math.isfinite(value)]
            values.append(fmean(known) if known else None)
        if any(value is not None for value in values):
            found[metric] = values
    return found


OBJECTIVES = (
    "the runs minimise different objectives, of which only SFT's is the NLL: a higher NLL does not show a worse model, "
    "and a lower one no better; questions that were not trained do"
)
ERRORS = (
    "± is the standard error of the mean of the pairs' differences, corrected for the likeness of neighbouring pairs; "
    "it holds for these two runs, and how other seeds would come out is not in it"
)


def _notes(found: Comparison) -> list[str]:
    runs = found.runs
    notes = []
    if any(error is not None for part in found.nll for error in part.errors):
        notes.append(ERRORS)
    if found.nll and len(set(found.of_otr[0].values)) > 1:
        notes.append(OBJECTIVES)
    for run in runs:
        if run.planned_steps is not None and not run.is_finished:
            notes.append(f"{run.name}: is at step {run.steps} of {run.planned_steps}: unfinished, or stopped")
        broken = sum(not math.isfinite(entry.get("loss", 0.0)) for entry in run.log)
        if broken:
            notes.append(
                f"{run.name}: at {broken} of {len(run.log)} logged steps, `loss` is not finite; they are left out"
            )
        notes += [f"{run.name}: {note}" for note in run.notes]
    if len({run.hardware for run in runs if run.hardware}) > 1:
        notes.append("the runs were on different machines: their times say nothing about the loss")
    if any(check.verdict == UNKNOWN for check in found.checks):
        missing = ", ".join(check.name for check in found.checks if check.verdict == UNKNOWN)
        notes.append(f"cannot tell from the files whether the runs have the same {missing}")
    return notes
