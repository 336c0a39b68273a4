"""What is timed: each takes a Case and leaves gradients on its leaves, as a training step would."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from otr_plugin import OTRConfig, otr_loss


class Size(NamedTuple):
    n: int
    d: int
    v: int


@dataclass
class Case:
    hidden: Tensor
    weight: Tensor
    labels: Tensor

    @classmethod
    def make(cls, size: Size, trainable: bool) -> Case:
        g = torch.Generator().manual_seed(0)
        # Logits with a standard deviation of 2, about that of a language model's.
        hidden = torch.randn(size.n, size.d, generator=g).requires_grad_()
        weight = (torch.randn(size.v, size.d, generator=g) * 2 / size.d**0.5).requires_grad_(trainable)
        return cls(hidden, weight, torch.randint(0, size.v, (size.n,), generator=g))

    def forget_gradients(self) -> None:
        self.hidden.grad = self.weight.grad = None


Contender = Callable[[Case], None]


def bare_gemms(case: Case) -> None:
    """The floor: the logits, hidden's gradient and, for a trainable head, the weight's. Nothing else."""
    with torch.no_grad():
        logits = case.hidden @ case.weight.t()
        case.hidden.grad = logits @ case.weight
        if case.weight.requires_grad:
            case.weight.grad = logits.t() @ case.hidden


def whole_cross_entropy(case: Case) -> None:
    F.cross_entropy(case.hidden @ case.weight.t(), case.labels).backward()


def pytorch_linear_cross_entropy(case: Case) -> None:
    # Left to itself it takes chunks of 2 rows on this CPU, and several minutes.
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=min(512, len(case.hidden)))
    F.linear_cross_entropy(case.hidden, case.weight, case.labels, options=options).backward()


def trl_fused_head(case: Case) -> None:
    from trl.kernels import ChunkedLogProbFunction

    outputs = ("log_probs", "entropy", "is_top1")
    log_probs, *_ = ChunkedLogProbFunction.apply(
        case.hidden, case.weight, None, case.labels, 1.0, 256, None, 1.0, outputs
    )
    (-log_probs.mean()).backward()


def otr_by_hand(case: Case, samples: int = 256, temperature: float = 1.3, beta: float = -0.1) -> None:
    """What one would write: whole logits, torch.multinomial, autograd."""
    logits = case.hidden @ case.weight.t()
    with torch.no_grad():
        drawn = torch.multinomial((logits / temperature).softmax(-1), samples, replacement=True)
        reward = torch.where(drawn == case.labels.unsqueeze(1), 1.0, beta)
    objective = -(reward * logits.log_softmax(-1).gather(1, drawn)).mean(-1)
    objective.mean().backward()


def ours(config: OTRConfig) -> Contender:
    def step(case: Case) -> None:
        otr_loss(case.hidden, case.weight, case.labels, config).loss.backward()

    return step


FLOOR = "bare GEMMs"
CROSS_ENTROPY = "F.cross_entropy, whole logits"
BY_HAND = "OTR by hand, whole logits"
SAMPLED = "ours: sampled"
EXACT = "ours: exact"


def available() -> dict[str, Contender]:
    contenders: dict[str, Contender] = {
        FLOOR: bare_gemms,
        CROSS_ENTROPY: whole_cross_entropy,
    }
    if hasattr(F, "linear_cross_entropy"):
        contenders["F.linear_cross_entropy, chunks of 512"] = pytorch_linear_cross_entropy
    if importlib.util.find_spec("trl") is not None:
        contenders["TRL's fused head"] = trl_fused_head
    return contenders | {
        BY_HAND: otr_by_hand,
        SAMPLED: ours(OTRConfig()),
        EXACT: ours(OTRConfig(estimator="exact")),
        "ours: dft": ours(OTRConfig(objective="dft")),
        "ours: sft": ours(OTRConfig(objective="sft")),
    }
