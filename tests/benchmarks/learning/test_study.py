"""The study's measures, plan, training and statistics, each compared with a calculation by hand."""

import dataclasses
import itertools
import math
import statistics

import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks.learning import base_model, plan
from benchmarks.learning.evaluation import (
    calibration_error,
    generate_answers,
    pass_at_k_estimate,
    variance_and_squared_mean,
)
from benchmarks.learning.plan import RATE_LADDER, SIZES, STEP_MATCHED_SFT, Results, Run
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.stats import Difference, holm, mean_over_seeds, paired_difference
from benchmarks.learning.study import Study
from benchmarks.learning.train import execute, train
from otr_plugin import OTRConfig

SMOKE, CPU = SIZES["smoke"], SIZES["cpu"]


# Measures


@pytest.mark.parametrize("hits", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_answer(hits, k):
    answers = [True] * hits + [False] * (5 - hits)
    choices = list(itertools.combinations(answers, k))
    assert pass_at_k_estimate(5, hits, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_calibration_error_agrees_with_a_case_by_hand():
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55, 1.0])
    correct = torch.tensor([True, True, True, False, True, False, True])
    # The last bin holds 0.95 four times and 1.0: confidence sums to 4.8, and 4 are correct. The sixth: 1.1, and 1.
    assert calibration_error(confidence, correct) == pytest.approx((0.8 + 0.1) / 7, abs=1e-6)
    assert calibration_error(torch.tensor([0.3]), torch.tensor([True])) == pytest.approx(0.7)


def test_gradient_variance_and_squared_mean_are_unbiased():
    gradients = torch.randn(2000, 8, 3, generator=torch.Generator().manual_seed(0)) * 2 + 1
    found = [variance_and_squared_mean(some) for some in gradients]
    for some, (variance, _) in zip(gradients[:5], found, strict=False):
        assert variance == pytest.approx(some.var(0).sum().item(), rel=1e-4)
    assert statistics.fmean(v for v, _ in found) == pytest.approx(12, rel=0.05)  # three components with variance 4 each
    assert statistics.fmean(m for _, m in found) == pytest.approx(3, rel=0.1)  # the mean is (1, 1, 1)


# The plan


def search_results(accuracy_by_rate, method="OTR"):
    """Results in which every search seed of a rate has the given validation accuracy."""
    results = Results()
    for rate, accuracy in accuracy_by_rate.items():
        for run in plan.search_runs(CPU, method, "compose", rate):
            results.figures[run.key] = {"validation": accuracy}
    return results


@pytest.mark.parametrize(
    ("accuracy_by_rate", "searched", "chosen"),
    [
        ({3e-4: 0.1, 1e-3: 0.5, 3e-3: 0.4, 1e-2: 0.0}, CPU.grid, 1e-3),
        ({3e-4: 0.1, 1e-3: 0.5, 3e-3: 0.515, 1e-2: 0.0}, CPU.grid, 1e-3),  # equally good, so the smaller one
        ({3e-4: 0.1, 1e-3: 0.5, 3e-3: 0.525, 1e-2: 0.0}, CPU.grid, 3e-3),
        (
            {3e-4: 0.1, 1e-3: 0.2, 3e-3: 0.3, 1e-2: 0.4},
            (*CPU.grid, 3e-2),
            None,
        ),  # the best is at the edge, so one more rate follows
        ({3e-4: 0.1, 1e-3: 0.2, 3e-3: 0.3, 1e-2: 0.4, 3e-2: 0.2}, (*CPU.grid, 3e-2), 1e-2),
        ({3e-4: 0.6, 1e-3: 0.2, 3e-3: 0.3, 1e-2: 0.4}, (1e-4, *CPU.grid), None),
        ({3e-4: 0.6, 1e-3: 0.2, 3e-3: 0.3}, CPU.grid, None),  # one run is not finished
        (dict.fromkeys(CPU.grid, 0.0), CPU.grid, 3e-3),  # nothing was learnt, so the grid is not extended
        (
            dict.fromkeys(RATE_LADDER, 0.0) | {3e-5: 0.9, 1e-4: 0.8, 3e-4: 0.7},
            RATE_LADDER[:6],
            3e-5,
        ),  # no smaller rate exists
    ],
)
def test_the_search_extends_its_grid_and_chooses_the_smallest_good_rate(accuracy_by_rate, searched, chosen):
    results = search_results(accuracy_by_rate)
    assert plan.search_rates(CPU, "OTR", "compose", results) == list(searched)
    assert plan.chosen_rate(CPU, "OTR", "compose", results) == chosen

    def final_rates(method):
        runs = plan.planned_runs(CPU, results)
        return [r.rate for r in runs if (r.kind, r.regime, r.method) == ("final", "compose", method)]

    assert final_rates("OTR") == ([] if chosen is None else [chosen] * CPU.seeds)  # SFT's rate is not known yet
    assert final_rates(STEP_MATCHED_SFT) == final_rates("OTR")


