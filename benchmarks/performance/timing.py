"""Time of the contenders, measured so that a slow phase of the machine affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.performance.contenders import Case, Contender


def interleaved_seconds(
    case: Case,
    contenders: dict[str, Contender],
    rounds: int,
    advance: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Returns the seconds of every counted round, by contender.

    A round runs each contender once. The first round is a warm-up and is not counted. `advance` is called after
    every run, for a progress bar.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            case.clear_gradients()
            start = clock()
            contender(case)
            if turn > 0:
                seconds[name].append(clock() - start)
            advance()
    return seconds


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Returns the median of the ratios within each round: a slow phase of the machine cancels in a round's ratio."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
