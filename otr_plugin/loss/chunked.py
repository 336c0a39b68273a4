"""hidden @ weight.T chunk by chunk: the autograd.Function that owns the memory and the GEMMs.

Logits exist for one chunk of positions at a time. The rows kernel turns them, in place, into the
gradient with respect to themselves, which is multiplied back at once; backward only scales what is
ready. So at the peak there is one chunk of logits, one gradient the size of hidden, and, for a head
that is trained, one float32 gradient the size of the weight.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss import memory_plan, torch_kernel
from otr_plugin.loss.checks import IGNORE_INDEX
from otr_plugin.loss.dispatch import choose_kernel
from otr_plugin.metrics import ROW_METRICS

SLICE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Problem:
    """What goes along with the tensors that may need a gradient."""

    config: OTRConfig
    uniforms: Tensor | None
    num_items: float | Tensor | None
    logit_scale: float
    softcap: float | None
    dtype: torch.dtype  # of the GEMMs
    with_grad: bool


class LinearLoss(torch.autograd.Function):
    """(hidden, weight, bias, labels, problem) -> loss, sums of the metrics, number of positions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        problem: Problem,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = problem.dtype
        head = weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        needed = [need and problem.with_grad for need in ctx.needs_input_grad[:3]]
        gradients = _Gradients(hidden, weight, bias, needed)

        # Positions that are not trained enter no GEMM. Counting them is the only wait for the device.
        trained = (labels != IGNORE_INDEX).nonzero().squeeze(1)
        count, vocabulary = len(trained), len(weight)
        whole = count == len(labels)
        kernel = choose_kernel(problem.config.kernel, hidden.device, dtype)
        budget = memory_plan.budget(hidden.device)
        size = memory_plan.chunk_size(count, vocabulary * dtype.itemsize, problem.config.chunk_tokens, budget)
        room = 4 * dtype.itemsize * hidden.shape[1] + 32 * problem.config.samples
        buffer = memory_plan.buffer(hidden, min(size, count), torch_kernel.padded(vocabulary), dtype, room)
        size = max(1, len(buffer))
        stats = hidden.new_empty(count, len(ROW_METRICS), dtype=torch_kernel.precise(dtype))
        for start in range(0, count, size):
            chunk = slice(start, start + size)
            at = chunk if whole else trained[chunk]
            rows, y = hidden[at].to(dtype), labels[at]
            u = None if problem.uniforms is None else problem.uniforms[at]
            padded = buffer[: len(rows)]
            logits = padded[:, :vocabulary]
            if offset is None:
                torch.mm(rows, head.t(), out=logits)
            else:
                torch.addmm(offset, rows, head.t(), out=logits)
            kernel(
                padded,
                y,
                u,
                stats[chunk],
                problem.config,
                vocabulary=vocabulary,
                logit_scale=problem.logit_scale,
                softcap=problem.softcap,
                with_grad=any(needed),
            )
            gradients.add(at, logits, rows, head)

        sums = stats.sum(0)
        items = problem.num_items if problem.num_items is not None else max(count, 1)
        loss = sums[ROW_METRICS.index("objective")] / items
        total = labels.new_full((), count, dtype=torch.int64)
        ctx.save_for_backward(*gradients.of_inputs)
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        ctx.items = items
        ctx.mark_non_differentiable(sums, total)
        return loss, sums, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        scale = grad_loss / ctx.items
        # Where nobody asks for this gradient again, no second one the size of the weight is made.
        multiply = torch.mul if _backward_may_be_repeated() else Tensor.mul_
        gradients = [
            None if gradient is None else multiply(gradient, scale).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None


def _backward_may_be_repeated() -> bool:
    """Whether the backward under way was called with retain_graph=True. Where PyTorch does not tell: maybe."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


class _Gradients:
    """What backward will scale: the gradients of hidden, weight and bias, where they are needed.

    Unscaled, so that float16 does not underflow before a loss scale is known, and those of the
    weight and the bias, which sum over positions, in float32.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: list[bool]) -> None:
        sums = torch_kernel.precise(hidden.dtype)
        self.hidden = hidden.new_zeros(hidden.shape) if needed[0] else None
        self.weight = weight.new_zeros(weight.shape, dtype=sums) if needed[1] else None
        self.bias = bias.new_zeros(bias.shape, dtype=sums) if bias is not None and needed[2] else None

    @property
    def of_inputs(self) -> tuple[Tensor | None, ...]:
        return self.hidden, self.weight, self.bias

    def add(self, at: slice | Tensor, of_logits: Tensor, rows: Tensor, head: Tensor) -> None:
        """Chain one chunk's gradient of the logits back to what made them."""
        if self.hidden is not None:
            self.hidden[at] = torch.mm(of_logits, head).to(self.hidden.dtype)
        if self.weight is not None:
            _add_product(self.weight, of_logits, rows)
        if self.bias is not None:
            self.bias += of_logits.sum(0, dtype=self.bias.dtype)


def _add_product(total: Tensor, of_logits: Tensor, rows: Tensor) -> None:
    """total += of_logits.T @ rows, in total's dtype also where the factors have a lower one."""
    if of_logits.dtype == total.dtype:
        total.addmm_(of_logits.t(), rows)
    elif _sums_in_float32(total.device, of_logits.dtype):
        torch.addmm(total, of_logits.t(), rows, out_dtype=total.dtype, out=total)
    else:
        # A low-precision GEMM would round every chunk's share. So: copies, a slice of the vocabulary at a time.
        rows = rows.to(total.dtype)
        step = max(1, SLICE_BYTES // (len(rows) * total.itemsize))
        for start in range(0, len(total), step):
            part = slice(start, start + step)
            total[part].addmm_(of_logits[:, part].t().to(total.dtype), rows)


@functools.cache
def _sums_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device's GEMM adds a product of low-precision factors to a float32 sum. Tried once."""
    factor = torch.full((64, 64), 1 + torch.finfo(dtype).eps, dtype=dtype, device=device)
    total = torch.ones(64, 64, device=device)
    try:
        torch.addmm(total, factor.t(), factor, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):  # of this PyTorch, or of this device
        return False
    want = 1 + factor.float().t() @ factor.float()
    return bool(torch.allclose(total, want, rtol=1e-5))
