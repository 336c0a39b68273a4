"""The optimisers of a plan, by the Trainer's names: PyTorch's own, and the state of bitsandbytes' ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # values that share a scale in bitsandbytes' 8-bit states
SMALLEST = 4096  # values; bitsandbytes keeps smaller states in float32


class EightBit(torch.optim.Optimizer):
    """bitsandbytes' 8-bit states, a byte for each value and a scale for each block. Its kernels update in place."""

    def __init__(self, parameters: Iterable[Tensor], states: int) -> None:
        super().__init__(parameters, {})
        self.states = states

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None or self.state[parameter]:
                continue
            for index in range(self.states):
                if parameter.numel() < SMALLEST:
                    self.state[parameter][f"state{index}"] = torch.zeros_like(parameter, dtype=torch.float32)
                else:
                    self.state[parameter][f"state{index}"] = torch.zeros_like(parameter, dtype=torch.uint8)
                    self.state[parameter][f"absmax{index}"] = torch.zeros(-(-parameter.numel() // BLOCK))


class Float32(torch.optim.Optimizer):
    """States of float32 that one kernel updates in place, as bitsandbytes' 32-bit optimisers and fused ones have."""

    def __init__(self, parameters: Iterable[Tensor], states: int, dtype: torch.dtype | None = None) -> None:
        super().__init__(parameters, {})
        self.states, self.dtype = states, dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None and not self.state[parameter]:
                dtype = self.dtype or parameter.dtype
                for index in range(self.states):
                    self.state[parameter][f"state{index}"] = torch.zeros_like(parameter, dtype=dtype)


class Factored(torch.optim.Optimizer):
    """transformers' Adafactor, without the conditions on values: means of rows and of columns in place of a state."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None:
                continue
            state, gradient, weight = self.state[parameter], parameter.grad.float(), parameter.float()
            update = gradient**2 + 1e-30
            if parameter.dim() < 2:
                state["square"] = state.get("square", torch.zeros_like(gradient))
                update = state["square"].rsqrt().mul_(gradient)
            else:
                state["row"], state["column"] = update.mean(-1), update.mean(-2)
                rows = (state["row"] / state["row"].mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1)
                update = torch.mul(rows, state["column"].unsqueeze(-2).rsqrt())
                update.mul_(gradient)
            weight.add_(-update)
            if weight.dtype != parameter.dtype:
                parameter.copy_(weight)


class Paged(torch.optim.Optimizer):
    """States in managed memory, which CUDA moves to the CPU when the card is full: nothing is counted."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> Any:
        pass


def _adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-5, foreach=True)  # PyTorch's default on a GPU


OPTIMISERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "adamw_torch": _adamw,
    "adamw_torch_fused": lambda parameters: Float32(parameters, 2),
    "adamw_bnb_8bit": lambda parameters: EightBit(parameters, 2),
    "lion_8bit": lambda parameters: EightBit(parameters, 1),
    "lion_32bit": lambda parameters: Float32(parameters, 1, torch.float32),
    "rmsprop_bnb_8bit": lambda parameters: EightBit(parameters, 1),
    "ademamix_8bit": lambda parameters: EightBit(parameters, 3),
    "paged_adamw": Paged,
    "paged_adamw_32bit": Paged,
    "paged_adamw_8bit": Paged,
    "paged_lion": Paged,
    "paged_lion_32bit": Paged,
    "paged_lion_8bit": Paged,
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-5, foreach=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-5, foreach=True),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-5, foreach=True),
    "adafactor": Factored,
}
ALIASES = {"adamw_8bit": "adamw_bnb_8bit", "adamw_hf": "adamw_torch", "adamw": "adamw_torch", "lion": "lion_32bit"}
