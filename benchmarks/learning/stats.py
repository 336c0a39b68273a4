"""Means over seeds, and differences between methods that were run with the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

ALPHA = 0.05  # significance level


class Mean(NamedTuple):
    value: float
    half_width: float  # of the 95% confidence interval; nan for a single seed
    seeds: int


class Difference(NamedTuple):
    """The mean over seeds of the first method's figure minus the second method's."""

    value: float
    half_width: float  # of the 95% confidence interval; nan for a single seed
    p: float  # of the two-sided paired t-test; after holm() the corrected value

    @property
    def significant(self) -> bool:
        return self.p < ALPHA


def mean_over_seeds(values: Sequence[float]) -> Mean:
    return Mean(statistics.fmean(values), _half_width(values), len(values))


def _half_width(values: Sequence[float]) -> float:
    from scipy.stats import t

    if len(values) < 2:
        return math.nan
    quantile = float(t.ppf(0.975, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """First minus second, with a paired t-test over the seeds."""
    from scipy.stats import t

    differences = [a - b for a, b in zip(first, second, strict=True)]
    value, half_width = statistics.fmean(differences), _half_width(differences)
    if len(differences) < 2:
        return Difference(value, half_width, math.nan)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    if error < 1e-12:  # every seed has the same difference, so the t statistic is not defined
        return Difference(value, half_width, 1.0 if abs(value) < 1e-12 else 0.0)
    return Difference(value, half_width, 2 * float(t.sf(abs(value / error), len(differences) - 1)))


Name = TypeVar("Name")


def holm(differences: dict[Name, Difference]) -> dict[Name, Difference]:
    """The differences with p-values corrected for the number of differences by Holm's method."""
    order = sorted(differences, key=lambda name: differences[name].p)
    corrected, least = {}, 0.0
    for rank, name in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * differences[name].p))
        corrected[name] = differences[name]._replace(p=least)
    return {name: corrected[name] for name in differences}
