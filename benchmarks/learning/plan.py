"""Which runs a size of the study consists of: a search for every learning rate, then the seeds that are reported.

The names of regimes, methods and kinds of runs are stored in the results file: do not change them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.learning.regimes import REGIMES

OTR, SFT = "OTR", "SFT"
MAIN_METHODS: dict[str, dict[str, Any]] = {
    SFT: {"objective": "sft"},
    "DFT": {"objective": "dft"},
    OTR: {},  # the defaults of OTRConfig, whose estimator is sampled
    "OTR exact": {"estimator": "exact"},
}
NLL = "nll"
VARIANTS: dict[str, dict[str, Any]] = {
    "κ=1": {"temperature": 1.0},
    "κ=2": {"temperature": 2.0},
    "β=-0.5": {"beta": -0.5},
    "β=0": {"beta": 0.0},
    "β=0.5": {"beta": 0.5},
    "K=1": {"samples": 1},
    "K=16": {"samples": 16},
    "K=4096": {"samples": 4096},
    NLL: {"nll_weight": 0.1},
}
STEP_MATCHED_SFT = "SFT, OTR's steps"  # SFT's updates, each rescaled to the length of OTR's update at the same step
METHODS = MAIN_METHODS | VARIANTS | {STEP_MATCHED_SFT: {"objective": "sft"}}
RATE_LADDER = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
RATE_TOLERANCE = 0.02  # rates whose validation accuracy is this close to the best count as equally good
FIRST_SEARCH_SEED = 100  # search seeds differ from reported seeds, so that no reported run chose its own rate


def display_name(method: str) -> str:
    """The name of a method on the page; the results file has shorter ones."""
    names = {NLL: f"nll_weight {VARIANTS[NLL]['nll_weight']:g}", STEP_MATCHED_SFT: "SFT with OTR's step lengths"}
    return names.get(method, method)


@dataclass(frozen=True)
class Size:
    """The size of the models and the numbers of steps, questions and seeds."""

    name: str
    width: int
    layers: int
    heads: int
    base_rate: float
    base_batch: int
    base_steps: int  # before the learning rate decays, unless every skill reaches base_level sooner
    base_decay: int  # steps in which the learning rate decays to zero
    base_level: float  # share of correct answers that every skill should reach in pretraining
    base_seed: int = 0  # of the first weights and of the examples
    steps: int = 200
    batch: int = 32
    data_multiplier: int = 1  # of every regime's number of training examples
    regimes: tuple[str, ...] = tuple(name for name in REGIMES if name != "24")
    sft_only_regimes: tuple[str, ...] = ("24",)  # to see whether models of this size can learn them at all
    methods: tuple[str, ...] = tuple(MAIN_METHODS)
    variant_regimes: tuple[str, ...] = ("compose", "wrong30")  # the only regimes in which the variants run
    variants: tuple[str, ...] = (*VARIANTS, STEP_MATCHED_SFT)
    grid: tuple[float, ...] = RATE_LADDER[2:6]
    search_seeds: int = 2
    seeds: int = 5
    questions: int = 200  # of each kind
    sampled_questions: int = 50  # of those, for pass@k
    samples_per_question: int = 16
    target_accuracy: float = 0.8  # validation accuracy to which training tokens and seconds are counted
    evaluations: int = 10  # validations during a reported run
    minutes: float = math.inf  # after which a call starts no new run, unless --minutes is given
    note: str = ""  # a remark on the page about how the runs of this size were made


SIZES = {
    size.name: size
    for size in (
        Size(
            "smoke", 32, 2, 2, 3e-3, 64, 20, 10, 0.95, steps=6, batch=8,
            regimes=("compose",), sft_only_regimes=(), methods=(SFT, OTR), variant_regimes=("compose",),
            variants=(STEP_MATCHED_SFT,), grid=RATE_LADDER[3:5], search_seeds=1, seeds=2, questions=22,
            sampled_questions=4, samples_per_question=4, evaluations=2,
        ),
        Size(
            "cpu", 96, 4, 4, 2e-3, 128, 6000, 1000, 0.9, seeds=10,
            note="Five seeds were run first. After their results had been seen, five more seeds were added to every "
            "comparison to narrow the intervals. Nothing else changed, and every figure uses all ten seeds.",
        ),
        Size("gpu", 512, 8, 8, 6e-4, 512, 12000, 2000, 0.98, steps=400, batch=64, data_multiplier=4, questions=500,
             sampled_questions=200, grid=RATE_LADDER[1:5], minutes=7),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One line of the results file."""

    size: str
    kind: str  # search, final, before (the base model without fine-tuning) or noise (of gradients)
    regime: str
    method: str = ""
    rate: float = 0.0
    seed: int = 0

    @property
    def key(self) -> str:
        return "/".join(map(str, asdict(self).values()))


