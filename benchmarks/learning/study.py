"""The recorded runs of one size, as means and differences over seeds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.learning import plan, store
from benchmarks.learning.plan import NLL, OTR, SFT, Results, Run, Size
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.stats import Difference, Mean, holm, mean_over_seeds, paired_difference

MEASURES = {"near": "in distribution", "far": "out of distribution", "old": "old skills"}  # key in the file -> name
NEW_TOKENS = "format"  # this regime tests a known limit of OTR, so no average includes it
AVERAGED_COMPARISONS = ((OTR, SFT), (OTR, "DFT"), (OTR, "OTR exact"), ("DFT", SFT))
COMPARISONS = (*AVERAGED_COMPARISONS, (NLL, SFT))


@dataclass(frozen=True)
class Study:
    size: Size
    base: dict[str, Any]
    results: Results
    sessions: list[dict[str, Any]]
    all_at_sft_rate: bool = False  # whether every method runs at SFT's learning rate instead of its own

    def at_sft_rate(self) -> Study:
        return replace(self, all_at_sft_rate=True)

    @staticmethod
    def of(lines: list[dict[str, Any]], size: Size) -> Study | None:
        """The study of one size, or None if the file has no base model of that size."""
        base = store.last_base_line(lines, size)
        if base is None:
            return None
        sessions = [line for line in lines if line["kind"] == "session" and line["size"] == size.name]
        return Study(size, base, store.results(lines, size), sessions)

    @property
    def largest_k(self) -> str:
        """The largest k of pass@k."""
        return str(max(4**i for i in range(10) if 4**i <= self.size.samples_per_question))

    def final_figures(self, method: str, regime: str) -> list[dict[str, Any]]:
        """Figures of the reported runs by seed. Empty until every seed is finished, so that no mean is over a part."""
        rate = self.rate(method, regime)
        if rate is None:
            return []
        figures = [self.results.get(run) for run in plan.final_runs(self.size, method, regime, rate)]
        finished = [one for one in figures if one is not None]
        return finished if len(finished) == len(figures) else []

    def rate(self, method: str, regime: str) -> float | None:
        """The learning rate of the method's reported runs."""
        own = plan.chosen_rate(self.size, method, regime, self.results)
        if not self.all_at_sft_rate:
            return own
        sft = plan.chosen_rate(self.size, SFT, regime, self.results)
        # SFT with OTR's step lengths runs only at OTR's own rate.
        return None if method == plan.STEP_MATCHED_SFT and own != sft else sft

    def values(self, method: str, regime: str, name: str) -> list[float]:
        """One figure by seed. The name "pass/16" means the figure "16" inside the figure "pass"."""
        outer, _, inner = name.partition("/")
        return [figures[outer][inner] if inner else figures[outer] for figures in self.final_figures(method, regime)]

    def first_at_target(self, method: str, regime: str) -> list[Any]:
        """By seed, the first validation (step, tokens, seconds, accuracy) with the target accuracy, or None."""
        courses = [figures["course"] for figures in self.final_figures(method, regime)]
        target = self.size.target_accuracy
        return [next((validation for validation in course if validation[3] >= target), None) for course in courses]

    def mean(self, method: str, regime: str, name: str) -> Mean | None:
        values = self.values(method, regime, name)
        return mean_over_seeds(values) if values else None

    def base_figures(self, regime: str) -> dict[str, Any] | None:
        """Figures of the base model without fine-tuning."""
        return self.results.get(Run(self.size.name, "before", regime))

    def gradient_noise(self, regime: str) -> list[dict[str, Any]]:
        """Gradient noise by seed. Empty until every seed is finished."""
        runs = [Run(self.size.name, "noise", regime, seed=seed) for seed in range(self.size.seeds)]
        found = [figures for run in runs if (figures := self.results.get(run)) is not None]
        return found if len(found) == len(runs) else []

    def differences(self, first: str, second: str, name: str) -> dict[str, Difference]:
        """First minus second for every regime in which both ran, with Holm's correction over these regimes."""
        found = {}
        for regime in self.size.regimes:
            a, b = self.values(first, regime, name), self.values(second, regime, name)
            if a and b:
                found[regime] = paired_difference(a, b)
        return holm(found)

    def averages(self, name: str) -> dict[tuple[str, str], Difference]:
        """Differences of each seed's average over the regimes in which both methods ran, with Holm's correction over
        the comparisons."""
        found = {}
        for first, second in (*AVERAGED_COMPARISONS, *((variant, OTR) for variant in self.size.variants)):
            regimes = self.averaged_regimes(first, second)
            if regimes:
                by_regime = [[self.values(method, regime, name) for regime in regimes] for method in (first, second)]
                a, b = ([statistics.fmean(seed) for seed in zip(*rows, strict=True)] for rows in by_regime)
                found[first, second] = paired_difference(a, b)
        return holm(found)

    def averaged_regimes(self, first: str, second: str) -> list[str]:
        return [regime for regime in self.finished_regimes(first, second) if regime != NEW_TOKENS]

    def search_accuracy(self, method: str, regime: str) -> dict[float, float]:
        """Validation accuracy by learning rate, from the search runs."""
        rates = plan.search_rates(self.size, method, regime, self.results)
        found = {rate: plan.search_accuracy(self.size, method, regime, rate, self.results) for rate in rates}
        return {rate: accuracy for rate, accuracy in found.items() if accuracy is not None}

    def search_mean(self, method: str, regime: str, rate: float, name: str) -> Mean | None:
        """The mean of a figure over the search seeds."""
        runs = plan.search_runs(self.size, method, regime, rate)
        found = [figures[name] for run in runs if (figures := self.results.get(run)) is not None]
        return mean_over_seeds(found) if found else None

    def finished_regimes(self, *methods: str) -> list[str]:
        """The regimes in which every seed of all these methods is finished."""
        return [r for r in self.size.regimes if all(self.final_figures(method, r) for method in methods)]

    def regimes_with_wrong_answers(self) -> list[str]:
        return [regime for regime in self.size.regimes if REGIMES[regime].wrong]

    def regimes_with_correct_answers(self) -> list[str]:
        """Regimes whose training answers are all correct, without the regime of new tokens."""
        return [regime for regime in self.size.regimes if not REGIMES[regime].wrong and regime != NEW_TOKENS]
