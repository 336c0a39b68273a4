"""The slope of a series of blocks, with an interval that allows for serial correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Trend(NamedTuple):
    slope: float  # per unit of x
    half_width: float  # of the 95% interval

    @property
    def contains_zero(self) -> bool:
        return abs(self.slope) <= self.half_width


def trend(x: Sequence[float], y: Sequence[float]) -> Trend:
    """The least-squares slope of y over x.

    Neighbouring blocks resemble each other, so the standard error is Newey's and West's (1987), with a window of
    1.3 sqrt(n) blocks, and the quantile is that of Kiefer and Vogelsang (2005) for such a wide window. Lazarus, Lewis,
    Stock and Watson (2018) recommend the pair.
    """
    n = len(x)
    centred = np.asarray(x, float) - np.mean(x)
    values = np.asarray(y, float) - np.mean(y)
    spread = (centred**2).sum()
    slope = (centred * values).sum() / spread
    scores = centred * (values - slope * centred)
    window = math.ceil(1.3 * math.sqrt(n))
    variance = (scores**2).sum()
    for lag in range(1, window):
        variance += 2 * (1 - lag / window) * (scores[lag:] * scores[:-lag]).sum()
    b = window / n
    quantile = 1.96 + 2.9694 * b + 0.4160 * b**2 - 0.5324 * b**3  # at b = 0 that of the normal distribution
    return Trend(float(slope), float(quantile * math.sqrt(max(variance, 0.0)) / spread))
