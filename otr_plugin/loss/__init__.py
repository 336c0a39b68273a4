"""otr_loss: the one public function. It checks its input, then hands over to `linear`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss import checks
from otr_plugin.loss.chunked import LinearLoss, Problem
from otr_plugin.metrics import DRAW_METRICS, ROW_METRICS, TOKEN_COUNT

__all__ = ["OTROutput", "otr_loss"]


class OTROutput(NamedTuple):
    loss: Tensor
    """Scalar: the objective's sum over trained positions / num_items."""
    metrics: dict[str, Tensor]
    """Detached sums over trained positions, by name, and their count as `tokens`; on the device."""


# The chunk loop allocates, and asks how many rows are trained: nothing for a compiler to fuse.
@torch.compiler.disable
def otr_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    config: OTRConfig | None = None,
    *,
    bias: Tensor | None = None,
    num_items: float | Tensor | None = None,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> OTROutput:
    """One-Token Rollout from hidden states, without the logits ever being whole.

    Stands in for (with `config=OTRConfig(objective="sft")`, exactly for)::

        logits = (hidden @ weight.T + bias) * logit_scale
        logits = softcap * tanh(logits / softcap)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum") / num_items

    `hidden [N, D]`, `weight [V, D]`, `bias [V]`; `labels [N]`, already shifted, -100 where not trained.
    `num_items` defaults to the number of trained positions. `uniforms [N, K]` in [0, 1) decide the draws;
    without them they come from `generator`, or from torch's global one.

    The gradient is computed along with the loss, chunk by chunk, and only scaled in backward; there is
    no second derivative.
    """
    config = OTRConfig() if config is None else config
    checks.check(hidden, weight, labels, config, bias, num_items, uniforms, generator, logit_scale, softcap)
    if config.draws and uniforms is None:
        uniforms = torch.rand(len(hidden), config.samples, device=hidden.device, generator=generator)
    if isinstance(num_items, Tensor):
        num_items = num_items.reshape(())
    problem = Problem(
        config=config,
        uniforms=uniforms if config.draws else None,
        num_items=num_items,
        logit_scale=logit_scale,
        softcap=softcap,
        dtype=_gemm_dtype(hidden),
        with_grad=torch.is_grad_enabled(),
    )
    with torch.autocast(hidden.device.type, enabled=False):
        loss, sums, count = LinearLoss.apply(hidden, weight, bias, labels, problem)  # type: ignore[no-untyped-call] # torch's own
    metrics = dict(zip(ROW_METRICS, sums.unbind(), strict=True)) | {TOKEN_COUNT: count}
    if config.objective != "otr":
        metrics = {name: value for name, value in metrics.items() if name not in DRAW_METRICS}
    return OTROutput(loss, metrics)


def _gemm_dtype(hidden: Tensor) -> torch.dtype:
    """hidden's own or, under autocast, what a linear layer would compute in."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype
