"""bitsandbytes' 4-bit layers without values: its own layers, forward and backward, on storages of the right size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from otr_plugin.command.memory.plan import FourBit

BLOCK, OUTER_BLOCK = 64, 256  # weights to a scale; scales to a scale of scales
LEVELS, OUTER_LEVELS = 16, 256


def quantise(model: Any, plan: FourBit, dtype: torch.dtype) -> None:
    """Put 4-bit layers in the place of all linear layers of a model on the meta device, but the head."""
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(module, name, _layer(child, plan, dtype))
    model.is_loaded_in_4bit = model.is_quantized = True


def _layer(linear: nn.Linear, plan: FourBit, dtype: torch.dtype) -> Any:
    """A Linear4bit with a packed weight, as `Linear4bit.to` leaves it. Its quantiser would need values."""
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(linear.in_features, linear.out_features, False, dtype, quant_type=plan.kind, device="meta")
    weight: Any = nn.Parameter(_packed(linear.weight.numel()), requires_grad=False)
    weight.quant_state = None
    weight.compress_statistics, weight.quant_type, weight.quant_storage = plan.double, plan.kind, torch.uint8
    weight.bnb_quantized = True
    del layer.weight
    layer.register_parameter("weight", weight)
    layer.bias = linear.bias
    return layer


def _packed(count: int) -> torch.Tensor:
    return torch.zeros(math.ceil(count / 2), 1, dtype=torch.uint8, device="meta")


def make_scales(model: Any, plan: FourBit) -> None:
    """Give the 4-bit layers the scales of their weights, on the device of the weights."""
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            shape = torch.Size((layer.out_features, layer.in_features))
            scales = math.ceil(shape.numel() / BLOCK)
            state: dict[str, Any] = {"shape": shape, "dtype": layer.compute_dtype, "blocksize": BLOCK}
            state |= {"quant_type": plan.kind, "code": torch.zeros(LEVELS)}
            if plan.double:
                outer = {"absmax": torch.zeros(math.ceil(scales / OUTER_BLOCK)), "code": torch.zeros(OUTER_LEVELS)}
                state["state2"] = QuantState(**outer, blocksize=OUTER_BLOCK, dtype=torch.float32)
                state |= {"absmax": torch.zeros(scales, dtype=torch.uint8), "offset": torch.zeros(())}
            else:
                state["absmax"] = torch.zeros(scales)
            layer.weight.quant_state = layer.quant_state = QuantState(**state)
