"""Differences between two methods, with intervals over seeds and questions, and for another base model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The difference between two shares of right answers, and the half widths of its 95% confidence intervals."""

    value: float
    here: float  # over seeds and questions, for these base models
    simultaneous: float  # as `here`, for all differences of the family together
    elsewhere: float  # for another base model
    by_base: tuple[float, ...]

    @property
    def is_found(self) -> bool:
        """Whether it is printed in bold."""
        return abs(self.value) > self.simultaneous and len({value > 0 for value in self.by_base}) == 1


def difference(first: Sequence[Array], second: Sequence[Array], family: int) -> Difference:
    """First minus second, averaged over tasks. The array of a task says [base model, seed, question] what was right.

    `family` is the number of differences for which the simultaneous interval holds.
    """
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    tasks, bases = len(gaps), len(gaps[0])
    by_base = np.mean([gap.mean((1, 2)) for gap in gaps], axis=0)
    of_questions = [_of_mean(gap.mean((0, 1)), tasks) for gap in gaps]
    of_seeds = [_of_mean(gap[base].mean(1), tasks * bases) for gap in gaps for base in range(bases)]
    here, elsewhere = [*of_seeds, *of_questions], [_of_mean(by_base, 1), *of_questions]
    return Difference(
        float(by_base.mean()),
        half_width(here, LEVEL),
        half_width(here, LEVEL / family),
        half_width(elsewhere, LEVEL),
        tuple(float(value) for value in by_base),
    )


def _of_mean(values: Array, parts: int) -> tuple[float, int]:
    """The variance of the mean of values, which is one of `parts` that are averaged, and its degrees of freedom."""
    n = len(values)
    return (math.nan if n < 2 else float(values.var(ddof=1)) / n / parts**2), n - 1


def half_width(components: Sequence[tuple[float, int]], level: float) -> float:
    """Of a confidence interval whose variance is the sum of independent estimates, by Satterthwaite's method."""
    from scipy.stats import t

    variance = sum(each for each, _ in components)
    if math.isnan(variance):
        return math.nan
    if variance == 0:
        return 0.0
    freedom = variance**2 / sum(each**2 / degrees for each, degrees in components)
    return float(t.ppf(1 - level / 2, freedom)) * math.sqrt(variance)