def test_every_method_also_runs_at_sfts_rate():
    results = search_results(dict.fromkeys(CPU.grid, 0.1) | {1e-3: 0.5})
    results.figures |= search_results(dict.fromkeys(CPU.grid, 0.1) | {3e-3: 0.5}, "SFT").figures
    finals = [r for r in plan.planned_runs(CPU, results) if (r.kind, r.regime) == ("final", "compose")]
    found = {m: {run.rate for run in finals if run.method == m} for m in ("SFT", "OTR", STEP_MATCHED_SFT)}
    assert found == {"SFT": {3e-3}, "OTR": {1e-3, 3e-3}, STEP_MATCHED_SFT: {1e-3}}
    study = Study(CPU, {}, results, [])
    assert [study.rate(m, "compose") for m in found] == [3e-3, 1e-3, 1e-3]
    assert [study.at_sft_rate().rate(m, "compose") for m in found] == [3e-3, 3e-3, None]


def test_search_seeds_are_never_reported():
    runs = list(plan.planned_runs(CPU, search_results(dict.fromkeys(CPU.grid, 0.5) | {1e-4: 0.1})))
    seeds = {kind: {run.seed for run in runs if run.kind == kind} for kind in ("search", "final")}
    assert len(seeds["final"]) >= 5
    assert not seeds["search"] & seeds["final"]
    assert len({run.key for run in runs}) == len(runs)


# One run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    base_model.new_model(SMOKE).save_pretrained(folder)
    return folder


def test_step_matched_sft_takes_steps_as_long_as_otrs(tiny):
    pairs = REGIMES["compose"].training_examples(0)
    otr = train(base_model.load(tiny), pairs, OTRConfig(), 3e-3, SMOKE, 0)["updates"]
    sft = train(base_model.load(tiny), pairs, OTRConfig(objective="sft"), 3e-3, SMOKE, 0)["updates"]
    matched = train(base_model.load(tiny), pairs, OTRConfig(objective="sft"), 1e-3, SMOKE, 0, step_lengths=otr)[
        "updates"
    ]
    assert max(abs(a / b - 1) for a, b in zip(sft, otr, strict=True)) > 1e-2
    assert matched == pytest.approx(otr, rel=1e-4)
    run = Run("smoke", "final", "compose", STEP_MATCHED_SFT, 3e-3, 0)
    assert execute(run, tiny)["update"] == pytest.approx(statistics.fmean(otr), rel=1e-4)


def test_a_run_depends_on_its_seed_and_on_nothing_else(tiny):
    def figures(seed):
        found = execute(Run("smoke", "final", "compose", "OTR", 3e-3, seed), tiny)
        del found["seconds"]
        found["course"] = [validation[:2] for validation in found["course"]]  # the rest is seconds and accuracy
        return found

    assert figures(0) == figures(0) != figures(1)


def test_answers_without_an_end_token_are_marked(tiny):
    model, questions = base_model.load(tiny), [("copy:ab=", "ab"), ("copy:abc=", "abc")]
    answers = generate_answers(model, questions, samples=8, seed=0)
    assert [len(sampled) for sampled in answers] == [8, 8]
    assert any(answer.endswith("...") for sampled in answers for answer in sampled)
    assert answers == generate_answers(model, questions, samples=8, seed=0)


def test_the_largest_size_runs(monkeypatch, tmp_path):
    """The model and the settings of size gpu, with so few steps and questions that a CPU can run it."""
    steps = {"steps": 2, "batch": 4, "base_steps": 1, "base_decay": 1, "base_batch": 8, "evaluations": 1}
    questions = {"questions": 11, "sampled_questions": 2, "samples_per_question": 4}
    monkeypatch.setitem(SIZES, "gpu", dataclasses.replace(SIZES["gpu"], **steps, **questions))
    monkeypatch.setattr(base_model, "VALIDATION_QUESTIONS", 2)
    monkeypatch.setattr(base_model, "TEST_QUESTIONS", 2)
    figures = base_model.pretrain(SIZES["gpu"], tmp_path, lambda share: None, math.inf)
    assert figures["steps"] == 2
    assert figures["parameters"] > 2e7
    found = execute(Run("gpu", "final", "format", "OTR", 1e-3, 0), tmp_path)
    assert found["tokens"] > 0
    assert math.isfinite(found["nll"])


# Statistics


def test_intervals_and_p_values_agree_with_the_t_distribution():
    assert mean_over_seeds([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 2.776445 * math.sqrt(0.5), 5), rel=1e-5)
    a, b = [0.5, 0.6, 0.55, 0.7, 0.8], [0.4, 0.55, 0.6, 0.6, 0.65]
    found = paired_difference(a, b)
    assert found.p == pytest.approx(ttest_rel(a, b).pvalue)
    assert found.value == pytest.approx(0.07)
    assert paired_difference(a, a).p == 1
    assert paired_difference([1.0] * 5, [0.0] * 5).p == 0


def test_holms_correction_agrees_with_a_case_by_hand():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.2}
    corrected = holm({name: Difference(0.1, 0.1, value) for name, value in p.items()})
    assert {name: d.p for name, d in corrected.items()} == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.2})
    assert list(corrected) == list(p)
