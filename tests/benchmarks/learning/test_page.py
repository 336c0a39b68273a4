"""The sentences and tables of the study's page, from invented figures for which the right words are known."""

import dataclasses
import itertools

import pytest

from benchmarks.learning import claims, comparisons, plan, report, store, tables
from benchmarks.learning.command import RESULTS
from benchmarks.learning.plan import NLL, RATE_LADDER, SIZES, Results
from benchmarks.learning.plots import SWEPT_SETTINGS, sweep
from benchmarks.learning.stats import Difference
from benchmarks.learning.study import MEASURES, Study
from otr_plugin import OTRConfig

SMOKE = SIZES["smoke"]
OTR_AND_SFT = "OTR compared with SFT"
SAME = "With each method's own learning rate: the same."


def study_of(values, tokens=None):
    """A finished smoke study. `values` are a method's accuracies by seed, reached after as many `tokens`."""
    lines = [
        {"kind": "session", "size": "smoke", "session": 0},
        {"kind": "base", "size": "smoke", "session": 0, "print": "x", "config": {}, "figures": {}},
    ]

    def add(run, figures):
        lines.append(store.run_line(run, "x", 0, figures))

    for method, accuracies in values.items():
        for rate, accuracy in zip(SMOKE.grid, (0.5, 0.2), strict=True):
            for run in plan.search_runs(SMOKE, method, "compose", rate):
                add(run, {"validation": accuracy, "old": 0.5, "update": 0.1})
        for run in plan.search_runs(SMOKE, method, "compose", RATE_LADDER[2]):
            add(run, {"validation": 0.1, "old": 0.5, "update": 0.1})
        for i, (run, value) in enumerate(
            zip(plan.final_runs(SMOKE, method, "compose", SMOKE.grid[0]), accuracies, strict=True)
        ):
            at = tokens[method][i] if tokens else 100
            sampled = {"pass": {"1": value, "4": value}, "far pass": {"1": 0.0, "4": 0.0}}
            course = {"course": [[1, at // 2, 0.1, 0.79], [2, at, 0.2, value], [3, 2 * at, 0.3, value]]}
            add(run, {"near": value, "far": 0.25, "old": 1 - value} | sampled | course)
    return Study.of(lines, SMOKE)


def test_comparisons_follow_the_sign_and_the_significance_of_the_figures():
    high, low, uncertain = (0.9, 0.91), (0.5, 0.511), (0.3, 0.95)
    otr_better = comparisons.sections(study_of({"OTR": high, "SFT": low}))[OTR_AND_SFT]
    sft_better = comparisons.sections(study_of({"OTR": low, "SFT": high}))[OTR_AND_SFT]
    neither = comparisons.sections(study_of({"OTR": uncertain, "SFT": low}))[OTR_AND_SFT]
    assert otr_better[0].startswith("In distribution: OTR is ahead of SFT in compose (+40.0 ± ")
    none = "no difference between OTR and SFT was found in compose (+0.0 ± 0.0)."
    assert otr_better[1] == f"Out of distribution: {none} {SAME}"
    assert otr_better[2].startswith("Old skills: OTR is behind SFT in compose (-40.0 ± ")
    assert sft_better[0].startswith("In distribution: OTR is behind SFT in compose (-40.0 ± ")
    assert neither[0].startswith("In distribution: no difference between OTR and SFT was found in compose (+11.9 ± ")


def test_tokens_to_the_target_are_compared_only_if_every_seed_reached_it():
    def sentences(otr, sft, tokens=None):
        study = study_of({"OTR": otr, "SFT": sft}, tokens)
        return comparisons.sections(study).get("Trained tokens to 80% validation accuracy")

    reached = (0.9, 0.9)
    # The mean of the logs of 2 and 4 is the log of 2.83, and the half-width of its interval is 12.706 * 0.347.
    uncertain, slower = {"OTR": (200, 400), "SFT": (100, 100)}, {"OTR": (2000, 2010), "SFT": (1000, 1000)}
    start = "OTR's number of tokens divided by SFT's (95% confidence interval): "
    none = f"{start}no difference was found in compose (2.83, 0.03 to 231.22). {SAME}"
    assert sentences(reached, reached, uncertain) == [none]
    more = f"{start}OTR needs more in compose (2.00, 1.94 to 2.07). {SAME}"
    assert sentences(reached, reached, slower) == [more]
    faster = {"OTR": slower["SFT"], "SFT": slower["OTR"]}
    fewer = f"{start}OTR needs fewer in compose (0.50, 0.48 to 0.51). {SAME}"
    assert sentences(reached, reached, faster) == [fewer]
    assert sentences(reached, (0.9, 0.79)) is None  # one seed did not reach the target


def test_seeds_far_below_the_median_are_listed():
    def sentences(otr):
        study = study_of({"OTR": otr, "SFT": (0.5, 0.6)})
        return comparisons.sections(study)["Seeds far below the median"]

    start = "In distribution, these seeds ended 20 points or more below the median of their method: "
    assert sentences((0.9, 0.45)) == [f"{start}OTR in compose (45%; the median is 68%)."]
    assert sentences((0.9, 0.55)) == [f"{start}none."]


AHEAD = (
    "OTR is ahead of SFT in a (+40.0 ± 0.9), b (+40.0 ± 0.9). Average over 2 regimes: +40.0 ± 0.6 points, OTR is ahead."
)
BEHIND = (
    "OTR is behind SFT in a (-30.0 ± 0.9), b (-10.0 ± 0.9). Average over 2 regimes: -20.0 ± 0.6 points, OTR is behind."
)
BOTH = (
    "OTR is ahead of SFT in a (+30.0 ± 0.9) and behind in b (-30.0 ± 0.9). "
    "Average over 2 regimes: +0.0 ± 0.6 points, no difference was found."
)
NEITHER = (
    "no difference between OTR and SFT was found in a (+0.0 ± 0.9), b (+0.0 ± 0.9). "
    "Average over 2 regimes: +0.0 ± 0.6 points, no difference was found."
)
ONLY_TOGETHER = (
    "no difference between OTR and SFT was found in a (+0.9 ± 0.9), b (+0.9 ± 0.9). "
    "Average over 2 regimes: +0.9 ± 0.6 points, OTR is ahead."
)


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        ((40.0, 40.0), AHEAD),
        ((-30.0, -10.0), BEHIND),
        ((30.0, -30.0), BOTH),
        ((0.0, 0.0), NEITHER),
        ((0.9, 0.9), ONLY_TOGETHER),
    ],
)
def test_regimes_come_before_their_average(monkeypatch, differences, sentence):
    """Two regimes with five seeds each and the same spread over the seeds."""
    size = dataclasses.replace(SMOKE, regimes=("a", "b"))
    noise = {"a": (-1, -0.4, 0.1, 0.5, 0.8), "b": (0.8, -1, -0.4, 0.1, 0.5)}

    def values(study, method, regime, name):
        difference = differences["ab".index(regime)]
        return [0.5 + (difference + n) / 100 if method == "OTR" else 0.5 for n in noise[regime]]

    monkeypatch.setattr(Study, "values", values)
    monkeypatch.setattr(Study, "final_figures", lambda study, method, regime: [{}] if method in ("OTR", "SFT") else [])
    study = Study(size, {}, Results(), [])
    assert comparisons.by_regime(study, "OTR", "SFT", "near") == sentence


def constant_values(monkeypatch, values):
    """Five seeds with the same figure, by method and regime. Methods that `values` does not name have no runs."""

    def of(study, method, regime, name):
        return [values[method][regime]] * 5 if regime in values.get(method, {}) else []

    monkeypatch.setattr(Study, "values", of)
    monkeypatch.setattr(Study, "final_figures", lambda study, method, regime: of(study, method, regime, "near"))


def test_one_regime_has_no_average(monkeypatch):
    """A study in progress: one regime is finished, and the regime of new tokens, which is in no average."""
    values = {"OTR": {"a": 0.5, "format": 0.9}, "SFT": {"a": 0.5, "format": 0.5}}
    constant_values(monkeypatch, values)
    study = Study(dataclasses.replace(SMOKE, regimes=("a", "format")), {}, Results(), [])

    def sentence():
        return comparisons.by_regime(study, "OTR", "SFT", "near")

    assert sentence() == "OTR is ahead of SFT in format (+40.0 ± 0.0); no difference was found in a (+0.0 ± 0.0)."
    values["OTR"]["a"] = 0.4
    assert sentence() == "OTR is ahead of SFT in format (+40.0 ± 0.0) and behind in a (-10.0 ± 0.0)."
    values["OTR"] = values["SFT"]
    assert sentence() == "no difference between OTR and SFT was found in a (+0.0 ± 0.0), format (+0.0 ± 0.0)."


def test_with_many_regimes_those_without_a_difference_are_counted(monkeypatch):
    values = {"OTR": dict.fromkeys("abcd", 0.5), "SFT": dict.fromkeys("abcd", 0.5)}
    constant_values(monkeypatch, values)
    study = Study(dataclasses.replace(SMOKE, regimes=tuple("abcd")), {}, Results(), [])

    def sentence():
        return comparisons.by_regime(study, "OTR", "SFT", "near").partition(". ")[0]

    assert sentence() == "no difference between OTR and SFT was found in any of 4 regimes"
    values["OTR"]["a"] = 0.9
    assert sentence() == "OTR is ahead of SFT in a (+40.0 ± 0.0); no difference was found in the other 3 regimes"
    values["OTR"] |= {"b": 0.1, "c": 0.1}
    assert sentence().endswith(
        "behind in b (-40.0 ± 0.0), c (-40.0 ± 0.0); no difference was found in the other regime"
    )


def test_means_are_shown_only_if_every_seed_is_finished():
    study = study_of({"OTR": (0.9, 0.91), "SFT": (0.5,) * 2})
    assert tables.correct_answers(study)[1] == ["compose, in distribution", "50.0 ± 0.0", "90.5 ± 6.4"]
    final = plan.final_runs(SMOKE, "OTR", "compose", SMOKE.grid[0])[1]
    del study.results.figures[final.key]
    assert tables.correct_answers(study)[1] == ["compose, in distribution", "50.0 ± 0.0", ""]
    assert OTR_AND_SFT not in comparisons.sections(study)


# Claims


def claim_of(write, monkeypatch, values, regimes):
    constant_values(monkeypatch, values)
    return write(Study(dataclasses.replace(SMOKE, regimes=regimes), {}, Results(), []))


def test_only_losses_that_are_ahead_are_named_for_answers_that_are_wrong_at_random(monkeypatch):
    regimes = ("wrong10", "wrong30")
    low, high = dict.fromkeys(regimes, 0.1), dict.fromkeys(regimes, 0.2)

    def verdict(**values):
        text = claim_of(claims.random_wrong_answers, monkeypatch, values, regimes)
        return text.partition("Out of distribution, ")[2].partition(".")[0]

    assert verdict(SFT=low, OTR=high, DFT=high) == "OTR and DFT are ahead of SFT"
    assert verdict(SFT=low, OTR=high, DFT=low) == "OTR is ahead of SFT"
    assert verdict(SFT=low, OTR=high | {"wrong30": 0.1}, DFT=low) == "no loss is ahead of SFT in all of these regimes"
    only = claim_of(
        claims.random_wrong_answers, monkeypatch, {"SFT": low, "OTR": low, "DFT": low, NLL: {"wrong30": 0.2}}, regimes
    )
    assert "nll_weight 0.1 (which ran in wrong30 only) is ahead of SFT. The study does not test" in only
    assert verdict(SFT=low, OTR=high) == ""  # DFT is not finished


def test_settings_are_grouped_by_whether_a_difference_was_found(monkeypatch):
    def averages(study, name):
        return {("K=1", "OTR"): Difference(-0.2, 0.1, 0.001), ("K=16", "OTR"): Difference(0.01, 0.04, 0.6)}

    monkeypatch.setattr(Study, "averages", averages)
    study = Study(dataclasses.replace(SMOKE, variants=("K=1", "K=16", NLL)), {}, Results(), [])
    text = claims.settings(study)
    assert text.startswith("**κ, β and K.** For K=16, the difference")
    assert "± 4.0 to ± 4.0 points, and no difference was found" in text
    assert text.endswith("A difference was found for K=1 (-20.0 ± 10.0).")


def test_the_cost_of_a_wrong_learning_rate_is_relative_to_sfts_best_rate():
    """SFT's best rate is the second of the grid's four; OTR loses more than SFT at a third and at ten times of it."""
    size = dataclasses.replace(SIZES["cpu"], regimes=("compose",))
    results = Results()
    for method, accuracies in {"SFT": (0.7, 0.9, 0.8, 0.6), "OTR": (0.4, 0.9, 0.8, 0.1)}.items():
        for rate, accuracy in zip(size.grid, accuracies, strict=True):
            for run in plan.search_runs(size, method, "compose", rate):
                results.figures[run.key] = {"validation": accuracy}
    study = Study(size, {}, results, [])
    assert tables.rate_errors(study, "SFT", "compose") == pytest.approx((0.2, 0.3))
    assert tables.rate_errors(study, "OTR", "compose") == pytest.approx((0.5, 0.8))
    text = claims.learning_rate(study)
    assert "a third of that rate costs OTR at least 5 points more than SFT in 1 of 1 regimes (50.0 against 20.0" in text
    assert "ten times that rate costs OTR at least 5 points more than SFT in 1 of 1 regimes (80.0 against 30.0" in text


@pytest.fixture(scope="module")
def recorded():
    return Study.of(store.read(RESULTS), SIZES["cpu"])


def test_nll_weight_minus_sft_is_in_the_tables(recorded):
    values = [recorded.differences(NLL, "SFT", name)["wrong30"] for name in MEASURES]
    cells = [tables.points_with_p(one) for one in values]
    assert ["nll_weight 0.1 − SFT, wrong30", *cells] in tables.differences(recorded)  # noqa: RUF001
    assert ["nll_weight 0.1 − SFT, wrong30", *map(tables.bold_points, values)] in tables.readme(recorded)  # noqa: RUF001


def test_an_added_comparison_does_not_change_the_correction_of_the_averages(recorded):
    """Holm's correction depends on the number of rows: the nll_weight comparison has its own."""
    assert (NLL, "SFT") not in recorded.averages("near")
    assert len(recorded.averages("near")) == 4 + len(recorded.size.variants)


def test_every_claim_is_made_from_the_recorded_runs(recorded):
    text = "\n".join(claims.all_of(recorded))
    assert text.count("**Some answers are wrong at random") == 1
    assert len(claims.all_of(recorded)) == 7
    assert report.readme_figures(store.read(RESULTS))[0].startswith("| points of correct answers | in distribution |")


# Settings


@pytest.mark.parametrize("setting", SWEPT_SETTINGS.values())
def test_the_swept_values_include_the_default(setting):
    values = sweep(setting)
    assert (getattr(OTRConfig(), setting), "OTR") in values
    assert values == sorted(values)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(values))
