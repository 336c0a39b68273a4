"""The logit of every row below which no token is drawn (top_k, top_p)."""

from __future__ import annotations

import triton
import triton.language as tl

from otr_plugin.loss.triton.logits import LOWEST, load_logits


@triton.jit
def ordinal(x):
    """Integers in the order of the floats: negative ones have their bits counted downwards."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def from_ordinal(number):
    bits = number.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def reached(
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
    """How many tokens have a logit of candidate or more; or how much q they have, not divided by its sum."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = load_logits(row, token, token < vocabulary, SCALE, CAP)
        share = tl.exp((x - top) * inverse_temperature) if BY_MASS else tl.full((BLOCK,), 1.0, tl.float32)
        total += tl.where((token < vocabulary) & (x >= candidate), share, 0.0)
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
    """The largest logit for which those that are as large reach the target, or else the bottom."""
    low, high = ordinal(bottom), ordinal(top) + 1
    for _ in range(32):
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, rounded down, without overflow
        found = reached(
            row, vocabulary, from_ordinal(middle), top, inverse_temperature, BY_MASS, BLOCK, SCALE, CAP
        )  # fmt: skip
        low, high = tl.where(found >= target, middle, low), tl.where(found >= target, high, middle)
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
    """rollout.draw_threshold for every row, by the same bisection."""
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
            whole = reached(row, vocabulary, bottom, top, inverse_temperature, True, BLOCK, SCALE, CAP)
            nucleus = largest_reaching(
                row, vocabulary, top_p * whole, bottom, top, inverse_temperature, True, BLOCK, SCALE, CAP
            )  # fmt: skip
            threshold = tl.maximum(threshold, nucleus)
        tl.store(thresholds + index, threshold)
