"""The first training step: is what OTR computes from this model's head what the model itself computes?

A head may do more than a matrix product, and a model may do more with its output, than OTR knows of. So on the
first training step, the head's own output for a few positions goes through the model's own code to the loss, and
there logits and NLL are compared with OTR's. A mismatch refuses to train, with both numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from otr_plugin.loss import otr_loss
from otr_plugin.loss.checks import IGNORE_INDEX
from otr_plugin.loss.reference import finish
from otr_plugin.model.projection import project

if TYPE_CHECKING:
    from otr_plugin.model.handle import Handle

POSITIONS = 8


@dataclass
class FirstStep:
    handle: Any
    own_logits: Tensor  # of the head alone
    labels: Tensor
    logits: Tensor  # OTR's, finished
    nll: Tensor

    @classmethod
    @torch.no_grad()
    def begin(
        cls, handle: Handle, forward: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor
    ) -> FirstStep | None:
        """Pick a few trained positions; None if the batch has none."""
        trained = (labels.reshape(-1) != IGNORE_INDEX).nonzero().squeeze(1)[:POSITIONS]
        if len(trained) == 0:
            return None
        rows, y = hidden.reshape(-1, hidden.shape[-1])[trained], labels.reshape(-1)[trained]
        y = y.to(rows.device)
        with _without_dropout(handle.head):
            own = forward(rows.unsqueeze(0))
            h, weight, bias = project(handle.head, rows)
        nll = otr_loss(h, weight, y, handle.evaluation, bias=bias, **handle.finish._asdict()).loss
        logits = finish(torch.nn.functional.linear(h, weight, bias).float(), *handle.finish)
        return cls(handle, own, y, logits, nll)

    def compare(self, processed: Tensor) -> None:
        """processed: what the model made of the head's own output, as its loss_function receives it."""
        processed = processed.detach().float().reshape(-1, processed.shape[-1])
        model = type(self.handle.model).__name__
        if processed.shape != self.logits.shape:
            raise RuntimeError(
                f"otr: {model} makes logits of shape {list(processed.shape)} of the {list(self.logits.shape)} that its "
                "head gives, and OTR does not know how its loss would be computed from them. It cannot be trained with "
                "OTR."
            )
        loss = self.handle.own_loss(
            logits=processed.unsqueeze(0),
            labels=None,
            shift_labels=self.labels.unsqueeze(0),
            vocab_size=processed.shape[-1],
        )
        size = self.logits.abs().max().clamp(min=1e-3)
        off = ((processed - self.logits).abs().max() / size).item()
        allowed = max(1e-4, 4 * torch.finfo(self.own_logits.dtype).eps)
        nll_off = abs(self.nll.item() - float(loss)) / max(1.0, size.item())
        if not (off <= allowed and nll_off <= allowed):
            raise RuntimeError(
                f"otr: on the first {len(self.labels)} trained positions, the logits that OTR computes from "
                f"{model}'s head differ from the model's own by {off:.1%} of the largest (allowed: "
                f"{allowed:.2%}); the NLL is {self.nll.item():.6f} by OTR and {float(loss):.6f} by the model. The "
                "model does something to its head's output that OTR does not know of, so its loss would be wrong. "
                f"OTR took logit_scale {self.handle.finish.logit_scale} and softcap {self.handle.finish.softcap} from "
                "the model's config."
            )


@contextmanager
def _without_dropout(head: torch.nn.Module) -> Iterator[None]:
    # Only these: bitsandbytes' 4-bit layers repack their weight when they are called in eval mode.
    modes = {module: module.training for module in head.modules() if isinstance(module, torch.nn.Dropout)}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
