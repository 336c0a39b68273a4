"""From a model's head to the product that the loss computes: hidden @ weight.T, its bias, scale and softcap.

A head is read at every call, so that whatever a host does to the weight (gathers it, quantises it, trains an
adapter on it) is what the loss sees.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Projection(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


def project(head: Any, hidden: Tensor) -> Projection:
    """What `head(hidden)` multiplies, as tensors. A ValueError says why a head is not understood."""
    kind = type(head).__name__
    if hasattr(head, "modules_to_save") and hasattr(head, "original_module"):  # PEFT trains a copy
        active = _active(head)
        return project(head.modules_to_save[active[0]] if active else head.original_module, hidden)
    if hasattr(head, "lora_A") and hasattr(head, "base_layer"):
        return _lora(head, hidden)
    if kind == "Linear4bit" and hasattr(head, "weight"):
        return _four_bit(head, hidden)
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise ValueError(
            f"otr: the model's output head is a {kind}, whose forward is not a plain linear layer's. "
            "Understood are nn.Linear, bitsandbytes' Linear4bit, and either of them with LoRA or in modules_to_save. "
            "Leave the head out of quantisation, or out of the adapter's targets."
        )
    if not head.weight.dtype.is_floating_point or type(head.weight.data) is not Tensor:
        raise ValueError(
            f"otr: the weight of the model's output head is a {type(head.weight.data).__name__} of "
            f"{head.weight.dtype}, expected a plain floating-point tensor. Leave the head out of quantisation."
        )
    return Projection(hidden, head.weight, head.bias)


def device_of(head: Any) -> torch.device:
    """Where the product happens: elsewhere than the hidden states are, where a model is split over devices."""
    device: torch.device = next(head.parameters()).device
    if device.type == "meta":
        raise ValueError(
            "otr: the weight of the model's output head is on no device: it is offloaded, and fetched only for the "
            "head's own call, which OTR takes the place of. Keep lm_head on a device (device_map)."
        )
    return device


def refuse_unknown(head: Any) -> None:
    """Raise what `project` would raise, without a batch."""
    project(head, torch.zeros(0, head.in_features) if hasattr(head, "in_features") else torch.zeros(0, 0))


def _active(layer: Any) -> list[str]:
    if getattr(layer, "_disable_adapters", False):
        return []
    return list(layer.active_adapters)


def _lora(head: Any, hidden: Tensor) -> Projection:
    """h W' + s (dropout(h) A') B' is one product of wider factors: [h, s dropout(h) A'] @ [W, B]'."""
    base = project(head.base_layer, hidden)
    factors, weights = [base.hidden], [base.weight]
    bias = base.bias
    if head.merged:
        return base
    for name in _active(head):
        if name not in head.lora_A:
            continue
        if name in getattr(head, "lora_variant", {}):
            variant = type(head.lora_variant[name]).__name__
            raise ValueError(
                f"otr: the adapter on the model's output head is a {variant}; only plain LoRA is understood there. "
                "Leave lm_head out of the adapter's targets, or train it whole with modules_to_save."
            )
        a, b = head.lora_A[name], head.lora_B[name]
        narrow = head.scaling[name] * a(head.lora_dropout[name](hidden.to(a.weight.dtype)))
        factors.append(narrow.to(base.hidden.dtype))
        weights.append(b.weight.to(base.weight.dtype))
        if b.bias is not None:
            scaled = head.scaling[name] * b.bias
            bias = scaled.to(base.weight.dtype) if bias is None else bias + scaled
    return Projection(torch.cat(factors, -1), torch.cat(weights, -1), bias)


def _four_bit(head: Any, hidden: Tensor) -> Projection:
    from bitsandbytes import functional

    dtype = head.compute_dtype or hidden.dtype
    data, state = head.weight.data, head.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):  # how a call in eval mode leaves it on some CPUs
        data, state = functional._convert_weight_packed_for_cpu_inverse(data, copy.copy(state))
    weight = functional.dequantize_4bit(data, state).to(dtype)
    return Projection(hidden.to(dtype), weight, None if head.bias is None else head.bias.to(dtype))


class Finish(NamedTuple):
    """What a model does to its head's output before the loss: scale, then softcap."""

    logit_scale: float
    softcap: float | None


# Attributes of a model's config that stand for a finish, in the model families that have one.
MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere, Falcon-H1, Muse
DIVISOR = "logits_scaling"  # Granite
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma, RecurrentGemma


def finish_of(config: Any) -> Finish:
    """Read from a model's config. That it is all the model does is checked on the first step."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale, softcap = 1.0, None
    for name in MULTIPLIERS:
        scale *= _number(text, name) or 1.0
    divisor = _number(text, DIVISOR)
    if divisor:
        # HyperCLOVA X multiplies by it, and MiniCPM3 has divided before the head.
        scale *= {"hyperclovax": divisor, "minicpm3": 1.0}.get(text.model_type, 1 / divisor)
    for name in SOFTCAPS:
        softcap = _number(text, name) or softcap
    return Finish(scale, softcap)


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
