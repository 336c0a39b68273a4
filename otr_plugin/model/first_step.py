"""The first-step check: OTR's logits and NLL agree with the model's own at a few trained positions.

A head may do more than a matrix product, and a model may do more to the head's output than the scale and softcap that
OTR applies; the loss would then be wrong without any sign of it. So in the first training step, the head's original
forward computes the logits of a few trained positions, and the model's own code brings them to its loss_function. There
they are compared with OTR's logits, and the NLL that the original loss function gives for them with OTR's NLL. A
mismatch raises with both numbers.

The head's original forward may make an engine gather weights, which all ranks have to do together. So every rank runs
the check in its first training step. A batch without trained positions is checked at its first positions, with token 0
as the label; there the hidden states need not be finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from otr_plugin.config import OTRConfig
from otr_plugin.loss import otr_loss
from otr_plugin.loss.checks import IGNORE_INDEX
from otr_plugin.model.projection import LogitTransform, linear_arguments, own_linear_arguments

POSITIONS = 8  # few, because their logits exist whole


@dataclass(frozen=True)
class FirstStepReport:
    """What a check that passed has compared."""

    positions: int
    logit_error: float  # the largest difference, as a share of the largest logit
    nll_error: float  # the difference of the NLL, as a share of the larger of 1 and the largest logit

    def describe(self) -> str:
        """One line for the host's log."""
        return (
            f"OTR's first-step check passed: at {self.positions} trained positions, the logits differ from the model's "
            f"own by at most {self.logit_error:.1e} of the largest one, and the NLL by {self.nll_error:.1e}"
        )


@dataclass
class FirstStepCheck:
    """OTR's results at P trained positions, for the comparison with the model's own."""

    head: nn.Module
    hidden: Tensor  # [P, width], the head's input
    labels: Tensor  # [P]
    transform: LogitTransform
    logits: Tensor  # [P, vocabulary], computed as OTR computes them
    nll: Tensor  # their mean NLL, by otr_loss
    allowed: float  # the largest error, in the units of FirstStepReport
    columns: slice  # of the model's logits that this rank computes
    finite: bool = True  # whether the head's own output was

    @torch.no_grad()
    def head_output(self, head_forward: Callable[[Tensor], Tensor]) -> Tensor:
        """[1, P, vocabulary], from the head's original forward, for the model to process further."""
        with _without_dropout(self.head):
            output = head_forward(self.hidden.unsqueeze(0))
        self.finite = bool(output.isfinite().all())
        self.allowed = max(self.allowed, _allowed(output.dtype))
        return output

    def compare(self, logits: Tensor, loss_function: Callable[..., Any], model_name: str) -> FirstStepReport:
        """Raise RuntimeError if the model's own logits or the NLL from its own loss_function differ from OTR's.

        `logits` is what the model made of the head's output, as its loss_function receives it.
        """
        logits = logits.detach().float().reshape(-1, logits.shape[-1])
        own = logits[:, self.columns]
        if own.shape != self.logits.shape:
            raise RuntimeError(
                f"otr: the output head of {model_name} gives logits of shape {list(self.logits.shape)}, and the model "
                f"passes logits of shape {list(logits.shape)} to its loss_function. OTR does not support such a model: "
                "it computes the loss from the head's logits, one row per label."
            )
        if not self.finite and not self.logits.isfinite().all():
            raise RuntimeError(
                f"otr: at the first {len(self.labels)} trained positions, {model_name}'s own logits are not finite "
                "(NaN or infinity), so no loss can be computed from them, with OTR or without. Look for weights that "
                "are not finite, for an overflow in float16, and for rows of the batch in which the attention mask "
                "hides all tokens."
            )
        nll = loss_function(
            logits=logits.unsqueeze(0),
            labels=None,
            shift_labels=self.labels.unsqueeze(0),
            vocab_size=logits.shape[-1],
        )
        largest = torch.cat([logits.flatten(), self.logits.flatten()]).abs().max().clamp(min=1e-3)
        errors = (own - self.logits).abs()
        logit_error = (errors.max() / largest).item() if errors.numel() else 0.0
        nll_error = abs(self.nll.item() - float(nll)) / max(1.0, largest.item())
        if not (logit_error <= self.allowed and nll_error <= self.allowed):  # written so that NaN raises too
            raise RuntimeError(
                f"otr: at the first {len(self.labels)} trained positions, the logits that OTR computes from the output "
                f"head of {model_name} differ from the model's own by {logit_error:.1%} of the largest logit (allowed: "
                f"{self.allowed:.2%}). The NLL is {self.nll.item():.6f} by OTR and {float(nll):.6f} by the model. The "
                "model changes its head's output in a way that OTR does not implement, so its loss would be wrong. OTR "
                f"read logit_scale {self.transform.logit_scale} and softcap {self.transform.softcap} from the model's "
                "config and applied nothing else."
            )
        return FirstStepReport(len(self.labels), logit_error, nll_error)


@torch.no_grad()
def begin_check(
    head: nn.Module, hidden: Tensor, labels: Tensor, transform: LogitTransform, nll_config: OTRConfig, mesh: Any
) -> FirstStepCheck:
    """Compute OTR's results at the first trained positions.

    `nll_config` makes otr_loss compute the plain NLL; `mesh` is that of tensor parallelism, or None.
    """
    hidden, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1).to(hidden.device)
    trained = (labels != IGNORE_INDEX).nonzero().squeeze(1)[:POSITIONS]
    if len(trained):
        rows, y = hidden[trained], labels[trained]
    else:
        rows = hidden[:POSITIONS].nan_to_num(0.0, 0.0, 0.0)
        y = labels.new_zeros(len(rows))
    with _without_dropout(head):
        h, weight, bias, place = linear_arguments(head, rows, mesh)
        own = own_linear_arguments(head, rows, mesh)
    # The head's own forward takes no other dtype than that of its weight.
    converts = own.hidden.dtype != own.weight.dtype and not torch.is_autocast_enabled(rows.device.type)
    own_rows = rows.to(own.weight.dtype) if converts else rows
    nll = otr_loss(h, weight, y, nll_config, bias=bias, vocabulary_slice=place, **transform._asdict()).loss
    columns = slice(None) if place is None else slice(place.start, place.start + len(weight))
    logits = transform.apply(nn.functional.linear(h, weight, bias).float())
    return FirstStepCheck(head, own_rows, y, transform, logits, nll, _allowed(h.dtype), columns)


def _allowed(dtype: torch.dtype) -> float:
    return max(1e-4, 4 * torch.finfo(dtype).eps)


@contextmanager
def _without_dropout(head: nn.Module) -> Iterator[None]:
    """Switch off the dropout of an adapter on the head, which would draw another mask in each of the two products."""
    # Only the dropout modules change mode: in eval mode, bitsandbytes' 4-bit layers repack their weight in place when
    # they are called.
    modes = {module: module.training for module in head.modules() if isinstance(module, nn.Dropout)}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
