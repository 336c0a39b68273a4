"""The study's measures, its plan and its statistics: each against a count by hand."""

import dataclasses
import itertools
import math
import statistics

import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks.learning import base, plan
from benchmarks.learning.evaluate import at_least_one, calibration_error, generate, noise_of
from benchmarks.learning.plan import EQUAL, LADDER, SIZES, Results, Run
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.stats import Difference, holm, mean, paired
from benchmarks.learning.study import Study
from benchmarks.learning.train import measured, train
from otr_plugin import OTRConfig

SMOKE = SIZES["smoke"]


# Measures


@pytest.mark.parametrize("hits", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_all_choices_of_k(hits, k):
    answers = [True] * hits + [False] * (5 - hits)
    choices = list(itertools.combinations(answers, k))
    assert at_least_one(5, hits, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_calibration_error_of_a_case_by_hand():
    sure = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55, 1.0])
    correct = torch.tensor([True, True, True, False, True, False, True])
    # The last bin holds 0.95 four times and 1.0: 4.8 expected, 4 right. The sixth: 1.1 expected, 1 right.
    assert calibration_error(sure, correct) == pytest.approx((0.8 + 0.1) / 7, abs=1e-6)
    assert calibration_error(torch.tensor([0.3]), torch.tensor([True])) == pytest.approx(0.7)


def test_noise_is_variance_and_mean_without_bias():
    gradients = torch.randn(2000, 8, 3, generator=torch.Generator().manual_seed(0)) * 2 + 1
    found = [noise_of(some) for some in gradients]
    for some, (variance, _) in zip(gradients[:5], found, strict=False):
        assert variance == pytest.approx(some.var(0).sum().item(), rel=1e-4)
    assert statistics.fmean(v for v, _ in found) == pytest.approx(12, rel=0.05)  # 3 numbers of variance 4
    assert statistics.fmean(m for _, m in found) == pytest.approx(3, rel=0.1)  # their mean is (1, 1, 1)


# The plan


def searched(scores, method="OTR"):
    """Results in which each rate has this validation accuracy, at every seed of the search."""
    known = Results()
    for rate, value in scores.items():
        for run in plan.searches(CPU, method, "compose", rate):
            known.figures[run.key] = {"validation": value}
    return known


CPU = SIZES["cpu"]


@pytest.mark.parametrize(
    ("scores", "tried", "best"),
    [
        ({3e-4: 0.1, 1e-3: 0.5, 3e-3: 0.4, 1e-2: 0.0}, CPU.grid, 1e-3),
        ({3e-4: 0.1, 1e-3: 0.5, 3e-3: 0.515, 1e-2: 0.0}, CPU.grid, 1e-3),  # as good, and smaller
        ({3e-4: 0.1, 1e-3: 0.5, 3e-3: 0.525, 1e-2: 0.0}, CPU.grid, 3e-3),
        ({3e-4: 0.1, 1e-3: 0.2, 3e-3: 0.3, 1e-2: 0.4}, (*CPU.grid, 3e-2), None),  # the edge: one more to try
        ({3e-4: 0.1, 1e-3: 0.2, 3e-3: 0.3, 1e-2: 0.4, 3e-2: 0.2}, (*CPU.grid, 3e-2), 1e-2),
        ({3e-4: 0.6, 1e-3: 0.2, 3e-3: 0.3, 1e-2: 0.4}, (1e-4, *CPU.grid), None),
        ({3e-4: 0.6, 1e-3: 0.2, 3e-3: 0.3}, CPU.grid, None),  # one is still running
        (dict.fromkeys(CPU.grid, 0.0), CPU.grid, 3e-3),  # nothing learnt: no edge to follow
        (dict.fromkeys(LADDER, 0.0) | {3e-5: 0.9, 1e-4: 0.8, 3e-4: 0.7}, LADDER[:6], 3e-5),  # the ladder ends
    ],
)
def test_search_follows_the_file(scores, tried, best):
    known = searched(scores)
    assert plan.rates(CPU, "OTR", "compose", known) == list(tried)
    assert plan.chosen(CPU, "OTR", "compose", known) == best
    finals = [r for r in plan.planned(CPU, known) if (r.kind, r.regime, r.method) == ("final", "compose", "OTR")]
    assert [run.rate for run in finals] == ([] if best is None else [best] * CPU.seeds)  # SFT's is not known
    equal = [r for r in plan.planned(CPU, known) if (r.kind, r.regime, r.method) == ("final", "compose", EQUAL)]
    assert [run.rate for run in equal] == [run.rate for run in finals]


