"""What the loss reads of the device on which it runs: its free memory, its kernel, its matrix products."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor

from otr_plugin.loss import memory_plan
from otr_plugin.loss.dispatch import ChunkKernel, choose_kernel
from otr_plugin.loss.vocabulary import Vocabulary


class Device:
    """The device of tensors that are really there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def budget(self) -> int:
        """The number of bytes that the logits of one chunk may take."""
        return memory_plan.budget(self.device)

    def kernel(self, name: Literal["auto", "torch", "triton"], dtype: torch.dtype, tokens: Vocabulary) -> ChunkKernel:
        """The kernel for the setting `kernel`, for logits of this dtype."""
        return choose_kernel(name, self.device, dtype, tokens)

    def sums_in_float32(self, dtype: torch.dtype) -> bool:
        """Whether addmm with float32 output works for factors of this dtype."""
        return _sums_in_float32(self.device, dtype)


def device_of(tensor: Tensor) -> Device:
    """The device of a tensor; for a fake tensor, the one that its mode says it stands for, as in `otr memory`."""
    stands_for: Any = getattr(getattr(tensor, "fake_mode", None), "stands_for", None)
    return Device(tensor.device) if stands_for is None else stands_for


@functools.cache
def _sums_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Tried once, on a small case: older versions of PyTorch and some devices do not support it."""
    factor = torch.full((64, 64), 1 + torch.finfo(dtype).eps, dtype=dtype, device=device)
    total = torch.ones(64, 64, device=device)
    try:
        torch.addmm(total, factor.t(), factor, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):  # the device does not support it; this PyTorch does not have the argument
        return False
    expected = 1 + factor.float().t() @ factor.float()
    return bool(torch.allclose(total, expected, rtol=1e-5))
