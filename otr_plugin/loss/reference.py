"""The specification: OTR on whole logits, in any dtype, with autograd's gradient.

Written to be checked against the paper by eye. Tests compare everything else with it;
it holds every logit at once, and nobody trains with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig


def whole_logits(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    return finish(torch.nn.functional.linear(hidden, weight, bias), logit_scale, softcap)


def finish(z: Tensor, logit_scale: float = 1.0, softcap: float | None = None) -> Tensor:
    z = z * logit_scale
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def within_rounding(top_p: float, dtype: torch.dtype) -> float:
    """0.5 + 0.3 reaches 0.8, however the sum is rounded."""
    return top_p * (1 - 8 * torch.finfo(dtype).eps)


def rollout_distribution(z: Tensor, config: OTRConfig) -> Tensor:
    """q: softmax(z / kappa), cut to top_k and top_p and renormalised. Carries no gradient."""
    z = z.detach() / config.temperature
    q = z.softmax(-1)
    keep = torch.ones_like(q, dtype=torch.bool)
    if config.top_k is not None:
        kth = z.topk(min(config.top_k, z.shape[-1])).values[..., -1:]
        keep &= z >= kth
    if config.top_p < 1:
        ordered, index = z.sort(-1, descending=True)
        short_of_it = q.gather(-1, index).cumsum(-1) < within_rounding(config.top_p, q.dtype)
        crossing = short_of_it.sum(-1, keepdim=True).clamp(max=q.shape[-1] - 1)
        keep &= z >= ordered.gather(-1, crossing)
    q = q * keep
    return q / q.sum(-1, keepdim=True)


def count_draws(q: Tensor, labels: Tensor, uniforms: Tensor) -> Tensor:
    """n: how often each token is drawn by these uniforms [N, K], as [N, V].

    A uniform below q_y draws the label; any other draws the first token in vocabulary order
    at which the running sum of q over the tokens that are not the label exceeds u - q_y.
    """
    label = labels.unsqueeze(-1)
    q_label = q.gather(-1, label)
    others = q.scatter(-1, label, 0)
    running = others.cumsum(-1)
    rest = uniforms.to(q.dtype) - q_label
    token = torch.searchsorted(running, rest.clamp(min=0), right=True)
    reachable = (running < running[..., -1:]).sum(-1, keepdim=True)  # the last token with mass
    token = torch.where(rest < 0, label, token.minimum(reachable))
    return torch.zeros_like(q).scatter_add(-1, token, torch.ones_like(rest))


def otr_loss_on_logits(
    logits: Tensor,
    labels: Tensor,
    config: OTRConfig,
    *,
    num_items: float | Tensor | None = None,
    uniforms: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """logits [N, V], labels [N], uniforms [N, K] -> the loss, and the metrics' sums over trained positions."""
    trained = labels != -100
    z, y = logits[trained], labels[trained]
    log_p = z.log_softmax(-1)
    p = log_p.detach().exp()
    is_label = torch.nn.functional.one_hot(y, z.shape[-1]).to(z.dtype)
    nll = -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    p_label = (p * is_label).sum(-1)
    rows = {}
    if config.objective == "otr":
        share = q = rollout_distribution(z, config)
        if config.draws:
            assert uniforms is not None
            share = count_draws(q, y, uniforms[trained]) / config.samples
        reward = config.beta + (1 - config.beta) * is_label
        mean_reward = (share * reward).sum(-1)
        if config.baseline == "mean":
            reward = reward - mean_reward.unsqueeze(-1)
        # What is never drawn adds nothing, also where its log p is -inf.
        objective = -torch.where(share > 0, share * reward * log_p, 0).sum(-1)
        hit_rate = (share * is_label).sum(-1)
        missed = (hit_rate == 0).to(z.dtype) if config.draws else (1 - hit_rate) ** config.samples
        rows = {"reward": mean_reward, "hit_rate": hit_rate, "unsampled": missed}
    elif config.objective == "dft":
        objective = torch.where(p_label > 0, p_label * nll, 0)
    else:
        objective = nll
    if config.nll_weight:
        objective = objective + config.nll_weight * nll
    rows |= {
        "nll": nll,
        "objective": objective,
        "label_prob": p_label,
        "accuracy": (z.argmax(-1) == y).to(z.dtype),
        "entropy": torch.special.entr(p).sum(-1),
    }
    items = num_items if num_items is not None else trained.sum().clamp(min=1)
    metrics = {name: row.detach().sum() for name, row in rows.items()}
    return objective.sum() / items, metrics | {"tokens": trained.sum()}


def otr_loss_reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    config: OTRConfig,
    *,
    bias: Tensor | None = None,
    num_items: float | Tensor | None = None,
    uniforms: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same function as `otr_loss`."""
    z = whole_logits(hidden, weight, bias=bias, logit_scale=logit_scale, softcap=softcap)
    return otr_loss_on_logits(z, labels, config, num_items=num_items, uniforms=uniforms)
