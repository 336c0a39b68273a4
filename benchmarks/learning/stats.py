"""Means over seeds, and differences between methods that saw the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

ENOUGH = 0.05  # a p-value from here on names no winner


class Mean(NamedTuple):
    value: float
    half: float  # of the 95% interval; nan of a single seed
    seeds: int


class Difference(NamedTuple):
    """First minus second, seed by seed."""

    value: float
    half: float
    p: float  # two-sided paired t-test; after holm(), corrected

    @property
    def found(self) -> bool:
        return self.p < ENOUGH


def mean(values: Sequence[float]) -> Mean:
    return Mean(statistics.fmean(values), _half(values), len(values))


def _half(values: Sequence[float]) -> float:
    from scipy.stats import t

    if len(values) < 2:
        return math.nan
    quantile = float(t.ppf(0.975, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    from scipy.stats import t

    each = [a - b for a, b in zip(first, second, strict=True)]
    value, half = statistics.fmean(each), _half(each)
    if len(each) < 2:
        return Difference(value, half, math.nan)
    error = statistics.stdev(each) / math.sqrt(len(each))
    if error < 1e-12:  # the same at every seed: no spread to compare with
        return Difference(value, half, 1.0 if abs(value) < 1e-12 else 0.0)
    return Difference(value, half, 2 * float(t.sf(abs(value / error), len(each) - 1)))


Name = TypeVar("Name")


def holm(differences: dict[Name, Difference]) -> dict[Name, Difference]:
    """The same, with p-values that hold for all of them together."""
    order = sorted(differences, key=lambda name: differences[name].p)
    corrected, least = {}, 0.0
    for rank, name in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * differences[name].p))
        corrected[name] = differences[name]._replace(p=least)
    return {name: corrected[name] for name in differences}
