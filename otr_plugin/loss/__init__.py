"""otr_loss, the loss function: checks its input and passes it on to chunked.LinearLoss.

This package computes with tensors and imports no model and no host. The calls go down this chain:

    otr_loss               checks (checks.py), names the metrics
    chunked.LinearLoss     the matrix products and the loop over chunks of positions (chunk size: memory_plan.py; random
                           numbers for the draws: uniforms.py; a slice of the vocabulary: vocabulary.py)
    dispatch.choose_kernel selects the kernel that computes one chunk, for the device that device.py describes
    compute_chunk          logits of one chunk -> loss, metrics and gradient: torch_kernel.py or triton/launch.py

reference.py is the specification that tests compare the others with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss import checks, memory_plan
from otr_plugin.loss.chunked import LinearLoss, Problem
from otr_plugin.loss.uniforms import Uniforms
from otr_plugin.loss.vocabulary import WHOLE, VocabularySlice
from otr_plugin.metrics import ROW_METRICS, TOKEN_COUNT, WEIGHTED_NLL, metric_names

__all__ = ["OTROutput", "otr_loss"]


class OTROutput(NamedTuple):
    loss: Tensor
    """Scalar with a gradient: the objective's sum over trained positions, divided by num_items.

    It is a float64 if hidden is one, and a float32 otherwise.
    """
    metrics: dict[str, Tensor]
    """Detached scalars on the device of hidden: each metric's sum over trained positions, and their number, `tokens`.

    The names are those of metrics.ROW_METRICS; objectives without draws leave out metrics.DRAW_METRICS. With
    token_weights there is also `weighted_nll`, the sum of -log p of the label times the weight.
    """


# torch.compile would find nothing to fuse here: the chunk loop allocates memory and depends on the number of labels.
@torch.compiler.disable
def otr_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    config: OTRConfig | None = None,
    *,
    bias: Tensor | None = None,
    num_items: float | Tensor | None = None,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
    token_weights: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    vocabulary_slice: VocabularySlice | None = None,
) -> OTROutput:
    """The One-Token Rollout loss of a language-model head, from hidden states, without storing all logits.

    With `config=OTRConfig(objective="sft")` it replaces this code::

        logits = (hidden @ weight.T + bias) * logit_scale
        logits = softcap * tanh(logits / softcap)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum") / num_items

    With other objectives it replaces the same code with another loss on the same logits, the one that
    loss/reference.py specifies. The logits of only one chunk of positions are in memory at a time.

    The gradient is computed in forward, together with the loss; backward only scales it. So a forward does nearly
    all the work of a step, unless gradients are disabled (torch.no_grad), and there is no second derivative.

    Args:
        hidden: [N, D], the head's input, one row for each position; float32, bfloat16, float16 or float64.
        weight: [V, D], the head's weight, in hidden's dtype (under autocast, in any of these dtypes).
        labels: [N], int64 or int32. Each position's label is the next token: the caller has shifted them. A
            position with label -100 is not trained: it adds nothing to the loss, the metrics and the gradient.
        config: the settings; by default OTRConfig().
        bias: [V], the head's bias, in the same dtypes as weight; by default none.
        num_items: what the loss is divided by, a number or a tensor with one element: under gradient accumulation
            or data parallelism, the number of trained positions in the whole batch. By default, the number of
            trained positions in labels, or 1 if there is none. On a GPU a tensor is not read: with 0, the loss of
            trained positions is infinite or NaN.
        uniforms: [N, K], float32 or float64 in [0, 1), the random numbers that determine the K draws of every
            position. Only read if config.draws. By default they are drawn from `generator`.
        generator: the source of the uniforms, on hidden's type of device; by default torch's global generator.
        token_weights: [N], floating point, finite and >= 0: factors of each position's objective and gradient, without
            a gradient themselves. num_items stays the number of trained positions, those of weight 0 included. By
            default all are 1.
        logit_scale: factor of the logits; by default 1.
        softcap: bound of the logits, applied after logit_scale as in the code above; by default none.
        vocabulary_slice: with tensor parallelism, which tokens the rows of weight and bias are. All processes of the
            group call the function alike, and each has the whole loss, metrics and gradient of hidden, and its own
            rows of the gradients of weight and bias. PyTorch's kernel computes it.

    Returns:
        OTROutput(loss, metrics). The loss has a gradient for hidden, weight and bias, as far as they require one.
        Without a trained position the loss is 0 and its gradients are zeros.

    Raises:
        ValueError: an argument is wrong. On a GPU, labels, uniforms and token_weights are not checked for their
            values, because reading them would wait for the device; there a label out of range makes the loss NaN.
    """
    config = OTRConfig() if config is None else config
    checks.check(
        hidden,
        weight,
        labels,
        config,
        bias,
        num_items,
        uniforms,
        generator,
        token_weights,
        logit_scale,
        softcap,
        vocabulary_slice,
    )
    numbers: Tensor | Uniforms | None = uniforms if config.draws else None
    if config.draws and uniforms is None:
        numbers = Uniforms(len(hidden), config.samples, hidden.device, generator)
    if isinstance(num_items, Tensor):
        num_items = num_items.reshape(())
    elif num_items is not None:
        num_items = float(num_items)  # tensors cannot be divided by integers beyond int64
    problem = Problem(
        config=config,
        uniforms=numbers,
        token_weights=token_weights,
        num_items=num_items,
        logit_scale=logit_scale,
        softcap=softcap,
        dtype=_gemm_dtype(hidden),
        with_grad=torch.is_grad_enabled(),
        tokens=vocabulary_slice or WHOLE,
    )
    # Every dtype is chosen explicitly from here on; autocast would change those of the GEMMs a second time.
    with torch.autocast(hidden.device.type, enabled=False), memory_plan.advice():
        loss, sums, weighted_nll, count = LinearLoss.apply(hidden, weight, bias, labels, problem)  # type: ignore[no-untyped-call] # of torch
    metrics = {name: sums[ROW_METRICS.index(name)] for name in metric_names(config.has_rollout)}
    if token_weights is not None:
        metrics[WEIGHTED_NLL] = weighted_nll
    return OTROutput(loss, metrics | {TOKEN_COUNT: count})


def _gemm_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of the matrix products: hidden's or, under autocast, that of a linear layer."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype
