"""The loss, its metrics and its gradients, written once more from the formulas, in float64 and without autograd.

It shares no code with the package, so that an error of the specification (otr_plugin/loss/reference.py) is seen, too.
Beside each value stands its size: the sum of the absolute values of the terms that it consists of. Rounding errors are
measured against it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from otr_plugin.config import OTRConfig

Array = Any  # numpy's arrays; their dtype and shape stand in the comments
BELOW_ONE = 1 - 2**-53
METRICS = ("nll", "objective", "weight", "label_prob", "accuracy", "entropy", "reward", "hit_rate", "unsampled")
WITH_WEIGHTS = "weighted_nll"  # the metric that exists only with token_weights


@dataclass
class Row:
    """One trained position. `gradient` is that of the objective with respect to the logits [V]."""

    metrics: dict[str, float]
    sizes: dict[str, float]
    gradient: Array
    gradient_size: Array
    error: float = 0.0  # of a value, relative to its size, that the rounding of logits can cause
    is_sure: bool = True  # rounding decides neither about a draw nor about the largest logit
    has_loss: bool = True


def row_without_loss(vocabulary: int) -> Row:
    """The result for logits without a distribution: NaN everywhere."""
    nan = dict.fromkeys((*METRICS, WITH_WEIGHTS), math.nan)
    return Row(nan, nan, np.full(vocabulary, math.nan), np.full(vocabulary, math.nan), has_loss=False)


def of_row(
    z: Array, label: int, uniforms: Array | None, config: OTRConfig, dz: float, eps: float, token_weight: float = 1.0
) -> Row:
    """The result for logits z [V] that are known up to dz, for a computation with rounding errors of eps."""
    if np.isnan(z).any() or (z == math.inf).any() or (z == -math.inf).all():
        return row_without_loss(len(z))
    x = z - z.max()
    log_p = x - np.log(np.exp(x).sum())
    p = np.exp(log_p)
    spread = 1 + np.where(p > 0, np.abs(x), 0)  # the exponential of a rounded x has this relative error
    is_label = np.arange(len(z)) == label
    nll, p_label = -log_p[label], p[label]
    entropy = _sum(p, -log_p)
    metrics = {"nll": nll, "label_prob": p_label, "accuracy": float(z.argmax() == label), "entropy": entropy}
    sizes = {"nll": 1 + nll, "label_prob": p_label * spread[label], "accuracy": 0.0, "entropy": 1 + entropy}
    is_sure = dz == 0 or len(z) == 1 or z.max() - np.partition(z, -2)[-2] > 4 * dz
    error = 6 * dz
    match config.objective:
        case "otr":
            tolerance = 2 * dz / config.temperature + 32 * eps  # of a running sum of q
            q, cuts_are_sure = _rollout(z, config, tolerance, dz)
            is_sure &= cuts_are_sure
            if config.estimator == "sampled":
                assert uniforms is not None
                tokens = _draw(q, label, uniforms)
                for shifted in (uniforms - tolerance, uniforms + tolerance):
                    is_sure &= bool((_draw(q, label, shifted.clip(0, BELOW_ONE)) == tokens).all())
                share = np.bincount(tokens, minlength=len(z)) / config.samples
                share_size, unsampled = share, float(share[label] == 0)
            else:
                share, share_size = q, q * (1 + np.where(q > 0, np.abs(x), 0) / config.temperature)
                unsampled = (1 - q[label]) ** config.samples
                error += 2 * dz / config.temperature
            reward = np.where(is_label, 1.0, config.beta)
            mean, mean_size = (share * reward).sum(), (share_size * np.abs(reward)).sum()
            with_baseline = config.baseline == "mean"
            weight = share * (reward - mean if with_baseline else reward)
            reward_size = np.abs(reward)
            if config.estimator == "exact":  # the label's reward is the sum of beta and 1 - beta
                reward_size = np.where(is_label, 1 + 2 * abs(config.beta), reward_size)
            weight_size = share_size * (reward_size + (mean_size if with_baseline else 0))
            metrics |= {"reward": mean, "hit_rate": share[label], "unsampled": unsampled}
            sizes |= {"reward": mean_size, "hit_rate": share_size[label], "unsampled": 1 + config.samples * unsampled}
        case "dft":
            weight, weight_size = p_label * is_label, p_label * spread[label] * is_label
        case "power":
            power = np.exp(-config.alpha * nll)
            weight, weight_size = power * is_label, power * (1 + config.alpha * spread[label]) * is_label
            error *= 1 + config.alpha
        case "eaft":
            log_share, log_share_size = _log_entropy_share(x)
            weight = np.exp(config.alpha * log_share) * is_label
            weight_size = weight * (1 + config.alpha * log_share_size)
        case "sft":
            weight = weight_size = 1.0 * is_label
    # Below the smallest normal number, a weight is not known relative to itself, and log p may be large.
    weight_size = np.maximum(weight_size, np.finfo(np.float32 if eps > 1e-10 else np.float64).tiny * is_label)
    weight, weight_size = weight + config.nll_weight * is_label, weight_size + config.nll_weight * is_label
    metrics["objective"] = _sum(weight, -log_p)
    sizes["objective"] = _sum(weight_size, 1 - log_p)
    if config.objective == "power":  # its value is not the weight times the NLL
        value = -math.expm1(-config.alpha * nll) / config.alpha
        metrics["objective"] = value + _times(config.nll_weight, nll)
        sizes["objective"] += value
    metrics[WITH_WEIGHTS], sizes[WITH_WEIGHTS] = _times(token_weight, nll), _times(token_weight, 1 + nll)
    error_of_log_p = 2 * dz + 8 * eps * spread[label]
    for threshold in (config.min_label_prob, config.max_label_prob):
        is_sure &= not 0 < threshold < 1 or abs(log_p[label] - math.log(threshold)) > error_of_log_p
    if not config.min_label_prob <= p_label <= config.max_label_prob and config.has_thresholds:
        token_weight = 0.0
    metrics |= {"weight": weight.sum()}
    sizes |= {"weight": weight_size.sum()}
    for name in ("objective", "weight"):
        metrics[name], sizes[name] = _times(token_weight, metrics[name]), _times(token_weight, sizes[name])
    weight, weight_size = token_weight * weight, token_weight * weight_size
    gradient = weight.sum() * p - weight
    return Row(metrics, sizes, gradient, weight_size.sum() * p * spread + weight_size, error, bool(is_sure))


def _times(weight: float, value: float) -> float:
    """The product, in which 0 times infinity is 0."""
    return weight * value if weight else 0.0


def _log_entropy_share(x: Array) -> tuple[float, float]:
    """The logarithm of the entropy of the 20 largest, or fewer, as a share of the largest possible one, and its size.

    Logits that are wrong by dz make the logarithm wrong by at most dz times this size.
    """
    largest = np.sort(x)[::-1][:20]
    if len(largest) == 1:
        return -math.inf, 1.0
    log_p = np.maximum(largest - np.logaddexp.reduce(largest), -1e30)
    rest = np.maximum(np.logaddexp.reduce(largest[1:]) - largest[0], -1e30)
    # log(-log p) of the largest: where the others are tiny, -log p is their sum.
    log_nll = np.log(-log_p[1:])
    log_nll = np.concatenate([[rest if rest < -30 else math.log(math.log1p(math.exp(rest)))], log_nll])
    terms = log_p + log_nll
    log_entropy = np.logaddexp.reduce(terms)
    share = np.exp(terms - log_entropy)
    changes = (share * (1 + np.exp(np.minimum(-log_nll, 21)))).sum()  # of the logarithm, if each log p changes by 1
    return log_entropy - math.log(math.log(len(largest))), float(abs(log_entropy) + 4 + min(changes, 1e3))


def _sum(weight: Array, values: Array) -> Any:
    """The weighted sum of values that may be infinite where the weight is 0."""
    return (weight * np.where(weight != 0, values, 0)).sum()


def _rollout(z: Array, config: OTRConfig, tolerance: float, dz: float) -> tuple[Array, bool]:
    """q [V], and whether rounding does not decide which tokens can be drawn."""
    q = np.exp((z - z.max()) / config.temperature)
    q /= q.sum()
    ordered = np.sort(z)[::-1]  # not of differences from the largest, which round
    kept, is_sure = len(z), True
    if config.top_k is not None:
        kept = min(kept, config.top_k)
    if config.top_p < 1:
        running = np.cumsum(q[np.argsort(-z, kind="stable")])
        crossing = [int((running < config.top_p + shift).sum()) + 1 for shift in (0, -tolerance, tolerance)]
        kept = min(kept, crossing[0])
        # Tokens that are tied with the last one are kept, too, so several crossings may mean the same tokens.
        is_sure = len({ordered[min(kept, c) - 1] for c in crossing}) == 1
    threshold = ordered[kept - 1]
    left_out = ordered[ordered < threshold]
    is_sure &= dz == 0 or kept == len(z) or not len(left_out) or threshold - left_out[0] > 4 * dz
    q = np.where(z >= threshold, q, 0)
    return q / q.sum(), is_sure


def _draw(q: Array, label: int, uniforms: Array) -> Array:
    """The token of each uniform [K]: the label below q_y; otherwise the first other one whose running sum is larger."""
    others = np.where(np.arange(len(q)) == label, 0, q)
    rest = uniforms - q[label]
    token = np.searchsorted(np.cumsum(others), rest, side="right")
    last = np.flatnonzero(others)[-1] if others.any() else label
    return np.where(rest < 0, label, np.minimum(token, last))
