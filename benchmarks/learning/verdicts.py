"""What the figures say, in sentences that are made from them, whichever way they fall."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.learning import plan
from benchmarks.learning.stats import Difference
from benchmarks.learning.study import DEFAULT, MEASURES, Study


def points(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f} ± {100 * difference.half:.1f}"


def compared(first: str, second: str, differences: dict[str, Difference]) -> str:
    """Where one is better, where the other, and where no difference was found, each with its interval."""
    better = [r for r, d in differences.items() if d.found and d.value > 0]
    worse = [r for r, d in differences.items() if d.found and d.value < 0]
    open_ = [r for r, d in differences.items() if not d.found]

    def listed(regimes: list[str]) -> str:
        return ", ".join(f"{regime} {points(differences[regime])}" for regime in regimes)

    parts = []
    if better:
        parts.append(f"{first} is better than {second} in {len(better)} ({listed(better)})")
    if worse:
        parts.append(f"{first} is worse than {second} in {len(worse)} ({listed(worse)})")
    if open_:
        parts.append(f"no difference was found in {len(open_)} ({listed(open_)})")
    return f"of {len(differences)} regimes, " + "; ".join(parts) + "."


def against(study: Study, first: str, second: str, measures: dict[str, str] = MEASURES) -> list[str]:
    lines = []
    for name, called in measures.items():
        differences = study.differences(first, second, name)
        if differences:
            lines.append(f"{called[0].upper()}{called[1:]}: {compared(first, second, differences)}")
    return lines


def all_of(study: Study) -> dict[str, list[str]]:
    """Sentences by question. A question whose runs are not there yet is left out."""
    questions: dict[str, Callable[[Study], list[str]]] = {
        "Does OTR beat SFT?": lambda s: against(s, "OTR", "SFT"),
        "Is it only a noisy DFT?": lambda s: against(s, "OTR", "DFT"),
        "Why sample, when the sum is exact?": sampled_or_exact,
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


def several(study: Study) -> list[str]:
    """Whether the right answer is still among several that are drawn."""
    k = study.most_answers
    called = {f"pass/{k}": f"pass@{k}, in distribution", f"far pass/{k}": f"pass@{k}, out of distribution"}
    return against(study, "OTR", "SFT", called) + against(study, "OTR", "DFT", called)


def variants(study: Study, *names: str) -> list[str]:
    """Each variant against the defaults, which it differs from in one setting."""
    lines = []
    for name in names:
        parts = []
        for measure, called in MEASURES.items():
            differences = study.differences(name, DEFAULT, measure)
            if differences:
                parts.append(f"{called}, {compared(called_variant(name), 'the default', differences)}")
        if parts:
            lines.append(f"{called_variant(name)}: " + " ".join(parts))
    return lines


def called_variant(name: str) -> str:
    return "nll_weight 0.1" if name == "nll" else name


def equal_steps(study: Study) -> list[str]:
    """If SFT, made to step as far as OTR, still differs from it, then it is not the size of the steps."""
    if not study.regimes_of(plan.EQUAL):
        return []
    return against(study, "OTR", plan.EQUAL)


def when_not(study: Study) -> list[str]:
    """A token that is never drawn is never learnt."""
    if "format" not in study.regimes_of("SFT", "DFT", "OTR"):
        return []
    said = []
    for method in ("SFT", "DFT", "OTR", "OTR exact", "nll"):
        mean = study.mean(method, "format", "near")
        if mean is not None:
            called = "OTR with nll_weight 0.1" if method == "nll" else method
            said.append(f"{called} {100 * mean.value:.1f}% ± {100 * mean.half:.1f}")
    missed = statistics.fmean(f["metrics"]["first"]["unsampled"] for f in study.finals("OTR", "format"))
    text = (
        f"With answers between tokens that the model has never seen, right answers were: {', '.join(said)}. At the "
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
    """By regime: who is ahead of SFT somewhere and behind nowhere, and who the other way round."""
    lines = []
    for method in study.size.methods[1:]:
        tables = {called: study.differences(method, "SFT", name) for name, called in MEASURES.items()}
        groups: dict[str, list[str]] = {"for": [], "against": [], "trade": [], "either": []}
        for regime in study.regimes_of("SFT", method):
            found = [table[regime] for table in tables.values() if table[regime].found]
            ahead, behind = any(d.value > 0 for d in found), any(d.value < 0 for d in found)
            group = "trade" if ahead and behind else "for" if ahead else "against" if behind else "either"
            groups[group].append(regime)
        said = [
            f"{words} {', '.join(groups[group])}"
            for group, words in (
                ("for", f"{method} is ahead in something and behind in nothing in"),
                ("against", "SFT is, in"),
                ("trade", "each is ahead in something in"),
                ("either", "nothing was found between them in"),
            )
            if groups[group]
        ]
        if said:
            lines.append(f"{method} or SFT: {'; '.join(said)}.")
    return lines
