"""The specification: the loss on whole logits in plain PyTorch, in any dtype, with autograd's gradient.

It is written to be compared with the paper by eye, and tests compare everything else with it. It stands alone: the
package imports nothing from here, so an error cannot be on both sides of a comparison. It stores all logits at once
and is not meant for training.
"""

from __future__ import annotations

import math

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
    """The logits [N, V] of a head, from hidden [N, D], weight [V, D] and bias [V]."""
    return finish(torch.nn.functional.linear(hidden, weight, bias), logit_scale, softcap)


def finish(z: Tensor, logit_scale: float = 1.0, softcap: float | None = None) -> Tensor:
    """Scale and softcap the output of a matrix product."""
    z = z * logit_scale
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def rollout_distribution(z: Tensor, config: OTRConfig) -> Tensor:
    """q: softmax(z / kappa), restricted to top_k and top_p and normalised again. Without gradient."""
    z = z.detach() / config.temperature
    q = z.softmax(-1)
    keep = torch.ones_like(q, dtype=torch.bool)
    if config.top_k is not None:
        kth = z.topk(min(config.top_k, z.shape[-1])).values[..., -1:]
        keep &= z >= kth
    if config.top_p < 1:
        ordered, index = z.sort(-1, descending=True)
        target = config.top_p * (1 - 8 * torch.finfo(q.dtype).eps)  # so that 0.5 + 0.3 reaches 0.8 despite rounding
        falls_short = q.gather(-1, index).cumsum(-1) < target
        crossing = falls_short.sum(-1, keepdim=True).clamp(max=q.shape[-1] - 1)
        keep &= z >= ordered.gather(-1, crossing)
    q = q * keep
    return q / q.sum(-1, keepdim=True)


def count_draws(q: Tensor, labels: Tensor, uniforms: Tensor) -> Tensor:
    """n [N, V]: how often each token is drawn from q [N, V] by the uniforms [N, K].

    A uniform u below q_y draws the label y. Any other draws the first token in vocabulary order at which the running
    sum of q over the tokens other than the label exceeds u - q_y.
    """
    label = labels.unsqueeze(-1)
    q_label = q.gather(-1, label)
    others = q.scatter(-1, label, 0)
    running = others.cumsum(-1)
    rest = uniforms.to(q.dtype) - q_label
    token = torch.searchsorted(running, rest.clamp(min=0), right=True)
    last = (running < running[..., -1:]).sum(-1, keepdim=True)  # rounding must not move a draw behind the last mass
    token = torch.where(rest < 0, label, token.minimum(last))
    return torch.zeros_like(q).scatter_add(-1, token, torch.ones_like(rest))


def entropy_weight(log_p: Tensor, alpha: float) -> Tensor:
    """(H / ln n) ** alpha, where H is the entropy of the n = 20 largest of p, renormalised, and ln n its maximum."""
    n = min(20, log_p.shape[-1])
    largest = log_p.topk(n).values.clamp(min=-1e30)
    others = largest[..., 1:] - largest[..., :1]
    # Relative to the largest, H = log(Z) + (sum of e^x (-x)) / Z with Z = 1 + (sum of e^x over the others). It may be
    # too small for the dtype, so its logarithm is computed.
    log_sum = others.logsumexp(-1)
    log_z = torch.nn.functional.softplus(log_sum)
    log_of_log_z = torch.where(log_sum < -30, log_sum, log_z.log())
    log_entropy = torch.logaddexp(log_of_log_z, (others + torch.log(-others)).logsumexp(-1) - log_z)
    return torch.exp(alpha * (log_entropy - math.log(math.log(max(n, 2)))))


