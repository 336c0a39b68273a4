"""The names of OTR's metrics, and the averages that a host logs.

The loss returns, for each metric, its sum over trained positions. A host adds these sums up over micro-batches and
ranks, and divides by the number of positions only when it logs, so every trained position has the same weight.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

PREFIX = "otr/"  # of every metric's name in a host's log

# The metrics of one position, in the order of the columns that a chunk kernel fills.
ROW_METRICS = (
    "nll",  # -log p of the label
    "objective",  # the value that training minimises
    "weight",  # the factor of p in the gradient of the objective, which `p - one_hot(label)` has in plain SFT as 1
    "label_prob",  # p of the label
    "accuracy",  # 1 where the label has the largest logit (the first one, among equal logits), else 0
    "entropy",  # of p, in nats
    "reward",  # mean reward of the draws
    "hit_rate",  # share of the draws that are the label
    "unsampled",  # 1 where no draw is the label, else 0
)
# These exist only where tokens are rewarded; `estimator: exact` computes their expectation.
DRAW_METRICS = ("reward", "hit_rate", "unsampled")
# The name of the number of positions in a mapping of sums. All sums are divided by it.
TOKEN_COUNT = "tokens"
# The name of the sum of -log p of the label times the position's weight, if token_weights were given. It is what hosts
# log as their loss, after a division by the number of positions.
WEIGHTED_NLL = "weighted_nll"


def metric_names(has_rollout: bool) -> list[str]:
    """The metrics of an objective with or without a rollout, in their order."""
    return [name for name in ROW_METRICS if has_rollout or name not in DRAW_METRICS]


def average(sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Averages over the trained positions, under the names of a host's log. Waits for the device once."""
    return average_of_numbers(to_numbers(sums))


def to_numbers(sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The sums as numbers. Waits for the device once."""
    values = torch.stack([value.double() for value in sums.values()]).tolist()
    return dict(zip(sums, values, strict=True))


def average_of_numbers(sums: Mapping[str, float]) -> dict[str, float]:
    """Averages over the trained positions, under the names of a host's log."""
    count = max(sums[TOKEN_COUNT], 1.0)
    return {PREFIX + name: value / count for name, value in sums.items() if name != TOKEN_COUNT}
