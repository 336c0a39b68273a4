"""Takes the memory for a chunk of logits from runs of the hosts: for large chunks, once, and for good.

The allocation of memory_plan.buffer fails with PyTorch's own error. Nothing else in the process is changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.faults.runs import Runs, training_log
from benchmarks.hosts.features.feature import FULL
from benchmarks.hosts.features.worker import Run
from otr_plugin.loss import memory_plan

SHORT, ONCE, FOR_GOOD = "for more than two positions", "once", "for good"
CASES = (SHORT, ONCE, FOR_GOOD)
WARNING = "RuntimeWarning: otr: memory is short on cpu"
ERROR, ADVICE = "DefaultCPUAllocator: can't allocate memory", "otr: out of memory in the loss"
STEPS = 10
ONCE_AT = 5  # the forward in which the allocation fails once


def short_of_memory() -> None:
    _fail_if(lambda rows, count: rows > 2)


def short_once() -> None:
    _fail_if(lambda rows, count: count == ONCE_AT)


def short_for_good() -> None:
    _fail_if(lambda rows, count: True)


FAULTS = {SHORT: short_of_memory, ONCE: short_once, FOR_GOOD: short_for_good}


def _fail_if(fails: Callable[[int, int], bool]) -> None:
    """Makes memory_plan.buffer get an out-of-memory error for a number of rows, in its count-th allocation."""
    own, count = memory_plan.buffer, 0

    class Like:
        """A tensor, as far as memory_plan.buffer uses one."""

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, self.device = tensor, tensor.device

        def new_empty(self, *shape: int, **options: Any) -> torch.Tensor:
            nonlocal count
            if len(shape) == 2:
                count += 1
                if fails(shape[0], count):
                    torch.empty(2**60, dtype=torch.uint8)  # raises
            return self.tensor.new_empty(*shape, **options)

    def buffer(like: torch.Tensor, *rest: Any) -> torch.Tensor:
        return own(Like(like), *rest)  # type: ignore[arg-type]

    memory_plan.buffer = buffer  # type: ignore[assignment]


def cell(runs: Runs, case: str) -> dict[str, Any]:
    """Trains with OTR and without the fault, and then with it."""
    keys = runs.keys(FULL) | {"max_steps": STEPS}
    ended: list[Run] = []
    for name, fault in (("enough memory", ""), (case, f"{__name__}:{FAULTS[case].__name__}")):
        runs.clear(name)
        ended.append(runs.train(name, keys, otr=True, fault=fault))
    enough, short = ended
    if enough.error:
        return {"error": enough.error}
    result: dict[str, Any] = {"warnings": short.printed.count(WARNING)}
    if short.error:
        kind = short.error.split(":")[0]
        return result | {"ends with": kind, "own message": ERROR in short.error, "advice": ADVICE in short.error}
    return result | {"steps": len(short.steps), "largest difference": _difference(short, enough)}


def _difference(short: Run, enough: Run) -> float:
    """Of the logged losses and gradient norms, relative."""
    logs = [training_log(run.log) for run in (short, enough)]
    pairs = [(a[name], b[name]) for a, b in zip(*logs, strict=True) for name in ("loss", "grad_norm")]
    return max((abs(a - b) / abs(b) for a, b in pairs), default=math.inf)
