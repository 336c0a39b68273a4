"""Adds numbers up over all ranks, without a collective of the process group.

A collective that one rank leaves out waits for ever, or pairs with the next collective of the host, and both get wrong
numbers. So each rank writes its numbers into the store through which the ranks found each other, and the first rank
adds them up. If a rank is missing, the others raise an error that names it, after the timeout of the process group.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torch import distributed

PREFIX = "otr"  # of all keys in the store


def sum_over_ranks(name: str, step: int, numbers: Sequence[float]) -> list[float]:
    """The sums over all ranks of torch.distributed's default group, on every rank.

    `name` identifies this sum: every rank has to call the function once with it, at the same `step`.

    Raises RuntimeError if a rank has not called it within the timeout of the process group, or is at another step.
    """
    store = distributed.distributed_c10d.PrefixStore(PREFIX, distributed.distributed_c10d._get_default_store())
    rank, ranks = distributed.get_rank(), range(distributed.get_world_size())
    store.set(f"{name}/{rank}", json.dumps([step, *numbers]))
    if rank == 0:
        _wait(store, name, [f"{name}/{one}" for one in ranks])
        of_ranks = [json.loads(store.get(f"{name}/{one}")) for one in ranks]
        steps, *columns = zip(*of_ranks, strict=True)
        store.set(f"{name}/sum", json.dumps([steps, [sum(column) for column in columns]]))
        for one in ranks:
            store.delete_key(f"{name}/{one}")
    _wait(store, name, [f"{name}/sum"])
    steps, sums = json.loads(store.get(f"{name}/sum"))
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"otr: take_metrics() sums over all ranks, which were at different steps when they called it: {steps}, by "
            "rank. Call start_step with the same step on all ranks, and take_metrics() after the same steps."
        )
    if store.add(f"{name}/read", 1) == len(ranks):
        store.delete_key(f"{name}/sum")
        store.delete_key(f"{name}/read")
    return [float(number) for number in sums]


def _wait(store: Any, name: str, keys: list[str]) -> None:
    try:
        store.wait(keys)
    except RuntimeError as error:
        missing = [one for one in range(distributed.get_world_size()) if not store.check([f"{name}/{one}"])]
        raise RuntimeError(
            f"otr: take_metrics() sums over all ranks, and rank {', '.join(map(str, missing)) or '0'} did not call it "
            f"within {store.timeout.total_seconds():.0f} seconds. Call it on every rank, after the same steps; only "
            "what is done with its result may depend on the rank."
        ) from error
