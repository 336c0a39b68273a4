"""The page's tables as rows of cells. Rows and columns of unfinished runs are left out."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.learning import plan
from benchmarks.learning.plan import NLL, OTR, RATE_LADDER, SFT, STEP_MATCHED_SFT, display_name
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.stats import Difference, Mean, mean_over_seeds
from benchmarks.learning.study import COMPARISONS, MEASURES, NEW_TOKENS, Study

Rows = list[list[str]]


def table(rows: Rows, text_columns: int = 1) -> list[str]:
    """Markdown lines. The first row is the header. Columns after the text columns are aligned right."""
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + "---|" * text_columns + "---:|" * (len(rows[0]) - text_columns), *rest]


def percent(found: Mean | None) -> str:
    return "" if found is None else f"{100 * found.value:.1f} ± {100 * found.half_width:.1f}"


def number(found: Mean | None) -> str:
    return "" if found is None else f"{found.value:.3g} ± {found.half_width:.2g}"


def points(difference: Difference) -> str:
    """A difference in percentage points."""
    value = round(100 * difference.value, 1) + 0.0  # the sum turns -0.0 into 0.0
    return f"{value:+.1f} ± {100 * difference.half_width:.1f}"


def bold_points(difference: Difference) -> str:
    return bold_if_significant(points(difference), difference)


def points_with_p(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return bold_if_significant(f"{points(difference)}, p {p_text(difference.p)}", difference)


def bold_if_significant(text: str, difference: Difference) -> str:
    return f"**{text}**" if difference.significant else text


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def minus(first: str, second: str) -> str:
    return f"{display_name(first)} − {display_name(second)}"  # noqa: RUF001


def minus_sft(study: Study) -> Rows:
    """By regime, every loss that a user would choose minus SFT, with SFT's learning rate for all."""
    study = study.at_sft_rate()
    rows = [["points, with SFT's learning rate", *MEASURES.values()]]
    methods = (OTR, "DFT", NLL)
    columns = {method: [study.differences(method, SFT, name) for name in MEASURES] for method in methods}
    for regime in study.size.regimes:
        for method in methods:
            cells = [bold_points(column[regime]) for column in columns[method] if regime in column]
            if cells:
                rows.append([f"{regime}: {minus(method, SFT)}", *cells])
    return rows


def readme(study: Study) -> Rows:
    """OTR minus SFT by regime, and nll_weight minus SFT where it ran, with SFT's learning rate for all."""
    study = study.at_sft_rate()
    rows = [["points of correct answers", *MEASURES.values()]]
    for method in (OTR, NLL):
        columns = [study.differences(method, SFT, name) for name in MEASURES]
        for regime in columns[0]:
            what = f": {REGIMES[regime].description}" if method == OTR else ""
            rows.append([f"{minus(method, SFT)}, {regime}{what}", *(bold_points(column[regime]) for column in columns)])
    average = [study.averages(name)[OTR, SFT] for name in MEASURES]
    return [*rows, [f"{minus(OTR, SFT)}, average without {NEW_TOKENS}", *map(bold_points, average)]]


def averages(study: Study) -> Rows:
    columns = [study.averages(name) for name in MEASURES]
    rows = [["average over regimes, in points", "regimes", *MEASURES.values()]]
    for first, second in columns[0]:
        cells = [points_with_p(column[first, second]) for column in columns]
        rows.append([minus(first, second), str(len(study.averaged_regimes(first, second))), *cells])
    return rows


def correct_answers(study: Study) -> Rows:
    rows = [["", *study.size.methods]]
    for name, measure in MEASURES.items():
        for regime in (*study.size.regimes, *study.size.sft_only_regimes):
            cells = [percent(study.mean(method, regime, name)) for method in study.size.methods]
            if any(cells):
                rows.append([f"{regime}, {measure}", *cells])
    return rows


def differences(study: Study) -> Rows:
    rows = [["first minus second, in points", *MEASURES.values()]]
    for first, second in COMPARISONS:
        columns = [study.differences(first, second, name) for name in MEASURES]
        for regime in study.size.regimes:
            cells = [points_with_p(column.get(regime)) for column in columns]
            if any(cells):
                rows.append([f"{minus(first, second)}, {regime}", *cells])
    return rows


def sampled_answers(study: Study) -> Rows:
    k = study.largest_k
    rows = [["", "pass@1", f"pass@{k}", "pass@1, out", f"pass@{k}, out", "entropy", "ECE", "NLL"]]
    for regime in study.size.regimes:
        for method in study.size.methods:
            names = ("pass/1", f"pass/{k}", "far pass/1", f"far pass/{k}", "entropy", "ece", "nll")
            means = [study.mean(method, regime, name) for name in names]
            if means[0] is not None:
                rows.append([f"{regime}, {method}", *map(percent, means[:4]), *map(number, means[4:])])
    return rows


def cost_to_target(study: Study) -> Rows:
    rows = [[f"to {study.size.target_accuracy:.0%} of the validation questions", *study.size.methods]]
    for regime in study.size.regimes:
        cells = [_cost(study.first_at_target(method, regime)) for method in study.size.methods]
        if any(cells):
            rows.append([regime, *cells])
    return rows


def _cost(validations: list[Any]) -> str:
    """Trained tokens and seconds if every seed reached the target, else how many seeds did."""
    reached = [validation for validation in validations if validation is not None]
    if len(reached) < len(validations):
        return f"{len(reached)} of {len(validations)} seeds"
    if not reached:
        return ""
    tokens, seconds = (mean_over_seeds([validation[i] for validation in reached]) for i in (1, 2))
    return f"{tokens.value:,.0f} ± {tokens.half_width:,.0f} tokens, {seconds.value:.1f} ± {seconds.half_width:.1f} s"


