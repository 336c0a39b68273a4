"""The results file as the page asks for it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.learning import plan, store
from benchmarks.learning.plan import Results, Run, Size
from benchmarks.learning.stats import Difference, Mean, holm, mean, paired

MEASURES = {"near": "in distribution", "far": "out of distribution", "old": "old skills"}
DEFAULT = "OTR"
APART = "format"  # a test of a limit that is known: in no average
COMPARED = (("OTR", "SFT"), ("OTR", "DFT"), ("OTR", "OTR exact"), ("DFT", "SFT"))


@dataclass(frozen=True)
class Study:
    size: Size
    base: dict[str, Any]
    known: Results
    sessions: list[dict[str, Any]]
    alike: bool = False  # every method at SFT's rate, instead of at its own

    def at_one_rate(self) -> Study:
        return replace(self, alike=True)

    @staticmethod
    def of(lines: list[dict[str, Any]], size: Size) -> Study | None:
        base = store.base_line(lines, size)
        if base is None:
            return None
        sessions = [line for line in lines if line["kind"] == "session" and line["size"] == size.name]
        return Study(size, base, store.results(lines, size), sessions)

    @property
    def most_answers(self) -> str:
        """The largest k of pass@k."""
        return str(max(4**i for i in range(10) if 4**i <= self.size.answers))

    def finals(self, method: str, regime: str) -> list[dict[str, Any]]:
        """By seed; empty until every seed is there, so that nothing is quoted from some of them."""
        rate = self.rate(method, regime)
        if rate is None:
            return []
        found = [self.known.of(run) for run in plan.finals(self.size, method, regime, rate)]
        whole = [figures for figures in found if figures is not None]
        return whole if len(whole) == len(found) else []

    def rate(self, method: str, regime: str) -> float | None:
        own = plan.chosen(self.size, DEFAULT if method == plan.EQUAL else method, regime, self.known)
        if not self.alike:
            return own
        same = plan.chosen(self.size, plan.ALIKE, regime, self.known)
        return None if method == plan.EQUAL and own != same else same  # its steps are OTR's at OTR's own rate

    def values(self, method: str, regime: str, name: str) -> list[float]:
        """One figure of every seed; "pass/16" is the figure 16 within the figure pass."""
        outer, _, inner = name.partition("/")
        return [figures[outer][inner] if inner else figures[outer] for figures in self.finals(method, regime)]

    def first_there(self, method: str, regime: str) -> list[Any]:
        """By seed, the first look (step, tokens, seconds, accuracy) at which the level was reached, or None."""
        courses = [figures["course"] for figures in self.finals(method, regime)]
        return [next((look for look in course if look[3] >= self.size.level), None) for course in courses]

    def mean(self, method: str, regime: str, name: str) -> Mean | None:
        values = self.values(method, regime, name)
        return mean(values) if values else None

    def before(self, regime: str) -> dict[str, Any] | None:
        return self.known.of(Run(self.size.name, "before", regime))

    def noise(self, regime: str) -> list[dict[str, Any]]:
        runs = [Run(self.size.name, "noise", regime, seed=seed) for seed in range(self.size.seeds)]
        found = [figures for run in runs if (figures := self.known.of(run)) is not None]
        return found if len(found) == len(runs) else []

    def differences(self, first: str, second: str, name: str) -> dict[str, Difference]:
        """By regime, in all regimes where both ran; corrected for how many they are."""
        found = {}
        for regime in self.size.regimes:
            a, b = self.values(first, regime, name), self.values(second, regime, name)
            if a and b:
                found[regime] = paired(a, b)
        return holm(found)

    def averages(self, name: str) -> dict[tuple[str, str], Difference]:
        """Each seed's average over the regimes where both ran; corrected for how many pairs there are."""
        found = {}
        for first, second in (*COMPARED, *((variant, DEFAULT) for variant in self.size.variants)):
            shared = self.averaged(first, second)
            if shared:
                sides = [[self.values(m, r, name) for r in shared] for m in (first, second)]
                one, other = ([statistics.fmean(seed) for seed in zip(*rows, strict=True)] for rows in sides)
                found[first, second] = paired(one, other)
        return holm(found)

    def averaged(self, first: str, second: str) -> list[str]:
        return [regime for regime in self.regimes_of(first, second) if regime != APART]

    def scores(self, method: str, regime: str) -> dict[float, float]:
        """Validation accuracy at every rate that the search tried."""
        rates = plan.rates(self.size, method, regime, self.known)
        found = {rate: plan.score(self.size, method, regime, rate, self.known) for rate in rates}
        return {rate: score for rate, score in found.items() if score is not None}

    def searched(self, method: str, regime: str, rate: float, name: str) -> Mean | None:
        """A figure of the search, over its seeds."""
        runs = plan.searches(self.size, method, regime, rate)
        found = [figures[name] for run in runs if (figures := self.known.of(run)) is not None]
        return mean(found) if found else None

    def regimes_of(self, *methods: str) -> list[str]:
        """Those in which all of the methods have all their seeds."""
        return [r for r in self.size.regimes if all(self.finals(method, r) for method in methods)]
