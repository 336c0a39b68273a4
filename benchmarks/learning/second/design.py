"""The runs of the second edition, in the order in which they are made. PLAN.md says why they are these.

The names of regimes, methods and kinds of runs are stored in the results file: do not change them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.learning.plan import SIZES, Size
from benchmarks.learning.second.tasks import NOISY_REGIMES, OTHER_REGIMES, TASKS, Regime

SFT, SMOOTHING, DFT, POWER, EAFT = "SFT", "smoothing 0.1", "DFT", "power 0.7", "EAFT"
OTR, EXACT, OTR_NLL = "OTR", "OTR exact", "OTR + 0.1 NLL"
LABEL_SMOOTHING = 0.1
CORE: dict[str, dict[str, Any]] = {
    SFT: {"objective": "sft"},
    SMOOTHING: {},  # not an objective of the plugin
    DFT: {"objective": "dft"},
    POWER: {"objective": "power", "alpha": 0.7},
    EAFT: {"objective": "eaft"},
    OTR: {},
    EXACT: {"estimator": "exact"},
    OTR_NLL: {"nll_weight": 0.1},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "power 0.5": {"objective": "power", "alpha": 0.5},
    "power 0.77": {"objective": "power", "alpha": 0.77},
    "κ=1": {"temperature": 1.0},
    "κ=2": {"temperature": 2.0},
    "β=0": {"beta": 0.0},
}
METHODS = CORE | SETTINGS
# The regimes in which every method runs, and every rate; CORE runs in all.
EXTREMES = tuple(r for r in NOISY_REGIMES if r.share in (0, 30))

BASES: dict[str, Size] = {
    "A": replace(SIZES["cpu"], name="A", base_seed=1),
    "B": replace(SIZES["cpu"], name="B", base_seed=2),
    "C": replace(SIZES["cpu"], name="C", base_seed=3, width=128),
}

LADDER = (3e-4, 1e-3, 3e-3, 1e-2)  # learning rates that the search for a task's rate tries
TOLERANCE = 0.02  # rates whose validation accuracy is this close to the best count as equally good
FACTORS = (1.0, 1 / 3, 3.0)  # of the task's rate
SEARCH_SEEDS = (100, 101)
SEEDS = 10  # at the task's rate
SEEDS_AT_OTHER_RATES = 3

STEPS, BATCH, LOOKS = 200, 32, 10
QUESTIONS, QUESTIONS_OF_A_LOOK = 200, 100


@dataclass(frozen=True)
class Trial:
    """One run: a method, on one regime, from one base model, at one rate, with one seed."""

    kind: str  # search or final
    base: str
    regime: str
    method: str
    factor: float  # of the task's rate; in a search, the rate itself
    seed: int

    @property
    def key(self) -> str:
        return "/".join(map(str, asdict(self).values()))


Figures = Mapping[str, dict[str, Any]]  # by the key of the trial


def searches(task: str, rate: float) -> list[Trial]:
    return [Trial("search", base, task, SFT, rate, seed) for base in BASES for seed in SEARCH_SEEDS]


def rate_of(task: str, figures: Figures) -> float | None:
    """The smallest rate whose accuracy is within TOLERANCE of the best one's; None until all searches are finished."""
    accuracy = {}
    for rate in LADDER:
        found = [figures[trial.key]["validation"] for trial in searches(task, rate) if trial.key in figures]
        if len(found) < len(searches(task, rate)):
            return None
        accuracy[rate] = statistics.fmean(found)
    return min(rate for rate in LADDER if accuracy[rate] >= max(accuracy.values()) - TOLERANCE)


def trials() -> Iterator[Trial]:
    """Every run: the searches, then one seed after the other, so that what is finished is a study of fewer seeds."""
    for task in TASKS:
        for rate in LADDER:
            yield from searches(task, rate)
    for seed in range(SEEDS):
        for factor in FACTORS:
            if factor == 1 or seed < SEEDS_AT_OTHER_RATES:
                yield from (Trial("final", base, str(regime), m, factor, seed) for regime, m, base in _cells(factor))


def _cells(factor: float) -> Iterator[tuple[Regime, str, str]]:
    everywhere = (*NOISY_REGIMES, *OTHER_REGIMES) if factor == 1 else (*EXTREMES, *OTHER_REGIMES)
    for regime in everywhere:
        methods = METHODS if factor == 1 and regime in EXTREMES else CORE
        yield from ((regime, method, base) for method in methods for base in BASES)
