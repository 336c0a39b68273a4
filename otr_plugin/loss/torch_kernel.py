"""The chunk kernel in plain PyTorch, for every device: metrics from a chunk of logits, and their gradient in place.

chunked.LinearLoss calls compute_chunk between its matrix products. The docstring of compute_chunk is the contract that
Triton's kernel fulfils too.

Rows are independent. On a CPU they are processed in small blocks: all operations on a block then run while it is in
the cache, and only the matrix products before and after access the main memory. Arithmetic is float32 (float64 for
float64 logits), whatever the dtype of the logits.

Both estimators of `objective: otr` are one formula. Let s_a be the share of the draws that are token a (sampled:
n_a / K; exact: q_a), r_a its reward (1 for the label and beta for any other token) and b the baseline. Then

    J     = -sum_a s_a (r_a - b) log p_a
    dJ/dz = S p_a - s_a (r_a - b),    S = sum_a s_a (r_a - b)

The other objectives have no draws. With a weight A for each position, all of them have the gradient

    dJ/dz = A (p_a - [a is the label]),    A = 1 (sft), p (dft), p^alpha (power), (H / max H)^alpha (eaft)

where p is the label's probability and H the entropy of the most probable tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from otr_plugin.config import OBJECTIVES, OTRConfig, not_implemented
from otr_plugin.loss.entropy import log_entropy_of_most_probable, log_largest_entropy
from otr_plugin.loss.sampling import TILE, draw, draw_threshold
from otr_plugin.loss.vocabulary import WHOLE, Place, Vocabulary
from otr_plugin.metrics import DRAW_METRICS, ROW_METRICS

# The number of logits, or of draws, in a block. On a CPU, a block and its scratch memory are 16 MB, which fit a shared
# cache. On a GPU, larger blocks mean fewer kernel launches.
BLOCK_ELEMENTS_CPU = 2**20
BLOCK_ELEMENTS = 2**24


def precise(dtype: torch.dtype) -> torch.dtype:
    """The dtype for exponentials and sums over logits of this dtype: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def padded(vocabulary: int) -> int:
    """The width of a row of logits in memory: the vocabulary, rounded up to whole tiles of TILE tokens."""
    return math.ceil(vocabulary / TILE) * TILE


