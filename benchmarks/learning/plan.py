"""What each size of the study runs: learning rates first, then the seeds that are reported."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.learning.regimes import REGIMES

MAIN: dict[str, dict[str, Any]] = {
    "SFT": {"objective": "sft"},
    "DFT": {"objective": "dft"},
    "OTR": {},  # the defaults: sampled
    "OTR exact": {"estimator": "exact"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "κ=1": {"temperature": 1.0},
    "κ=2": {"temperature": 2.0},
    "β=-0.5": {"beta": -0.5},
    "β=0": {"beta": 0.0},
    "β=0.5": {"beta": 0.5},
    "K=1": {"samples": 1},
    "K=16": {"samples": 16},
    "K=4096": {"samples": 4096},
    "nll": {"nll_weight": 0.1},
}
EQUAL = "SFT, OTR's steps"  # SFT's directions, each as far as OTR's step went
METHODS = MAIN | VARIANTS | {EQUAL: {"objective": "sft"}}
ALIKE = "SFT"  # at whose rate everybody runs too, so that no difference between rates passes for one between methods
LADDER = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
AS_GOOD = 0.02  # of the validation questions
FIRST_SEARCH_SEED = 100  # so that no run is both chosen on and reported


@dataclass(frozen=True)
class Size:
    name: str
    width: int
    layers: int
    heads: int
    base_rate: float
    base_batch: int
    base_steps: int  # before the rate falls, where the skills do not get there sooner
    base_decay: int
    base_level: float  # of every skill
    steps: int = 200
    batch: int = 32
    more: int = 1  # times as many examples
    regimes: tuple[str, ...] = tuple(name for name in REGIMES if name != "24")
    tried: tuple[str, ...] = ("24",)  # by SFT alone, to see whether the size can do it
    methods: tuple[str, ...] = tuple(MAIN)
    swept: tuple[str, ...] = ("compose", "wrong30")  # regimes in which the variants run too
    variants: tuple[str, ...] = (*VARIANTS, EQUAL)
    grid: tuple[float, ...] = LADDER[2:6]
    search_seeds: int = 2
    seeds: int = 5
    asked: int = 200  # questions of each kind
    sampled: int = 50  # of those that are answered several times
    answers: int = 16
    level: float = 0.8  # of the validation questions: what tokens and seconds are counted to
    looks: int = 10
    minutes: float = math.inf  # of a piece, where the command does not say
    note: str = ""  # what a reader of the page has to know


SIZES = {
    size.name: size
    for size in (
        Size(
            "smoke", 32, 2, 2, 3e-3, 64, 20, 10, 0.95, steps=6, batch=8,
            regimes=("compose",), tried=(), methods=("SFT", "OTR"), swept=("compose",), variants=(EQUAL,),
            grid=LADDER[3:5], search_seeds=1, seeds=2, asked=22, sampled=4, answers=4, looks=2,
        ),
        Size(
            "cpu", 96, 4, 4, 2e-3, 128, 6000, 1000, 0.9, seeds=10,
            note="Five seeds were run first. Five more of everything were added when those results had been seen, to "
            "narrow the intervals; nothing else was changed, and all ten are in every figure.",
        ),
        Size("gpu", 512, 8, 8, 6e-4, 512, 12000, 2000, 0.98, steps=400, batch=64, more=4, asked=500, sampled=200,
             grid=LADDER[1:5], minutes=7),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One line of the results file."""

    size: str
    kind: str  # search, final, before (nothing trained) or noise (of gradients)
    regime: str
    method: str = ""
    rate: float = 0.0
    seed: int = 0

    @property
    def key(self) -> str:
        return "/".join(map(str, asdict(self).values()))


