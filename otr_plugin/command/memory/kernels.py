"""What of other libraries is other on a GPU: kernels of Triton, Liger's among them, and autocast.

What a kernel reads and writes is allocated by Python code, which runs as it is; only the launch is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from otr_plugin.command.memory.plan import Liger

REPLACED = "_otr_replaced"  # the attribute of a model that holds what Liger replaced in the model's module


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Within the block, launching a kernel of Triton does nothing, and the autocast of GPUs seems to be the CPU's.

    PEFT's layers for 4-bit weights convert their input to float32 where the autocast of GPUs is off.
    """
    is_enabled: Any = torch.is_autocast_enabled
    with ExitStack() as stack:
        stack.enter_context(changed(torch, "is_autocast_enabled", lambda kind="cpu": is_enabled(kind)))
        if find_spec("triton") is not None:
            jit: Any = import_module("triton.runtime.jit").JITFunction
            stack.enter_context(changed(jit, "run", lambda *_, **__: None))
        yield


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute, and set it back after the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def apply(model: Any, liger: Liger) -> None:
    """Put Liger's kernels into the model."""
    from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

    module = sys.modules[type(model).__module__]
    setattr(model, REPLACED, (module, dict(vars(module))))
    wanted = {"rope": liger.rope, "rms_norm": liger.rms_norm, "swiglu": liger.swiglu, "geglu": liger.swiglu}
    losses = {"fused_linear_cross_entropy": liger.fused_loss, "cross_entropy": False}
    _apply_liger_kernel_to_instance(model=model, **wanted, **losses)


def undo(model: Any) -> None:
    """Put back what Liger replaced in the module of the model's class, which other models share."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    module, before = getattr(base, REPLACED, (None, {}))
    for name, value in before.items():
        setattr(module, name, value)
