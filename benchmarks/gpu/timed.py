"""Time and memory of a step on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def seconds_of(device: str, step: Callable[[], Any]) -> float:
    """The seconds that one call of `step` takes on the device."""
    if device == "cpu":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def peak_megabytes(device: str, step: Callable[[], Any]) -> float | None:
    """The peak of a call above what was allocated before; None on a CPU, whose allocator does not count it."""
    if device == "cpu":
        step()
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6
