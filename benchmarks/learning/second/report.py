"""The page of the second edition, from its results file alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.learning import store
from benchmarks.learning.second import design, results, study
from benchmarks.learning.second.design import CORE, FACTORS, METHODS, SEEDS
from benchmarks.learning.second.differences import Difference
from benchmarks.learning.second.study import Row, Study
from benchmarks.learning.second.tasks import CONDITIONS, NOISY_TASKS, OTHER_REGIMES, TASKS, Regime
from benchmarks.learning.tables import minus

NAMES = {"near": "in distribution", "far": "out of distribution", "old": "old skills"}
Rows = list[list[str]]

HEAD = """\
# Right and wrong answers: the second edition of the study

Small models, pretrained by this study, learn tasks whose training answers are right, wrong at random, or wrong in the
way that a skill of the model would answer. [The plan](../learning/second/PLAN.md) was written before the runs: what
runs, how it is judged, and which differences belong together. This page is written from
[the results file](learning-2.jsonl) alone, by `python -m benchmarks learning --edition 2 --report`.

The models are tiny and the tasks are generated. A model with billions of parameters that learns from human text may
behave differently.
"""
OF_DIFFERENCES = """\
Points of right answers. ± is half of the 95% interval over seeds and questions, for these three base models; in
brackets, for another base model. Bold: the interval excludes 0 for the whole family of differences together, and all
base models have the same sign."""


def write(path: Path) -> Path:
    page = path.with_suffix(".md")
    page.write_text(render(store.read(path)))
    return page


def render(lines: list[dict[str, Any]]) -> str:
    calls = [line for line in lines if line["kind"] == "session"]
    bases = {line["base"]: line for line in lines if line["kind"] == "base"}
    weights = {name: line["weights"] for name, line in bases.items()}
    found = Study(results.figures_by_key(lines, calls[-1]["study"], weights)) if calls else Study({})
    seeds = found.seeds[1.0]
    parts = [HEAD]
    if calls:
        losses = len({call["loss"] for call in calls})
        parts.append(
            f"{provenance.describe(calls[-1])} {len(calls)} calls, with {losses} version(s) of the loss's code."
        )
    parts.append(f"{seeds} of {SEEDS} planned seeds are complete. {len(found.figures)} runs.")
    if bases:
        parts.append(table(_bases(bases)))
    if seeds < 2:
        return "\n\n".join([*parts, "Differences need two complete seeds."]) + "\n"
    parts += [
        "## Wrong answers: differences from SFT, averaged over three tasks",
        OF_DIFFERENCES,
        table(differences(study.first_family(found))),
        "## New tokens, a changed rule, many epochs: differences from SFT",
        table(differences(study.second_family(found))),
        "## Settings and neighbours, averaged over three tasks",
        table(differences(study.third_family(found))),
        "## Right answers, %, averaged over three tasks",
        table(_shares(found)),
        "## Learning rates",
        *_rates(found),
        "## Stopping at the best validation",
        "Right answers at the best of ten looks minus those at the end, in points, averaged over three tasks.",
        table(_best_looks(found)),
        "## Single tasks: differences from SFT",
        "These intervals are not simultaneous.",
        table(differences(study.single_tasks(found), bold=False)),
    ]
    return "\n\n".join(parts) + "\n"


def _bases(bases: dict[str, dict[str, Any]]) -> Rows:
    rows = [["base model", "parameters", "steps", "weakest skills, %"]]
    for name, line in sorted(bases.items()):
        figures = line["figures"]
        weakest = sorted(figures["skills"].items(), key=lambda each: each[1])[:3]
        text = ", ".join(f"{skill} {100 * share:.0f}" for skill, share in weakest)
        rows.append([name, f"{figures['parameters']:,}", str(figures["steps"]), text])
    return rows


def differences(family: Iterable[Row], *, bold: bool = True) -> Rows:
    rows = [["", *NAMES.values()]]
    for where, (first, second), found in family:
        rows.append([f"{where}: {minus(first, second)}", *(points(each, bold=bold) for each in found)])
    return rows


def points(found: Difference, *, bold: bool = True) -> str:
    text = f"{100 * found.value:+.1f} ± {100 * found.here:.1f}"
    text = f"**{text}**" if bold and found.is_found else text
    return f"{text} ({100 * found.elsewhere:.0f})"


def _shares(found: Study) -> Rows:
    rows = [["", *METHODS]]
    for measure, name in NAMES.items():
        for condition in CONDITIONS:
            regimes = study.of_condition(*condition)
            methods = METHODS if condition in study.EXTREMES else CORE
            cells = [f"{100 * found.share(regimes, m, measure):.1f}" if m in methods else "" for m in METHODS]
            rows.append([f"{regimes[0].condition}, {name}", *cells])
    for measure, name in NAMES.items():
        for regime in OTHER_REGIMES:
            cells = [f"{100 * found.share([regime], m, measure):.1f}" if m in CORE else "" for m in METHODS]
            rows.append([f"{regime.task}, {name}", *cells])
    return rows


def _rates(found: Study) -> list[str]:
    rates = {task: design.rate_of(task, found.figures) for task in TASKS}
    text = ", ".join(f"{task} {rate:g}" for task, rate in rates.items())
    seeds = min(found.seeds[factor] for factor in FACTORS)
    if not seeds:
        return [f"The tasks' rates: {text}. No seed at other rates is complete."]
    rows = [["points at a third, at three times the rate, minus those at the rate", *CORE]]
    for measure, name in NAMES.items():
        for condition in study.EXTREMES:
            regimes = study.of_condition(*condition)
            rows.append([f"{regimes[0].condition}, {name}", *(_other_rates(found, regimes, m, measure) for m in CORE)])
        for regime in OTHER_REGIMES:
            rows.append([f"{regime.task}, {name}", *(_other_rates(found, [regime], m, measure) for m in CORE)])
    return [f"The tasks' rates: {text}. Means over {seeds} seeds at the other rates.", table(rows)]


def _other_rates(found: Study, regimes: list[Regime], method: str, measure: str) -> str:
    at_rate = found.share(regimes, method, measure)
    changes = [100 * (found.share(regimes, method, measure, factor) - at_rate) for factor in FACTORS[1:]]
    return ", ".join(f"{change:+.1f}" for change in changes)


def _best_looks(found: Study) -> Rows:
    rows = [["", *CORE]]
    for measure, name in NAMES.items():
        for condition in CONDITIONS:
            cells = []
            for method in CORE:
                gains = [
                    float(found.at_best_look(Regime(task, *condition), method, measure).mean())
                    - found.share([Regime(task, *condition)], method, measure)
                    for task in NOISY_TASKS
                ]
                cells.append(f"{100 * statistics.fmean(gains):+.1f}")
            rows.append([f"{study.of_condition(*condition)[0].condition}, {name}", *cells])
    return rows


def table(rows: Rows) -> str:
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
