"""One chunk of logits -> objective, metrics, and the gradient with respect to the logits, in place.

Plain PyTorch, for every device. Rows are independent, so on a CPU they are worked off a few at a time:
all that a row goes through then happens while it is in the cache, and only the GEMMs on either side wait
for memory. Arithmetic is float32 (float64 for float64 logits), whatever the logits' dtype.

Both estimators are one formula. With s_a the share of the draws that are token a (sampled: n_a / K; exact:
q_a), the rewards r_a = 1 for the label and beta for any other, and the baseline b:

    J     = -sum_a s_a (r_a - b) log p_a
    dJ/dz = S p_a - s_a (r_a - b),    S = sum_a s_a (r_a - b)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss.sampling import TILE, draw, draw_threshold
from otr_plugin.metrics import ROW_METRICS

# How many logits are worked on at a time. On a CPU a block and its scratch are 16 MB, which a shared cache
# holds; elsewhere there are launches to save instead.
BLOCK_ELEMENTS_CPU = 2**20
BLOCK_ELEMENTS = 2**24


def precise(dtype: torch.dtype) -> torch.dtype:
    """The dtype of exponentials and sums over logits of this one."""
    return torch.promote_types(dtype, torch.float32)


def padded(vocabulary: int) -> int:
    """How long a row is in memory: whole tiles, so that a row is also a table [tiles, TILE]."""
    return math.ceil(vocabulary / TILE) * TILE


def compute_chunk(
    logits: Tensor,
    labels: Tensor,
    uniforms: Tensor | None,
    stats: Tensor,
    config: OTRConfig,
    *,
    vocabulary: int,
    logit_scale: float,
    softcap: float | None,
    with_grad: bool,
) -> None:
    """Fill stats [C, metrics.ROW_METRICS], and turn logits [C, padded(V)] into their gradient (if with_grad).

    Row by row a pure function of logits, label and uniforms: neither chunk nor block shows in the result.
    A label outside the vocabulary gives NaN.
    """
    elements = BLOCK_ELEMENTS_CPU if logits.device.type == "cpu" else BLOCK_ELEMENTS
    step = min(max(1, elements // logits.shape[1]), len(logits))
    # Allocated once: memory that is fresh for every block would cost more than what is computed in it.
    all_scratch = logits.new_empty(4, step, logits.shape[1], dtype=precise(logits.dtype))
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        label = labels[part].long().unsqueeze(1)
        valid = (label >= 0) & (label < vocabulary)
        label = label.where(valid, 0)
        scratch = _Scratch(*all_scratch[:, : len(label)])

        x, slope = _final_logits(logits[part], scratch, vocabulary, logit_scale, softcap)
        threshold = draw_threshold(x, config) if config.objective == "otr" else None
        excluded = None if threshold is None else x < threshold
        policy = _policy(x, label, scratch)
        if config.draws:
            assert uniforms is not None
            term = _sampled(policy, label, excluded, uniforms[part], config, scratch)
        elif config.objective == "otr":
            term = _exact(policy, label, excluded, config, scratch)
        else:
            term = _weighted_nll(policy, config)

        columns = policy.metrics | term.metrics
        columns["objective"] = term.objective
        if config.nll_weight:  # not 0 * inf, where the label is excluded
            columns["objective"] = term.objective + config.nll_weight * policy.nll
        for name, column in columns.items():
            stats[part, ROW_METRICS.index(name)] = column.where(valid, math.nan).squeeze(1)
        if with_grad:
            # p is not wanted any more: its memory, or the logits', takes the gradient.
            out = x if x.dtype == logits.dtype else policy.p
            scale = (term.scale + config.nll_weight).where(valid, math.nan)
            torch.mul(policy.p, scale / policy.p_sum, out=out)
            term.subtract_drawn(out)
            out.scatter_add_(1, label, -(term.at_label + config.nll_weight))
            if slope is not None:
                out.mul_(slope)
            if logit_scale != 1:
                out.mul_(logit_scale)
            if out is not x:
                logits[part] = out


class _Scratch(NamedTuple):
    """Memory for one block, [R, padded(V)] each."""

    x: Tensor  # only where logits have to be copied to be precise
    p: Tensor
    q: Tensor
    product: Tensor


class _Policy(NamedTuple):
    """p = softmax(x), and what follows from it alone. Single numbers a row are [R, 1]."""

    x: Tensor  # less its largest, and finite
    p: Tensor  # sums to p_sum: softmax adds up a long row less exactly than a sum by halves does
    p_sum: Tensor
    log_z: Tensor  # log p_a = x_a - log_z
    nll: Tensor
    label_prob: Tensor
    metrics: dict[str, Tensor]


class _Term(NamedTuple):
    """What an objective adds: dJ/dz = scale * p - (what was drawn) - at_label (at the label)."""

    objective: Tensor
    scale: Tensor
    at_label: Tensor
    metrics: dict[str, Tensor]
    sparse: tuple[Tensor, Tensor] | None = None  # tokens [R, K], what to subtract there (the same for equals)
    dense: tuple[Tensor, Tensor] | None = None  # q [R, V], its factor [R, 1]

    def subtract_drawn(self, out: Tensor) -> None:
        if self.sparse is not None:
            tokens, values = self.sparse
            out.scatter_(1, tokens, out.gather(1, tokens) - values)
        if self.dense is not None:
            out.addcmul_(*self.dense, value=-1)


def _final_logits(
    raw: Tensor, scratch: _Scratch, vocabulary: int, logit_scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """(The logits, in raw's own memory if its dtype is precise; their slope under the softcap.)"""
    x = raw if raw.dtype == scratch.x.dtype else scratch.x.copy_(raw)
    slope = None
    if logit_scale != 1:
        x.mul_(logit_scale)
    if softcap is not None:
        x.div_(softcap).tanh_()
        slope = 1 - x.square()
        x.mul_(softcap)
    x[:, vocabulary:] = -math.inf
    return x, slope


def _policy(x: Tensor, label: Tensor, scratch: _Scratch) -> _Policy:
    top, first = _first_max(x)
    label_below_top = x.gather(1, label) - top
    # Finite, so that an excluded token's 0 * -inf stays out of the sums.
    x = x.sub_(top).clamp_(min=torch.finfo(x.dtype).min)
    p = torch.softmax(x, -1, out=scratch.p)
    p_sum = p.sum(-1, keepdim=True)
    log_z = p_sum.log() - p.gather(1, first).log()
    nll = log_z - label_below_top
    label_prob = p.gather(1, label) / p_sum
    metrics = {
        "nll": nll,
        "label_prob": label_prob,
        "accuracy": (first == label).to(x.dtype),
        "entropy": log_z - _sum_of_product(p, x, scratch) / p_sum,
    }
    return _Policy(x, p, p_sum, log_z, nll, label_prob, metrics)


def _sampled(
    policy: _Policy,
    label: Tensor,
    excluded: Tensor | None,
    uniforms: Tensor,
    config: OTRConfig,
    scratch: _Scratch,
) -> _Term:
    q = _rollout_distribution(policy.x, excluded, config, scratch)
    q_label = q.gather(1, label)
    tokens, is_label = draw(q.scatter_(1, label, 0), label, q_label, uniforms)

    hit = is_label.to(q.dtype)
    reward = config.beta + (1 - config.beta) * hit
    hit_rate = hit.mean(-1, keepdim=True)
    mean_reward = config.beta + (1 - config.beta) * hit_rate
    baseline = mean_reward if config.baseline == "mean" else torch.zeros_like(mean_reward)
    advantage = reward - baseline
    log_p = policy.x.gather(1, tokens) - policy.log_z

    # How often each token came up, at each of its draws: equal draws then agree on what they subtract,
    # so the order in which they are written does not matter. q is not wanted any more and counts.
    count = q.scatter_(1, tokens, 0).scatter_add_(1, tokens, torch.ones_like(reward)).gather(1, tokens)
    return _Term(
        objective=-(advantage * log_p).mean(-1, keepdim=True),
        scale=mean_reward - baseline,
        at_label=torch.zeros_like(hit_rate),
        metrics={
            "reward": mean_reward,
            "hit_rate": hit_rate,
            "unsampled": (hit_rate == 0).to(q.dtype),
        },
        sparse=(tokens, advantage * count / config.samples),
    )


def _exact(policy: _Policy, label: Tensor, excluded: Tensor | None, config: OTRConfig, scratch: _Scratch) -> _Term:
    q = _rollout_distribution(policy.x, excluded, config, scratch)
    q_sum = q.sum(-1, keepdim=True)
    q_label = q.gather(1, label) / q_sum
    mean_reward = config.beta + (1 - config.beta) * q_label
    baseline = mean_reward if config.baseline == "mean" else torch.zeros_like(mean_reward)
    beta = config.beta - baseline
    at_label = (1 - config.beta) * q_label
    cross_entropy = policy.log_z - _sum_of_product(q, policy.x, scratch) / q_sum
    return _Term(
        objective=torch.where(q_label > 0, at_label * policy.nll, 0) + beta * cross_entropy,
        scale=mean_reward - baseline,
        at_label=at_label,
        metrics={
            "reward": mean_reward,
            "hit_rate": q_label,
            "unsampled": (1 - q_label) ** config.samples,
        },
        dense=(q, beta / q_sum),
    )


def _weighted_nll(policy: _Policy, config: OTRConfig) -> _Term:
    """dft, sft: the NLL times a weight without gradient; nothing is drawn."""
    weight = policy.label_prob if config.objective == "dft" else torch.ones_like(policy.nll)
    none = torch.full_like(weight, math.nan)
    return _Term(
        objective=torch.where(weight > 0, weight * policy.nll, 0),
        scale=weight,
        at_label=weight,
        metrics={"reward": none, "hit_rate": none, "unsampled": none},
    )


def _rollout_distribution(x: Tensor, excluded: Tensor | None, config: OTRConfig, scratch: _Scratch) -> Tensor:
    """q = softmax(x / kappa) over what may be drawn."""
    scaled = torch.mul(x, 1 / config.temperature, out=scratch.product)
    if excluded is not None:
        scaled.masked_fill_(excluded, -math.inf)
    return torch.softmax(scaled, -1, out=scratch.q)


def _sum_of_product(share: Tensor, x: Tensor, scratch: _Scratch) -> Tensor:
    return torch.mul(share, x, out=scratch.product).sum(-1, keepdim=True)


def _first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each row and its index, the first of equals; [R, 1] each. Faster than argmax."""
    tables = x.view(len(x), -1, TILE)
    top, tile = tables.amax(-1).max(-1, keepdim=True)
    place = tables.gather(1, tile.unsqueeze(-1).expand(-1, -1, TILE)).squeeze(1).argmax(-1, keepdim=True)
    return top, tile * TILE + place