def compute_chunk(
    logits: Tensor,
    labels: Tensor,
    uniforms: Tensor | None,
    row_metrics: Tensor,
    config: OTRConfig,
    *,
    vocabulary: int,
    logit_scale: float,
    softcap: float | None,
    with_grad: bool,
    token_weights: Tensor | None = None,
    tokens: Vocabulary = WHOLE,
) -> None:
    """Compute the metrics and the gradient of one chunk of positions. This is the contract of every chunk kernel.

    A kernel is a pure function of a row's logits, label and uniforms: it draws no random numbers, the same input
    gives the same bits, and a row's result does not depend on the other rows of the chunk.

    Args:
        logits: [C, padded(V)], the head's output before logit_scale and softcap; the contents of the columns from V
            on are arbitrary. With with_grad, the first V columns are overwritten with the gradient of each row's
            objective with respect to these logits, not divided by num_items, and the other columns are left as they are
            or overwritten with finite numbers. Without with_grad, the contents are undefined afterwards.
        labels: [C], int64 or int32. The caller has removed positions that are not trained.
        uniforms: [C, K], float32 or float64, in [0, 1); None unless config.draws.
        row_metrics: [C, len(ROW_METRICS)], contiguous, of dtype precise(logits.dtype). Every column is overwritten,
            in the order of ROW_METRICS. "objective" and "weight" include the term of nll_weight, the thresholds of
            label_prob and the row's token weight; DRAW_METRICS are NaN without a rollout.
        config: the settings. For an objective, estimator or baseline without an implementation, a kernel raises
            NotImplementedError.
        vocabulary: V.
        logit_scale, softcap: as for otr_loss.
        with_grad: whether to compute the gradient.
        token_weights: [C], of the dtype of row_metrics, finite and >= 0: factors of each row's objective and gradient;
            None: all are 1.
        tokens: which tokens the columns are. With a slice of the vocabulary, V is the number of tokens that are
            here, and a row needs one column more; all processes of the group call the kernel with the same rows.
            Only this kernel takes slices.

    NaN marks a wrong row and stays in it: all metrics and the gradient of a row are NaN if one of its logits is NaN or
    +inf, if all are -inf, or if its label is outside the vocabulary. Such a label reads no memory out of bounds; on a
    GPU this is the only check of the labels. A single logit of -inf is a token that cannot be drawn.
    """
    elements = BLOCK_ELEMENTS_CPU if logits.device.type == "cpu" else BLOCK_ELEMENTS
    draws = 0 if uniforms is None else uniforms.shape[1]  # there may be more of them than logits
    step = min(max(1, elements // max(logits.shape[1], draws)), len(logits))
    # Allocate the scratch memory once: on a CPU, the first use of fresh memory costs more than the arithmetic.
    all_scratch = logits.new_empty(4, step, logits.shape[1], dtype=precise(logits.dtype))
    for start in range(0, len(logits), step):
        block = slice(start, start + step)
        label = labels[block].long().unsqueeze(1)
        is_valid = (label >= 0) & (label < tokens.size(vocabulary))
        label = label.where(is_valid, 0)
        place = tokens.place(label, vocabulary)
        scratch = _Scratch(*all_scratch[:, : len(label)])

        x, softcap_slope = _final_logits(logits[block], scratch, vocabulary, logit_scale, softcap)
        threshold = draw_threshold(x, config, tokens) if config.has_rollout else None
        excluded = None if threshold is None else x < threshold
        policy = _policy(x, label, place, tokens, scratch)
        is_valid &= ~policy.log_z.isnan()  # the draws of a row with NaN would be counted, and its largest logit found
        match config.objective:
            case "otr":
                term = _rollout(policy, excluded, None if uniforms is None else uniforms[block], config, scratch)
            case "dft":
                term = _weighted_nll(policy, policy.label_prob)
            case "power":
                term = _power(policy, config.alpha)
            case "eaft":
                log_share = log_entropy_of_most_probable(policy.x, tokens) - log_largest_entropy(
                    tokens.size(vocabulary)
                )
                term = _weighted_nll(policy, torch.exp(config.alpha * log_share))
            case "sft":
                term = _weighted_nll(policy, torch.ones_like(policy.nll))
            case _:
                raise not_implemented(__name__, "objective", config.objective, OBJECTIVES)
        if config.nll_weight:
            term = _plus_nll(term, policy.nll, config.nll_weight)
        weights = None if token_weights is None else token_weights[block].unsqueeze(1)
        if config.has_thresholds:
            weights = _within_thresholds(policy.label_prob, weights, config)
        if weights is not None:
            term = _times(term, weights)

        columns = policy.metrics | term.metrics | {"objective": term.objective, "weight": term.p_factor}
        for index, name in enumerate(ROW_METRICS):
            row_metrics[block, index] = columns[name].where(is_valid, math.nan).squeeze(1)
        if with_grad:
            # Write the gradient into the logits, or into p's memory if the logits have a lower precision.
            out = x if x.dtype == logits.dtype else policy.p
            p_factor = term.p_factor.where(is_valid, math.nan)
            torch.mul(policy.p, p_factor / policy.p_sum, out=out)
            term.subtract_draws(out)
            out.scatter_add_(1, place.column, -term.at_label)
            if softcap_slope is not None:
                out.mul_(softcap_slope)
            if logit_scale != 1:
                out.mul_(logit_scale)
            if out is not x:
                logits[block] = out


class _Scratch(NamedTuple):
    """Memory for the temporaries of one block of R rows, [R, padded(V)] each."""

    x: Tensor  # the logits in higher precision; only used if their own dtype is lower
    p: Tensor
    q: Tensor
    product: Tensor


class _Policy(NamedTuple):
    """p = softmax(x) of one block, and the values that follow from p and the label. One number per row is [R, 1]."""

    tokens: Vocabulary  # which tokens the columns of x and p are
    label: Place
    x: Tensor  # the logits minus the row's largest, clamped to finite values
    p: Tensor  # sums to p_sum, not to 1: torch.softmax sums long rows less exactly than torch.sum does
    p_sum: Tensor
    log_z: Tensor  # log p_a = x_a - log_z
    nll: Tensor
    label_prob: Tensor
    metrics: dict[str, Tensor]


class _Term(NamedTuple):
    """The objective of one block, and the parts of its gradient.

    dJ/dz = p_factor * p - (the part of the drawn tokens) - (at_label, at the label). The part of the drawn tokens is
    either sparse or dense. [R, 1] unless said otherwise.
    """

    objective: Tensor
    p_factor: Tensor
    at_label: Tensor
    metrics: dict[str, Tensor]
    sparse: tuple[Tensor, Tensor] | None = None  # columns [R, K] and their values [R, K], equal for equal columns
    dense: tuple[Tensor, Tensor] | None = None  # q [R, padded(V)] and its factor

    def subtract_draws(self, gradient: Tensor) -> None:
        """Subtract the part of the drawn tokens in place."""
        if self.sparse is not None:
            columns, values = self.sparse
            gradient.scatter_(1, columns, gradient.gather(1, columns) - values)
        if self.dense is not None:
            gradient.addcmul_(*self.dense, value=-1)


def _final_logits(
    raw: Tensor, scratch: _Scratch, vocabulary: int, logit_scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """The scaled and softcapped logits with -inf as padding, and the derivative of the softcap (None without one).

    The logits overwrite `raw` if its dtype is precise enough, and scratch.x otherwise.
    """
    x = raw if raw.dtype == scratch.x.dtype else scratch.x.copy_(raw)
    slope = None
    if logit_scale != 1:
        x.mul_(logit_scale)
    if softcap is not None:
        x.div_(softcap).tanh_()
        slope = 1 - x.square()
        slope[:, vocabulary:] = 0  # so that the gradient has no NaN in the padding, which may hold any number
        x.mul_(softcap)
    x[:, vocabulary:] = -math.inf
    return x, slope


def _policy(x: Tensor, label: Tensor, place: Place, tokens: Vocabulary, scratch: _Scratch) -> _Policy:
    largest, argmax = tokens.largest(*_row_max(x))
    x = x.sub_(largest)
    label_x = place.of(x)
    # Clamp -inf, the logit of an excluded token, because 0 * -inf would put NaN into the sums of p * x.
    x = x.clamp_(min=torch.finfo(x.dtype).min)
    p = tokens.softmax(x, out=scratch.p)
    p_sum, p_label, label_x, product = tokens.sum(
        p.sum(-1, keepdim=True), place.of(p), label_x, _sum_of_product(p, x, scratch)
    )
    log_z = p_sum.log() - tokens.softmax_of_largest(p, argmax).log()
    nll = log_z - label_x
    label_prob = p_label / p_sum
    metrics = {
        "nll": nll,
        "label_prob": label_prob,
        "accuracy": (argmax == label).to(x.dtype),
        "entropy": log_z - product / p_sum,
    }
    return _Policy(tokens, place, x, p, p_sum, log_z, nll, label_prob, metrics)


def _rollout(
    policy: _Policy, excluded: Tensor | None, uniforms: Tensor | None, config: OTRConfig, scratch: _Scratch
) -> _Term:
    """`objective: otr`. `excluded` marks the tokens that cannot be drawn."""
    match config.estimator:
        case "sampled":
            assert uniforms is not None
            return _sampled(policy, excluded, uniforms, config, scratch)
        case "exact":
            return _exact(policy, excluded, config, scratch)
        case _:
            raise not_implemented(__name__, "estimator", config.estimator, ("sampled", "exact"))


def _sampled(policy: _Policy, excluded: Tensor | None, uniforms: Tensor, config: OTRConfig, scratch: _Scratch) -> _Term:
    q = _rollout_distribution(policy, excluded, config, scratch)
    q_label = policy.label.of(q)
    drawn, is_label = draw(q.scatter_(1, policy.label.column, 0), policy.label, q_label, uniforms, policy.tokens)

    hit = is_label.to(q.dtype)
    reward = config.beta + (1 - config.beta) * hit
    hit_rate = hit.mean(-1, keepdim=True)
    mean_reward = config.beta + (1 - config.beta) * hit_rate
    baseline = _baseline(config, mean_reward)
    advantage = reward - baseline
    log_p = drawn.keep(policy.x.gather(1, drawn.column) - policy.log_z)
    (objective,) = policy.tokens.sum(-(advantage * log_p).mean(-1, keepdim=True))

    # Reuse q's memory for the number of draws per token, and read it at every draw. Draws of the same token then carry
    # the same value, so the order in which subtract_draws writes them is irrelevant.
    count = (
        q.scatter_(1, drawn.column, 0).scatter_add_(1, drawn.column, torch.ones_like(reward)).gather(1, drawn.column)
    )
    return _Term(
        objective=objective,
        p_factor=mean_reward - baseline,
        at_label=torch.zeros_like(hit_rate),
        metrics={
            "reward": mean_reward,
            "hit_rate": hit_rate,
            "unsampled": (hit_rate == 0).to(q.dtype),
        },
        sparse=(drawn.column, advantage * count / config.samples),
    )


def _exact(policy: _Policy, excluded: Tensor | None, config: OTRConfig, scratch: _Scratch) -> _Term:
    q = _rollout_distribution(policy, excluded, config, scratch)
    q_sum, q_at_label, product = policy.tokens.sum(
        q.sum(-1, keepdim=True), policy.label.of(q), _sum_of_product(q, policy.x, scratch)
    )
    q_label = q_at_label / q_sum
    mean_reward = config.beta + (1 - config.beta) * q_label
    baseline = _baseline(config, mean_reward)
    other_advantage = config.beta - baseline  # of every token but the label
    at_label = (1 - config.beta) * q_label
    cross_entropy = policy.log_z - product / q_sum
    return _Term(
        objective=torch.where(q_label != 0, at_label * policy.nll, 0) + other_advantage * cross_entropy,
        p_factor=mean_reward - baseline,
        at_label=at_label,
        metrics={
            "reward": mean_reward,
            "hit_rate": q_label,
            "unsampled": (1 - q_label) ** config.samples,
        },
        dense=(q, other_advantage / q_sum),
    )


def _weighted_nll(policy: _Policy, weight: Tensor) -> _Term:
    """The NLL times a weight [R, 1] that carries no gradient."""
    return _Term(
        objective=torch.where(weight != 0, weight * policy.nll, 0),  # 0 * inf is 0 here, and NaN stays NaN
        p_factor=weight,
        at_label=weight,
        metrics=dict.fromkeys(DRAW_METRICS, torch.full_like(weight, math.nan)),
    )


def _power(policy: _Policy, alpha: float) -> _Term:
    """`objective: power`: (1 - p^alpha) / alpha for the label's probability p, to rounding also where p is near 1."""
    exponent = -alpha * policy.nll
    weight = exponent.exp()
    return _weighted_nll(policy, weight)._replace(objective=-torch.expm1(exponent) / alpha)


def _plus_nll(term: _Term, nll: Tensor, weight: float) -> _Term:
    return term._replace(
        objective=term.objective + weight * nll, p_factor=term.p_factor + weight, at_label=term.at_label + weight
    )


def _within_thresholds(label_prob: Tensor, weights: Tensor | None, config: OTRConfig) -> Tensor:
    """The weights (None: 1), or 0 where the label's probability is outside the thresholds."""
    weights = torch.ones_like(label_prob) if weights is None else weights
    if config.min_label_prob > 0:
        weights = weights.where(label_prob >= config.min_label_prob, 0)
    if config.max_label_prob < 1:  # rounding may make a probability larger than 1
        weights = weights.where(label_prob <= config.max_label_prob, 0)
    return weights


def _times(term: _Term, weights: Tensor) -> _Term:
    """The term with each row's objective and gradient multiplied by a weight [R, 1]; by 0, an infinite one is 0."""
    return term._replace(
        objective=torch.where(weights != 0, weights * term.objective, 0),
        p_factor=weights * term.p_factor,
        at_label=weights * term.at_label,
        sparse=None if term.sparse is None else (term.sparse[0], weights * term.sparse[1]),
        dense=None if term.dense is None else (term.dense[0], weights * term.dense[1]),
    )


def _baseline(config: OTRConfig, mean_reward: Tensor) -> Tensor:
    match config.baseline:
        case "none":
            return torch.zeros_like(mean_reward)
        case "mean":
            return mean_reward
        case _:
            raise not_implemented(__name__, "baseline", config.baseline, ("none", "mean"))


def _rollout_distribution(policy: _Policy, excluded: Tensor | None, config: OTRConfig, scratch: _Scratch) -> Tensor:
    """q = softmax(x / kappa) over the tokens that can be drawn, up to a factor for each row."""
    scaled = torch.mul(policy.x, 1 / config.temperature, out=scratch.product)
    if excluded is not None:
        scaled.masked_fill_(excluded, -math.inf)
    return policy.tokens.softmax(scaled, out=scratch.q)


def _sum_of_product(a: Tensor, b: Tensor, scratch: _Scratch) -> Tensor:
    return torch.mul(a, b, out=scratch.product).sum(-1, keepdim=True)


def _row_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's maximum and its first index, [R, 1] each. Faster than torch.max on long rows: tile by tile."""
    tiles = x.view(len(x), -1, TILE)
    largest, tile = tiles.amax(-1).max(-1, keepdim=True)
    place = tiles.gather(1, tile.unsqueeze(-1).expand(-1, -1, TILE)).squeeze(1).argmax(-1, keepdim=True)
    return largest, tile * TILE + place
