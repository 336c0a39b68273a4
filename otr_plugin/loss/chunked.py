"""The matrix products around the loss, chunk by chunk: the autograd.Function behind otr_loss.

The logits of only one chunk of positions exist at a time. For each chunk, a matrix product writes logits into a
buffer, a chunk kernel (torch_kernel.py or triton/launch.py) replaces them in place by their gradient, and further
matrix products turn that gradient into those of the inputs. All of this happens in forward; backward only scales.
So the peak memory is one chunk of logits, a gradient of hidden's size and, for a trained head, a float32 gradient of
the weight's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss import memory_plan, torch_kernel
from otr_plugin.loss.checks import IGNORE_INDEX
from otr_plugin.loss.device import Device, device_of
from otr_plugin.loss.uniforms import Uniforms
from otr_plugin.loss.vocabulary import Vocabulary
from otr_plugin.metrics import ROW_METRICS

BYTES_PER_DRAW = 32  # at most, in a chunk: a number, copies of it, and its place among the sorted ones
SLICE_BYTES = 64 * 2**20  # of the float32 copies that _add_product makes


@dataclass(frozen=True)
class Problem:
    """The arguments of otr_loss that never have a gradient, except the labels."""

    config: OTRConfig
    uniforms: Tensor | Uniforms | None  # [N, K]; None unless config.draws
    token_weights: Tensor | None  # [N]
    num_items: float | Tensor | None  # None: the number of trained positions
    logit_scale: float
    softcap: float | None
    dtype: torch.dtype  # of the matrix products and the logits
    with_grad: bool  # forward itself runs with gradients disabled and cannot find this out
    tokens: Vocabulary  # which tokens the rows of the weight are


class LinearLoss(torch.autograd.Function):
    """(hidden, weight, bias, labels, problem) -> (loss, sums of ROW_METRICS, weighted NLL, trained positions).

    The weighted NLL is a sum, too; without weights it is that of the NLL. The last one is a number.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        problem: Problem,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        config, dtype, tokens = problem.config, problem.dtype, problem.tokens
        gemm_weight = weight.to(dtype)
        gemm_bias = None if bias is None else bias.to(dtype)
        needs_grad = [needed and problem.with_grad for needed in ctx.needs_input_grad[:3]]
        device = device_of(hidden)
        gradients = _Gradients(hidden, weight, bias, needs_grad, device)

        # Positions that are not trained enter no matrix product. Their number decides the sizes of tensors, so this
        # is where the CPU waits for a GPU, and the only place.
        trained_on_cpu = (labels != IGNORE_INDEX).cpu().nonzero().squeeze(1)
        trained = trained_on_cpu.to(labels.device, non_blocking=True)
        count, vocabulary = len(trained), len(weight)
        all_trained = count == len(labels)
        kernel = device.kernel(config.kernel, dtype, tokens)
        # With more draws than tokens, the draws decide: their numbers, copies and sorted copies are of a chunk's size.
        row_bytes = max(vocabulary * dtype.itemsize, BYTES_PER_DRAW * config.samples if config.draws else 0)
        size = memory_plan.chunk_size(count, row_bytes, config.chunk_tokens, device.budget())
        # For copies of the chunk's rows of hidden and of their gradient, and for what sampling allocates per draw.
        temporary_bytes = 4 * dtype.itemsize * hidden.shape[1] + BYTES_PER_DRAW * config.samples
        width = torch_kernel.padded(tokens.columns(vocabulary))
        buffer = memory_plan.buffer(hidden, min(size, count), width, dtype, temporary_bytes)
        # PyTorch's bfloat16 products on a CPU read one number beyond a row of an odd length: it must not be NaN.
        buffer[:, vocabulary:] = 0
        size = tokens.agree(max(1, len(buffer)))
        row_metrics = hidden.new_empty(count, len(ROW_METRICS), dtype=torch_kernel.precise(dtype))
        token_weights = problem.token_weights
        if token_weights is not None:
            token_weights = token_weights.detach()[trained].to(row_metrics.dtype)
        for start in range(0, count, size):
            chunk = slice(start, start + size)
            positions = chunk if all_trained else trained[chunk]  # a slice copies nothing
            rows = hidden[positions].to(dtype)
            padded_logits = buffer[: len(rows)]
            logits = padded_logits[:, :vocabulary]
            if gemm_bias is None:
                torch.mm(rows, gemm_weight.t(), out=logits)
            else:
                torch.addmm(gemm_bias, rows, gemm_weight.t(), out=logits)
            kernel(
                padded_logits,
                labels[positions],
                _rows_of(problem.uniforms, positions, trained_on_cpu[chunk]),
                row_metrics[chunk],
                config,
                vocabulary=vocabulary,
                logit_scale=problem.logit_scale,
                softcap=problem.softcap,
                with_grad=any(needs_grad),
                token_weights=None if token_weights is None else token_weights[chunk],
            )
            # From here on, logits holds their gradient.
            gradients.add(positions, logits, rows, gemm_weight)

        tokens.add_up(gradients.hidden)
        if isinstance(problem.uniforms, Uniforms):
            problem.uniforms.finish()
        sums, nll = row_metrics.sum(0), row_metrics[:, ROW_METRICS.index("nll")]
        if token_weights is not None:  # a weight of 0 leaves out a position whose NLL is infinite, but not one with NaN
            nll = torch.where((token_weights != 0) | nll.isnan(), token_weights * nll, 0)
        weighted_nll = nll.sum()
        # A global batch without a trained position has loss 0, and not 0 / 0.
        num_items = problem.num_items if problem.num_items is not None and count else max(count, 1)
        loss = (sums[ROW_METRICS.index("objective")] / num_items).to(sums.dtype)  # num_items may be of float64
        token_count = labels.new_full((), count, dtype=torch.int64)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        ctx.num_items = num_items
        ctx.mark_non_differentiable(sums, weighted_nll, token_count)
        return loss, sums, weighted_nll, token_count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        scale = grad_loss / ctx.num_items
        # Scale in place unless backward may run again: a copy of the weight's gradient would be large.
        multiply = torch.mul if _backward_may_be_repeated() else Tensor.mul_
        gradients = [
            None if gradient is None else multiply(gradient, scale).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None


def _rows_of(uniforms: Tensor | Uniforms | None, positions: slice | Tensor, on_cpu: Tensor) -> Tensor | None:
    """The random numbers of some positions, which `on_cpu` has as a tensor on the CPU."""
    if isinstance(uniforms, Uniforms):
        return uniforms.rows(on_cpu)
    return None if uniforms is None else uniforms[positions]


def _backward_may_be_repeated() -> bool:
    """Whether the running backward was called with retain_graph=True; also True if this PyTorch cannot tell."""
    keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return keeps_graph is None or bool(keeps_graph())


class _Gradients:
    """The gradients of hidden, weight and bias, before backward scales them; None where no gradient is needed.

    They are not yet divided by num_items and not multiplied by a loss scale, because in float16 the division would
    underflow before the loss scale is known. The gradients of weight and bias are sums over positions, so they are
    accumulated in float32.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs_grad: list[bool], device: Device
    ) -> None:
        self.device = device
        sum_dtype = torch_kernel.precise(hidden.dtype)
        self.hidden = hidden.new_zeros(hidden.shape) if needs_grad[0] else None
        self.weight = weight.new_zeros(weight.shape, dtype=sum_dtype) if needs_grad[1] else None
        self.bias = bias.new_zeros(bias.shape, dtype=sum_dtype) if bias is not None and needs_grad[2] else None

    def add(self, positions: slice | Tensor, logits_grad: Tensor, rows: Tensor, gemm_weight: Tensor) -> None:
        """Backpropagate one chunk's gradient of the logits [C, V] to hidden (at `positions`), weight and bias."""
        if self.hidden is not None:
            self.hidden[positions] = torch.mm(logits_grad, gemm_weight).to(self.hidden.dtype)
        if self.weight is not None:
            _add_product(self.weight, logits_grad, rows, self.device)
        if self.bias is not None:
            self.bias += logits_grad.sum(0, dtype=self.bias.dtype)


def _add_product(total: Tensor, logits_grad: Tensor, rows: Tensor, device: Device) -> None:
    """total += logits_grad.T @ rows, summed in total's dtype even if that of the factors is lower."""
    if logits_grad.dtype == total.dtype:
        total.addmm_(logits_grad.t(), rows)
    elif device.sums_in_float32(logits_grad.dtype):
        torch.addmm(total, logits_grad.t(), rows, out_dtype=total.dtype, out=total)
    else:
        # A low-precision product would be rounded in every chunk, so the factors are converted first. Converting one
        # slice of the vocabulary at a time keeps the copies small.
        rows = rows.to(total.dtype)
        step = max(1, SLICE_BYTES // (len(rows) * total.itemsize))
        for start in range(0, len(total), step):
            part = slice(start, start + step)
            total[part].addmm_(logits_grad[:, part].t().to(total.dtype), rows)
