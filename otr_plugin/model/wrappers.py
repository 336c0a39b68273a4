"""Finds the module under the wrappers that engines put around it."""

from __future__ import annotations

from typing import Any

from torch import nn

# The names under which wrappers hold the module: torch.compile, FSDP1, and PyTorch's activation checkpointing.
HELD_AS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(module: Any) -> Any:
    """The module under torch.compile, FSDP1, activation checkpointing, DDP and DeepSpeed's engine."""
    while True:
        inside = getattr(module, "_modules", {})
        name = next((name for name in HELD_AS if name in inside), None)
        if name is None and (isinstance(module, nn.parallel.DistributedDataParallel) or _is_deepspeed_engine(module)):
            name = "module"
        if name is None:
            return module
        module = inside[name]


def _is_deepspeed_engine(module: Any) -> bool:
    """Whether it is DeepSpeed's engine or a class derived from it. DeepSpeed itself is not imported."""
    return any(cls.__name__ == "DeepSpeedEngine" for cls in type(module).__mro__)
