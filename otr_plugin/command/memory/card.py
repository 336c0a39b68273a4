"""GPUs: how much memory they have, and what of a training step is other on one than on this machine's CPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otr_plugin.command.console import UNREADABLE, Failure
from otr_plugin.loss import memory_plan, torch_kernel
from otr_plugin.loss.device import Device

GIB = 2**30
CONTEXT = 0.6 * GIB  # what CUDA itself takes of a card, for its context and the kernels' code: 0.4 to 0.6 GiB are usual
FRAGMENTED = 0.03  # of what a step takes: what the caching allocator loses between its blocks
SMALLEST_BUDGET = 2**26  # of a chunk; on a nearly full card there would be thousands of chunks to count
# What cuBLAS keeps to work in: PyTorch's default for Hopper and later GPUs, and for the others.
CUBLAS_LARGE, CUBLAS = 32 * 2**20, 8_519_680
HOPPER_OR_LATER = ("h100", "h200", "gh200", "b200", "rtx5090", "rtx5080", "rtx5070")

# In GiB, as nvidia-smi states them, rounded down.
CARDS = {
    "rtx3060": 12,
    "rtx3080": 10,
    "rtx3090": 24,
    "rtx4060": 8,
    "rtx4070": 12,
    "rtx4080": 16,
    "rtx4090": 24,
    "rtx5070": 12,
    "rtx5080": 16,
    "rtx5090": 32,
    "a10": 22.5,
    "a100-40": 40,
    "a100-80": 80,
    "a6000": 48,
    "b200": 179,
    "gh200": 95,
    "h100": 80,
    "h200": 140,
    "l4": 22.5,
    "l40s": 45,
    "t4": 15,
    "v100-16": 16,
    "v100-32": 32,
}


@dataclass(frozen=True)
class Card:
    """A GPU of which a recipe is to use one."""

    name: str
    gib: float

    @property
    def usable(self) -> float:
        """The bytes that tensors may take: without what CUDA takes, and without the margin."""
        return (self.gib * GIB - CONTEXT) * (1 - FRAGMENTED)

    @property
    def cublas(self) -> int:
        return CUBLAS_LARGE if self.name in HOPPER_OR_LATER else CUBLAS


def card(text: str) -> Card:
    """The card of a name or a number of GiB."""
    name = re.sub(r"[\s_]|geforce|nvidia|gib|gb", "", text.lower())
    if name in CARDS:
        return Card(name, CARDS[name])
    try:
        gib = float(name)
    except ValueError:
        gib = 0.0
    if not 0 < gib < 10_000:
        known = ", ".join(CARDS)
        raise Failure(f"--gpu {text}: is no card that is known: give its memory in GiB, or one of {known}", UNREADABLE)
    return Card(f"{gib:g} GiB", gib)


class CardOnPaper(Device):
    """The device that the loss finds: a GPU with Triton, of which `taken` gives the bytes that are in use."""

    def __init__(self, gib: float, taken: Callable[[], int]) -> None:
        super().__init__(torch.device("cpu"))
        self.total, self.taken = int(gib * GIB - CONTEXT), taken

    def budget(self) -> int:
        free = self.total - self.taken()
        if free < 0:  # The step would have ended before. What it takes is counted as on a card that is large enough.
            return memory_plan.budget_of(self.total)
        return max(SMALLEST_BUDGET, memory_plan.budget_of(free))

    def kernel(self, name: str, dtype: torch.dtype, tokens: Any) -> Any:
        return torch_kernel.compute_chunk if name == "torch" else triton_kernel_on_paper

    def sums_in_float32(self, dtype: torch.dtype) -> bool:
        return True


def triton_kernel_on_paper(logits: Tensor, labels: Tensor, uniforms: Tensor | None, *_: Any, **__: Any) -> None:
    """Triton's kernel writes into the logits. It takes the sorted numbers of the draws, and some MB to work in."""
    if uniforms is not None:
        uniforms.sort(dim=1)


def workspace(function: Any, args: Any, result: Any) -> int:
    """The bytes that a GPU's kernel takes while it runs, beside what it returns."""
    if (
        str(function) == "bitsandbytes.gemm_4bit.default"
    ):  # for more than some hundred rows, it unpacks the weight first
        rows, columns = args[2]
        return int(rows * columns * result.element_size() + 4 * rows * columns // args[4])
    return 0


def workspace_on_cpu(function: Any, args: Any, result: Any) -> int:
    """The same for PyTorch's kernels on this CPU: some convert what they add up first."""
    if str(function) == "aten.sum.dim_IntList" and args[0].dtype == torch.bool:
        return int(args[0].numel() * torch.int64.itemsize)
    if str(function) == "aten.cumsum.default" and args[0].dtype != result.dtype:
        return int(result.nbytes)
    return 0
