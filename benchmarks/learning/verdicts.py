"""What the figures say, in sentences that are made from them, whichever way they fall."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from benchmarks.learning import plan
from benchmarks.learning.stats import Difference, holm, paired
from benchmarks.learning.study import DEFAULT, MEASURES, Study
from benchmarks.learning.tables import points

FAR_BELOW = 0.2  # of a run's right answers, below the median


def compared(study: Study, first: str, second: str, name: str) -> str:
    """The average over the regimes, then those in which one is ahead. Where nothing is said of a regime, nothing was
    found in it: its figures are in the tables."""
    differences = study.differences(first, second, name)
    groups = {
        "ahead": [f"{r} ({points(d)})" for r, d in differences.items() if d.found and d.value > 0],
        "behind": [f"{r} ({points(d)})" for r, d in differences.items() if d.found and d.value < 0],
    }
    alone = ", ".join(f"{side} in {', '.join(regimes)}" for side, regimes in groups.items() if regimes)
    one, other = name_of(first), name_of(second)
    if len(study.averaged(first, second)) < 2:
        rest = ", ".join(f"{r} ({points(d)})" for r, d in differences.items() if not d.found)
        nothing = f"no difference was found in {rest}"
        if not alone:
            return f"{one} and {other}: {nothing}."
        return f"{one} is {alone}; {nothing}." if rest else f"{one} is {alone}."
    whole = study.averages(name)[first, second]
    if not whole.found:
        average = f"no difference was found between {one} and {other} on average ({points(whole)} points)"
        return f"{average}; {one} is {alone}." if alone else f"{average} or in any regime."
    side = "ahead of" if whole.value > 0 else "behind"
    average = f"{one} is {side} {other} by {points(whole).lstrip('+-')} points on average"
    return f"{average}; {alone}." if alone else f"{average}, but in no regime by itself."


def name_of(method: str) -> str:
    return {"nll": "nll_weight 0.1", plan.EQUAL: "SFT with OTR's step size"}.get(method, method)


def against(study: Study, first: str, second: str, measures: dict[str, str] = MEASURES) -> list[str]:
    """At each method's own learning rate, and at SFT's for all."""
    lines, alike = [], study.at_one_rate()
    for name, called in measures.items():
        if not study.differences(first, second, name):
            continue
        again = compared(alike, first, second, name) if alike.differences(first, second, name) else ""
        said = at_both_rates(compared(study, first, second, name), again)
        lines.append(f"{called[0].upper()}{called[1:]}: {said}")
    return lines


def at_both_rates(own: str, alike: str) -> str:
    """What holds where each method has its own learning rate, and where all have SFT's."""
    return f"{own} At one rate, SFT's: {'the same.' if alike == own else alike}" if alike else own


def all_of(study: Study) -> dict[str, list[str]]:
    """Sentences by question. A question whose runs are not there yet is left out."""
    questions: dict[str, Callable[[Study], list[str]]] = {
        "Does OTR beat SFT?": lambda s: against(s, "OTR", "SFT"),
        "Is it only a noisy DFT?": lambda s: against(s, "OTR", "DFT"),
        "Why sample, when the sum is exact?": sampled_or_exact,
        "Does it learn as fast?": how_soon,
        "Does every run get there?": left_behind,
        "Does it cost variety?": several,
        "What does κ do?": lambda s: variants(s, "κ=1", "κ=2"),
        "What does β do?": lambda s: variants(s, "β=-0.5", "β=0", "β=0.5"),
        "What does K do?": lambda s: variants(s, "K=1", "K=16", "K=4096"),
        "What does nll_weight do?": lambda s: variants(s, "nll"),
        "Is it only the size of the steps?": equal_steps,
        "When not to use OTR": when_not,
        "How to choose a learning rate": learning_rate,
        "When to choose which": which,
    }
    return {question: lines for question, make in questions.items() if (lines := make(study))}


def sampled_or_exact(study: Study) -> list[str]:
    lines = against(study, "OTR", "OTR exact")
    shares = [
        (regime, statistics.fmean(figures["K=256"]["draws"] for figures in found))
        for regime in study.size.swept
        if (found := study.noise(regime)) and all(figures["K=256"]["draws"] is not None for figures in found)
    ]
    if shares:
        listed = ", ".join(f"{share:.3g} in {regime}" for regime, share in shares)
        lines.append(
            f"On the base model, with K = 256 and {study.size.batch} examples, the variance that comes from the draws "
            f"alone, as a multiple of the squared gradient: {listed}."
        )
    return lines


def how_soon(study: Study) -> list[str]:
    level = f"{study.size.level:.0%} of the validation questions"
    own = tokens_needed(study)
    said = at_both_rates(own, tokens_needed(study.at_one_rate()))
    return [f"Trained tokens to {level}, OTR's as a multiple of SFT's: {said}"] if own else []


def tokens_needed(study: Study) -> str:
    """Seed by seed, in the regimes where every seed of both got there."""
    found = {}
    for regime in study.regimes_of("OTR", "SFT"):
        otr, sft = (study.first_there(method, regime) for method in ("OTR", "SFT"))
        if None not in otr + sft:
            found[regime] = paired(*([math.log(tokens) for _, tokens, *_ in looks] for looks in (otr, sft)))
    groups: dict[str, list[str]] = {"more": [], "fewer": [], "no difference was found": []}
    for regime, d in holm(found).items():
        middle, low, high = (math.exp(d.value + side * d.half) for side in (0, -1, 1))
        group = "no difference was found" if not d.found else "more" if d.value > 0 else "fewer"
        groups[group].append(f"{regime} ({middle:.2f}, {low:.2f} to {high:.2f})")
    said = "; ".join(f"{group} in {', '.join(regimes)}" for group, regimes in groups.items() if regimes)
    return f"{said}." if said else ""


