"""Causal attention for sequences that are cut into pieces, one on each rank: it runs on CPUs, with gloo.

PyTorch's ring attention and ring-flash-attn compute the same with kernels that need a GPU. Only the attention changes
here: how a host cuts a batch, and what it does with the loss, is the host's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.nn.functional import all_gather
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@contextmanager
def in_place_of(implementation: str) -> Iterator[None]:
    """For the time of a block, replaces one of transformers' attention functions, such as sdpa."""
    original = ALL_ATTENTION_FUNCTIONS[implementation]
    ALL_ATTENTION_FUNCTIONS[implementation] = attention
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[implementation] = original


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    position_ids: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Every query attends to the keys of all ranks whose position is not after its own.

    The tensors have the shape [batch, heads, positions of this rank, width]. Sequences are not packed.
    """
    keys, values = (torch.cat(all_gather(piece.contiguous()), 2) for piece in (key, value))
    gathered = [torch.empty_like(position_ids) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, position_ids.contiguous())
    hidden = torch.cat(gathered, 1)[:, None, None, :] > position_ids[:, None, :, None]
    keys, values = (piece.repeat_interleave(query.shape[1] // piece.shape[1], 1) for piece in (keys, values))
    scores = (query @ keys.transpose(2, 3) * scaling).masked_fill(hidden, -torch.inf)
    return (scores.softmax(-1) @ values).transpose(1, 2).contiguous(), None
