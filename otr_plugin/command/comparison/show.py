"""The comparison as tables: the same for the terminal and for Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from otr_plugin.command.comparison.comparable import DIFFERS, UNKNOWN
from otr_plugin.command.comparison.comparison import Comparison

DIFFERENCES, CHECKS, COST = "What differs", "Comparable?", "Cost"  # titles of the tables that are always there


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]


def verdict(found: Comparison) -> str:
    """One line: whether the figures below may be compared."""
    unlike = [check for check in found.checks if check.verdict == DIFFERS]
    if unlike:
        reasons = "; ".join(f"{each.name}: {each.evidence or ' / '.join(each.values)}" for each in unlike)
        return f"Not comparable because of {reasons}"
    unknown = [check.name for check in found.checks if check.verdict == UNKNOWN]
    if unknown and found.exit_code:
        return f"Cannot tell whether the runs are comparable: {', '.join(unknown)} not recorded"
    others = [each.setting for each in found.of_settings]
    if others:
        return f"Comparable, and the loss is not all that differs: {', '.join(others)}"
    return "Comparable: the runs differ in the loss only"


def tables(found: Comparison) -> list[Table]:
    return [
        table
        for table in (
            _differences(found),
            _checks(found),
            _nll(found),
            _evaluations(found),
            _metrics(found),
            _cost(found),
        )
        if table.rows
    ]


def _names(found: Comparison) -> list[str]:
    return [run.name for run in found.runs]


def _differences(found: Comparison) -> Table:
    rows = [[each.setting, *map(cell, each.values)] for each in (*found.of_otr, *found.of_settings)]
    return Table(DIFFERENCES, ["setting", *_names(found)], rows)


def _checks(found: Comparison) -> Table:
    rows = [
        [each.name, *each.values, f"{each.verdict}{': ' if each.evidence else ''}{each.evidence}"]
        for each in found.checks
    ]
    return Table(CHECKS, ["", *_names(found), "verdict"], rows)


def _nll(found: Comparison) -> Table:
    names = [found.runs[i].name for i in found.compared]
    more = [f"{name} \N{MINUS SIGN} {names[0]}" for name in names[1:]]
    rows = []
    for part in found.nll:
        differences = [plus_minus(d, e) for d, e in zip(part.differences, part.errors, strict=True)]
        span = f"{amount(part.start)} to {amount(part.end)}"
        rows.append([span, *(f"{mean:.4f}" for mean in part.means), *differences, str(part.pairs)])
    return Table(f"NLL per token at equal {found.unit}", [found.unit, *names, *more, "pairs"], rows)


def _evaluations(found: Comparison) -> Table:
    kept = found.evaluations[-4:]
    rows = [[str(each.step), *("-" if loss is None else f"{loss:.4f}" for loss in each.losses)] for each in kept]
    return Table("NLL on the evaluation data (eval_loss)", ["step", *_names(found)], rows)


def _metrics(found: Comparison) -> Table:
    rows = [
        [name, *("-" if value is None else f"{value:.4f}" for value in values)]
        for name, values in found.metrics.items()
    ]
    return Table("OTR's metrics, mean of the last quarter", ["metric", *_names(found)], rows)


def _cost(found: Comparison) -> Table:
    seconds = [found.seconds_per_step(i) for i in range(len(found.runs))]
    peaks = found.peaks_gib
    rows = [
        ["steps done", *(f"{run.steps} of {run.planned_steps or '?'}" for run in found.runs)],
        ["seconds", *("not recorded" if each is None else f"{each:,.1f}" for each in found.seconds)],
        ["seconds a step", *(_with_ratio(each, seconds[0], ".3f") for each in seconds)],
        ["peak GPU memory, GiB", *(_with_ratio(each, peaks[0], ".2f") for each in peaks)],
    ]
    if any(run.hardware for run in found.runs):
        rows.append(["machine", *(run.hardware or "not recorded" for run in found.runs)])
    return Table(COST, ["", *_names(found)], rows)


def _with_ratio(value: float | None, first: float | None, form: str) -> str:
    if value is None:
        return "not recorded"
    return f"{value:{form}}" if not first or value is first else f"{value:{form}} ({value / first:.2f} ×)"


def plus_minus(value: float, error: float | None) -> str:
    return f"{value:+.4f}" if error is None else f"{value:+.4f} ± {error:.4f}"


def amount(value: float) -> str:
    """A number of tokens, steps or epochs."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def cell(value: Any) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def markdown(found: Comparison) -> str:
    lines = [f"**{verdict(found)}**", ""]
    for table in tables(found):
        lines += [f"### {table.title}", ""]
        lines += [f"| {' | '.join(_escaped(each) for each in row)} |" for row in (table.columns,)]
        lines.append("|---|" + "---:|" * (len(table.columns) - 1))
        lines += [f"| {' | '.join(_escaped(each) for each in row)} |" for row in table.rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in found.notes)]).rstrip() + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