@dataclass
class Results:
    """What is known of one size, by the runs' keys."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, run: Run) -> dict[str, Any] | None:
        return self.figures.get(run.key)


def planned(size: Size, results: Results) -> Iterator[Run]:
    """Every run that can be named by now, the most telling first. Done ones are among them."""
    for regime in (*size.regimes, *size.tried):
        yield Run(size.name, "before", regime)
    for method, regime in pairs(size):
        yield from _of(size, method, regime, results)
    for regime in size.swept:
        yield from (Run(size.name, "noise", regime, seed=seed) for seed in range(size.seeds))


def pairs(size: Size) -> list[tuple[str, str]]:
    main = [(method, regime) for regime in size.regimes for method in size.methods]
    swept = [(method, regime) for regime in size.swept for method in size.variants]
    # New tokens are what nll_weight is said to be for.
    remedy = [("nll", "format")] if "format" in size.regimes and "nll" in size.variants else []
    return main + remedy + swept + [("SFT", regime) for regime in size.tried]


def _of(size: Size, method: str, regime: str, results: Results) -> Iterator[Run]:
    if method != EQUAL:
        for rate in rates(size, method, regime, results):
            yield from searches(size, method, regime, rate)
    best = chosen(size, "OTR" if method == EQUAL else method, regime, results)
    if best is not None:
        yield from finals(size, method, regime, best)
    same = chosen(size, ALIKE, regime, results)
    if same is not None and method != EQUAL:
        yield from (run for run in finals(size, method, regime, same) if same != best)


def searches(size: Size, method: str, regime: str, rate: float) -> list[Run]:
    seeds = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + size.search_seeds)
    return [Run(size.name, "search", regime, method, rate, seed) for seed in seeds]


def finals(size: Size, method: str, regime: str, rate: float) -> list[Run]:
    return [Run(size.name, "final", regime, method, rate, seed) for seed in range(size.seeds)]


def score(size: Size, method: str, regime: str, rate: float, results: Results) -> float | None:
    """Mean accuracy on the validation questions, once every seed of the search is there."""
    figures = [results.of(run) for run in searches(size, method, regime, rate)]
    known = [figure["validation"] for figure in figures if figure is not None]
    return statistics.fmean(known) if len(known) == len(figures) else None


def rates(size: Size, method: str, regime: str, results: Results) -> list[float]:
    """The grid, which goes on by one rate for as long as the best is at its edge."""
    tried = list(size.grid)
    while True:
        scores = {rate: score(size, method, regime, rate, results) for rate in tried}
        best = best_of(scores)
        if best is None or not any(scores.values()):  # nothing learnt anywhere: no edge to go on from
            return tried
        low, high = LADDER.index(tried[0]), LADDER.index(tried[-1])
        if best == tried[0] and low > 0:
            tried.insert(0, LADDER[low - 1])
        elif best == tried[-1] and high < len(LADDER) - 1:
            tried.append(LADDER[high + 1])
        else:
            return tried


def best_of(scores: dict[float, float | None]) -> float | None:
    """Once all are known, the smallest rate, which changes the model least, of those that are as good as the best.

    Where many rates learn the same, the best of them would be chance, and with it all that is forgotten.
    """
    known = {rate: value for rate, value in scores.items() if value is not None}
    if len(known) < len(scores):
        return None
    best = max(known.values())
    return min(rate for rate, value in known.items() if value >= best - AS_GOOD)


def chosen(size: Size, method: str, regime: str, results: Results) -> float | None:
    tried = rates(size, method, regime, results)
    scores = {rate: score(size, method, regime, rate, results) for rate in tried}
    if not any(value is None or value for value in scores.values()):
        return tried[len(tried) // 2]  # nothing was learnt at any rate
    return best_of(scores)


def expected(size: Size) -> int:
    """How many runs it will be, if no search has to go on beyond its grid."""
    count = len(size.regimes) + len(size.tried) + len(size.swept) * size.seeds
    for method, _ in pairs(size):
        count += size.seeds + (0 if method == EQUAL else len(size.grid) * size.search_seeds)
    return count