def variants(study: Study) -> Rows:
    rows = [["", "rate", *MEASURES.values(), "entropy", "ECE"]]
    regimes = [r for r in study.size.regimes if any(study.final_figures(v, r) for v in study.size.variants)]
    for regime in regimes:
        for method in (*study.size.methods, *study.size.variants):
            rate, finished = study.rate(method, regime), study.final_figures(method, regime)
            if finished and rate is not None:
                cells = [percent(study.mean(method, regime, name)) for name in MEASURES]
                more = [number(study.mean(method, regime, name)) for name in ("entropy", "ece")]
                rows.append([f"{regime}, {display_name(method)}", f"{rate:g}", *cells, *more])
    return rows


def variants_minus_default(study: Study) -> Rows:
    rows = [["variant minus OTR's defaults, in points", *MEASURES.values()]]
    for variant in study.size.variants:
        columns = [study.differences(variant, OTR, name) for name in MEASURES]
        for regime in study.size.regimes:
            cells = [points_with_p(column.get(regime)) for column in columns]
            if any(cells):
                rows.append([f"{display_name(variant)}, {regime}", *cells])
    return rows


def rate_errors(study: Study, method: str, regime: str) -> tuple[float, float] | None:
    """The validation accuracy that the method loses with a third and with ten times SFT's best learning rate.

    None if one of these rates was not searched.
    """
    accuracy, sft = study.search_accuracy(method, regime), study.rate(SFT, regime)
    if sft is None:
        return None
    i = RATE_LADDER.index(sft)
    third, tenfold = (RATE_LADDER[j] if 0 <= j < len(RATE_LADDER) else None for j in (i - 1, i + 2))
    if sft not in accuracy or third not in accuracy or tenfold not in accuracy:
        return None
    return accuracy[sft] - accuracy[third], accuracy[sft] - accuracy[tenfold]


def rate_sensitivity(study: Study) -> Rows:
    methods = [*study.size.methods, *([NLL] if NLL in study.size.variants else [])]
    rows = [["lost by a third, by ten times the rate", *map(display_name, methods)]]
    for regime in study.size.regimes:
        if regime == NEW_TOKENS:
            continue
        errors = [rate_errors(study, method, regime) for method in methods]
        if any(errors):
            rows.append([regime, *(f"{100 * e[0] + 0:.1f}, {100 * e[1] + 0:.1f}" if e else "" for e in errors)])
    return rows


def rates(study: Study) -> Rows:
    searched = [rate for rate in RATE_LADDER if _is_searched(study, rate)]
    rows = [["validation accuracy, old skills", *(f"{rate:g}" for rate in searched)]]
    for method, regime in plan.method_regime_pairs(study.size):
        accuracy, best = study.search_accuracy(method, regime), study.rate(method, regime)
        if method == STEP_MATCHED_SFT or best is None:
            continue
        row = [f"{regime}, {display_name(method)}"]
        for rate in searched:
            old = study.search_mean(method, regime, rate, "old")
            cell = f"{100 * accuracy[rate]:.1f}, {100 * old.value:.0f}" if rate in accuracy and old else ""
            row.append(f"**{cell}**" if rate == best else cell)
        rows.append(row)
    return rows


def _is_searched(study: Study, rate: float) -> bool:
    pairs = plan.method_regime_pairs(study.size)
    return any(rate in study.search_accuracy(m, r) for m, r in pairs if m != STEP_MATCHED_SFT)


def gradient_noise(study: Study) -> Rows:
    rows = [["variance ÷ squared mean gradient", "over batches", "over draws alone"]]
    for regime in study.size.variant_regimes:
        by_seed = study.gradient_noise(regime)
        for name in by_seed[0] if by_seed else ():
            cells = []
            for part in ("batches", "draws"):
                values = [figures[name].get(part) for figures in by_seed]
                known = [value for value in values if value is not None]
                cells.append(number(mean_over_seeds(known)) if len(known) == len(values) else "")
            rows.append([f"{regime}, {name}", *cells])
    return rows


def step_lengths(study: Study) -> Rows:
    """The mean length of an update relative to SFT's at the same learning rate, from the search runs."""
    rows = [["mean length of an update ÷ SFT's, at the same rate", *study.size.methods[1:]]]
    for regime in study.size.regimes:
        cells = []
        for method in study.size.methods[1:]:
            ratios = []
            for rate in study.size.grid:
                one, sft = (study.search_mean(m, regime, rate, "update") for m in (method, SFT))
                if one and sft:
                    ratios.append(one.value / sft.value)
            cells.append(f"{statistics.geometric_mean(ratios):.2f}" if ratios else "")
        if any(cells):
            rows.append([regime, *cells])
    return rows


ALL: tuple[tuple[str, Callable[[Study], Rows]], ...] = (
    ("Correct answers, %", correct_answers),
    ("Differences by regime, each method at its own learning rate", differences),
    ("Differences by regime, all at SFT's learning rate", lambda study: differences(study.at_sft_rate())),
    ("Sampled answers, entropy and calibration", sampled_answers),
    ("Trained tokens and seconds to the target accuracy", cost_to_target),
    ("Variants: correct answers, %", variants),
    ("Variants minus OTR's defaults, each at its own learning rate", variants_minus_default),
    ("Variants minus OTR's defaults, all at SFT's learning rate", lambda s: variants_minus_default(s.at_sft_rate())),
    ("Gradient noise of the base model", gradient_noise),
    ("Learning rates", rates),
    ("Validation accuracy lost with a wrong learning rate, in points", rate_sensitivity),
    ("Lengths of the updates", step_lengths),
)
