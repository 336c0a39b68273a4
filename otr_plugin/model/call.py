"""Call: one forward of an attached model with labels, and what its loss is computed of and divided by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from otr_plugin.loss.checks import IGNORE_INDEX
from otr_plugin.model.first_step import FirstStepCheck
from otr_plugin.model.loss_in_graph import Box


@dataclass
class Call:
    """One forward with labels: what model_forward, head_forward and loss_function pass on to each other."""

    labels: Tensor | None
    shift_labels: Tensor | None
    token_weights: Tensor | None
    num_items: Any  # trained positions in the global batch, which the loss is divided by; None: those of this call
    loss: Tensor | None = None  # its value, without a gradient
    box: Box | None = None  # brings the gradient from the returned loss to the computed one
    sums: dict[str, Tensor] = field(default_factory=dict)  # each metric's sum over this call's trained positions
    first_step_check: FirstStepCheck | None = None
    loss_returned: bool = False  # whether the model has called loss_function
    landed: Tensor | None = None  # what loss_function returned: the loss with its gradient
    placeholder_shapes: set[torch.Size] = field(default_factory=set)  # of the head, and at the loss_function


def of_next_token(call: Call, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Each position's label, the token of the next position as in transformers' own causal loss, and its weight."""
    labels, weights = call.shift_labels, call.token_weights
    if labels is None:
        assert call.labels is not None
        labels = nn.functional.pad(call.labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
        weights = None if weights is None else nn.functional.pad(weights, (0, 1))[..., 1:]
    if labels.numel() != hidden[..., 0].numel():
        raise RuntimeError(
            f"otr: the output head received hidden states of shape {list(hidden.shape)} for labels of shape "
            f"{list(labels.shape)}; expected one hidden state per label. If logits_to_keep removes positions, remove "
            "their labels too."
        )
    return labels, weights


def checked_num_items(num_items: Any, labels: Tensor) -> Any:
    """What the loss is divided by, from num_items_in_batch; 1 if that is 0, as the labels then have no trained token.

    A tensor on a GPU is not read: there, 0 items and trained tokens make the loss NaN.
    """
    if num_items is None or (isinstance(num_items, Tensor) and num_items.device.type != "cpu") or num_items != 0:
        return num_items
    trained = int((labels != IGNORE_INDEX).sum())
    if trained:
        raise ValueError(
            f"otr: num_items_in_batch is 0, but the batch has {trained} trained tokens, whose loss it divides: it is "
            "the number of trained tokens in the whole batch, over all ranks and accumulated batches. Count the labels "
            f"that are not {IGNORE_INDEX}, without the first of each row, or leave num_items_in_batch out."
        )
    return 1
