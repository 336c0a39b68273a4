"""Carries the loss through the autograd graph of the model, along the path that logits take.

The loss is computed inside the call of the head, and the model's loss_function returns it later. Engines that shard a
model hang hooks on the output of a module: in backward, before a gradient reaches the module, they gather its weights
again (ZeRO-3, FSDP). If the loss were returned past the head's output, backward would reach the head's weight without
these hooks: its storage is then empty, and backward fails or reads freed memory.

So the graph has to lead from the returned loss through the head's output to the computed loss:

    hidden → loss → carry() → head's output → … → logits → land() → the loss that is returned

What lies between the two, such as a softcap, a scale or a conversion, must not change the gradient of the loss. So the
gradient goes beside that part of the graph: `land` receives it in backward and keeps it, zeros go through the model's
operations and trigger the hooks, and `carry` passes the kept gradient on to the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Box:
    """Keeps the gradient of one forward's loss while a backward is between `land` and `carry`."""

    def __init__(self, has_gradient: bool) -> None:
        self.has_gradient = has_gradient  # of the loss
        self.gradient: Tensor | None = None


# The functions are not compiled: torch.compile would trace past the gradient that is kept beside the graph.
@torch.compiler.disable
def carry(loss: Tensor) -> tuple[Tensor, Box]:
    """The number 0, whose gradient is that of the loss, and the box for `land`. The head adds the 0 to its output."""
    box = Box(loss.requires_grad)  # without a reference to the graph, which refers to the box
    zero: Tensor = _Carry.apply(loss, box)  # type: ignore[no-untyped-call] # of torch
    return zero, box


@torch.compiler.disable
def land(logits: Tensor, value: Tensor, box: Box) -> Tensor:
    """A copy of `value` with the gradient of the loss. `logits` is what the model made of the head's output."""
    if torch.is_grad_enabled() and logits.requires_grad != box.has_gradient:
        raise RuntimeError(
            "otr: the output head ran with gradients disabled, but the model trains: reentrant gradient checkpointing "
            "surrounds the head. Set use_reentrant=False, or leave the head out of checkpointing."
            if logits.requires_grad
            else "otr: the model detaches its logits from the output of its head, so its loss has no gradient. OTR "
            "does not support this model."
        )
    landed: Tensor = _Land.apply(logits, value, box)  # type: ignore[no-untyped-call] # of torch
    return landed


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, box: Box) -> Tensor:
        ctx.box = box
        return loss.new_zeros(())

    @staticmethod
    def backward(ctx: Any, zeros: Tensor) -> tuple[Tensor | None, None]:
        gradient, ctx.box.gradient = ctx.box.gradient, None
        return gradient, None


class _Land(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, box: Box) -> Tensor:
        ctx.box, ctx.shape, ctx.dtype, ctx.device = box, logits.shape, logits.dtype, logits.device
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.box.gradient = gradient
        return torch.zeros(ctx.shape, dtype=ctx.dtype, device=ctx.device), None, None
