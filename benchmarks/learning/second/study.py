"""The finished runs of the second edition as arrays of right answers, and the families of differences of PLAN.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.learning.second import design
from benchmarks.learning.second.design import BASES, DFT, EAFT, EXACT, OTR, OTR_NLL, POWER, SFT, SMOOTHING, Trial
from benchmarks.learning.second.differences import Array, Difference, difference
from benchmarks.learning.second.tasks import CONDITIONS, NOISY_REGIMES, NOISY_TASKS, OTHER_REGIMES, Regime
from benchmarks.learning.second.trial import MEASURES, answers_of

Pair = tuple[str, str]  # two methods, of which the second is subtracted from the first
Row = tuple[str, Pair, list[Difference]]  # where, which methods, and the difference in each measure
AGAINST_SFT: tuple[Pair, ...] = tuple((method, SFT) for method in (DFT, POWER, OTR, OTR_NLL))
OF_SETTINGS: tuple[Pair, ...] = (
    (OTR, POWER),
    *((method, OTR) for method in (EXACT, OTR_NLL, "κ=1", "κ=2", "β=0")),
    *((method, POWER) for method in ("power 0.5", "power 0.77")),
    *((method, SFT) for method in (SMOOTHING, EAFT)),
)
EXTREMES = tuple(condition for condition in CONDITIONS if condition[1] in (0, 30))
FAMILIES = (
    len(AGAINST_SFT) * len(CONDITIONS) * len(MEASURES),
    len(AGAINST_SFT) * len(OTHER_REGIMES) * len(MEASURES),
    len(OF_SETTINGS) * len(EXTREMES) * len(MEASURES),
)


class Study:
    """`figures` are by the key of the trial. `seeds` says, by factor of the rate, how many seeds are complete: the
    report has no others.
    """

    def __init__(self, figures: Mapping[str, dict[str, Any]]) -> None:
        self.figures = figures
        self.seeds = dict.fromkeys(design.FACTORS, 0)
        unfinished = {(t.factor, t.seed) for t in design.trials() if t.kind == "final" and t.key not in figures}
        for factor in self.seeds:
            most = design.SEEDS if factor == 1 else design.SEEDS_AT_OTHER_RATES
            self.seeds[factor] = next((seed for seed in range(most) if (factor, seed) in unfinished), most)

    def answers(self, regime: Regime, method: str, measure: str, factor: float = 1.0) -> Array:
        """Which answers were right: [base model, seed, question]."""
        rows = self._of(regime, method, factor)
        return np.array([[answers_of(one["end"][measure]) for one in row] for row in rows], dtype=float)

    def at_best_look(self, regime: Regime, method: str, measure: str) -> Array:
        """The share of right answers where validation was best: [base model, seed]."""
        shares: Array = self.answers(regime, method, measure).mean(2)
        for base, row in enumerate(self._of(regime, method, 1.0)):
            for seed, one in enumerate(row):
                if "best" in one:  # before the end
                    shares[base, seed] = one["best"][measure]
        return shares

    def _of(self, regime: Regime, method: str, factor: float) -> list[list[dict[str, Any]]]:
        seeds = range(self.seeds[factor])
        keys = [[Trial("final", base, str(regime), method, factor, seed).key for seed in seeds] for base in BASES]
        return [[self.figures[key] for key in row] for row in keys]

    def share(self, regimes: Sequence[Regime], method: str, measure: str, factor: float = 1.0) -> float:
        return statistics.fmean(float(self.answers(r, method, measure, factor).mean()) for r in regimes)

    def difference(self, regimes: Sequence[Regime], pair: Pair, measure: str, family: int = 1) -> Difference:
        first, second = ([self.answers(regime, method, measure) for regime in regimes] for method in pair)
        return difference(first, second, family)


def of_condition(noise: str, share: int) -> list[Regime]:
    """The regimes with this noise, one for each task."""
    return [Regime(task, noise, share) for task in NOISY_TASKS]


def first_family(study: Study) -> Iterator[Row]:
    return _rows(study, [of_condition(*condition) for condition in CONDITIONS], AGAINST_SFT, FAMILIES[0])


def second_family(study: Study) -> Iterator[Row]:
    return _rows(study, [[regime] for regime in OTHER_REGIMES], AGAINST_SFT, FAMILIES[1])


def third_family(study: Study) -> Iterator[Row]:
    return _rows(study, [of_condition(*condition) for condition in EXTREMES], OF_SETTINGS, FAMILIES[2])


def single_tasks(study: Study) -> Iterator[Row]:
    return _rows(study, [[regime] for regime in NOISY_REGIMES], AGAINST_SFT, 1)


def _rows(study: Study, places: Sequence[Sequence[Regime]], pairs: Sequence[Pair], family: int) -> Iterator[Row]:
    """The differences of each pair in each place: one regime, or the regimes of a condition, averaged."""
    for regimes in places:
        name = str(regimes[0]) if len(regimes) == 1 else regimes[0].condition
        for pair in pairs:
            yield name, pair, [study.difference(regimes, pair, measure, family) for measure in MEASURES]
