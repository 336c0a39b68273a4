"""Checkpointing that keeps a layer's input on the CPU, as hosts offer it: Unsloth's, and Axolotl's `offload`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def offload(model: Any) -> None:
    """Make a model whose checkpointing is on keep nothing of a layer on the GPU between forward and backward."""
    model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=_checkpoint)


def _checkpoint(function: Any, hidden: Tensor, *others: Any, **settings: Any) -> Any:
    return _Offloaded.apply(function, settings, hidden, *others)  # type: ignore[no-untyped-call] # of torch


class _Offloaded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Any, settings: Any, hidden: Tensor, *others: Any) -> Any:
        ctx.function, ctx.settings, ctx.others = function, settings, others
        ctx.shape, ctx.dtype = hidden.shape, hidden.dtype
        with torch.no_grad():
            return function(hidden, *others, **settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        hidden = gradients[0].new_zeros(ctx.shape, dtype=ctx.dtype).requires_grad_()  # the copy that comes back
        with torch.enable_grad():
            output = ctx.function(hidden, *ctx.others, **ctx.settings)
        torch.autograd.backward(output[0] if isinstance(output, tuple) else output, gradients[0])
        return (None, None, hidden.grad, *(None for _ in ctx.others))
