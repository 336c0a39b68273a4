"""GPUs: how much memory they have, and what of a training step is other on one than on this machine's CPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otr_plugin.command.console import UNREADABLE, Failure
from otr_plugin.command.gpus import gpu_named
from otr_plugin.loss import memory_plan, torch_kernel
from otr_plugin.loss.device import Device

GIB = 2**30
CONTEXT = 0.6 * GIB  # what CUDA itself takes of a card, for its context and the kernels' code: 0.4 to 0.6 GiB are usual
FRAGMENTED = 0.03  # of what a step takes: what the caching allocator loses between its blocks
MOST_GIB = 1000  # of a number; more is taken for the name of a card, such as 4090
SMALLEST_BUDGET = 2**26  # of a chunk; on a nearly full card there would be thousands of chunks to count
# What cuBLAS keeps to work in: PyTorch's default for Hopper and later GPUs, and for the others.
CUBLAS_LARGE, CUBLAS = 32 * 2**20, 8_519_680
HOPPER = (9, 0)  # its compute capability


@dataclass(frozen=True)
class Card:
    """A GPU of which a recipe is to use one."""

    name: str
    gib: float
    capability: tuple[int, int] | None = None  # None: unknown

    @property
    def usable(self) -> float:
        """The bytes that tensors may take: without what CUDA takes, and without the margin."""
        return (self.gib * GIB - CONTEXT) * (1 - FRAGMENTED)

    @property
    def architecture(self) -> str:
        return "unknown" if self.capability is None else "sm_{}{}".format(*self.capability)

    @property
    def cublas(self) -> int:
        return CUBLAS_LARGE if self.capability is not None and self.capability >= HOPPER else CUBLAS


def card(text: str) -> Card:
    """The card of a name or a number of GiB."""
    number = re.sub(r"[\s_]|gib|gb", "", text.lower())
    try:
        gib = float(number)
    except ValueError:
        gpu = gpu_named(text)
        return Card(gpu.name, gpu.gib, gpu.capability)
    if gib > MOST_GIB:
        gpu_named(text)  # raises, and names the card that was meant
    if not 0 < gib <= MOST_GIB:
        raise Failure(f"--gpu {text}: expected the name of a GPU, or its memory in GiB, such as 24", UNREADABLE)
    return Card(f"{gib:g} GiB", gib)


class CardOnPaper(Device):
    """The device that the loss finds: a GPU with Triton, of which `taken` gives the bytes that are in use."""

    def __init__(self, card: Card, taken: Callable[[], int]) -> None:
        super().__init__(torch.device("cpu"))
        self.total, self.taken, self.architecture = int(card.gib * GIB - CONTEXT), taken, card.architecture

    def budget(self) -> int:
        free = self.total - self.taken()
        if free < 0:  # The step would have ended before. What it takes is counted as on a card that is large enough.
            return memory_plan.budget_of(self.total, self.architecture)
        return max(SMALLEST_BUDGET, memory_plan.budget_of(free, self.architecture))

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
