"""The entropy of the most probable tokens, by which `objective: eaft` weighs a position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from otr_plugin.loss.sampling import TILE
from otr_plugin.loss.vocabulary import Vocabulary

MOST_PROBABLE = 20  # of the paper (arXiv 2601.02151) and of the hosts that have the objective
FAR = -1e30  # distances from the largest logit end here, so that their sums do not overflow


def log_largest_entropy(vocabulary: int) -> float:
    """The logarithm of the entropy of MOST_PROBABLE equally probable tokens, or of all of a smaller vocabulary."""
    return math.log(math.log(max(2, min(MOST_PROBABLE, vocabulary))))


def log_entropy_of_most_probable(x: Tensor, tokens: Vocabulary) -> Tensor:
    """log H [R, 1]: the entropy of each row's MOST_PROBABLE tokens, their probabilities divided by their sum.

    x is [R, padded(V)], the logits minus the row's largest, and very low in the padding. The logarithm is finite also
    where H is too small for the dtype, because everything is computed relative to the second largest probability.
    """
    # The largest logits are in the tiles that have the largest maxima: far fewer logits to sort than the vocabulary.
    tiles = x.view(len(x), -1, TILE)
    candidates = tiles.amax(-1).topk(min(MOST_PROBABLE, tiles.shape[1])).indices
    candidates = tiles.gather(1, candidates.unsqueeze(-1).expand(-1, -1, TILE)).flatten(1)
    largest = tokens.most_probable(candidates.topk(MOST_PROBABLE).values).clamp(min=FAR)
    second, others = largest[:, 1:2], largest[:, 1:]
    relative = torch.exp(others - second)
    mass, moment = relative.sum(-1, keepdim=True), (relative * others).sum(-1, keepdim=True)
    # With o, the sum of the other probabilities when the largest is 1: H = log(1 + o) - (sum of p log p) / (1 + o).
    o = mass * second.exp()
    slope = torch.where(o > 0, torch.log1p(o) / o, 1)
    return second + torch.log(mass * slope - moment / (1 + o))
