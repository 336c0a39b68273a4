"""The page's tables, as rows of cells. A row or a column whose runs are not there is left out."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.learning import plan
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.stats import Difference, Mean, mean
from benchmarks.learning.study import APART, COMPARED, DEFAULT, MEASURES, Study

Rows = list[list[str]]


def table(rows: Rows) -> list[str]:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|---|" + "---:|" * (len(rows[0]) - 1), *rest]


def percent(found: Mean | None) -> str:
    return "" if found is None else f"{100 * found.value:.1f} ± {100 * found.half:.1f}"


def number(found: Mean | None) -> str:
    return "" if found is None else f"{found.value:.3g} ± {found.half:.2g}"


def points(difference: Difference) -> str:
    value = round(100 * difference.value, 1) + 0.0  # never "-0.0"
    return f"{value:+.1f} ± {100 * difference.half:.1f}"


def difference(found: Difference | None) -> str:
    return "" if found is None else bold(f"{points(found)}, p {shown_p(found.p)}", found)


def bold(text: str, found: Difference) -> str:
    """Where there is a winner."""
    return f"**{text}**" if found.found else text


def shown_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def overall(study: Study) -> Rows:
    """Averages over the regimes where both ran: what can be said in one line."""
    columns = [study.averages(name) for name in MEASURES]
    rows = [["on average, in points", "regimes", *MEASURES.values()]]
    for first, second in columns[0]:
        cells = [difference(column[first, second]) for column in columns]
        rows.append([f"{first} − {second}", str(len(study.averaged(first, second))), *cells])  # noqa: RUF001
    return rows


def in_place_of_sft(study: Study) -> Rows:
    """What changing the loss does to a recipe of which nothing else changes."""
    study = study.at_one_rate()
    columns = [study.differences(DEFAULT, plan.ALIKE, name) for name in MEASURES]
    rows = [["OTR minus SFT, in points of right answers", *MEASURES.values()]]
    for regime in columns[0]:
        rows.append([f"{regime}: {REGIMES[regime].what}", *(bold(points(one[regime]), one[regime]) for one in columns)])
    whole = [study.averages(name)[DEFAULT, plan.ALIKE] for name in MEASURES]
    return [*rows, [f"average without {APART}", *(bold(points(one), one) for one in whole)]]


def accuracies(study: Study) -> Rows:
    rows = [["", *study.size.methods]]
    for name, called in MEASURES.items():
        for regime in (*study.size.regimes, *study.size.tried):
            cells = [percent(study.mean(method, regime, name)) for method in study.size.methods]
            if any(cells):
                rows.append([f"{regime}, {called}", *cells])
    return rows


def differences(study: Study) -> Rows:
    rows = [["first minus second, in points", *MEASURES.values()]]
    for first, second in COMPARED:
        columns = [study.differences(first, second, name) for name in MEASURES]
        for regime in study.size.regimes:
            cells = [difference(column.get(regime)) for column in columns]
            if any(cells):
                rows.append([f"{first} − {second}, {regime}", *cells])  # noqa: RUF001
    return rows


def sampled(study: Study) -> Rows:
    most = study.most_answers
    rows = [["", "pass@1", f"pass@{most}", "pass@1, out", f"pass@{most}, out", "entropy", "ECE", "NLL"]]
    for regime in study.size.regimes:
        for method in study.size.methods:
            names = ("pass/1", f"pass/{most}", "far pass/1", f"far pass/{most}", "entropy", "ece", "nll")
            means = [study.mean(method, regime, name) for name in names]
            if means[0] is not None:
                rows.append([f"{regime}, {method}", *map(percent, means[:4]), *map(number, means[4:])])
    return rows


def to_level(study: Study) -> Rows:
    level = f"{study.size.level:.0%}"
    rows = [[f"to {level} of the validation questions", *study.size.methods]]
    for regime in study.size.regimes:
        cells = [_reached(study.first_there(method, regime)) for method in study.size.methods]
        if any(cells):
            rows.append([regime, *cells])
    return rows


def _reached(looks: list[Any]) -> str:
    """Trained tokens and seconds, where every seed got there."""
    there = [look for look in looks if look is not None]
    if len(there) < len(looks):
        return f"{len(there)} of {len(looks)} seeds"
    if not there:
        return ""
    tokens, seconds = mean([look[1] for look in there]), mean([look[2] for look in there])
    return f"{tokens.value:,.0f} ± {tokens.half:,.0f} tokens, {seconds.value:.1f} ± {seconds.half:.1f} s"


def sweeps(study: Study) -> Rows:
    rows = [["", "rate", *MEASURES.values(), "entropy", "ECE"]]
    swept = [r for r in study.size.regimes if any(study.finals(v, r) for v in study.size.variants)]
    for regime in swept:
        for method in (*study.size.methods, *study.size.variants):
            rate, known = study.rate(method, regime), study.finals(method, regime)
            if known and rate is not None:
                cells = [percent(study.mean(method, regime, name)) for name in MEASURES]
                more = [number(study.mean(method, regime, name)) for name in ("entropy", "ece")]
                rows.append([f"{regime}, {method}", f"{rate:g}", *cells, *more])
    return rows


def against_default(study: Study) -> Rows:
    rows = [["variant minus OTR's defaults, in points", *MEASURES.values()]]
    for variant in study.size.variants:
        columns = [study.differences(variant, DEFAULT, name) for name in MEASURES]
        for regime in study.size.regimes:
            cells = [difference(column.get(regime)) for column in columns]
            if any(cells):
                rows.append([f"{variant}, {regime}", *cells])
    return rows


def rates(study: Study) -> Rows:
    every = [rate for rate in plan.LADDER if _tried(study, rate)]
    rows = [["validation accuracy, old skills", *(f"{rate:g}" for rate in every)]]
    for method, regime in plan.pairs(study.size):
        scores, best = study.scores(method, regime), study.rate(method, regime)
        if method == plan.EQUAL or best is None:
            continue
        row = [f"{regime}, {method}"]
        for rate in every:
            old = study.searched(method, regime, rate, "old")
            shown = f"{100 * scores[rate]:.1f}, {100 * old.value:.0f}" if rate in scores and old else ""
            row.append(f"**{shown}**" if rate == best else shown)
        rows.append(row)
    return rows


def _tried(study: Study, rate: float) -> bool:
    return any(rate in study.scores(m, r) for m, r in plan.pairs(study.size) if m != plan.EQUAL)


def noise(study: Study) -> Rows:
    rows = [["variance ÷ squared mean gradient", "batch to batch", "from the draws alone"]]
    for regime in study.size.swept:
        found = study.noise(regime)
        for name in found[0] if found else ():
            cells = []
            for part in ("batches", "draws"):
                values = [figures[name].get(part) for figures in found]
                known = [value for value in values if value is not None]
                cells.append(number(mean(known)) if len(known) == len(values) else "")
            rows.append([f"{regime}, {name}", *cells])
    return rows


def steps(study: Study) -> Rows:
    """How far a step goes at the same rate, from the searches: a rate means the same to all, or not."""
    rows = [["mean length of a step ÷ SFT's, at the same rate", *study.size.methods[1:]]]
    for regime in study.size.regimes:
        cells = []
        for method in study.size.methods[1:]:
            ratios = []
            for rate in study.size.grid:
                one, sft = (study.searched(m, regime, rate, "update") for m in (method, "SFT"))
                if one and sft:
                    ratios.append(one.value / sft.value)
            cells.append(f"{statistics.geometric_mean(ratios):.2f}" if ratios else "")
        if any(cells):
            rows.append([regime, *cells])
    return rows


ALL: tuple[tuple[str, Callable[[Study], Rows]], ...] = (
    ("Right answers, %", accuracies),
    ("Differences, each method at its own rate", differences),
    ("Differences, all at SFT's rate", lambda study: differences(study.at_one_rate())),
    ("Several answers, entropy, calibration", sampled),
    ("Tokens and seconds to a level", to_level),
    ("κ, β, K and the others, %", sweeps),
    ("Variants against the defaults, each at its own rate", against_default),
    ("Variants against the defaults, all at SFT's rate", lambda study: against_default(study.at_one_rate())),
    ("Noise of the gradient, on the base model", noise),
    ("Learning rates", rates),
    ("Length of the steps", steps),
)