def otr_loss_on_logits(
    logits: Tensor,
    labels: Tensor,
    config: OTRConfig,
    *,
    num_items: float | Tensor | None = None,
    uniforms: Tensor | None = None,
    token_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the metrics' sums over trained positions.

    logits: [N, V]. labels and token_weights: [N]. uniforms: [N, K].
    """
    trained = labels != -100
    z, y = logits[trained], labels[trained]
    log_p = z.log_softmax(-1)
    p = log_p.detach().exp()
    is_label = torch.nn.functional.one_hot(y, z.shape[-1]).to(z.dtype)
    nll = -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    p_label = (p * is_label).sum(-1)
    rows = {}
    if config.objective == "otr":
        q = rollout_distribution(z, config)
        q_label = (q * is_label).sum(-1)
        if config.estimator == "sampled":
            assert uniforms is not None
            share = count_draws(q, y, uniforms[trained]) / config.samples
            unsampled = ((share * is_label).sum(-1) == 0).to(z.dtype)
        elif config.estimator == "exact":
            share = q
            unsampled = (1 - q_label) ** config.samples
        else:
            raise _not_implemented("estimator", config.estimator, "sampled", "exact")
        reward = config.beta + (1 - config.beta) * is_label
        mean_reward = (share * reward).sum(-1)
        if config.baseline == "mean":
            reward = reward - mean_reward.unsqueeze(-1)
        elif config.baseline != "none":
            raise _not_implemented("baseline", config.baseline, "none", "mean")
        # A token that is never drawn adds 0, even if its log p is -inf.
        objective = -torch.where(share != 0, share * reward * log_p, 0).sum(-1)
        rows = {"reward": mean_reward, "hit_rate": (share * is_label).sum(-1), "unsampled": unsampled}
        weight = (share * reward).sum(-1)
    elif config.objective == "power":
        objective = -torch.expm1(-config.alpha * nll) / config.alpha
        weight = torch.exp(-config.alpha * nll.detach())  # p^alpha, also where p is too small for its dtype
    elif config.objective in ("dft", "eaft", "sft"):
        if config.objective == "dft":
            weight = p_label
        elif config.objective == "eaft":
            weight = entropy_weight(log_p.detach(), config.alpha)
        else:
            weight = torch.ones_like(p_label)
        objective = torch.where(weight != 0, weight * nll, 0)
    else:
        raise _not_implemented("objective", config.objective, "otr", "dft", "power", "eaft", "sft")
    if config.nll_weight:
        objective = objective + config.nll_weight * nll
        weight = weight + config.nll_weight
    # A row with a logit of NaN or +inf, or with none above -inf, has no distribution: everything about it is NaN.
    has_none = log_p.detach().isnan().any(-1)
    factor = torch.ones_like(p_label) if token_weights is None else token_weights[trained].to(z.dtype)
    if config.min_label_prob > 0:
        factor = factor * (p_label >= config.min_label_prob)
    if config.max_label_prob < 1:
        factor = factor * (p_label <= config.max_label_prob)
    factor = factor.masked_fill(has_none, torch.nan)
    objective = torch.where(factor != 0, factor * objective, 0)
    rows |= {
        "nll": nll,
        "objective": objective,
        "weight": factor * weight,
        "label_prob": p_label,
        "accuracy": (z.argmax(-1) == y).to(z.dtype),
        "entropy": torch.special.entr(p).sum(-1),
    }
    rows = {name: row.masked_fill(has_none, torch.nan) for name, row in rows.items()}
    items = num_items if num_items is not None else trained.sum().clamp(min=1)
    metrics = {name: row.detach().sum() for name, row in rows.items()}
    if token_weights is not None:
        weights, nll = token_weights[trained].to(z.dtype), rows["nll"].detach()
        metrics["weighted_nll"] = torch.where((weights != 0) | nll.isnan(), weights * nll, 0).sum()
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
    token_weights: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same function as otr_loss, for given uniforms."""
    z = whole_logits(hidden, weight, bias=bias, logit_scale=logit_scale, softcap=softcap)
    return otr_loss_on_logits(z, labels, config, num_items=num_items, uniforms=uniforms, token_weights=token_weights)


def _not_implemented(setting: str, value: object, *implemented: str) -> NotImplementedError:
    names = ", ".join(repr(name) for name in implemented)
    return NotImplementedError(f"{__name__}: {setting} {value!r} is not implemented; implemented are {names}")
