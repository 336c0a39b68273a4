"""The metrics' names, and how sums over positions become the averages a person reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch

PREFIX = "otr/"

# What the rows kernels write for each position, in this order.
ROW_METRICS = (
    "nll",  # -log p of the label
    "objective",  # what is minimised
    "label_prob",  # p of the label
    "accuracy",  # 1 where the label is the argmax (the first of equals)
    "entropy",  # of p, in nats
    "reward",  # mean reward of the draws
    "hit_rate",  # share of the draws that are the label
    "unsampled",  # 1 where no draw is the label
)
# The last three speak of draws. `exact` gives their expectation; dft and sft have none.
DRAW_METRICS = ("reward", "hit_rate", "unsampled")
TOKEN_COUNT = "tokens"  # how many positions were summed over


def reduce_over_ranks(sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same sums over all data-parallel ranks, where there are several. Every rank has to call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return dict(sums)
    stacked = torch.stack([value.double() for value in sums.values()])
    torch.distributed.all_reduce(stacked)
    return dict(zip(sums, stacked.unbind(), strict=True))


def average(sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """`otr/...` averages over the trained positions. Reads from the device once."""
    names = [name for name in sums if name != TOKEN_COUNT]
    values = torch.stack([sums[name].double() for name in (TOKEN_COUNT, *names)]).tolist()
    count = max(values[0], 1.0)
    return {PREFIX + name: value / count for name, value in zip(names, values[1:], strict=True)}