def left_behind(study: Study) -> list[str]:
    """What a mean hides: runs that ended far below the others of their kind."""
    if not study.regimes_of(*study.size.methods):
        return []
    found = []
    for regime in study.size.regimes:
        for method in study.size.methods:
            values = study.values(method, regime, "near")
            middle = statistics.median(values) if values else 0.0
            low = [f"{value:.0%}" for value in sorted(values) if value <= middle - FAR_BELOW]
            if low:
                found.append(f"{method} in {regime} ({', '.join(low)} where the median is {middle:.0%})")
    far = f"{100 * FAR_BELOW:.0f} points or more below the median of their method"
    return [f"Seeds that ended {far}, in distribution: {'; '.join(found) or 'none'}."]


def several(study: Study) -> list[str]:
    """Whether the right answer is still among several that are drawn."""
    k = study.most_answers
    called = {f"pass/{k}": f"pass@{k}, in distribution", f"far pass/{k}": f"pass@{k}, out of distribution"}
    return against(study, "OTR", "SFT", called) + against(study, "OTR", "DFT", called)


def variants(study: Study, *names: str) -> list[str]:
    """Each variant against the defaults, which it differs from in one setting."""
    lines = []
    for name in names:
        found = against(study, name, DEFAULT)
        lines += [f"{name_of(name)}, {line[0].lower()}{line[1:]}" for line in found]
    return lines


def equal_steps(study: Study) -> list[str]:
    """If SFT, made to step as far as OTR, still differs from it, then it is not the size of the steps."""
    return against(study, plan.EQUAL, DEFAULT)


def when_not(study: Study) -> list[str]:
    """A token that is never drawn is never learnt."""
    if "format" not in study.regimes_of("SFT", "DFT", "OTR"):
        return []
    shares = []
    for method in ("SFT", "DFT", "OTR", "OTR exact", "nll"):
        mean = study.mean(method, "format", "near")
        if mean is not None:
            shares.append(f"{name_of(method)} {100 * mean.value:.1f}% ± {100 * mean.half:.1f}")
    missed = statistics.fmean(f["metrics"]["first"]["unsampled"] for f in study.finals("OTR", "format"))
    text = (
        f"With answers between tokens that the model has never seen, right answers were: {', '.join(shares)}. At the "
        f"first step OTR drew the label not once at {missed:.0%} of the positions (`otr/unsampled`)."
    )
    return [text]


def learning_rate(study: Study) -> list[str]:
    """Each method's best rate beside SFT's, in steps of the grid."""
    lines = []
    for method in study.size.methods[1:]:
        shared = study.regimes_of("SFT", method)
        learnt = [r for r in shared if min(max(study.scores(m, r).values()) for m in ("SFT", method)) > 0]
        if not learnt:
            continue
        steps = [_rung(study, method, r) - _rung(study, "SFT", r) for r in learnt]
        same, higher, lower = (sum(s == 0 for s in steps), sum(s > 0 for s in steps), sum(s < 0 for s in steps))
        lines.append(
            f"{method}: the best rate was SFT's in {same} of {len(learnt)} regimes, "
            f"higher in {higher}, lower in {lower}."
        )
    worst = []
    for method in study.size.methods:
        losses = []
        for regime in study.regimes_of("SFT", method):
            scores, rate = study.scores(method, regime), study.rate("SFT", regime)
            if rate in scores:
                losses.append(max(scores.values()) - scores[rate])
        if losses and method != "SFT":
            worst.append(f"{method} {100 * statistics.fmean(losses):.1f}")
    if worst:
        lines.append(
            f"Taking SFT's best rate instead of searching costs, in points of validation accuracy, on average over the "
            f"regimes: {', '.join(worst)}."
        )
    return lines


def _rung(study: Study, method: str, regime: str) -> int:
    rate = study.rate(method, regime)
    assert rate is not None
    return plan.LADDER.index(rate)


def which(study: Study) -> list[str]:
    """By regime: who is ahead of SFT somewhere and behind nowhere, at its own rate and at SFT's; and the other way."""
    lines = []
    for method in study.size.methods[1:]:
        groups: dict[str, list[str]] = {"for": [], "against": [], "trade": [], "either": []}
        alike = study.at_one_rate()
        tables = [[view.differences(method, "SFT", name) for view in (study, alike)] for name in MEASURES]
        for regime in [r for r in study.regimes_of("SFT", method) if alike.finals(method, r)]:
            found = [own[regime].value for own, same in tables if _both(own[regime], same[regime])]
            ahead, behind = any(value > 0 for value in found), any(value < 0 for value in found)
            group = "trade" if ahead and behind else "for" if ahead else "against" if behind else "either"
            groups[group].append(regime)
        parts = [
            f"{words} {', '.join(groups[group])}"
            for group, words in (
                ("for", "ahead in something and behind in nothing in"),
                ("against", "behind in something and ahead in nothing in"),
                ("trade", "ahead in one thing and behind in another in"),
                ("either", "nothing that holds at both rates was found in"),
            )
            if groups[group]
        ]
        if parts:
            lines.append(f"{method}, beside SFT: {'; '.join(parts)}.")
    return lines


def _both(own: Difference, same: Difference) -> bool:
    return own.found and same.found and own.value * same.value > 0