@dataclass
class Results:
    """The figures of the finished runs of one size, by the run's key."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def get(self, run: Run) -> dict[str, Any] | None:
        return self.figures.get(run.key)


def planned_runs(size: Size, results: Results) -> Iterator[Run]:
    """Every run that the finished searches determine, including finished ones, the main comparisons first."""
    for regime in (*size.regimes, *size.sft_only_regimes):
        yield Run(size.name, "before", regime)
    for method, regime in method_regime_pairs(size):
        yield from _runs_of(size, method, regime, results)
    for regime in size.variant_regimes:
        yield from (Run(size.name, "noise", regime, seed=seed) for seed in range(size.seeds))


def method_regime_pairs(size: Size) -> list[tuple[str, str]]:
    main = [(method, regime) for regime in size.regimes for method in size.methods]
    variants = [(method, regime) for regime in size.variant_regimes for method in size.variants]
    # nll_weight is meant for tokens that OTR never draws, which is what the regime "format" has.
    new_tokens = [(NLL, "format")] if "format" in size.regimes and NLL in size.variants else []
    return main + new_tokens + variants + [(SFT, regime) for regime in size.sft_only_regimes]


def _runs_of(size: Size, method: str, regime: str, results: Results) -> Iterator[Run]:
    if method != STEP_MATCHED_SFT:
        for rate in search_rates(size, method, regime, results):
            yield from search_runs(size, method, regime, rate)
    own = chosen_rate(size, method, regime, results)
    if own is not None:
        yield from final_runs(size, method, regime, own)
    # At one learning rate for all, a difference between two methods cannot be one between two learning rates.
    sft = chosen_rate(size, SFT, regime, results)
    if sft is not None and method != STEP_MATCHED_SFT:
        yield from (run for run in final_runs(size, method, regime, sft) if sft != own)


def search_runs(size: Size, method: str, regime: str, rate: float) -> list[Run]:
    seeds = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + size.search_seeds)
    return [Run(size.name, "search", regime, method, rate, seed) for seed in seeds]


def final_runs(size: Size, method: str, regime: str, rate: float) -> list[Run]:
    return [Run(size.name, "final", regime, method, rate, seed) for seed in range(size.seeds)]


def search_accuracy(size: Size, method: str, regime: str, rate: float, results: Results) -> float | None:
    """Mean validation accuracy over the search seeds; None until all of them are finished."""
    figures = [results.get(run) for run in search_runs(size, method, regime, rate)]
    finished = [figure["validation"] for figure in figures if figure is not None]
    return statistics.fmean(finished) if len(finished) == len(figures) else None


def search_rates(size: Size, method: str, regime: str, results: Results) -> list[float]:
    """The grid of learning rates, extended by one rate for as long as the best rate is at its edge."""
    rates = list(size.grid)
    while True:
        accuracy_by_rate = {rate: search_accuracy(size, method, regime, rate, results) for rate in rates}
        best = smallest_good_rate(accuracy_by_rate)
        if best is None or not any(accuracy_by_rate.values()):  # no rate learnt anything, so there is no best edge
            return rates
        low, high = RATE_LADDER.index(rates[0]), RATE_LADDER.index(rates[-1])
        if best == rates[0] and low > 0:
            rates.insert(0, RATE_LADDER[low - 1])
        elif best == rates[-1] and high < len(RATE_LADDER) - 1:
            rates.append(RATE_LADDER[high + 1])
        else:
            return rates


def smallest_good_rate(accuracy_by_rate: dict[float, float | None]) -> float | None:
    """The smallest rate whose accuracy is within RATE_TOLERANCE of the best; None while an accuracy is missing.

    The smallest rate changes the model least. Where many rates learn equally well, taking the very best would let
    chance decide how much the model forgets.
    """
    finished = {rate: accuracy for rate, accuracy in accuracy_by_rate.items() if accuracy is not None}
    if len(finished) < len(accuracy_by_rate):
        return None
    best = max(finished.values())
    return min(rate for rate, accuracy in finished.items() if accuracy >= best - RATE_TOLERANCE)


def chosen_rate(size: Size, method: str, regime: str, results: Results) -> float | None:
    """The method's own learning rate in this regime; None until its search is finished."""
    searched = OTR if method == STEP_MATCHED_SFT else method  # it repeats the lengths of OTR's updates at OTR's rate
    rates = search_rates(size, searched, regime, results)
    accuracy_by_rate = {rate: search_accuracy(size, searched, regime, rate, results) for rate in rates}
    if all(accuracy == 0 for accuracy in accuracy_by_rate.values()):
        return rates[len(rates) // 2]
    return smallest_good_rate(accuracy_by_rate)


def expected_run_count(size: Size) -> int:
    """The number of runs if no search extends its grid and every method's rate is SFT's."""
    count = len(size.regimes) + len(size.sft_only_regimes) + len(size.variant_regimes) * size.seeds
    for method, _ in method_regime_pairs(size):
        count += size.seeds + (0 if method == STEP_MATCHED_SFT else len(size.grid) * size.search_seeds)
    return count
