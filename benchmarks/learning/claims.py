"""What the figures support, for a reader who chooses a loss. Every figure is computed from the results file.

All comparisons use SFT's learning rate for every method, so that a difference between two methods is not one between
two learning rates.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.learning.comparisons import new_tokens
from benchmarks.learning.plan import NLL, OTR, SFT, STEP_MATCHED_SFT, display_name
from benchmarks.learning.study import MEASURES, NEW_TOKENS, Study
from benchmarks.learning.tables import bold_points, minus, points, rate_errors

EXPLORATORY = """\
**The study is exploratory.** It has one base model per size, tiny models and generated tasks. It tests many
comparisons, and each p-value is corrected only for the regimes or the rows that it is listed with. Take the statements
below as hypotheses for your own evaluation.
"""


def all_of(study: Study) -> list[str]:
    """One statement per claim. Claims whose runs are not finished are left out."""
    writers: tuple[Callable[[Study], str], ...] = (
        random_wrong_answers,
        changed_rule,
        old_skills_with_correct_answers,
        never_seen_tokens,
        estimators,
        settings,
        learning_rate,
    )
    at_sft_rate = study.at_sft_rate()
    return [text for write in writers if (text := write(at_sft_rate))]


def random_wrong_answers(study: Study) -> str:
    regimes = [r for r in study.regimes_with_wrong_answers() if r in study.finished_regimes(SFT, OTR, "DFT")]
    if not regimes:
        return ""
    methods = (OTR, "DFT", NLL)
    ahead = [method for method in methods if _is_ahead(study, method, regimes)]
    verdict = "No loss is ahead of SFT out of distribution in all of these regimes."
    if ahead:
        names = " and ".join([", ".join(map(display_name, ahead[:-1])), display_name(ahead[-1])]).removeprefix(" and ")
        verdict = f"Out of distribution, {names} {'are' if len(ahead) > 1 else 'is'} ahead of SFT in "
        verdict += "each of these regimes in which they ran." if len(ahead) > 1 else "each of these regimes."
    figures = [
        f"{measure}: " + "; ".join(filter(None, (_by_regime(study, m, regimes, name) for m in methods)))
        for name, measure in MEASURES.items()
    ]
    return (
        f"**Some answers are wrong at random ({', '.join(regimes)}).** {verdict} Points minus SFT (bold: a difference "
        f"was found) {'. '.join(figures)}. The study does not test wrong answers that agree with what the model "
        "already believes. OTR and DFT weight a position by the probability of its label, so they can learn such "
        "answers faster than SFT."
    )


def _is_ahead(study: Study, method: str, regimes: list[str]) -> bool:
    found = [d for regime, d in study.differences(method, SFT, "far").items() if regime in regimes]
    return bool(found) and all(d.significant and d.value > 0 for d in found)


def _by_regime(study: Study, method: str, regimes: list[str], name: str) -> str:
    found = {regime: d for regime, d in study.differences(method, SFT, name).items() if regime in regimes}
    text = ", ".join(f"{bold_points(d)} in {regime}" for regime, d in found.items())
    return f"{display_name(method)} {text}" if text else ""


def changed_rule(study: Study) -> str:
    if "points" not in study.finished_regimes(SFT, OTR):
        return ""
    figures = ", ".join(f"{bold_points(study.differences(OTR, SFT, n)['points'])} {m}" for n, m in MEASURES.items())
    return f"**A rule is different out of distribution (points).** {minus(OTR, SFT)} in points: {figures}."


def old_skills_with_correct_answers(study: Study) -> str:
    shared = study.finished_regimes(SFT, OTR)
    regimes = [regime for regime in study.regimes_with_correct_answers() if regime in shared]
    if not regimes:
        return ""
    differences = study.differences(OTR, SFT, "old")
    figures = ", ".join(f"{bold_points(differences[regime])} in {regime}" for regime in regimes)
    return (
        f"**Old skills when every answer is correct ({', '.join(regimes)}).** {minus(OTR, SFT)} in points: {figures}."
    )


def never_seen_tokens(study: Study) -> str:
    text = " ".join(new_tokens(study))
    return f"**The answer has tokens that the model has never seen ({NEW_TOKENS}).** {text}" if text else ""


def estimators(study: Study) -> str:
    regimes = study.averaged_regimes(OTR, "OTR exact")
    if len(regimes) < 2:
        return ""
    averages = {measure: study.averages(name)[OTR, "OTR exact"] for name, measure in MEASURES.items()}
    bound = max(abs(d.value) + d.half_width for d in averages.values())
    widest = max(d.half_width for name in MEASURES for d in study.differences(OTR, "OTR exact", name).values())
    figures = ", ".join(f"{points(d)} {measure}" for measure, d in averages.items())
    return (
        f"**Sampled or exact estimator.** Averaged over {len(regimes)} regimes, sampled minus exact is {figures} "
        f"points: every 95% confidence interval lies within ± {100 * bound:.1f} points. Single regimes are less "
        f"certain, with intervals of up to ± {100 * widest:.1f} points."
    )


def settings(study: Study) -> str:
    """κ, β and K in distribution, averaged over the regimes in which the variants ran."""
    variants = [name for name in study.size.variants if name not in (NLL, STEP_MATCHED_SFT)]
    averages = study.averages("near")
    found = {name: averages[name, OTR] for name in variants if (name, OTR) in averages}
    unclear = {name: d for name, d in found.items() if not d.significant}
    if not unclear:
        return ""
    widths = [100 * d.half_width for d in unclear.values()]
    text = (
        f"**κ, β and K.** For {', '.join(unclear)}, the difference from OTR's defaults in distribution has a 95% "
        f"confidence interval of ± {min(widths):.1f} to ± {max(widths):.1f} points, and no difference was found: the "
        "study is too imprecise to recommend a value."
    )
    clear = [f"{name} ({points(d)})" for name, d in found.items() if d.significant]
    return f"{text} A difference was found for {', '.join(clear)}." if clear else text


def learning_rate(study: Study) -> str:
    """OTR's and SFT's sensitivity to the learning rate, from the search runs."""
    errors = {}
    for regime in study.size.regimes:
        otr, sft = rate_errors(study, OTR, regime), rate_errors(study, SFT, regime)
        if regime != NEW_TOKENS and otr and sft:
            errors[regime] = (otr, sft)
    if not errors:
        return ""
    parts = []
    for i, name in enumerate(("A third of that rate", "ten times that rate")):
        more = [regime for regime, (otr, sft) in errors.items() if otr[i] > sft[i]]
        costs = ", ".join(f"{_cost(otr[i])} against {_cost(sft[i])} in {r}" for r, (otr, sft) in errors.items())
        parts.append(f"{name} costs OTR more than SFT in {len(more)} of {len(errors)} regimes ({costs})")
    return (
        "**Learning rate.** Start from SFT's learning rate. The figures are points of validation accuracy lost, from "
        f"{study.size.search_seeds} search seeds, without confidence intervals. {'; '.join(parts)}."
    )


def _cost(share: float) -> str:
    return f"{100 * share + 0:.1f}"
