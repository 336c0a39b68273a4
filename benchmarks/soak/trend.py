"""The slope of a series of blocks, with an interval that allows for serial correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NORMAL = 1.959964  # the quantile of a two-sided 95% interval


class Trend(NamedTuple):
    slope: float  # per unit of x
    half_width: float  # of the 95% interval

    @property
    def contains_zero(self) -> bool:
        return abs(self.slope) <= self.half_width


def trend(x: Sequence[float], y: Sequence[float]) -> Trend:
    """The least-squares slope of y over x.

    Neighbouring blocks resemble each other, so n of them count as n (1 - r) / (1 + r) independent ones, where r is the
    correlation of residuals with their neighbours (Santer et al. 2000). Fitting a line makes r too small by about
    (2 + 4 r) / n, which is added.
    """
    n = len(x)
    centred = np.asarray(x, float) - np.mean(x)
    values = np.asarray(y, float) - np.mean(y)
    spread = (centred**2).sum()
    slope = (centred * values).sum() / spread
    residuals = values - slope * centred
    squares = (residuals**2).sum()
    if squares == 0:
        return Trend(float(slope), 0.0)
    r = (residuals[1:] * residuals[:-1]).sum() / squares
    r = min(max(r + (2 + 4 * r) / n, 0.0), 0.97)
    freedom = max(n * (1 - r) / (1 + r) - 2, 3.0)
    error = math.sqrt(squares / (n - 2) * (1 + r) / (1 - r) / spread)
    return Trend(float(slope), float(_quantile(freedom) * error))


def _quantile(freedom: float) -> float:
    """Student's t: the first terms of its expansion around the normal quantile (Abramowitz and Stegun 26.7.5)."""
    z = NORMAL
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
