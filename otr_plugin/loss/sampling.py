"""Which tokens can be drawn (draw_threshold), and which ones are drawn (draw). For all rows of a block at once.

torch_kernel.py calls both. The Triton kernels implement the same functions, and share top_p_target.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss.vocabulary import WHOLE, Place, Vocabulary

TILE = 64  # tokens in a tile; draw finds the tile of a draw before it finds the token


def draw(
    q: Tensor, label: Place, q_label: Tensor, uniforms: Tensor, tokens: Vocabulary = WHOLE
) -> tuple[Place, Tensor]:
    """The token that each uniform picks.

    A uniform u picks the label if u < q_label. Otherwise it picks the first other token in vocabulary order at which
    the running sum of q exceeds u - q_label. (q and q_label are divided by their total first.)

    Args:
        q: [R, tiles * TILE], the probabilities of the tokens up to a factor per row; 0 at the label and in the padding.
        label: the label's place, [R, 1].
        q_label: [R, 1], the label's probability, with the same factor as q; 0 if the label is in another slice.
        uniforms: [R, K], in [0, 1).
        tokens: which tokens the columns of q are.

    Returns:
        The places of the tokens [R, K], and whether they are the label [R, K].

    In float32, one running sum over a large vocabulary would round away the probabilities of rare tokens. So each
    draw first finds its tile by a running sum over the tiles, in float64, and then its token by a running sum within
    the tile. (With so many draws that reading K tiles costs more than reading the vocabulary, a tile is one token.)
    """
    width = TILE if q.shape[1] > uniforms.shape[1] * TILE else 1
    tiles = q.view(len(q), -1, width)
    tile_ends = tiles.sum(-1).cumsum(-1, dtype=torch.float64)
    mass = tile_ends[:, -1:]
    begin, end, others = tokens.intervals(mass)
    (q_label,) = tokens.sum(q_label)
    # The place of the draw in the running sum over the other tokens; if it is negative, the label is drawn.
    rest = uniforms.double() * (others + q_label) - q_label
    is_label = (rest < 0) | (others == 0)
    # Keep rest below the total, so that rounding cannot move a draw behind the last tile that has mass.
    rest = torch.minimum(rest.clamp_(min=0), others * (1 - 2**-52))
    is_here = None
    if label.is_here is not None:
        is_here = torch.where(is_label, label.is_here, (rest >= begin) & (rest < end))
        rest = torch.minimum((rest - begin).clamp_(min=0), mass * (1 - 2**-52))
    tile = torch.searchsorted(tile_ends, rest, right=True).clamp_(max=tiles.shape[1] - 1)
    token = tile
    if width > 1:
        tile_starts = torch.nn.functional.pad(tile_ends, (1, 0))
        rest = (rest - tile_starts.gather(1, tile)).to(q.dtype)
        first_tile_of_row = torch.arange(len(q), device=q.device).unsqueeze(1) * tiles.shape[1]
        running = q.view(-1, width).index_select(0, (first_tile_of_row + tile).view(-1)).cumsum(-1)
        place = (running <= rest.view(-1, 1)).sum(-1)
        # Rounding may move rest behind the last token of the tile that has mass; that token is then the draw.
        last = (running < running[:, -1:]).sum(-1)
        token = tile * width + torch.minimum(place, last).view_as(tile)
    column = torch.where(is_label, label.column, token)
    if is_here is not None:
        column = column.where(is_here, q.shape[1] - 1)  # the last column is no token's
    return Place(column, is_here), is_label


def draw_threshold(x: Tensor, config: OTRConfig, tokens: Vocabulary = WHOLE) -> Tensor | None:
    """The logit [R, 1] below which no token can be drawn (top_k, top_p), for logits x [R, V]; None for no limit."""
    threshold = None
    if config.top_k is not None:
        # As a float: tensors cannot be compared with integers beyond int64.
        threshold = largest_reaching(x, torch.ones_like(x), float(config.top_k), tokens)
    if config.top_p < 1:
        mass = tokens.probabilities(x / config.temperature)
        nucleus = largest_reaching(x, mass, top_p_target(config.top_p, x.dtype), tokens)
        threshold = nucleus if threshold is None else torch.maximum(threshold, nucleus)
    return threshold


def top_p_target(top_p: float, dtype: torch.dtype) -> float:
    """The sum of probabilities that counts as top_p: less by a few roundings, so that 0.5 + 0.3 reaches 0.8."""
    return top_p * (1 - 8 * torch.finfo(dtype).eps)


def largest_reaching(x: Tensor, mass: Tensor, target: float, tokens: Vocabulary = WHOLE) -> Tensor:
    """The largest t [R, 1] for which the mass of all tokens with x >= t reaches target; x's minimum if none does.

    The result is exact. It comes from a bisection over all floating-point numbers of x's dtype, which takes a fixed
    number of passes over x, sorts nothing, and does not make the CPU wait for the device.
    """
    low = _to_ordinal(tokens.smallest(x.amin(-1, keepdim=True)))
    high = _to_ordinal(-tokens.smallest(-x.amax(-1, keepdim=True))) + 1
    for _ in range(8 * x.itemsize):
        middle = (low & high) + ((low ^ high) >> 1)  # (low + high) // 2, without overflow
        (above,) = tokens.sum(mass.where(x >= _from_ordinal(middle, x.dtype), 0).sum(-1, keepdim=True))
        reached = above >= target
        low, high = torch.where(reached, middle, low), torch.where(reached, high, middle)
    return _from_ordinal(low, x.dtype)


def _to_ordinal(x: Tensor) -> Tensor:
    """Integers in the same order as the floats x.

    The bits of a float, read as an integer, increase with a positive float and decrease with a negative one; so the
    bits of negative floats, apart from the sign, are inverted.
    """
    bits = x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits).long()


def _from_ordinal(ordinal: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of _to_ordinal."""
    integer = torch.int32 if dtype == torch.float32 else torch.int64
    bits = torch.where(ordinal < 0, ordinal ^ torch.iinfo(integer).max, ordinal).to(integer)
    return bits.view(dtype)
