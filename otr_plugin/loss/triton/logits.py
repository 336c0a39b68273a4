"""A logit as the loss sees it: read from a row, scaled and softcapped; and the way back for its gradient."""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)  # below every logit that counts, and finite: 0 * LOWEST is 0, and 0 * -inf is not


@triton.jit
def tanh(x):
    """To rounding for small x too; libdevice's is not everywhere."""
    size = tl.abs(x)
    decay = tl.exp(-2 * size)
    square = size * size
    small = size * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    size = tl.where(size < 0.25, small, (1 - decay) / (1 + decay))
    return tl.where(x < 0, -size, size)


@triton.jit
def load_logits(row, token, mask, SCALE: tl.constexpr, CAP: tl.constexpr):
    """Scaled and softcapped (None: not), in float32; anything where the mask is off."""
    x = tl.load(row + token, mask=mask, other=0.0).to(tl.float32)
    if SCALE is not None:
        x = x * SCALE
    if CAP is not None:
        x = tanh(x / CAP) * CAP
    return x


@triton.jit
def through_finish(gradient, x, SCALE: tl.constexpr, CAP: tl.constexpr):
    """From the gradient of what load_logits gave, x, that of what it read."""
    if CAP is not None:
        gradient = gradient * (1 - (x / CAP) * (x / CAP))
    if SCALE is not None:
        gradient = gradient * SCALE
    return gradient
