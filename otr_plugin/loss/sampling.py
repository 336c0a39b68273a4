"""Which tokens may be drawn, and which are: the rollout's two decisions, vectorised over rows."""

from __future__ import annotations

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss.reference import within_rounding

TILE = 64  # tokens whose mass is summed before a draw looks for its own among them


def draw(q: Tensor, label: Tensor, q_label: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The token that each uniform picks: (tokens [R, K], whether it is the label [R, K]).

    q [R, tiles * TILE] need not sum to one. It must be 0 at the label, whose mass comes as q_label [R, 1].
    A uniform u picks the label if u < q_label; otherwise the first other token in vocabulary order at which
    the running sum of q exceeds u - q_label (with everything measured in units of the total).

    One running sum over the whole vocabulary would leave rare tokens no width in float32. So a draw first
    finds its tile, by a running sum of the tiles' masses in float64, and then its token inside, by a
    running sum that starts from zero. (Where that would read more than the vocabulary, tiles are single tokens.)
    """
    width = TILE if q.shape[1] > uniforms.shape[1] * TILE else 1
    tables = q.view(len(q), -1, width)
    ends = tables.sum(-1).cumsum(-1, dtype=torch.float64)
    others = ends[:, -1:]
    rest = uniforms.double() * (others + q_label) - q_label
    is_label = (rest < 0) | (others == 0)
    # Below the total, so that a tile with mass is found, however the sum above was rounded.
    rest = torch.minimum(rest.clamp_(min=0), others * (1 - 2**-52))
    tile = torch.searchsorted(ends, rest, right=True).clamp_(max=tables.shape[1] - 1)
    token = tile
    if width > 1:
        starts = torch.nn.functional.pad(ends, (1, 0))
        rest = (rest - starts.gather(1, tile)).to(q.dtype)
        row = torch.arange(len(q), device=q.device).unsqueeze(1) * tables.shape[1]
        inside = q.view(-1, width).index_select(0, (row + tile).view(-1)).cumsum(-1)
        place = (inside <= rest.view(-1, 1)).sum(-1)
        last = (inside < inside[:, -1:]).sum(-1)  # of the tile's tokens with mass: rest may be rounded up
        token = tile * width + torch.minimum(place, last).view_as(tile)
    return torch.where(is_label, label, token), is_label


def draw_threshold(x: Tensor, config: OTRConfig) -> Tensor | None:
    """The logit [R, 1] below which no token is drawn, or None if all may be."""
    threshold = None
    if config.top_k is not None:
        threshold = largest_reaching(x, torch.ones_like(x), config.top_k)
    if config.top_p < 1:
        mass = (x / config.temperature).softmax(-1)
        nucleus = largest_reaching(x, mass, within_rounding(config.top_p, x.dtype))
        threshold = nucleus if threshold is None else torch.maximum(threshold, nucleus)
    return threshold


def largest_reaching(x: Tensor, mass: Tensor, target: float) -> Tensor:
    """The largest t [R, 1] for which the mass of all x >= t is at least target, or else x's minimum.

    Exact, by bisection over the numbers that the dtype has: no sort, no wait for the device, and a fixed
    number of passes.
    """
    low, high = _to_ordinal(x.amin(-1, keepdim=True)), _to_ordinal(x.amax(-1, keepdim=True)) + 1
    for _ in range(8 * x.itemsize):
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, rounded down, without overflow
        reached = mass.where(x >= _from_ordinal(middle, x.dtype), 0).sum(-1, keepdim=True) >= target
        low, high = torch.where(reached, middle, low), torch.where(reached, high, middle)
    return _from_ordinal(low, x.dtype)


def _to_ordinal(x: Tensor) -> Tensor:
    """Integers in the order of the floats: negative ones have their bits counted downwards."""
    bits = x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits).long()


def _from_ordinal(ordinal: Tensor, dtype: torch.dtype) -> Tensor:
    kind = torch.int32 if dtype == torch.float32 else torch.int64
    bits = torch.where(ordinal < 0, ordinal ^ torch.iinfo(kind).max, ordinal).to(kind)
    return bits.view(dtype)
