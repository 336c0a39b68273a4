"""What is timed: each takes a Case and leaves gradients on its leaves, as a training step would."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    first: int = 0  # position that is trained

    @classmethod
    def make(
        cls,
        size: Size,
        trainable: bool,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        trained: float = 1.0,
    ) -> Case:
        """trained: the share of positions that are; the others are the prompt, at the front."""
        g = torch.Generator(device).manual_seed(0)
        on: dict[str, Any] = {"generator": g, "device": device}
        # Logits with a standard deviation of 2, about that of a language model's.
        hidden = torch.randn(size.n, size.d, dtype=dtype, **on).requires_grad_()
        weight = torch.randn(size.v, size.d, dtype=dtype, **on).mul_(2 / size.d**0.5).requires_grad_(trainable)
        labels = torch.randint(0, size.v, (size.n,), **on)
        first = round(size.n * (1 - trained))
        labels[:first] = -100
        return cls(hidden, weight, labels, first)

    def clear_gradients(self) -> None:
        self.hidden.grad = self.weight.grad = None


Contender = Callable[[Case], None]


def bare_gemms(case: Case) -> None:
    """The floor: the logits, hidden's gradient and, for a trainable head, the weight's, where it is trained."""
    with torch.no_grad():
        hidden = case.hidden[case.first :]
        logits = hidden @ case.weight.t()
        case.hidden.grad = torch.zeros_like(case.hidden)
        torch.mm(logits, case.weight, out=case.hidden.grad[case.first :])
        if case.weight.requires_grad:
            case.weight.grad = logits.t() @ hidden


def whole_cross_entropy(case: Case) -> None:
    F.cross_entropy((case.hidden @ case.weight.t()).float(), case.labels).backward()


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


def liger(case: Case) -> None:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    LigerFusedLinearCrossEntropyLoss()(case.weight, case.hidden, case.labels).backward()


def cut_cross_entropy(case: Case) -> None:
    from cut_cross_entropy import linear_cross_entropy

    linear_cross_entropy(case.hidden, case.weight, case.labels).backward()


def otr_by_hand(case: Case, samples: int = 256, temperature: float = 1.3, beta: float = -0.1) -> None:
    """What one would write: whole logits, torch.multinomial, autograd."""
    labels = case.labels[case.first :]
    logits = (case.hidden[case.first :] @ case.weight.t()).float()
    with torch.no_grad():
        drawn = torch.multinomial((logits / temperature).softmax(-1), samples, replacement=True)
        reward = torch.where(drawn == labels.unsqueeze(1), 1.0, beta)
    objective = -(reward * logits.log_softmax(-1).gather(1, drawn)).mean(-1)
    objective.mean().backward()


def ours(config: OTRConfig) -> Contender:
    def step(case: Case) -> None:
        otr_loss(case.hidden, case.weight, case.labels, config).loss.backward()

    return step


FLOOR = "bare GEMMs"
CROSS_ENTROPY = "F.cross_entropy, whole logits"
BY_HAND = "OTR by hand, whole logits"
LIGER = "Liger's fused linear CE"
SAMPLED = "ours: sampled"
EXACT = "ours: exact"


def available(device: str = "cpu") -> dict[str, Contender]:
    """Those that can run on this device, and are installed."""
    contenders: dict[str, Contender] = {
        FLOOR: bare_gemms,
        CROSS_ENTROPY: whole_cross_entropy,
    }
    if device != "cpu" and importlib.util.find_spec("liger_kernel") is not None:
        contenders[LIGER] = liger
    if device != "cpu" and importlib.util.find_spec("cut_cross_entropy") is not None:
        contenders["Cut Cross Entropy"] = cut_cross_entropy
    if device == "cpu" and hasattr(F, "linear_cross_entropy"):
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
