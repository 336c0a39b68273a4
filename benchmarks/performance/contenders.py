"""The contenders: functions that compute a loss on a Case and leave gradients on its leaves, as a step would."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss.checks import IGNORE_INDEX


class Size(NamedTuple):
    n: int  # positions
    d: int  # width of a hidden state
    v: int  # vocabulary


@dataclass
class Case:
    """The inputs of a loss: hidden states [N, D], the weight of the head [V, D] and labels [N]."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    first_trained: int = 0  # Positions before this one are the prompt and have the ignore index as label.

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
        """Makes random inputs. `trainable`: the head's weight needs a gradient. `trained`: the share of positions
        that are trained; the others come first, as a prompt does.
        """
        g = torch.Generator(device).manual_seed(0)
        on: dict[str, Any] = {"generator": g, "device": device}
        # The logits have a standard deviation of 2, about that of a language model's.
        hidden = torch.randn(size.n, size.d, dtype=dtype, **on).requires_grad_()
        weight = torch.randn(size.v, size.d, dtype=dtype, **on).mul_(2 / size.d**0.5).requires_grad_(trainable)
        labels = torch.randint(0, size.v, (size.n,), **on)
        first_trained = round(size.n * (1 - trained))
        labels[:first_trained] = IGNORE_INDEX
        return cls(hidden, weight, labels, first_trained)

    def clear_gradients(self) -> None:
        self.hidden.grad = self.weight.grad = None


Contender = Callable[[Case], None]
DEFAULTS = OTRConfig()


def bare_gemms(case: Case) -> None:
    """The least that any loss needs: the matrix products for the logits of the trained positions, for the gradient
    of their hidden states and, with a trainable head, for the gradient of its weight.
    """
    with torch.no_grad():
        hidden = case.hidden[case.first_trained :]
        logits = hidden @ case.weight.t()
        case.hidden.grad = torch.zeros_like(case.hidden)
        torch.mm(logits, case.weight, out=case.hidden.grad[case.first_trained :])
        if case.weight.requires_grad:
            case.weight.grad = logits.t() @ hidden


def whole_cross_entropy(case: Case) -> None:
    F.cross_entropy((case.hidden @ case.weight.t()).float(), case.labels).backward()


def pytorch_linear_cross_entropy(case: Case) -> None:
    # Its default on a CPU is chunks of 2 rows, which take several minutes.
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=min(512, len(case.hidden)))
    F.linear_cross_entropy(case.hidden, case.weight, case.labels, options=options).backward()


def pytorch_linear_cross_entropy_on_gpu(case: Case) -> None:
    F.linear_cross_entropy(case.hidden, case.weight, case.labels).backward()


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


def otr_by_hand(case: Case) -> None:
    """OTR as one would write it without this package: whole logits, torch.multinomial and autograd."""
    labels = case.labels[case.first_trained :]
    logits = (case.hidden[case.first_trained :] @ case.weight.t()).float()
    with torch.no_grad():
        drawn = torch.multinomial((logits / DEFAULTS.temperature).softmax(-1), DEFAULTS.samples, replacement=True)
        reward = torch.where(drawn == labels.unsqueeze(1), 1.0, DEFAULTS.beta)
    objective = -(reward * logits.log_softmax(-1).gather(1, drawn)).mean(-1)
    objective.mean().backward()


def ours(config: OTRConfig) -> Contender:
    """Returns this package's loss with these settings, as a contender."""

    def step(case: Case) -> None:
        otr_loss(case.hidden, case.weight, case.labels, config).loss.backward()

    return step


FLOOR = "bare GEMMs"
CROSS_ENTROPY = "F.cross_entropy, whole logits"
BY_HAND = "OTR by hand, whole logits"
LIGER = "Liger's fused linear CE"
CUT = "Cut Cross Entropy"
TRL = "TRL's fused head"
PYTORCH = "PyTorch's linear_cross_entropy"
SAMPLED = "ours: sampled"
EXACT = "ours: exact"


def available() -> dict[str, Contender]:
    """Returns the contenders that run on a CPU and are installed, by name."""
    contenders: dict[str, Contender] = {
        FLOOR: bare_gemms,
        CROSS_ENTROPY: whole_cross_entropy,
    }
    if hasattr(F, "linear_cross_entropy"):
        contenders["F.linear_cross_entropy, chunks of 512"] = pytorch_linear_cross_entropy
    if importlib.util.find_spec("trl") is not None:
        contenders[TRL] = trl_fused_head
    return contenders | {
        BY_HAND: otr_by_hand,
        SAMPLED: ours(DEFAULTS),
        EXACT: ours(OTRConfig(estimator="exact")),
        "ours: dft": ours(OTRConfig(objective="dft")),
        "ours: power": ours(OTRConfig(objective="power", alpha=0.7)),
        "ours: eaft": ours(OTRConfig(objective="eaft")),
        "ours: sft": ours(OTRConfig(objective="sft")),
    }
