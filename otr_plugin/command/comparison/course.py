"""The NLL of several runs at equal tokens: one scale for all, and means over the same stretches of it.

An entry of a host's log is the mean since the entry before. A course is therefore a step function, and its mean over
any stretch is a sum of whole and partial entries, also where runs logged at different steps.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

# Counters of tokens in the hosts' logs, the trained ones first; a run is measured by one that all runs have.
COUNTERS = ("tokens/trainable", "num_tokens", "num_input_tokens_seen", "tokens/total")
UNITS = {
    "tokens/trainable": "trained tokens",
    "num_tokens": "tokens",
    "num_input_tokens_seen": "input tokens",
    "tokens/total": "tokens, padding included",
    "step": "steps",
    "epoch": "epochs",
}
PARTS = 4
FEWEST = 5  # values that a standard error is computed from


@dataclass
class Course:
    """Values that each hold from the end before to their own end."""

    ends: list[float]
    values: list[float]

    def __post_init__(self) -> None:
        self.sums = [0.0]
        for start, end, value in zip([0.0, *self.ends], self.ends, self.values, strict=False):
            self.sums.append(self.sums[-1] + (end - start) * value)

    def until(self, end: float) -> float:
        """The integral from 0 to a point of the scale that the course reaches."""
        i = bisect.bisect_left(self.ends, end)
        start = self.ends[i - 1] if i else 0.0
        return self.sums[i] + (end - start) * self.values[i]

    def mean(self, start: float, end: float) -> float:
        return (self.until(end) - self.until(start)) / (end - start)


@dataclass
class Stretch:
    """One of the parts of the common scale: every run's mean NLL, and what it is more than that of the first run."""

    start: float
    end: float
    means: list[float]
    differences: list[float]  # of the runs after the first
    errors: list[float | None]
    pairs: int


def course_of(log: Sequence[dict[str, Any]], name: str, scale: str) -> Course:
    """The finite values of a metric; the scale must rise from entry to entry."""
    ends: list[float] = []
    values: list[float] = []
    for entry in log:
        end, value = entry.get(scale), entry.get(name)
        if end is None or value is None or not math.isfinite(value) or end <= (ends[-1] if ends else 0.0):
            continue
        ends.append(float(end))
        values.append(float(value))
    return Course(ends, values)


def common_counter(logs: Sequence[Sequence[dict[str, Any]]]) -> str | None:
    """A counter of tokens that every entry of every run has."""
    for name in COUNTERS:
        if all(log and all(entry.get(name, 0) > 0 for entry in log) for log in logs):
            return name
    return None


def stretches(courses: Sequence[Course]) -> list[Stretch]:
    """The quarters of what all runs have in common."""
    if not all(course.ends for course in courses):
        return []
    end = min(course.ends[-1] for course in courses)
    marks = common_marks(courses, end)
    cuts = [end * i / PARTS for i in range(PARTS + 1)]
    if marks:  # whole entries, so that every pair belongs to one quarter
        cuts = [0.0, *(min(marks, key=lambda mark: abs(mark - cut)) for cut in cuts[1:])]
        cuts = sorted(set(cuts))
    return [_stretch(courses, start, stop, marks) for start, stop in pairwise(cuts)]


def common_marks(courses: Sequence[Course], end: float) -> list[float]:
    """The points at which every run has logged."""
    shared = set.intersection(*(set(course.ends) for course in courses))
    return sorted(mark for mark in shared if mark <= end)


def _stretch(courses: Sequence[Course], start: float, end: float, marks: Sequence[float]) -> Stretch:
    means = [course.mean(start, end) for course in courses]
    inside = [start, *(mark for mark in marks if start < mark <= end)]
    errors: list[float | None] = []
    for course in courses[1:]:
        errors.append(standard_error([course.mean(a, b) - courses[0].mean(a, b) for a, b in pairwise(inside)]))
    return Stretch(start, end, means, [mean - means[0] for mean in means[1:]], errors, len(inside) - 1)


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of the mean of values that are correlated with their neighbours; None for too few values.

    n values with a correlation of r at lag 1 count as n (1 - r) / (1 + r) independent ones.
    """
    n = len(values)
    if n < FEWEST:
        return None
    mean = fmean(values)
    squares = sum((value - mean) ** 2 for value in values)
    if squares == 0:
        return 0.0
    r = sum((a - mean) * (b - mean) for a, b in pairwise(values)) / squares
    r = min(max(r, 0.0), 1 - 1 / n)
    return math.sqrt(squares / (n - 1) / n * (1 + r) / (1 - r))
