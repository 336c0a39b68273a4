"""Attention with the memory of a GPU's kernels: FlashAttention, and PyTorch's kernel for attention with a mask.

On a CPU, transformers and PyTorch select other kernels, so two attention functions are registered with transformers
under names of their own. They make and keep the tensors that the GPU's kernels make and keep, and compute nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAMES = {"flash": "otr_without_mask", "sdpa": "otr_with_mask", "eager": "eager"}
ROWS, COLUMNS = 128, 32  # FlashAttention's backward rounds its float32 sums up to multiples of these


def register(rows: int, sequence: int, needs_mask: bool) -> None:
    """Register the functions with transformers, and the mask that a micro-batch of this size needs."""
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    def mask_of(*_: Any, **__: Any) -> Tensor | None:
        return torch.zeros(rows, 1, sequence, sequence, dtype=torch.bool) if needs_mask else None

    AttentionInterface.register(NAMES["flash"], attention)
    AttentionInterface.register(NAMES["sdpa"], attention)
    AttentionMaskInterface.register(NAMES["flash"], lambda *_, **__: None)
    AttentionMaskInterface.register(NAMES["sdpa"], mask_of)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """transformers' contract: [rows, heads, sequence, width] each; returns [rows, sequence, heads, width]."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if attention_mask is None:
        return _Flash.apply(query, key, value, None), None  # type: ignore[no-untyped-call] # of torch
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # the kernel that takes a mask has as many heads of keys as of queries
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    bias = attention_mask.to(query.dtype)
    return _Flash.apply(query, key, value, bias), None  # type: ignore[no-untyped-call] # of torch


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        rows, heads, length, _ = query.shape
        output = query.new_zeros(rows, length, heads, value.shape[-1])
        log_sum_exp = query.new_zeros(rows, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sum_exp, bias)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        rows, heads, length, width = query.shape
        # What the kernel takes while it runs: sums of dq and of a number for each row in float32, and gradients of keys
        # and values for every head of the queries.
        padded = -(-length // ROWS) * ROWS
        sums = query.new_zeros(rows, heads, padded, -(-width // COLUMNS) * COLUMNS + 1, dtype=torch.float32)
        per_head = [one.new_zeros(rows, heads, length, one.shape[-1]) for one in (key, value) if one.shape[1] != heads]
        gradients = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        del sums, per_head
        return *gradients, None
