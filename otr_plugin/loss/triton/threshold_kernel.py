"""The Triton kernel that computes, for every row, the logit below which no token can be drawn (top_k, top_p).

launch.py runs it before the loss kernel if top_k or top_p is set. It implements sampling.draw_threshold.
"""

from __future__ import annotations

import triton
import triton.language as tl

from otr_plugin.loss.triton.logits import LOWEST, load_logits


@triton.jit
def ordinal(x):
    """Integers in the same order as the float32 numbers x; sampling._to_ordinal explains how."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def from_ordinal(number):
    """The inverse of ordinal."""
    bits = number.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def mass_reaching(
    row,
    vocabulary,
    candidate,
    top,
    inverse_temperature,
    BY_MASS: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
):
    """The mass of all tokens with a logit of at least `candidate`.

    A token's mass is 1 or, with BY_MASS, its probability of being drawn, up to a factor per row.
    """
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = load_logits(row, token, token < vocabulary, SCALE, CAP)
        mass = tl.exp((x - top) * inverse_temperature) if BY_MASS else tl.full((BLOCK,), 1.0, tl.float32)
        total += tl.where((token < vocabulary) & (x >= candidate), mass, 0.0)
    return tl.sum(total, 0)


@triton.jit
def largest_reaching(
    row,
    vocabulary,
    target,
    bottom,
    top,
    inverse_temperature,
    BY_MASS: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
):
    """The largest number for which the mass of all logits >= it reaches target; the bottom if none does.

    It is found by bisection over all float32 numbers between the row's smallest (bottom) and largest (top) logit.
    """
    low, high = ordinal(bottom), ordinal(top) + 1
    for _ in range(32):
        middle = (low & high) + ((low ^ high) >> 1)  # (low + high) // 2, without overflow
        mass = mass_reaching(
            row, vocabulary, from_ordinal(middle), top, inverse_temperature, BY_MASS, BLOCK, SCALE, CAP
        )  # fmt: skip
        low, high = tl.where(mass >= target, middle, low), tl.where(mass >= target, high, middle)
    return from_ordinal(low)


@triton.jit
def threshold_kernel(
    logits,
    stride,
    thresholds,
    count,
    vocabulary,
    inverse_temperature,
    top_k,
    top_p,
    BY_COUNT: tl.constexpr,
    BY_MASS: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
):
    """Write the threshold of each of the `count` rows. Every program processes one row after another."""
    for turn in range(tl.cdiv(count - tl.program_id(0), tl.num_programs(0))):
        index = tl.program_id(0).to(tl.int64) + turn * tl.num_programs(0)
        row = logits + index * stride
        top, bottom = LOWEST, -LOWEST
        for start in range(0, vocabulary, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = load_logits(row, token, token < vocabulary, SCALE, CAP)
            top = tl.maximum(top, tl.max(tl.where(token < vocabulary, x, LOWEST), 0))
            bottom = tl.minimum(bottom, tl.min(tl.where(token < vocabulary, x, -LOWEST), 0))
        threshold = bottom
        if BY_COUNT:
            threshold = largest_reaching(
                row, vocabulary, top_k, bottom, top, inverse_temperature, False, BLOCK, SCALE, CAP
            )  # fmt: skip
        if BY_MASS:
            total = mass_reaching(row, vocabulary, bottom, top, inverse_temperature, True, BLOCK, SCALE, CAP)
            nucleus = largest_reaching(
                row, vocabulary, top_p * total, bottom, top, inverse_temperature, True, BLOCK, SCALE, CAP
            )  # fmt: skip
            threshold = tl.maximum(threshold, nucleus)
        tl.store(thresholds + index, threshold)
