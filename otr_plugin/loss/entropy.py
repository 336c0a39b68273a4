"""The entropy of the most probable tokens, by which `objective: eaft` weighs a position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from otr_plugin.loss.sampling import TILE
from otr_plugin.loss.vocabulary import Vocabulary

MOST_PROBABLE = 20  # of the paper (arXiv 2601.02151) and of the hosts that have the objective


def largest_entropy(vocabulary: int) -> float:
    """The entropy of MOST_PROBABLE equally probable tokens, or of all of a smaller vocabulary."""
    return math.log(max(2, min(MOST_PROBABLE, vocabulary)))


def entropy_of_most_probable(x: Tensor, tokens: Vocabulary) -> Tensor:
    """The entropy [R, 1] of the MOST_PROBABLE tokens of each row, their probabilities divided by their sum.

    x is [R, padded(V)], the logits minus the row's largest, finite, and very low in the padding.
    """
    # The largest logits are in the tiles that have the largest maxima: far fewer logits to sort than the vocabulary.
    tiles = x.view(len(x), -1, TILE)
    candidates = tiles.amax(-1).topk(min(MOST_PROBABLE, tiles.shape[1])).indices
    candidates = tiles.gather(1, candidates.unsqueeze(-1).expand(-1, -1, TILE)).flatten(1)
    below_largest = tokens.most_probable(candidates.topk(MOST_PROBABLE).values)
    p = below_largest.exp()
    # The largest p is 1. Without it, the sum of the others is exact however small they are.
    others, product = p[:, 1:].sum(-1, keepdim=True), (p * below_largest).sum(-1, keepdim=True)
    return torch.log1p(others) - product / (1 + others)
