"""Random problems for the loss, and the three ways to solve them: truth, native, ours."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss.reference import finish, otr_loss_on_logits, otr_loss_reference

DEVICE = "cpu"  # where problems are solved; test_gpu.py sets another


@dataclass
class Problem:
    hidden: Tensor
    weight: Tensor
    labels: Tensor
    uniforms: Tensor
    bias: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)  # logit_scale, softcap, num_items

    def to(self, dtype: torch.dtype) -> Problem:
        """The same numbers (rounded to dtype), as leaves that want a gradient."""

        def leaf(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.detach().to(dtype).requires_grad_()

        return replace(self, hidden=leaf(self.hidden), weight=leaf(self.weight), bias=leaf(self.bias))

    def on(self, device: str) -> Problem:
        if device == self.hidden.device.type:
            return self
        tensors = ("hidden", "weight", "labels", "uniforms", "bias")
        moved = {name: t.to(device) for name in tensors if (t := getattr(self, name)) is not None}
        return replace(self, **moved)

    @property
    def leaves(self) -> dict[str, Tensor]:
        named = {"hidden": self.hidden, "weight": self.weight, "bias": self.bias}
        return {name: t for name, t in named.items() if t is not None and t.requires_grad}


def problem(
    n: int,
    d: int,
    v: int,
    *,
    samples: int = 32,
    bias: bool = False,
    masked: float = 0.25,
    sharpness: float = 2.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Problem:
    """Logits with a standard deviation of `sharpness`; half the labels are likely ones. Rounded to dtype."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype)
    weight = (torch.randn(v, d, generator=g, dtype=torch.float64) * sharpness / d**0.5).to(dtype)
    likely = (hidden.double() @ weight.double().T).topk(min(3, v)).indices[:, -1] if n else torch.zeros(0).long()
    anything = torch.randint(0, v, (n,), generator=g)
    labels = torch.where(torch.rand(n, generator=g) < 0.5, likely, anything)
    labels = labels.masked_fill(torch.rand(n, generator=g) < masked, -100)
    uniforms = torch.rand(n, samples, generator=g)
    offset = torch.randn(v, generator=g, dtype=torch.float64).to(dtype) if bias else None
    return Problem(hidden, weight, labels, uniforms, offset, options)


@dataclass
class Answer:
    loss: Tensor
    metrics: dict[str, Tensor]
    gradients: dict[str, Tensor]


def _answer(p: Problem, loss: Tensor, metrics: dict[str, Tensor]) -> Answer:
    leaves = p.leaves
    gradients = torch.autograd.grad(loss, list(leaves.values())) if leaves else ()
    metrics = {name: value.cpu() for name, value in metrics.items()}
    return Answer(loss.detach().cpu(), metrics, {n: g.cpu() for n, g in zip(leaves, gradients, strict=True)})


def truth(p: Problem, config: OTRConfig) -> Answer:
    """The specification, in float64."""
    p = p.on(DEVICE).to(torch.float64)
    return _answer(
        p,
        *otr_loss_reference(p.hidden, p.weight, p.labels, config, bias=p.bias, uniforms=p.uniforms, **p.options),
    )


def truth_of_draws(p: Problem, config: OTRConfig, dtype: torch.dtype) -> Answer:
    """Truth where draws are made from logits rounded to dtype: their values, and a float64 gradient."""
    options = dict(p.options)
    items = options.pop("num_items", None)
    p = p.on(DEVICE)
    with torch.no_grad():
        low = p.to(dtype)
        rounded = torch.nn.functional.linear(low.hidden, low.weight, low.bias).double()
    p = p.to(torch.float64)
    logits = torch.nn.functional.linear(p.hidden, p.weight, p.bias)
    logits = finish(logits + (rounded - logits).detach(), **options)
    return _answer(p, *otr_loss_on_logits(logits, p.labels, config, num_items=items, uniforms=p.uniforms))


def native(p: Problem, config: OTRConfig, dtype: torch.dtype) -> Answer:
    """What a model does by itself: whole logits in its dtype, the loss on them in float32."""
    p = p.on(DEVICE).to(dtype)
    options = dict(p.options)
    items = options.pop("num_items", None)
    logits = torch.nn.functional.linear(p.hidden, p.weight, p.bias)
    logits = finish(logits.to(torch.promote_types(dtype, torch.float32)), **options)
    return _answer(p, *otr_loss_on_logits(logits, p.labels, config, num_items=items, uniforms=p.uniforms))


def ours(p: Problem, config: OTRConfig, dtype: torch.dtype | None = None) -> Answer:
    p = p.on(DEVICE)
    p = p if dtype is None else p.to(dtype)
    return _answer(p, *otr_loss(p.hidden, p.weight, p.labels, config, bias=p.bias, uniforms=p.uniforms, **p.options))


def error(of: Tensor, to: Tensor, unit: float = 0.0) -> float:
    """Largest difference, as a share of the largest value.

    What cancels to nearly nothing is measured by what cancels instead: by a tenth of `unit`.
    """
    if to.numel() == 0:
        return 0.0
    scale = max(to.abs().max().item(), unit / 10, 1e-30)
    return (of.double() - to.double()).abs().max().item() / scale


def units(p: Problem) -> dict[str, float]:
    """How large a loss and gradients are if nothing cancels."""
    if not len(p.labels):
        return dict.fromkeys(("loss", "hidden", "weight", "bias"), 1.0)
    items = float(p.options.get("num_items") or (p.labels != -100).sum().clamp(min=1))
    factor = abs(p.options.get("logit_scale", 1.0)) / items
    hidden, weight = (t.detach().abs().max().item() for t in (p.hidden, p.weight))
    return {"loss": 1.0, "hidden": weight * factor, "weight": hidden * factor, "bias": factor}