def test_everybody_runs_at_sfts_rate_too():
    known = searched(dict.fromkeys(CPU.grid, 0.1) | {1e-3: 0.5})
    known.figures |= searched(dict.fromkeys(CPU.grid, 0.1) | {3e-3: 0.5}, "SFT").figures
    finals = [r for r in plan.planned(CPU, known) if (r.kind, r.regime) == ("final", "compose")]
    found = {m: {run.rate for run in finals if run.method == m} for m in ("SFT", "OTR", EQUAL)}
    assert found == {"SFT": {3e-3}, "OTR": {1e-3, 3e-3}, EQUAL: {1e-3}}
    study = Study(CPU, {}, known, [])
    assert [study.rate(m, "compose") for m in found] == [3e-3, 1e-3, 1e-3]
    assert [study.at_one_rate().rate(m, "compose") for m in found] == [3e-3, 3e-3, None]


def test_no_seed_is_both_chosen_on_and_reported():
    runs = list(plan.planned(CPU, searched(dict.fromkeys(CPU.grid, 0.5) | {1e-4: 0.1})))
    by_kind = {kind: {run.seed for run in runs if run.kind == kind} for kind in ("search", "final")}
    assert len(by_kind["final"]) >= 5
    assert not by_kind["search"] & by_kind["final"]
    assert len({run.key for run in runs}) == len(runs)


# One run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    base.new_model(SMOKE).save_pretrained(folder)
    return folder


def test_sft_at_otrs_step_size_steps_as_far(tiny):
    pairs = REGIMES["compose"].train(0)
    otr = train(base.load(tiny), pairs, OTRConfig(), 3e-3, SMOKE, 0)["updates"]
    sft = train(base.load(tiny), pairs, OTRConfig(objective="sft"), 3e-3, SMOKE, 0)["updates"]
    equal = train(base.load(tiny), pairs, OTRConfig(objective="sft"), 1e-3, SMOKE, 0, lengths=otr)["updates"]
    assert max(abs(a / b - 1) for a, b in zip(sft, otr, strict=True)) > 1e-2
    assert equal == pytest.approx(otr, rel=1e-4)
    run = Run("smoke", "final", "compose", EQUAL, 3e-3, 0)
    assert measured(run, tiny)["update"] == pytest.approx(statistics.fmean(otr), rel=1e-4)


def test_a_run_repeats_itself_and_its_seed_matters(tiny):
    def figures(seed):
        found = measured(Run("smoke", "final", "compose", "OTR", 3e-3, seed), tiny)
        del found["seconds"]
        found["course"] = [look[:2] for look in found["course"]]  # the others are seconds and accuracy
        return found

    assert figures(0) == figures(0) != figures(1)


def test_answers_without_an_end_are_not_right(tiny):
    model = base.load(tiny)
    said = generate(model, [("copy:ab=", "ab"), ("copy:abc=", "abc")], samples=8, seed=0)
    assert [len(some) for some in said] == [8, 8]
    assert any(one.endswith("...") for some in said for one in some)
    assert said == generate(model, [("copy:ab=", "ab"), ("copy:abc=", "abc")], samples=8, seed=0)


def test_the_largest_size_runs(monkeypatch, tmp_path):
    """Its model and its settings, with fewer steps and questions than anybody would take for results."""
    few = {"steps": 2, "batch": 4, "base_steps": 1, "base_decay": 1, "base_batch": 8, "asked": 11, "sampled": 2}
    monkeypatch.setitem(SIZES, "gpu", dataclasses.replace(SIZES["gpu"], **few, answers=4, looks=1))
    monkeypatch.setattr(base, "LOOK", 2)
    monkeypatch.setattr(base, "ASKED", 2)
    figures = base.pretrain(SIZES["gpu"], tmp_path, lambda share: None, math.inf)
    assert figures["steps"] == 2
    assert figures["parameters"] > 2e7
    found = measured(Run("gpu", "final", "format", "OTR", 1e-3, 0), tmp_path)
    assert found["tokens"] > 0
    assert math.isfinite(found["nll"])


# Statistics


def test_intervals_and_tests_are_the_textbooks():
    assert mean([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 2.776445 * math.sqrt(0.5), 5), rel=1e-5)
    a, b = [0.5, 0.6, 0.55, 0.7, 0.8], [0.4, 0.55, 0.6, 0.6, 0.65]
    found = paired(a, b)
    assert found.p == pytest.approx(ttest_rel(a, b).pvalue)
    assert found.value == pytest.approx(0.07)
    assert paired(a, a).p == 1
    assert paired([1.0] * 5, [0.0] * 5).p == 0


def test_holm_by_hand():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.2}
    corrected = holm({name: Difference(0.1, 0.1, value) for name, value in p.items()})
    assert {name: d.p for name, d in corrected.items()} == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.2})
    assert list(corrected) == list(p)
