"""Random inputs of the loss, and several ways to compute their loss, metrics and gradients.

truth: the specification in float64. native: what a model does without OTR's loss, whole logits in its own dtype.
actual: otr_loss. Tests compare the error of actual with the error of native, both measured against truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss.reference import finish, otr_loss_on_logits, otr_loss_reference

DEVICE = "cpu"  # the device of all computations; test_gpu.py replaces it


def config_of(settings: dict[str, Any], samples: int = 32, **more: Any) -> OTRConfig:
    """The config with these settings; those that draw tokens draw `samples` of them, unless they say otherwise."""
    config = OTRConfig(**settings | more)
    return config if "samples" in settings or not config.draws else OTRConfig(**settings | more | {"samples": samples})


@dataclass
class Problem:
    hidden: Tensor
    weight: Tensor
    labels: Tensor
    uniforms: Tensor
    bias: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)  # logit_scale, softcap, num_items

    def to(self, dtype: torch.dtype) -> Problem:
        """A copy in another dtype, whose hidden, weight and bias are leaves that require a gradient."""

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
    """A random problem with n positions, hidden size d and vocabulary v. Its values are rounded to dtype.

    `sharpness` is the standard deviation of the logits, `masked` the share of positions that are not trained. About
    half of the labels are probable tokens, and the others are arbitrary.
    """
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
class Result:
    loss: Tensor
    metrics: dict[str, Tensor]
    gradients: dict[str, Tensor]


def _result(p: Problem, loss: Tensor, metrics: dict[str, Tensor]) -> Result:
    leaves = p.leaves
    gradients = torch.autograd.grad(loss, list(leaves.values())) if leaves else ()
    metrics = {name: value.cpu() for name, value in metrics.items()}
    return Result(loss.detach().cpu(), metrics, {n: g.cpu() for n, g in zip(leaves, gradients, strict=True)})


def truth(p: Problem, config: OTRConfig) -> Result:
    """The specification, in float64."""
    p = p.on(DEVICE).to(torch.float64)
    return _result(
        p,
        *otr_loss_reference(p.hidden, p.weight, p.labels, config, bias=p.bias, uniforms=p.uniforms, **p.options),
    )


def truth_of_draws(p: Problem, config: OTRConfig, dtype: torch.dtype) -> Result:
    """Truth for draws from logits that are rounded to dtype.

    Rounded logits lead to other draws, so the logits have their rounded values here, and the gradient is float64.
    """
    options = dict(p.options)
    items = options.pop("num_items", None)
    p = p.on(DEVICE)
    with torch.no_grad():
        low = p.to(dtype)
        rounded = torch.nn.functional.linear(low.hidden, low.weight, low.bias).double()
    p = p.to(torch.float64)
    logits = torch.nn.functional.linear(p.hidden, p.weight, p.bias)
    logits = finish(logits + (rounded - logits).detach(), **options)
    return _result(p, *otr_loss_on_logits(logits, p.labels, config, num_items=items, uniforms=p.uniforms))


def native(p: Problem, config: OTRConfig, dtype: torch.dtype) -> Result:
    """What a model does without OTR's loss: whole logits in its dtype, and the loss on them in float32."""
    p = p.on(DEVICE).to(dtype)
    options = dict(p.options)
    items = options.pop("num_items", None)
    logits = torch.nn.functional.linear(p.hidden, p.weight, p.bias)
    logits = finish(logits.to(torch.promote_types(dtype, torch.float32)), **options)
    return _result(p, *otr_loss_on_logits(logits, p.labels, config, num_items=items, uniforms=p.uniforms))


def actual(p: Problem, config: OTRConfig, dtype: torch.dtype | None = None) -> Result:
    """otr_loss, in dtype; without dtype, on the tensors of p themselves."""
    p = p.on(DEVICE)
    p = p if dtype is None else p.to(dtype)
    return _result(p, *otr_loss(p.hidden, p.weight, p.labels, config, bias=p.bias, uniforms=p.uniforms, **p.options))


def error(of: Tensor, to: Tensor, unit: float = 0.0) -> float:
    """The largest difference between two tensors, relative to the largest value of `to`.

    Terms of the size `unit` may cancel to a value near 0, whose relative error is meaningless. So the difference is
    relative to a tenth of `unit` at least.
    """
    if to.numel() == 0:
        return 0.0
    scale = max(to.abs().max().item(), unit / 10, 1e-30)
    return (of.double() - to.double()).abs().max().item() / scale


def units(p: Problem) -> dict[str, float]:
    """The size of the loss and of the gradients if no terms cancel: the `unit` of `error`."""
    if not len(p.labels):
        return dict.fromkeys(("loss", "hidden", "weight", "bias"), 1.0)
    items = float(p.options.get("num_items") or (p.labels != -100).sum().clamp(min=1))
    factor = abs(p.options.get("logit_scale", 1.0)) / items
    hidden, weight = (t.detach().abs().max().item() for t in (p.hidden, p.weight))
    return {"loss": 1.0, "hidden": weight * factor, "weight": hidden * factor, "bias": factor}
