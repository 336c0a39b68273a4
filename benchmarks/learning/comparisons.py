"""Sentences about the differences between methods. The figures decide what they say, whichever method they favour."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from benchmarks.learning import plan
from benchmarks.learning.plan import NLL, OTR, SFT, STEP_MATCHED_SFT, display_name
from benchmarks.learning.stats import Difference, holm, paired_difference
from benchmarks.learning.study import MEASURES, Study
from benchmarks.learning.tables import points
from otr_plugin import OTRConfig

LISTED_REGIMES = 3  # with more regimes, those without a difference are only counted
FAR_BELOW_MEDIAN = 0.2  # of a run's share of correct answers, below the median of its method


def sections(study: Study) -> dict[str, list[str]]:
    """Sentences by heading. Headings whose runs are not finished are left out."""
    percent, k = f"{study.size.target_accuracy:.0%}", study.largest_k
    writers: dict[str, Callable[[Study], list[str]]] = {
        "OTR compared with SFT": lambda s: by_measure(s, OTR, SFT),
        "OTR compared with DFT": lambda s: by_measure(s, OTR, "DFT"),
        f"{display_name(NLL)} compared with SFT": lambda s: by_measure(s, NLL, SFT),
        f"{display_name(NLL)} compared with OTR": lambda s: by_measure(s, NLL, OTR),
        f"{display_name(STEP_MATCHED_SFT)} compared with OTR": lambda s: by_measure(s, STEP_MATCHED_SFT, OTR),
        "Sampled estimator compared with the exact one": sampled_and_exact,
        f"Trained tokens to {percent} validation accuracy": tokens_to_target,
        "Seeds far below the median": seeds_far_below_median,
        f"A correct answer among {k} samples (pass@{k})": pass_at_k,
        "Learning rates of the methods": learning_rates,
    }
    return {heading: lines for heading, write in writers.items() if (lines := write(study))}


def by_measure(study: Study, first: str, second: str, measures: dict[str, str] = MEASURES) -> list[str]:
    """One line per measure: with SFT's learning rate for both methods, then with each method's own."""
    lines, at_sft_rate = [], study.at_sft_rate()
    for name, measure in measures.items():
        if not study.differences(first, second, name):
            continue
        same_rate = ""
        if at_sft_rate.differences(first, second, name):
            same_rate = by_regime(at_sft_rate, first, second, name)
        line = with_both_rates(same_rate, by_regime(study, first, second, name))
        lines.append(f"{measure[0].upper()}{measure[1:]}: {line}")
    return lines


def by_regime(study: Study, first: str, second: str, name: str) -> str:
    """In which regimes a difference was found, then the average over regimes.

    Regimes without a difference are listed only if there are few regimes. The tables have the figures of all regimes.
    """
    differences = study.differences(first, second, name)
    a, b = display_name(first), display_name(second)
    ahead = listed({r: d for r, d in differences.items() if d.significant and d.value > 0})
    behind = listed({r: d for r, d in differences.items() if d.significant and d.value < 0})
    neither = {r: d for r, d in differences.items() if not d.significant}
    over_regimes = average(study, first, second, name)
    where = listed(neither)
    if len(differences) > LISTED_REGIMES:
        where = f"any of {len(neither)} regimes"
        if ahead or behind:
            where = f"the other {len(neither)} regimes" if len(neither) > 1 else "the other regime"
    if ahead and behind:
        text = f"{a} is ahead of {b} in {ahead} and behind in {behind}"
    elif ahead or behind:
        text = f"{a} is ahead of {b} in {ahead}" if ahead else f"{a} is behind {b} in {behind}"
    else:
        return f"no difference between {a} and {b} was found in {where}.{over_regimes}"
    return f"{text}; no difference was found in {where}.{over_regimes}" if neither else f"{text}.{over_regimes}"


def listed(differences: dict[str, Difference]) -> str:
    return ", ".join(f"{regime} ({points(d)})" for regime, d in differences.items())


def average(study: Study, first: str, second: str, name: str) -> str:
    """A sentence on the average over regimes; empty for fewer than two regimes, or if the page has no such average."""
    count, found = len(study.averaged_regimes(first, second)), study.averages(name).get((first, second))
    if count < 2 or found is None:
        return ""
    side = "ahead" if found.value > 0 else "behind"
    verdict = f"{display_name(first)} is {side}" if found.significant else "no difference was found"
    return f" Average over {count} regimes: {points(found)} points, {verdict}."


def with_both_rates(same_rate: str, own: str) -> str:
    """What holds with SFT's learning rate for both methods, and with each method's own."""
    if not same_rate:
        return f"With each method's own learning rate, {own}"
    return f"{same_rate} With each method's own learning rate: {'the same.' if own == same_rate else own}"


def sampled_and_exact(study: Study) -> list[str]:
    lines = by_measure(study, OTR, "OTR exact")
    samples = OTRConfig().samples
    shares = {}
    for regime in study.size.variant_regimes:
        figures = [by_method[f"K={samples}"]["draws"] for by_method in study.gradient_noise(regime)]
        if figures and None not in figures:
            shares[regime] = statistics.fmean(figures)
    if shares:
        text = ", ".join(f"{share:.3g} in {regime}" for regime, share in shares.items())
        lines.append(
            f"On the base model, with K = {samples} and {study.size.batch} examples per batch, the gradient's variance "
            f"that comes from the draws alone, divided by the squared gradient, is {text}."
        )
    return lines


def tokens_to_target(study: Study) -> list[str]:
    own = token_ratios(study)
    text = with_both_rates(token_ratios(study.at_sft_rate()), own)
    return [f"OTR's number of tokens divided by SFT's (95% confidence interval): {text}"] if own else []


def token_ratios(study: Study) -> str:
    """Ratios paired by seed, for the regimes in which every seed of both methods reached the target accuracy."""
    differences = {}
    for regime in study.finished_regimes(OTR, SFT):
        otr, sft = (study.first_at_target(method, regime) for method in (OTR, SFT))
        if None not in otr + sft:
            logs = ([math.log(tokens) for _, tokens, *_ in validations] for validations in (otr, sft))
            differences[regime] = paired_difference(*logs)
    groups: dict[str, list[str]] = {"OTR needs more in": [], "OTR needs fewer in": [], "no difference was found in": []}
    for regime, d in holm(differences).items():
        ratio, low, high = (math.exp(d.value + side * d.half_width) for side in (0, -1, 1))
        group = "no difference was found in"
        if d.significant:
            group = "OTR needs more in" if d.value > 0 else "OTR needs fewer in"
        groups[group].append(f"{regime} ({ratio:.2f}, {low:.2f} to {high:.2f})")
    text = "; ".join(f"{group} {', '.join(regimes)}" for group, regimes in groups.items() if regimes)
    return f"{text}." if text else ""


def seeds_far_below_median(study: Study) -> list[str]:
    """Runs whose failure a mean would hide."""
    if not study.finished_regimes(*study.size.methods):
        return []
    found = []
    for regime in study.size.regimes:
        for method in study.size.methods:
            values = study.values(method, regime, "near")
            median = statistics.median(values) if values else 0.0
            low = [f"{value:.0%}" for value in sorted(values) if value <= median - FAR_BELOW_MEDIAN]
            if low:
                found.append(f"{method} in {regime} ({', '.join(low)}; the median is {median:.0%})")
    distance = f"{100 * FAR_BELOW_MEDIAN:.0f} points or more below the median of their method"
    return [f"In distribution, these seeds ended {distance}: {'; '.join(found) or 'none'}."]


def pass_at_k(study: Study) -> list[str]:
    k = study.largest_k
    measures = {f"pass/{k}": f"pass@{k}, in distribution", f"far pass/{k}": f"pass@{k}, out of distribution"}
    return by_measure(study, OTR, SFT, measures) + by_measure(study, OTR, "DFT", measures)


def learning_rates(study: Study) -> list[str]:
    """Each method's own learning rate compared with SFT's."""
    lines, costs = [], []
    for method in study.size.methods:
        if method == SFT:
            continue
        shared = study.finished_regimes(SFT, method)
        learnt = [r for r in shared if all(max(study.search_accuracy(m, r).values()) > 0 for m in (SFT, method))]
        if not learnt:
            continue
        steps = [_ladder_index(study, method, r) - _ladder_index(study, SFT, r) for r in learnt]
        same, higher, lower = (sum(s == 0 for s in steps), sum(s > 0 for s in steps), sum(s < 0 for s in steps))
        lines.append(
            f"{method}: its own learning rate is SFT's in {same} of {len(learnt)} regimes, higher in {higher} and "
            f"lower in {lower}."
        )
        losses = []
        for regime in shared:
            accuracy, rate = study.search_accuracy(method, regime), study.rate(SFT, regime)
            if rate in accuracy:
                losses.append(max(accuracy.values()) - accuracy[rate])
        if losses:
            costs.append(f"{method} {100 * statistics.fmean(losses):.1f}")
    if costs:
        lines.append(
            "Validation accuracy that is lost by taking SFT's learning rate instead of searching, in points, averaged "
            f"over the regimes: {', '.join(costs)}."
        )
    return lines


def _ladder_index(study: Study, method: str, regime: str) -> int:
    rate = study.rate(method, regime)
    assert rate is not None
    return plan.RATE_LADDER.index(rate)
