"""Functions of both Triton kernels: loading logits with scale and softcap, and the backward of that."""

from __future__ import annotations

import triton
import triton.language as tl

# The lowest finite float32: no row has it as its largest logit.
LOWEST = tl.constexpr(-3.4028234663852886e38)
# Distances from the largest logit end here: exp is 0 long before, 0 * FAR is 0, and sums of FAR do not overflow; but
# 0 * -inf would be NaN.
FAR = tl.constexpr(-1e30)


@triton.jit
def tanh(x):
    """tanh, accurate to rounding for small x, too. Not every backend of Triton has the tanh of libdevice."""
    size = tl.abs(x)
    decay = tl.exp(-2 * size)
    square = size * size
    small = size * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    size = tl.where(size < 0.25, small, (1 - decay) / (1 + decay))
    return tl.where(x < 0, -size, size)


@triton.jit
def load_logits(row, token, mask, SCALE: tl.constexpr, CAP: tl.constexpr):
    """The logits of some tokens in float32, scaled and softcapped (None: not); arbitrary where the mask is False."""
    x = tl.load(row + token, mask=mask, other=0.0).to(tl.float32)
    if SCALE is not None:
        x = x * SCALE
    if CAP is not None:
        x = tanh(x / CAP) * CAP
    return x


@triton.jit
def raw_gradient(gradient, x, SCALE: tl.constexpr, CAP: tl.constexpr):
    """Backward of load_logits: the gradient with respect to the raw logits, from that with respect to its result x."""
    if CAP is not None:
        gradient = gradient * (1 - (x / CAP) * (x / CAP))
    if SCALE is not None:
        gradient = gradient * SCALE
    return gradient
