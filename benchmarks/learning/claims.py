"""What the figures support, for a reader who chooses a loss. Every figure is computed from the results file.

All comparisons use SFT's learning rate for every method, so that a difference between two methods is not one between
two learning rates.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.learning.plan import NLL, OTR, SFT, STEP_MATCHED_SFT, display_name
from benchmarks.learning.study import MEASURES, NEW_TOKENS, Study
from benchmarks.learning.tables import bold_points, minus, percent, points, rate_errors

MUCH_WORSE = 0.05  # a smaller difference between two search results may be chance

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
    ahead = [_with_regimes(study, m, regimes) for m in methods if _is_ahead(study, m, regimes)]
    verdict = "no loss is ahead of SFT in all of these regimes"
    if ahead:
        names = f"{', '.join(ahead[:-1])} and {ahead[-1]} are" if len(ahead) > 1 else f"{ahead[0]} is"
        verdict = f"{names} ahead of SFT"
    figures = [
        f"  - {measure}: {'; '.join(filter(None, (_by_regime(study, m, regimes, name) for m in methods)))}."
        for name, measure in MEASURES.items()
    ]
    text = (
        f"**Some answers are wrong at random ({', '.join(regimes)}).** Out of distribution, {verdict}. The study does "
        "not test wrong answers that agree with what the model already believes. OTR and DFT weight a label by the "
        "probability that the model gives it, so they can learn such answers faster than SFT. Points minus SFT (bold: "
        "a difference was found):"
    )
    return "\n".join([text, *figures])


def _with_regimes(study: Study, method: str, regimes: list[str]) -> str:
    """The method's name, with the regimes in which it ran if these are not all."""
    found = [regime for regime in regimes if regime in study.finished_regimes(SFT, method)]
    name = display_name(method)
    return name if found == regimes else f"{name} (which ran in {', '.join(found)} only)"


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
    figures = ", ".join(f"{m} {bold_points(study.differences(OTR, SFT, n)['points'])}" for n, m in MEASURES.items())
    return f"**A rule is different out of distribution (points).** {minus(OTR, SFT)} in points: {figures}."


def old_skills_with_correct_answers(study: Study) -> str:
    shared = study.finished_regimes(SFT, OTR)
    regimes = [regime for regime in study.regimes_with_correct_answers() if regime in shared]
    if not regimes:
        return ""
    title = f"Old skills when every answer is correct ({', '.join(regimes)})."
    return f"**{title}** {minus(OTR, SFT)} in points: {_by_regime(study, OTR, regimes, 'old').removeprefix(f'{OTR} ')}."


def never_seen_tokens(study: Study) -> str:
    if NEW_TOKENS not in study.finished_regimes(SFT, "DFT", OTR):
        return ""
    means = {method: study.mean(method, NEW_TOKENS, "near") for method in (SFT, "DFT", OTR, "OTR exact", NLL)}
    shares = ", ".join(f"{display_name(method)} {percent(mean)}" for method, mean in means.items() if mean is not None)
    unsampled = statistics.fmean(f["metrics"]["first"]["unsampled"] for f in study.final_figures(OTR, NEW_TOKENS))
    return (
        f"**Answers contain tokens that the model has never seen ({NEW_TOKENS}).** OTR cannot learn a token that it "
        f"never draws. Correct answers in distribution, %: {shares}. At the first step, none of OTR's draws was the "
        f"label at {unsampled:.0%} of the trained positions (metric `otr/unsampled`)."
    )


def estimators(study: Study) -> str:
    regimes = study.averaged_regimes(OTR, "OTR exact")
    if len(regimes) < 2:
        return ""
    averages = {measure: study.averages(name)[OTR, "OTR exact"] for name, measure in MEASURES.items()}
    bound = max(abs(d.value) + d.half_width for d in averages.values())
    widest = max(d.half_width for name in MEASURES for d in study.differences(OTR, "OTR exact", name).values())
    figures = ", ".join(f"{measure} {points(d)}" for measure, d in averages.items())
    return (
        f"**Sampled or exact estimator.** Sampled minus exact in points, averaged over {len(regimes)} regimes: "
        f"{figures}. Each of these 95% confidence intervals lies within ± {100 * bound:.1f} points. In single "
        f"regimes the interval is up to ± {100 * widest:.1f} points."
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
    losses = {}
    for regime in study.size.regimes:
        otr, sft = rate_errors(study, OTR, regime), rate_errors(study, SFT, regime)
        if regime != NEW_TOKENS and otr and sft:
            losses[regime] = list(zip(otr, sft, strict=True))  # with a third of the rate, then with ten times the rate
    if not losses:
        return ""
    parts = []
    for i, name in enumerate(("a third of that rate", "ten times that rate")):
        worse = {regime: pair[i] for regime, pair in losses.items() if pair[i][0] - pair[i][1] >= MUCH_WORSE}
        costs = ", ".join(f"{100 * otr:.1f} against {100 * sft:.1f} in {r}" for r, (otr, sft) in worse.items())
        text = f"{name} costs OTR at least {100 * MUCH_WORSE:.0f} points more than SFT in {len(worse)} of {len(losses)}"
        parts.append(f"{text} regimes{f' ({costs})' if costs else ''}")
    return (
        f"**Learning rate.** Start from SFT's learning rate: {'; '.join(parts)}. These are points of validation "
        f"accuracy that are lost in the search runs, with {study.size.search_seeds} seeds and without confidence "
        "intervals."
    )
